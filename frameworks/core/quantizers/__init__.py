"""Shared parts of many methods: quantizers."""
