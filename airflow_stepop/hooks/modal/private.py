"""The private parts of the package ``modal`` that this backend uses. No other module names one.

Each door below is one thing that the public interface cannot do. :data:`DOORS` has the private names that
the door needs. If a version of ``modal`` lacks one of them, the door is closed: ``airflow stepop check``
names it, and ``service.py`` takes the public way, which does less or costs more requests.

Each function blocks, like the public interface: the client runs it in the event loop of its own thread.
Source: the package ``modal`` 1.6.4, ``modal/sandbox/`` and ``modal/_logs.py``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import import_module
from typing import Any

RESULTS, LISTING, TASKS, STARTING, LOGS = "results", "listing", "tasks", "starting", "logs"
_LOOP = "modal._utils.async_utils:synchronizer.create_blocking"
_API = "modal_proto.api_pb2"
DOORS: dict[str, tuple[str, ...]] = {
    RESULTS: (
        _LOOP,
        "modal.sandbox._sandbox:impl_class_for_sandbox_id",
        "modal.sandbox._impl_v1:SandboxImplV1.lookup_by_id",
        "modal.sandbox._impl_v2:SandboxImplV2.lookup_by_id",
        f"{_API}:GenericResult.GenericStatus.Name",
    ),
    LISTING: (
        _LOOP,
        "modal.sandbox._impl_v2:SandboxImplV2.list_page",
        f"{_API}:SandboxListRequest.INCLUDE_FINISHED_FIELD_NUMBER",
        f"{_API}:SandboxInfo.TASK_INFO_FIELD_NUMBER",
        f"{_API}:TaskInfo.FINISHED_AT_FIELD_NUMBER",
    ),
    TASKS: (
        _LOOP,
        "modal.sandbox._sandbox:impl_class_for_sandbox_id",
        "modal.sandbox._impl_v1:SandboxImplV1.resolve_task_id_for_logs",
        "modal.sandbox._impl_v2:SandboxImplV2.resolve_task_id_for_logs",
    ),
    STARTING: (
        _LOOP,
        "modal.sandbox._sandbox:_Sandbox._from_impl",
        "modal.sandbox._common:SandboxCreateArgs",
        "modal.sandbox._impl_v1:SandboxImplV1.get_task_id",
    ),
    LOGS: (
        _LOOP,
        "modal._logs:fetch_logs",
        "modal._logs:tail_logs",
        "modal._logs:LogsFilters",
        f"{_API}:TaskLogsBatch.SANDBOX_ID_FIELD_NUMBER",
        f"{_API}:TaskLogs.TIMESTAMP_NS_FIELD_NUMBER",
    ),
}
WITHOUT = {  # door -> what the public way does instead
    RESULTS: "the reason of a failure is its exit code only",
    LISTING: "each sandbox that has ended costs more requests, and its times are not known",
    TASKS: "a step that waits for a machine counts as running",
    STARTING: "a step with a GPU is started by a process of its own, which ends when the sandbox is there",
    LOGS: "the log of each sandbox is read by itself",
}
_PREFIX = "GENERIC_STATUS_"


@dataclass(frozen=True)
class Result:
    """How a sandbox has ended.

    :param status: a name of ``GenericResult.GenericStatus`` without its prefix, such as ``KERNEL_OOM_KILL``
    :param text: what the service says about it
    """

    status: str
    exit_code: int
    text: str = ""


@dataclass(frozen=True)
class Seen:
    """One sandbox, as a list shows it. Times are in seconds since the epoch; ``None``: not yet, or unknown.

    :param task_id: the service's id of the container; empty while the sandbox waits for a machine
    :param result: ``None`` while the sandbox runs
    """

    id: str
    name: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    created_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    task_id: str = ""
    result: Result | None = None


@dataclass(frozen=True)
class LogEntry:
    """A piece of the output of one sandbox: a part of a line, or several lines.

    :param sandbox_id: empty if the service does not say it; ``task_id`` says it then
    :param stream: the file descriptor, 1 or 2; 3 for the lines of the service itself
    """

    sandbox_id: str
    task_id: str
    time_ns: int
    stream: int
    text: str


def missing(door: str) -> list[str]:
    """Return the private names that this version of ``modal`` lacks for a door."""
    return [name for name in DOORS[door] if not _exists(name)]


def is_open(door: str) -> bool:
    """Return whether this version of ``modal`` has all that a door needs."""
    return not missing(door)


@cache
def _exists(name: str) -> bool:
    module, _, path = name.partition(":")
    try:
        found: Any = import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return False
    return True


@cache
def _blocking(function: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    """Return a function that runs a coroutine in the client's event loop, with the client's own objects."""
    from modal._utils.async_utils import synchronizer

    found: Callable[..., Any] = synchronizer.create_blocking(function, function.__name__, __name__)
    return found


# -- results


def result_of(client: object, sandbox_id: str) -> Result | None:
    """Return how a sandbox has ended; ``None``: it has not. Sends one request.

    :raises modal.exception.NotFoundError: there is no such sandbox
    """
    found: Result | None = _blocking(_result_of)(client, sandbox_id)
    return found


async def _result_of(client: Any, sandbox_id: str) -> Result | None:
    from modal.sandbox._sandbox import impl_class_for_sandbox_id

    answer = await impl_class_for_sandbox_id(sandbox_id).lookup_by_id(client, sandbox_id)
    return _to_result(answer.result)


def _to_result(result: Any) -> Result | None:
    if not result.status:
        return None
    return Result(status_name(result.status), int(result.exitcode), str(result.exception))


def status_name(number: int) -> str:
    """Return the name of a status without its prefix; ``STATUS_17`` for one that this version lacks."""
    from modal_proto import api_pb2

    try:
        name: str = api_pb2.GenericResult.GenericStatus.Name(number)
    except ValueError:
        return f"STATUS_{number}"
    return name.removeprefix(_PREFIX)


# -- listing


def listed(
    client: object, app_id: str, tags: Mapping[str, str], *, is_running: bool, since: float = 0.0
) -> tuple[list[Seen], int]:
    """Return the sandboxes of an App with all of ``tags``, newest first, and how many requests that took.

    :param is_running: only those that have not ended
    :param since: leave out those that were created before, in seconds since the epoch
    """
    found: tuple[list[Seen], int] = _blocking(_listed)(client, app_id, dict(tags), is_running, since)
    return found


async def _listed(
    client: Any, app_id: str, tags: Mapping[str, str], is_running: bool, since: float
) -> tuple[list[Seen], int]:
    from modal.sandbox._impl_v2 import SandboxImplV2
    from modal_proto import api_pb2

    wanted = [api_pb2.SandboxTag(tag_name=name, tag_value=value) for name, value in tags.items()]
    found: dict[str, Seen] = {}
    before, requests = 0.0, 0  # 0.0: the newest ones
    while True:
        requests += 1
        page = await SandboxImplV2.list_page(
            client,
            api_pb2.SandboxListRequest(
                app_id=app_id, before_timestamp=before, include_finished=not is_running, tags=wanted
            ),
        )
        for info in page.sandboxes:
            if info.created_at >= since:
                found[info.id] = _to_seen(info)
        last = page.sandboxes[-1].created_at if page.sandboxes else 0.0
        if not page.sandboxes or last < since or last == before:
            return list(found.values()), requests
        before = last


def _to_seen(info: Any) -> Seen:
    task = info.task_info
    return Seen(
        info.id,
        info.name,
        {tag.tag_name: tag.tag_value for tag in info.tags},
        info.created_at or None,
        task.started_at or None,
        task.finished_at or None,
        task.id,
        _to_result(task.result),
    )


# -- tasks


def task_of(client: object, sandbox_id: str) -> str:
    """Return the id of a sandbox's container; empty while the sandbox waits for a machine. One request."""
    found: str = _blocking(_task_of)(client, sandbox_id)
    return found


