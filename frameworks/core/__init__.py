"""What every method stands on; knows no method."""
