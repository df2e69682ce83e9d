"""Hooks: one module per backend."""
