"""The commands ``airflow stepop list`` and ``describe``: print all backends, and the options of one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from airflow_stepop.cli.output import TABLES, Row, command, complain, print_rows, print_tree
from airflow_stepop.cli.render import PLACEHOLDER
from airflow_stepop.core.printable import without_markup
from airflow_stepop.core.units import shown_size

if TYPE_CHECKING:
    from argparse import Namespace

    from airflow_stepop.hooks.base import StepHook
    from airflow_stepop.hooks.settings import BackendSettings
    from airflow_stepop.inventory.targets import Target
    from airflow_stepop.job import StepSpec
    from airflow_stepop.resources import ResourceSettings


@command
def list_command(args: Namespace) -> None:
    """Print every backend: whether it can be used (if not, what to do), and its connections."""
    from airflow_stepop.inventory.targets import connections
    from airflow_stepop.registry import describe_backends

    problems: list[str] = []
    reached: dict[str, list[str]] = {}
    for target in connections(problems.append):
        reached.setdefault(target.backend, []).append(str(target.conn_id))
    rows = [
        {
            "backend": backend.name,
            "usable": backend.is_available,
            "connections": reached.get(backend.name, []),
            "from": backend.source,
            "what_to_do": backend.problem,
        }
        for backend in describe_backends()
    ]
    print_rows(rows, args.output)
    complain(problems)


@command
def describe_command(args: Namespace) -> None:
    """Print the options of one backend. For a connection, print its defaults for them too.

    With ``--fit``, print only the machine types that fit.
    """
    target = _target(args.backend)
    hook = target.hook
    if args.fit is not None:
        from airflow_stepop.cli.fit import fitting_machines, parse_fit

        print_rows(list(fitting_machines(hook, parse_fit(args.fit))), args.output)
        return
    described: Row = {
        **_defaults(target),
        "backend": hook.backend,
        "inline_limit_bytes": hook.inline_limit,
        "is_host_bound": hook.is_host_bound,
        "settings": list(describe_settings(hook.settings_model)),
        "resources": list(describe_resources(hook)),
    }
    if args.output in TABLES:
        _print_description(described, args.output)
    else:
        print_tree(described, args.output)


def _target(name: str) -> Target:
    """Return the backend named ``name``, or else the backend of the connection with this id.

    :raises BackendNotFoundError: there is no such backend and no such connection
    :raises StepConfigError: the connection exists and is wrong
    """
    from airflow_stepop.exceptions import BackendNotFoundError, StepConfigError
    from airflow_stepop.inventory.targets import Target, target_of
    from airflow_stepop.registry import backend_names, hook_class

    if name in backend_names():
        return Target(name)
    try:
        return target_of(name)
    except StepConfigError as error:
        if error.__cause__ is None:
            raise  # the connection exists and is wrong
    try:
        hook_class(name)
    except BackendNotFoundError as error:
        raise BackendNotFoundError(f"{error}. There is no connection of this id, either") from None
    return Target(name)


def _defaults(target: Target) -> Row:
    """Return the defaults that the connection holds; nothing if the user named a backend."""
    if target.conn_id is None:
        return {}
    from airflow.sdk.configuration import conf

    from airflow_stepop.cli.defaults import describe_defaults

    if override := conf.get("stepop", "backend_override", fallback=""):
        complain([f"[stepop] backend_override is {override!r}: steps do not use this connection now"])
    return {"connection": target.conn_id, "defaults": list(describe_defaults(target))}


def describe_settings(model: type[BackendSettings]) -> Iterator[Row]:
    """Yield every option of a backend, with its type, default and description."""
    documented = dict(re.findall(r":param (\w+): (.+?)(?=\n\s*:|\n\s*\n|\Z)", model.__doc__ or "", re.DOTALL))
    for name, field in model.model_fields.items():
        text = field.description or documented.get(name, "")
        yield {
            "setting": name,
            "type": _type_name(field.annotation),
            "default": "(required)" if field.is_required() else field.get_default(call_default_factory=True),
            "description": without_markup(" ".join(text.split())),
        }


def _type_name(kind: Any) -> str:
    """Return a type as a user writes it: without what checks its values."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _type_name(inner[0])
    if origin in (Union, UnionType):
        return " | ".join(map(_type_name, inner))
    if kind is NoneType:
        return "None"
    if isinstance(origin, type) and inner:
        return f"{origin.__name__}[{', '.join(map(_type_name, inner))}]"
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")


def describe_resources(hook: StepHook) -> Iterator[Row]:
    """Yield every field of ResourceSettings, and whether the backend honours it.

    The function renders an example of each field. A field is honoured if the hook raises no error.
    """
    from airflow_stepop.exceptions import StepopError, UnsupportedError
    from airflow_stepop.resources import ResourceSettings

    examples: Mapping[str, Row] = {
        "cpu_count": {"cpu_count": 1},
        "memory": {"memory": "512MiB"},
        "gpu_count": {"gpu_count": 1},
        "gpu_type": {"gpu_count": 1, "gpu_type": "A100"},
        "disk": {"disk": "1GiB"},
        "shm": {"shm": "64MiB"},
        "nodes": {"nodes": 2},
    }
    for name, example in examples.items():
        note = ""
        try:
            hook.render(_sample_spec(ResourceSettings(**example)))
        except UnsupportedError as error:
            note = str(error)
        except StepopError:
            pass  # of what the example lacks: a store, an image
        yield {"resource": name, "honoured": not note, "note": note}


def _sample_spec(resources: ResourceSettings) -> StepSpec:
    from airflow_stepop.job import StepSpec

    return StepSpec(name="s-sample", nonce="sample", digest=PLACEHOLDER, labels={}, resources=resources)


def _print_description(described: Row, output: str) -> None:
    print(f"Backend {described['backend']}")
    limit = described["inline_limit_bytes"]
    print(f"  payload inside the request: up to {shown_size(limit)}; a larger payload needs a store")
    where = "the host that started them" if described["is_host_bound"] else "any host"
    print(f"  jobs can be seen from: {where}\n")
    if "connection" in described:
        print(f"Defaults of steps with conn_id={described['connection']!r}")
        print_rows(described["defaults"], output)
        print()
    print("Settings (settings=...)")
    print_rows(described["settings"], output)
    print("\nResources (resource_settings=...)")
    print_rows(described["resources"], output)
