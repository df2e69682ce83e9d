"""Imported by a name that no import statement has."""
