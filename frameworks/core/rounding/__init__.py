"""Rounding weights to their grids by what layers compute, and not by distance alone."""
