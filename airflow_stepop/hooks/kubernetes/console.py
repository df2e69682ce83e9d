"""Builds the address of a job's page in the cluster's console, from ``console_url`` of the connection.

``KubernetesStepHook`` calls :func:`job_url`. The functions are pure. ``submit`` refuses an invalid address;
once a job exists, an invalid address only removes the link.
"""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from airflow_stepop.connections.extra import extra_of
from airflow_stepop.exceptions import StepConfigError

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from airflow_stepop.job import JobHandle

KEY = "console_url"  # in the extra of the connection
PLACEHOLDERS = ("namespace", "name", "context")


def job_url(connection: Connection, handle: JobHandle) -> str | None:
    """Return the address of a job's page; ``None`` when the connection has no ``console_url``.

    :raises StepConfigError: ``console_url`` is no address, or has a placeholder without a value
    """
    extra = extra_of(connection)
    template = extra.get(KEY)
    if not template:
        return None
    context = handle.detail.get("context") or extra.get("cluster_context") or ""
    values = {"namespace": handle.detail.get("namespace", ""), "name": handle.name, "context": context}
    try:
        return filled(template, values)
    except StepConfigError as error:
        raise StepConfigError(f"connection {connection.conn_id!r}, {KEY} in its extra: {error}") from None


def filled(template: object, values: Mapping[str, str]) -> str:
    """Return the address with each ``{placeholder}`` replaced by its value, quoted for a URL.

    :raises StepConfigError: the template is no address, or a placeholder is unknown or has no value
    """
    if not isinstance(template, str):
        raise StepConfigError(f"{template!r} is no address")
    try:
        pieces = list(Formatter().parse(template))
    except ValueError as error:
        raise StepConfigError(f"{template!r} cannot be read: {error}; write a literal brace twice") from None
    url = ""
    for literal, field, spec, conversion in pieces:
        url += literal
        if field is not None:
            written = field + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            url += _value(written, values)
    if not _is_address(url):
        raise StepConfigError(
            f"{template!r} is no address: it begins with https:// and a host, and has no spaces"
        )
    return url


def _value(field: str, values: Mapping[str, str]) -> str:
    if field not in PLACEHOLDERS:
        names = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        raise StepConfigError(f"there is no placeholder {{{field}}}; there are {names}")
    if not values.get(field):
        raise StepConfigError(
            f"there is no value for {{{field}}}; write the value itself"
            + (
                ", or set kubernetes_context or the connection's cluster_context"
                if field == "context"
                else ""
            )
        )
    return quote(values[field], safe="")


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    is_plain = url.isprintable() and " " not in url
    return parts.scheme in ("http", "https") and bool(parts.netloc) and is_plain
