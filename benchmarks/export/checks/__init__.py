"""What exported networks are compared by."""
