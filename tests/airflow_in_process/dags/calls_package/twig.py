"""Imported by leaf."""

NAME = "twig"
