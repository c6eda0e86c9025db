"""The only rooms that know llama.cpp and ctypes: tensors, the eval callback, the model."""
