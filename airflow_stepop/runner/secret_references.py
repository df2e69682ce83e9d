"""Reads the secrets that lie in a cloud's own service. The step's manifest has their references only.

1. The manifest has the field ``secret_references``: variable -> reference.
2. :func:`read_references` gives each reference to the reader of its service.
3. The reader asks the service, with the rights that the job has there, and returns the value.

Imported only by steps with such secrets, and by the worker, which checks the references before it submits.
A further service needs a module with ``parse`` and ``Reader``, a line in :data:`SERVICES` and in
:func:`_module`, and a feature in ``hooks/common/zipapp.py``.
"""

from __future__ import annotations

from .failures import RefusedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

# Beginning of a reference -> service. The service is also the name of a feature of the zipapp
AWS = "aws_secrets"
SERVICES = {"arn:": AWS}


def service_of(text: str) -> str:
    """Return the service that a text refers to; an empty text if it is no reference."""
    return next((service for start, service in SERVICES.items() if text.startswith(start)), "")


def check_reference(text: str) -> str:
    """Check the form of a reference; return its service. No request is sent.

    :raises ValueError: the text is no reference; the message says what is wrong and shows a valid reference
    """
    service = service_of(text)
    if not service:
        raise ValueError(f"{text!r} does not begin with {' or '.join(SERVICES)}")
    _module(service).parse(text)
    return service


def read_references(references: Mapping[str, str]) -> dict[str, str]:
    """Return the value of each secret, by its variable.

    :param references: variable -> reference
    :raises RefusedError: a value cannot be read, or no environment variable can hold it. The message names
        the variable and the reference, and never a value
    """
    readers: dict[str, Any] = {}
    found = {}
    for name, reference in sorted(references.items()):
        service = service_of(reference)
        if service not in readers:
            readers[service] = _module(service).Reader()
        try:
            found[name] = _checked(readers[service].read(reference), reference)
        except RefusedError as error:
            text = f"The step was not started: the secret {name!r} cannot be read: {error.summary}"
            raise RefusedError(error.category, text, error.hint, error.native_reason) from None
    return found


def _module(service: str) -> Any:
    """Return the module of a service; each is a feature of the zipapp."""
    if service == AWS:
        from . import aws_secrets

        return aws_secrets
    raise ValueError(f"no secrets can be read from {service!r}")


def _checked(value: str, reference: str) -> str:
    """Return the value, if it is not empty and an environment variable can hold it.

    :raises RefusedError: it is not
    """
    if value and "\0" not in value:
        return value
    what = "contains a NUL, which no environment variable can hold" if value else "is empty"
    raise RefusedError("bad_config", f"the value of {reference} {what}", "store another value in the service")
