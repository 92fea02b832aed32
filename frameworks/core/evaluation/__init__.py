"""What a policy is worth: the metered evaluator, its prefix cache, the one training loop."""
