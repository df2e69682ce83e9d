"""Renders the templates of ``secrets=`` in the worker, when ``lifecycle/request.py`` builds the payload.

Airflow shows rendered template fields in its UI, so ``secrets`` is not a template field. Error messages of
this module leave out the text of the original error, because that text may contain a secret value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from airflow_stepop.exceptions import StepConfigError

if TYPE_CHECKING:
    import jinja2
    from airflow.sdk import Context


def render_secrets(
    secrets: Mapping[str, str], environment: jinja2.Environment, context: Context
) -> dict[str, str]:
    """Return the values of ``secrets``. From here on Airflow masks the values in this task's log.

    :param environment: a Jinja environment of the task's DAG, for this call only: its ``finalize`` is set
    :raises StepConfigError: a secret has no value, or has a NUL in it; the message names the secret
    """
    from airflow.sdk.log import mask_secret

    environment.finalize = _something
    values = {name: _render(name, text, environment, context) for name, text in secrets.items()}
    for value in values.values():
        for text in {value, *value.splitlines()} - {""}:
            mask_secret(text)  # with a name, only if Airflow takes this name for that of a secret
    return values


class _UnsetError(ValueError):
    """An expression in a template is ``None``."""


def _something(value: object) -> object:
    if value is None:
        raise _UnsetError
    return value


def _render(name: str, template: str, environment: jinja2.Environment, context: Context) -> str:
    try:
        value: str = environment.from_string(template).render(context)
    except _UnsetError:
        raise StepConfigError(f"the secret {name!r} has no value: a part of {template!r} is None") from None
    except Exception as error:  # a template runs foreign code, and the error may contain the value
        raise StepConfigError(
            f"the secret {name!r} has no value: {template!r} raised {type(error).__name__}. "
            "Check that the connection or variable exists, and that this task may read it"
        ) from None
    if not value:
        raise StepConfigError(f"the secret {name!r} has no value: {template!r} is empty")
    if "\0" in value:
        raise StepConfigError(f"the secret {name!r} contains a NUL, which no environment variable can hold")
    return value
