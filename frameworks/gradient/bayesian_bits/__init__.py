"""Bayesian Bits, and the parts that are its own."""

from frameworks.gradient.bayesian_bits.framework import BayesianBits

__all__ = ["BayesianBits"]
