"""Studies: one question a file, each with its command."""
