"""The table in its formats."""
