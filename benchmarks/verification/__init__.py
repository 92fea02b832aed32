"""Verification: whether records are what they claim to be, as far as that can be told."""
