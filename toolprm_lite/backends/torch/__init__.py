"""The torch backend: transformers models, on a CPU or a GPU."""

from toolprm_lite.backends.torch.backend import TorchBackend

__all__ = ["TorchBackend"]
