"""The arguments of a step, and what is wrong with them, in words that say what to write.

Checked while the DAG file is read, as far as they are known then, and again when everything was rendered.
"""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

from airflow.sdk.configuration import conf

from airflow_stepop.core.naming import did_you_mean
from airflow_stepop.core.reserved import KEEP, OUR_ENV
from airflow_stepop.core.units import seconds
from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.payload.secrets import check_reference_of, check_services
from airflow_stepop.resources import ResourceSettings
from airflow_stepop.runner.protocol import is_plain_text
from airflow_stepop.runner.secret_references import service_of

if TYPE_CHECKING:
    from airflow_stepop.oom import MoreMemory


_EXAMPLE = '"{{ conn.NAME.password }}" or "{{ var.value.NAME }}"'


class TaskArguments(Protocol):
    """What a user says about a step: the arguments of the operator, which has them as its attributes."""

    command: Sequence[str] | None
    inputs: Mapping[str, Any] | None
    outputs: Sequence[str] | None
    workdir: str | None
    backend: str | None
    conn_id: str | None
    resource_settings: ResourceSettings | Mapping[str, Any] | None
    settings: Any
    image: str | None
    env: Mapping[str, str] | None
    requirements: Sequence[str] | str | None
    checkpoint: bool
    secrets: Mapping[str, str] | None
    include: Sequence[str] | None
    timeout: timedelta | float | None
    start_timeout: timedelta | float | None
    store: str | None
    deferrable: bool | None
    keep: str | None
    on_oom: MoreMemory | Mapping[str, Any] | str
    max_resubmissions: int | None
    poll_interval: timedelta | float | None
    debug: bool | None
    retries: int | None
    # what a decorated function adds
    python_callable: Any
    op_args: Any
    op_kwargs: Any


def check_arguments(operator: TaskArguments) -> None:
    """Check every argument that is known now.

    :raises StepConfigError: naming the argument and what is valid
    """
    _check_kind(operator)
    for name in ("command", "outputs", "include"):
        _check_list(name, getattr(operator, name))
    for name, what in {"inputs": "file names and values", "env": "names and values"}.items():
        value = getattr(operator, name)
        if not (value is None or is_later(value) or isinstance(value, Mapping)):
            raise StepConfigError(f"{name} must be a dict of {what}, and this is {value!r}")
    _check_env(operator.env)
    check_secrets(operator.secrets, operator.env)
    _check_words(operator)
    _check_requirements(operator.requirements)
    _check_resubmissions(operator.max_resubmissions)
    if not isinstance(operator.checkpoint, bool):
        raise StepConfigError(f"checkpoint must be True or False, and this is {operator.checkpoint!r}")
    if operator.keep not in (*KEEP, None):
        raise StepConfigError(f"keep={operator.keep!r} is not one of {', '.join(KEEP)}")
    for name in ("timeout", "start_timeout", "poll_interval"):
        seconds(getattr(operator, name), name)
    if operator.debug not in (True, False, None):
        raise StepConfigError(f"debug must be True or False, and this is {operator.debug!r}")
    _check_resources(operator)
    check_backend(operator)


def check_mapped(operator: type, given: Mapping[str, Any]) -> None:
    """Check the arguments that all tasks of a mapping have. Airflow makes no operator before they run.

    :raises StepConfigError: naming the argument and what is valid
    """
    check_names(operator, given)
    check_secrets(given.get("secrets"), given.get("env"))  # Airflow stores the arguments as they are
    names = ("backend", "conn_id", "settings", "image", "resource_settings", "secrets")
    check_backend(SimpleNamespace(**{name: given.get(name) for name in names}))


def check_names(operator: type, given: Iterable[str]) -> None:
    """Check that the operator has arguments of these names. Airflow's own error does not say what was meant.

    :raises StepConfigError: naming the closest argument
    """
    known = {
        name
        for one in operator.__mro__
        for name in getattr(one.__init__, "_BaseOperatorMeta__param_names", ())  # type: ignore[misc]
    }
    unknown = [name for name in given if name not in known and not name.startswith("_")] if known else []
    if unknown:
        label = getattr(operator, "custom_operator_name", operator.__name__)
        told = ", ".join(f"{name!r}{did_you_mean(name, known)}" for name in unknown)
        raise StepConfigError(f"{label} has no argument {told}")


