"""localprobe: overwrite hidden states of quantized GGUF models and watch the answer change."""

from importlib.metadata import version

__version__ = version("localprobe")