async def _task_of(client: Any, sandbox_id: str) -> str:
    from modal.exception import ExecutionError
    from modal.sandbox._sandbox import impl_class_for_sandbox_id

    impl: Any = impl_class_for_sandbox_id(sandbox_id)(client, sandbox_id)
    try:
        return str(await impl.resolve_task_id_for_logs())
    except ExecutionError:
        return ""


# -- starting


def start(words: tuple[str, ...], options: Mapping[str, Any]) -> str:
    """Create a sandbox with a GPU without waiting for its machine; return its id.

    ``Sandbox.create`` waits up to 21 minutes for the machine, and ends the sandbox if the wait is ended.

    :param words: the command
    :param options: those of ``Sandbox.create``, with ``app`` and ``client``
    """
    found: str = _blocking(_start)(list(words), dict(options))
    return found


async def _start(words: list[str], options: dict[str, Any]) -> str:
    from modal.sandbox._common import SandboxCreateArgs
    from modal.sandbox._impl_v1 import SandboxImplV1

    class WithoutWaiting(SandboxImplV1):
        async def get_task_id(self, *args: Any, **kwargs: Any) -> str:
            return ""

    app, client = options.pop("app"), options.pop("client")
    impl, _ = await WithoutWaiting.create(SandboxCreateArgs(args=words, **options), app=app, client=client)
    return str(impl.sandbox_id)


# -- logs


def entries(client: object, app_id: str, since: float, until: float) -> list[LogEntry]:
    """Return what the sandboxes of an App have printed in a time, oldest first. Sends two requests or more.

    :param since: in seconds since the epoch; ``until`` as well
    """
    found: list[LogEntry] = _blocking(_entries)(client, app_id, since, until)
    return found


async def _entries(client: Any, app_id: str, since: float, until: float) -> list[LogEntry]:
    from modal._logs import fetch_logs

    begin, end = datetime.fromtimestamp(since, UTC), datetime.fromtimestamp(until, UTC)
    return [entry async for batch in fetch_logs(client, app_id, begin, end) for entry in _to_entries(batch)]


def last_entries(
    client: object, app_id: str, sandbox_id: str, task_id: str, count: int, since: float | None = None
) -> list[LogEntry]:
    """Return the last ``count`` pieces of the output of one sandbox, oldest first. Sends one request or more.

    :param task_id: the sandbox's container; empty if it is not known
    :param since: in seconds since the epoch; ``None``: up to 30 days ago
    """
    found: list[LogEntry] = _blocking(_last_entries)(client, app_id, sandbox_id, task_id, count, since)
    return found


async def _last_entries(
    client: Any, app_id: str, sandbox_id: str, task_id: str, count: int, since: float | None
) -> list[LogEntry]:
    from modal._logs import LogsFilters, tail_logs

    filters = LogsFilters(task_id=task_id) if task_id else LogsFilters(sandbox_id=sandbox_id)
    begin = datetime.fromtimestamp(since, UTC) if since is not None else None
    return [
        entry
        async for batch in tail_logs(client, app_id, count, since=begin, filters=filters)
        for entry in _to_entries(batch)
    ]


def _to_entries(batch: Any) -> list[LogEntry]:
    return [
        LogEntry(
            batch.sandbox_id,
            item.container_id or batch.task_id,
            int(item.timestamp_ns or item.timestamp * 1e9),
            int(item.file_descriptor),
            item.data,
        )
        for item in batch.items
        if item.data
    ]
