"""What a whole space that is known tells of searches and of sensitivities."""
