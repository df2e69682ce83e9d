"""The command ``airflow stepop check``: test the configuration from this host with Airflow's credentials."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from airflow_stepop.cli.defaults import check_target_defaults, options_of, spec_fields
from airflow_stepop.cli.output import TABLES, Row, command, complain, print_rows
from airflow_stepop.core.printable import printable_text
from airflow_stepop.core.signing_key import OWN_KEY, OWN_KEY_FIX, configured_option
from airflow_stepop.core.units import LONGEST_S
from airflow_stepop.exceptions import StepConfigError, StepopError
from airflow_stepop.inventory.places import all_stores
from airflow_stepop.inventory.targets import Complain, Target, deployment, target_of, usable_targets
from airflow_stepop.job import Finding
from airflow_stepop.lifecycle.options import NoTask, as_resources
from airflow_stepop.registry import describe_backends

if TYPE_CHECKING:
    from argparse import Namespace

    from airflow_stepop.stores.base import Store
    from airflow_stepop.stores.bucket import BucketStore


NOT_RUN = Finding(False, "run", "no step was run", "correct the other findings first")


@command
def check_command(args: Namespace) -> None:
    """Print the findings. Exit with code 1 if something does not work."""
    problems: list[str] = []
    targets = _targets(args.conn_id, problems.append)
    if args.image and not (args.run and args.conn_id):
        raise StepConfigError("--image needs --run, and the name of a connection or backend that runs images")
    if not 0 < args.limit < LONGEST_S:
        raise StepConfigError(
            f"--limit is a number of seconds above 0 and below 100 years, not {args.limit:g}"
        )
    task = _task_of(args, targets)
    found = [(str(target), finding) for target in targets for finding in check_target(target, task)]
    if args.run:
        broken = {where for where, finding in found if not finding.is_ok}
        for target in targets:
            ran = [NOT_RUN] if str(target) in broken else run_step(target, args, task)
            found += [(str(target), finding) for finding in ran]
    if not args.conn_id:
        found += [("configuration", finding) for finding in check_configuration(targets)]
    _print([_row(where, finding) for where, finding in found], args.output)
    if complain(problems) or not all(finding.is_ok for _, finding in found):
        raise SystemExit(1)


def _task_of(args: Namespace, targets: list[Target]) -> NoTask:
    """Return what the command line says in place of a task.

    :raises StepConfigError: an option is wrong, or needs another one that is missing
    """
    given = {name: getattr(args, name) for name in ("resources", "settings", "namespace")}
    options = ", ".join(f"--{name}" for name, value in given.items() if value)
    if not options:
        return NoTask()
    if not args.conn_id:
        raise StepConfigError(f"{options} needs the name of a connection or backend")
    if args.resources and not args.run:
        raise StepConfigError("--resources needs --run")
    settings = _json_of(args.settings, "--settings")
    if args.namespace:
        (target,) = targets
        if "namespace" not in target.hook.settings_model.model_fields:
            raise StepConfigError(f"backend {target.backend!r} has no namespaces: leave --namespace out")
        if settings.get("namespace") not in (None, args.namespace):
            raise StepConfigError("--namespace contradicts the namespace in --settings")
        settings["namespace"] = args.namespace
    resources = _json_of(args.resources, "--resources")
    return NoTask(settings=settings, resource_settings=as_resources(resources))


def _json_of(text: str | None, option: str) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError as error:
        raise StepConfigError(f"{option} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise StepConfigError(f'{option} must be an object, such as {{"name": "value"}}, not {text}')
    return found


def _targets(name: str | None, complain: Complain) -> list[Target]:
    """Return the targets to check: the connection or the backend of that name, or all targets without a name.

    :raises StepConfigError: there is no such connection or backend, or the connection is wrong
    """
    if not name:
        return usable_targets(complain)
    try:
        return [target_of(name)]
    except StepConfigError as error:
        is_connection = error.__cause__ is None
        if is_connection or name not in {backend.name for backend in describe_backends()}:
            raise
        return [Target(name)]


def _print(rows: list[Row], output: str) -> None:
    """Print the rows. A table shows the first line of each text; texts of several lines follow it in full."""
    if output not in TABLES:
        print_rows(rows, output)
        return
    print_rows([{**row, **{name: _first_line(row[name]) for name in _TEXTS}} for row in rows], output)
    for row in rows:
        for name in _TEXTS:
            if "\n" in row[name]:
                text = f"\n{row['where']}, {row['what']}, {name.replace('_', ' ')}:\n\n{row[name]}"
                print(printable_text(text))


_TEXTS = ("found", "what_to_do")


def _first_line(text: str) -> str:
    first, _, more = text.partition("\n")
    return f"{first.rstrip(':')} (all of it is below)" if more else first


def _row(where: str, finding: Finding) -> Row:
    return {
        "where": where,
        "what": finding.subject,
        "ok": finding.is_ok,
        "found": finding.message,
        "what_to_do": finding.fix,
    }


def check_target(target: Target, task: NoTask | None = None) -> Iterator[Finding]:
    """Yield the findings of the backend. An error during the check becomes a finding.

    :param task: what the command line gives; the backend checks the place that its settings name
    """
    try:
        yield from _backend_findings(target, task)
        yield from check_target_defaults(target)
        yield from _connection_store(target)
    except Exception as error:  # noqa: BLE001, RUF100 - whatever an SDK raises
        message = f"the check itself failed: {error or type(error).__name__}"
        yield Finding(False, "check", message, "see the traceback with --verbose, and check the connection")


def _connection_store(target: Target) -> Iterator[Finding]:
    """Yield a finding about the store that the target's connection names; nothing if it names none."""
    try:
        options = options_of(target)
    except StepConfigError:
        return  # the findings about the defaults name the mistake
    if options.store_place:
        store = options.store()
        yield check_store(store, options.store_place)
        yield from check_access(store)


