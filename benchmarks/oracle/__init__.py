"""Oracles: small spaces evaluated exhaustively, kept as tables."""
