"""The llama.cpp backend: GGUF models through llama-cpp-python's ctypes layer."""

from toolprm_lite.backends.llamacpp.backend import LlamaCppBackend

__all__ = ["LlamaCppBackend"]
