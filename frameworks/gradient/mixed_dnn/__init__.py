"""Mixed Precision DNNs, and the parts that are its own."""

from frameworks.gradient.mixed_dnn.framework import MixedDNN

__all__ = ["MixedDNN"]
