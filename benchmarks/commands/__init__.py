"""What the command does, a file for each part of it."""
