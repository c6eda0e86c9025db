"""The only rooms that know llama.cpp and its ctypes: tensors, the eval callback, the model.

In: token ids, and what to read or to write in the graph. Out: logits and states in numpy.
Must not know: interventions, tasks, text of users.
"""
