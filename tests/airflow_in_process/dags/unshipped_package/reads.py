"""Reads files that lie beside this module."""

from __future__ import annotations

import importlib
import importlib.resources
import os
import pkgutil
from pathlib import Path

HERE = Path(__file__).parent


def beside():
    return (HERE / "table.csv").read_text()


def by_resources():
    return importlib.resources.files("unshipped_package").joinpath("inner", "deep.txt").read_text()


def of_a_package():
    return importlib.resources.files("unshipped_package.inner").joinpath("deep.txt").read_text()


def by_name():
    return importlib.import_module("unshipped_package.later")


def with_a_text():
    path = HERE / "table.csv"
    if not path.exists():
        raise FileNotFoundError(f"there is no table ({path})")


def by_pkgutil():
    return pkgutil.get_data("unshipped_package", "table.csv")


def explained():
    try:
        return beside()
    except FileNotFoundError as error:
        raise ValueError("the table is bad") from error


def lists():
    return os.listdir(HERE.parent / "unshipped_files")


def nowhere():
    return (HERE / "no_such.csv").read_text()
