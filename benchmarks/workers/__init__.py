"""The processes that compute cells: what they keep, and what a plugin may not change there."""