def _backend_findings(target: Target, task: NoTask | None) -> Iterable[Finding]:
    """Return the backend's findings for the settings of the command line and of the connection's defaults."""
    try:
        settings = options_of(target, task).settings(target.backend)
    except StepConfigError as error:
        if task is not None and task.settings:
            return [Finding(False, "settings", str(error), "correct --settings, or the connection")]
        return target.hook.check()  # the findings about the defaults name the mistake
    return target.hook.check_for(settings)


def run_step(target: Target, args: Namespace, task: NoTask | None = None) -> list[Finding]:
    """Run a minimal step, and return findings about it."""
    from airflow_stepop.cli.smoke_test import SUBJECT, run_smoke_test

    print(f"airflow stepop: running a step on {target}, for {args.limit:g} s at most", file=sys.stderr)
    try:
        hook, options = target.hook, options_of(target, task)
        given = spec_fields(target.backend, options)
        store = options.store() if options.store_place else None
    except Exception as error:  # noqa: BLE001, RUF100 - whatever an SDK raises
        return [Finding(False, SUBJECT, str(error) or type(error).__name__, "see the other findings")]
    return run_smoke_test(hook, deployment(), args.image, args.limit, given, store)


def check_configuration(targets: list[Target]) -> Iterator[Finding]:
    """Yield findings about every store, the signing key, the deployment's name and the cache of requirements.

    All hosts must have the same signing key. Airflow deployments that share backends or stores must have
    different names.
    """
    from airflow_stepop.stores.configured import configured_stores

    try:
        stores = configured_stores()
    except StepopError as error:
        yield Finding(False, "store", str(error), "correct [stepop] store and extra_stores")
        stores = []
    for store in stores:
        yield check_store(store)
        yield from check_access(store)
    is_shared = (
        _is_configured("store", "extra_stores", "local_folder")
        or any(target.backend != "local" for target in targets)
        or (bool(stores) and len(all_stores(lambda text: None)) > len(stores))
    )
    yield _check_key(is_shared)
    yield _check_deployment(is_shared)
    yield from _requirements_findings()


