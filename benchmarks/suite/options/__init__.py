"""What a configuration asks for, as far as it needs reading: overrides, space, budget."""