def is_later(value: Any) -> bool:
    """Return whether ``value`` is known only when the task runs: a template, or another task's output."""
    return hasattr(value, "iter_references") or (isinstance(value, str) and ("{{" in value or "{%" in value))


def _check_kind(operator: TaskArguments) -> None:
    has_function = operator.python_callable is not None
    if has_function and operator.command is not None:
        raise StepConfigError("a function takes no command")
    for name in ("inputs", "outputs", "workdir"):
        if has_function and getattr(operator, name):
            raise StepConfigError(
                f"{name}= belongs to a command; a function has arguments and a return value"
            )
    if isinstance(operator.command, str):
        words = operator.command.split()
        raise StepConfigError(f"command must be a list; write {words!r}, or ['sh', '-c', ...]")
    if not has_function and not operator.command:
        raise StepConfigError("RemoteStepOperator needs command=[...]; for a function use @task.remote_step")


def _check_list(name: str, value: Any) -> None:
    if value is None or is_later(value):
        return
    if isinstance(value, str):
        raise StepConfigError(f"{name} must be a list; write [{value!r}]")
    if not isinstance(value, Sequence) or isinstance(value, bytes):
        raise StepConfigError(f"{name} must be a list, and this is {value!r}")


def _check_variable(argument: str, name: Any) -> None:
    if not isinstance(name, str) or not name or "=" in name or _is_no_word(name):
        raise StepConfigError(f"{argument} has the name {name!r}; a name is not empty and has no '='")


def check_secrets(secrets: Any, env: Any) -> None:
    """Check the names and the templates of ``secrets``. No message has a value in it.

    :raises StepConfigError: naming the secret
    """
    if secrets is None:
        return
    if not isinstance(secrets, Mapping):
        kind = type(secrets).__name__
        raise StepConfigError(f"secrets must be a dict of names and templates, and this is of type {kind}")
    for name, template in secrets.items():
        _check_variable("secrets", name)
        if name.startswith("STEPOP_"):
            raise StepConfigError(f"secrets has the name {name!r}; names with STEPOP_ belong to the runner")
        if isinstance(env, Mapping) and name in env:
            raise StepConfigError(f"{name!r} is in secrets and in env; the step can have only one of them")
        _check_secret(name, template)


def _check_secret(name: str, text: Any) -> None:
    """Check that the text of a secret is a template or a reference."""
    if not isinstance(text, str):
        kind = type(text).__name__
        raise StepConfigError(f"the secret {name!r} must be a template (a str), and this is of type {kind}")
    if is_later(text):
        return
    if service_of(text):
        check_reference_of(name, text)
        return
    raise StepConfigError(
        f"the secret {name!r} is written in the DAG file, which Airflow shows; keep it in a connection or a "
        f"variable, and write {_EXAMPLE}; or write the ARN of a secret in AWS Secrets Manager. What is no "
        "secret belongs into env"
    )


def _check_resources(operator: TaskArguments) -> None:
    resources: Any = operator.resource_settings
    is_known = not is_later(resources) or isinstance(resources, ResourceSettings)
    if is_known and not (resources is None or isinstance(resources, ResourceSettings)):
        resources = ResourceSettings.from_dict(resources)
    is_type_alone = isinstance(resources, ResourceSettings) and resources.gpu_type and not resources.gpu_count
    if is_type_alone and not may_have_defaults(operator):
        resources.check_complete()
    if operator.on_oom != "fail":
        from airflow_stepop.oom import check_on_oom, parse_on_oom

        parse_on_oom(operator.on_oom)
        if is_known:
            is_complete = not may_have_defaults(operator)
            check_on_oom(operator.on_oom, resources, operator.retries, is_complete=is_complete)


def _check_resubmissions(most: Any) -> None:
    if most is not None and (type(most) is not int or most < 0):
        raise StepConfigError(f"max_resubmissions must be 0, 1, 2, ..., and this is {most!r}")


def _check_env(env: Any) -> None:
    for name, value in env.items() if isinstance(env, Mapping) else ():
        _check_variable("env", name)
        if name in OUR_ENV:
            raise StepConfigError(f"env has the name {name!r}, which is set for every step; choose another")
        if not is_later(value) and _is_no_word(value):
            raise StepConfigError(
                f"env[{name!r}]={reprlib.repr(value)} cannot be an environment variable; "
                "write a text without NUL characters"
            )


