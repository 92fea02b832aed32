"""What a table says, in numbers."""
