"""Cells computed by worker processes, and what these print."""
