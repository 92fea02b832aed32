"""Searches and juxtapositions of a caller's own network and data, from Python."""
