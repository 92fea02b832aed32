"""Frameworks of the survey's category, one file each: heuristic."""
