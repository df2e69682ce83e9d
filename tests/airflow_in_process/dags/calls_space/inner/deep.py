"""Of a package without __init__.py."""


def value():
    return "deep"