def check_store(store: Store, place: str = "") -> Finding:
    """Write, list, read and delete an object in the store. Return one finding.

    :param place: what names the store, if that is not the configuration
    """
    shown = f"{store.url}, from {place}," if place else store.url
    folder, data = f"check/{token_hex(8)}", token_hex(16).encode()
    path = f"{folder}/object"
    try:
        store.put_new(path, data)
        was_listed = path in store.list(folder)
        was_read = store.read(path, len(data)) == data
        store.delete_folder(folder)
        was_deleted = path not in store.list(folder)
    except Exception as error:  # noqa: BLE001, RUF100 - whatever an SDK raises
        return Finding(False, "store", str(error) or type(error).__name__, _STORE_FIX)
    wrong = [
        text
        for is_right, text in (
            (was_listed, "does not list what was written to it"),
            (was_read, "returns other bytes than were written"),
            (was_deleted, "still lists what was deleted from it"),
        )
        if not is_right
    ]
    if wrong:
        return Finding(False, "store", f"{shown} {' and '.join(wrong)}", _STORE_FIX)
    return Finding(True, "store", f"{shown} can be written, listed, read and deleted from")


def check_access(store: Store) -> Iterator[Finding]:
    """Yield what other users may do with a folder, and for how long addresses in a bucket are valid.

    None of this is an error.
    """
    from airflow_stepop.runner.ownership import remarks
    from airflow_stepop.stores.bucket import BucketStore
    from airflow_stepop.stores.folder import FolderStore

    if isinstance(store, FolderStore):
        with suppress(OSError):  # the finding about the store says why
            for remark in remarks(str(store.folder)):
                yield Finding(True, "access", f"{remark}. {_NOT_SIGNED}")
    elif isinstance(store, BucketStore):
        yield Finding(True, "addresses", f"{store.url}: {_signing(store)}")


def _signing(store: BucketStore) -> str:
    """Return for how long an address is valid that is signed now."""
    from airflow_stepop.hooks.common.signing import SIGNATURE_MAX_S

    try:
        store.sign("GET", ["check"], time.time() + 60)
        end = store.signature_end(0)
    except StepopError as error:
        return f"no addresses can be signed, which steps need that do not reach the bucket otherwise: {error}"
    if end is None:
        return "signed addresses are valid until the session token expires, which is at an unknown time"
    longest_s = min(end - time.time(), SIGNATURE_MAX_S)
    return f"signed addresses are valid for up to {timedelta(seconds=60 * round(longest_s / 60))}"


_NOT_SIGNED = "Results are signed; checkpoints in a folder are not"
_STORE_FIX = "check the address of this store, its credentials and their permissions"


def _check_key(is_shared: bool) -> Finding:
    if option := configured_option():
        return Finding(True, "signing key", f"records and references are signed with {option}")
    return Finding(not is_shared, "signing key", OWN_KEY, OWN_KEY_FIX if is_shared else "")


def _check_deployment(is_shared: bool) -> Finding:
    name = deployment()
    if name:
        return Finding(True, "deployment", f"jobs and results are labelled {name!r}")
    message = "[stepop] deployment is not set: jobs and results have no label with the name of this Airflow"
    fix = "set it to a name that no other Airflow with these backends and stores has; sweep --yes needs it"
    return Finding(not is_shared, "deployment", message, fix)


def _requirements_findings() -> Iterator[Finding]:
    """Yield the size of each cache of requirements= on this host."""
    from airflow_stepop.maintenance.requirements_cache import describe_caches

    for text in describe_caches():
        yield Finding(True, "requirements", f"{text}; gc deletes what no step has used for a while")


def _is_configured(*options: str) -> bool:
    from airflow.sdk.configuration import conf

    return any(conf.get("stepop", option, fallback="") for option in options)
