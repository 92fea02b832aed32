"""The arguments of the command."""
