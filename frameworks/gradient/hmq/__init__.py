"""HMQ: bits and power-of-two thresholds by one Gumbel-softmax a tensor."""

from frameworks.gradient.hmq.framework import HMQ

__all__ = ["HMQ"]
