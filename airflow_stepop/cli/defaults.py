"""The defaults of a connection on the command line: shown by ``describe``, checked and used by ``check``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from airflow_stepop.cli.output import Row
from airflow_stepop.cli.render import PLACEHOLDER
from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.job import Finding, StepSpec
from airflow_stepop.lifecycle.options import (
    NoTask,
    StepOptions,
    check_defaults,
    find_connection,
    known_settings,
    with_id,
)
from airflow_stepop.stores.paths import RESULTS

if TYPE_CHECKING:
    from airflow_stepop.hooks.base import StepHook
    from airflow_stepop.inventory.targets import Target
    from airflow_stepop.stores.base import Store

SUBJECT = "defaults"
HIDDEN = "(not shown)"
CONNECTION = "the connection"


def options_of(target: Target, task: NoTask | None = None) -> StepOptions:
    """Return what a step runs with that names nothing but this connection.

    :param task: what the command line gives instead of a task
    :raises StepConfigError: the connection has a mistake
    """
    return StepOptions(
        task or NoTask(), check_defaults(find_connection(target.conn_id, target.backend), target.backend)
    )


def describe_defaults(target: Target) -> Iterator[Row]:
    """Yield every option with its value and where that comes from; of ``env`` the names only."""
    options, hook = options_of(target), target.hook
    defaults = options.defaults
    store = options.store(hook.store_scheme)
    of_backend, deferrable = f"the backend {target.backend}", options.deferrable
    if deferrable is None:
        deferrable = _configured_deferrable() and not hook.is_host_bound
    values = {
        "backend": (target.backend, "the connection's type"),
        "image": (options.image, of_backend),
        "store": (store.url, _place_of(store)),
        "timeout": (options.timeout_s, "[stepop] timeout"),
        "start_timeout": (options.start_timeout_s, "airflow-stepop: no limit"),
        "keep": (options.keep, "airflow-stepop"),
        "deferrable": (deferrable, of_backend if hook.is_host_bound else "[stepop] deferrable"),
    }
    for name, (value, otherwise) in values.items():
        is_given = getattr(defaults, name) is not None
        yield {"option": name, "value": value, "from": CONNECTION if is_given else otherwise}
    inner: dict[str, Any] = {
        "settings": known_settings(defaults, target.backend),
        "resource_settings": defaults.resource_settings,
        "env": dict.fromkeys(defaults.env, HIDDEN),
        "endpoints": defaults.endpoints,
    }
    for name, given in inner.items():
        for key, value in given.items():
            yield {"option": f"{name}.{key}", "value": value, "from": CONNECTION}


def _place_of(store: Store) -> str:
    """Return the option that gives the store of a step whose task and connection name none."""
    from airflow_stepop.stores.configured import default_store

    return "[stepop] store" if store.is_same(default_store()) else "[stepop] extra_stores"


def _configured_deferrable() -> bool:
    from airflow.sdk.configuration import conf

    return bool(conf.getboolean("stepop", "deferrable", fallback=True))


def check_target_defaults(target: Target) -> Iterator[Finding]:
    """Yield whether the defaults of a target's connection are right; nothing when there are none."""
    try:
        options = options_of(target)
        _render(target.hook, options)
    except StepConfigError as error:
        yield Finding(False, SUBJECT, str(error), 'correct "stepop" in the extra of the connection')
        return
    given = [name for name in options.defaults.given if name != "backend"]
    if given:
        yield Finding(True, SUBJECT, f"steps with this connection get {', '.join(given)} from it")


def _render(hook: StepHook, options: StepOptions) -> None:
    """Render a step that says nothing itself.

    :raises StepConfigError: the backend cannot honour what the connection gives
    """
    given = options.from_connection()
    if not given:
        return
    try:
        fields = spec_fields(hook.backend, options)
    except StepConfigError:
        return  # the connection is right as far as it goes: a task has to add what is missing
    fields |= {
        "image": fields["image"] or hook.sample_image,
        "result_uri": options.store(hook.store_scheme).uri(f"{RESULTS}/s-sample"),
        "timeout_s": options.timeout_with(fields["settings"]),
        "start_timeout_s": options.start_timeout_s,
    }
    spec = StepSpec(name="s-sample", nonce="sample", digest=PLACEHOLDER, labels={}, **fields)
    try:
        hook.render(spec)
    except StepConfigError as error:
        raise StepConfigError(with_id(options.defaults, error)) from error


def spec_fields(backend: str, options: StepOptions) -> dict[str, Any]:
    """Return what the connection gives to the request of a step."""
    return {
        "image": options.image,
        "settings": options.settings(backend),
        "resources": options.resources,
        "env": options.env,
    }
