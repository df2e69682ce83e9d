"""Helpers that know nothing of steps: sizes, names, log text, this host, the signing key, stored JSON.

Every other package calls them.
"""
