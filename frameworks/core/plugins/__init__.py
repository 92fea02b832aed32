"""What registries need to take in plugins: a quiet import, and faults with their place."""
