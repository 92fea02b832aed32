"""Shared parts of many methods: estimators."""