def _check_words(operator: TaskArguments) -> None:
    """Check what becomes a word of a command line, or the name of a file."""
    words: dict[str, Any] = {
        "command": operator.command,
        "outputs": operator.outputs,
        "inputs": operator.inputs,
    }
    for name, given in words.items():
        for word in given if isinstance(given, (Mapping, Sequence)) and not is_later(given) else ():
            if not is_later(word) and (_is_no_word(word) or (name != "command" and word == "")):
                raise StepConfigError(
                    f"{name} has {reprlib.repr(word)}, which is neither a word nor a path; "
                    "write a text without NUL characters"
                )
    if operator.command and not is_later(operator.command) and operator.command[0] == "":
        raise StepConfigError("command begins with an empty word; its first word is the program")


def _is_no_word(value: Any) -> bool:
    """Return whether ``value`` cannot be a word of a command line; a number can, written out."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        return not is_plain_text(value)
    return value is None or isinstance(value, (bytes, bytearray, Mapping, Sequence, set, frozenset))


def _check_requirements(value: Any) -> None:
    if not value or is_later(value):
        return
    from airflow_stepop.payload.requirements import check_path, check_requirement

    if isinstance(value, str):
        check_path(value)
        return
    _check_list("requirements", value)
    for line in value:
        if not is_later(line):
            check_requirement(line)


def check_backend(arguments: Any) -> None:
    """Check what the task says to a backend that it names itself, as far as it is known now.

    No connection is read, and no hook of a built-in backend is imported. Under ``backend_override`` nothing
    is checked, as another backend gets the arguments.

    :param arguments: has the arguments as attributes: an operator, or what a mapped task has of one
    :raises StepConfigError: the backend is unknown, or could never run this
    """
    from airflow_stepop import registry

    backend = arguments.backend
    if backend is None or is_later(backend) or conf.get("stepop", "backend_override", fallback=""):
        return
    registry.check_backend(backend)
    if references := {name: one for name, one in (arguments.secrets or {}).items() if service_of(one)}:
        check_services(references, backend, registry.secret_services(backend))
    image = arguments.image if isinstance(arguments.image, str) and not is_later(arguments.image) else None
    resources = _known_resources(arguments.resource_settings)
    if arguments.settings is None or not _is_literal(arguments.settings):
        wants = (resources.gpu_count, resources.gpu_type, resources.nodes) if resources else ()
        if image is not None or any(wants):
            registry.check_literals(backend, image, resources)
        return
    from airflow_stepop.hooks.settings import parse_settings

    try:
        settings = parse_settings(registry.settings_model(backend), arguments.settings, backend)
    except StepConfigError as error:
        if not (may_have_defaults(arguments) and _is_incomplete(error)):
            raise
    else:
        settings.check_with(image, resources)


def _is_literal(value: Any) -> bool:
    """Return whether nothing in ``value`` is a template or another task's output."""
    if is_later(value):
        return False
    if isinstance(value, Mapping):
        return all(_is_literal(one) for item in value.items() for one in item)
    if isinstance(value, (list, tuple, set)):
        return all(map(_is_literal, value))
    return all(map(_is_literal, vars(value).values())) if hasattr(value, "model_fields_set") else True


def _known_resources(value: Any) -> ResourceSettings | None:
    """Return the resources without the fields that are known only when the task runs."""
    if isinstance(value, Mapping):
        value = ResourceSettings.from_dict(value)
    if not isinstance(value, ResourceSettings):
        return None
    fields = {name: one for name, one in vars(value).items() if not is_later(one)}
    return ResourceSettings(**fields)


def may_have_defaults(operator: Any) -> bool:
    """Return whether a connection may give what the task leaves out. No connection is read: a DAG file is."""
    if operator.conn_id is not None or conf.get("stepop", "backend_override", fallback=""):
        return True
    from airflow_stepop.registry import hook_class

    backend = operator.backend or conf.get("stepop", "default_backend", fallback="local")
    return is_later(backend) or hook_class(backend).default_conn_id is not None


def _is_incomplete(error: StepConfigError) -> bool:
    """Return whether settings were refused for nothing but what is missing in them."""
    from pydantic import ValidationError

    cause = error.__cause__
    return isinstance(cause, ValidationError) and all(
        one["type"] == "missing" or not one["loc"] for one in cause.errors(include_url=False)
    )
