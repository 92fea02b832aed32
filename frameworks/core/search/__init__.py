"""What all searches share: draws and trials of policies, steering, whether they learned."""
