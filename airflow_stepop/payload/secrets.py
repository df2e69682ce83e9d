"""Renders the templates of ``secrets=`` in the worker, when ``lifecycle/request.py`` builds the payload.

A secret may also be a reference to a secret in a cloud's own service: the job reads its value.

Airflow shows rendered template fields in its UI, so ``secrets`` is not a template field. Error messages of
this module leave out the text of the original error, because that text may contain a secret value.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from airflow_stepop.exceptions import StepConfigError, UnsupportedError
from airflow_stepop.runner.secret_references import AWS, check_reference, service_of

if TYPE_CHECKING:
    import jinja2
    from airflow.sdk import Context


TITLES = {AWS: "AWS Secrets Manager"}  # service -> its name


def render_secrets(
    secrets: Mapping[str, str], environment: jinja2.Environment, context: Context
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the values of ``secrets``, and the references: variable -> text.

    The job reads the value of a reference itself, so that no process of Airflow has it. From here on Airflow
    masks the values in this task's log.

    :param environment: a Jinja environment of the task's DAG, for this call only: its ``finalize`` is set
    :raises StepConfigError: a secret has no value, has a NUL in it, or is a wrong reference; the message
        names the secret
    """
    from airflow.sdk.log import mask_secret

    environment.finalize = _something
    values, references = {}, {}
    for name, template in secrets.items():
        value = _render(name, template, environment, context)
        if _is_reference(template, value):
            check_reference_of(name, value)
            references[name] = value
            continue
        values[name] = value
        for text in {value, *value.splitlines()} - {""}:
            mask_secret(text)  # with a name, only if Airflow takes this name for that of a secret
    return values, references


def _is_reference(template: str, value: str) -> bool:
    """Return whether a secret is a reference: its text begins like one, or a template gives a valid one."""
    if service_of(template):
        return True
    try:
        return bool(check_reference(value))
    except ValueError:
        return False


def check_reference_of(name: str, reference: str) -> None:
    """Check a reference.

    :raises StepConfigError: it is none; the message has the text, which is no secret
    """
    try:
        check_reference(reference)
    except ValueError as error:
        raise StepConfigError(f"the secret {name!r}: {error}") from None


def check_services(references: Mapping[str, str], backend: str, services: Collection[str]) -> None:
    """Check that the jobs of a backend can read the references.

    :param services: those that the jobs can read secrets from
    :raises UnsupportedError: one of them is another one
    """
    for name, reference in references.items():
        service = service_of(reference)
        if service not in services:
            raise UnsupportedError(
                f"the secret {name!r}: jobs of backend {backend!r} cannot read secrets from "
                f"{TITLES[service]}; keep the secret in a connection of Airflow, whose secrets backend may "
                f"be {TITLES[service]}, and write a template"
            )


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
