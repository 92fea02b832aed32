"""Pages made from cards, docstrings and records: one a framework, and one that juxtaposes all."""
