"""CSQ: bit planes and their number by continuous sparsification."""

from frameworks.gradient.csq.framework import CSQ

__all__ = ["CSQ"]
