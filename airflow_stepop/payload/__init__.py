"""Builds the payload of a step and reads its outcome, in the worker. The step's lifecycle calls them."""
