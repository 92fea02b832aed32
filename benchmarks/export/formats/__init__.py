"""The forms of an exported network."""
