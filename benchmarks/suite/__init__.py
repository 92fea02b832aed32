"""Suites of cells: configuration, running, keys and scores."""
