"""Agents that learn by reinforcement."""
