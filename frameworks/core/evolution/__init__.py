"""Evolutionary algorithms and their measures."""
