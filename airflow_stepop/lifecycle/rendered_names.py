"""Renders templates in the names of ``inputs`` and ``env``. ``request.py`` calls :func:`render_names`.

Airflow renders the values of a dict, and leaves its keys as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from airflow_stepop.arguments import is_later
from airflow_stepop.exceptions import StepConfigError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_stepop.lifecycle.interfaces import Task

FIELDS = ("inputs", "env")


def render_names(operator: Task, context: Context) -> None:
    """Replace the templated names in the operator of this task instance.

    :raises StepConfigError: two names of one argument are the same after rendering
    """
    for field in FIELDS:
        given = getattr(operator, field)
        if not isinstance(given, Mapping) or not any(map(is_later, given)):
            continue
        found: dict[object, object] = {}
        for name, value in given.items():
            rendered = operator.render_template(name, context)
            if rendered in found:
                raise StepConfigError(f"{field} has the name {rendered!r} twice, once from {name!r}")
            found[rendered] = value
        setattr(operator, field, found)
