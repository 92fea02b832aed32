"""Shared parts of many methods: solvers."""
