"""The table's pictures (SVG)."""
