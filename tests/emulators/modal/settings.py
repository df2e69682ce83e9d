"""What a test can set: of the service, and of single sandboxes. A name that does not exist is an error.

Marks: [real] measured on the real service by others who published it, [doc] the vendor's documentation,
[src] the vendor's client, [inf] inferred: the real service may differ, so a client must work either way.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from typing import Any, TypeVar

T = TypeVar("T")

# [doc] GPUs of the documented list; `any` is in no list any more. A10G is the older name of A10.
GPUS = [
    *("T4", "L4", "A10", "A10G", "L40S", "A100", "A100-40GB", "A100-80GB", "RTX-PRO-6000"),
    *("H100", "H100!", "H200", "B200", "B200+"),
]
# [doc] broad and narrow regions of the page "Region selection"
REGIONS = [
    *("us", "eu", "ap", "uk", "ca", "me", "sa", "af", "mx", "jp", "au"),
    *("us-east", "us-central", "us-south", "us-west", "eu-west", "eu-north", "eu-south", "ap-northeast"),
    *("ap-southeast", "ap-south", "ap-melbourne", "us-east-1", "us-east-2", "us-west-1", "us-west-2"),
    *("us-central1", "us-east4", "us-west1", "us-ashburn-1", "eu-west-1", "eu-central-1", "europe-west4"),
]
# USD per second: of a core, of a GiB, and of a GPU. Copies of the price list of 2026; a sandbox's CPU and
# memory cost three times a Function's.
RATES = {
    "CPU": 0.00003942,
    "Memory": 0.00000672,
    "T4": 0.000164,
    "L4": 0.000222,
    "A10": 0.000306,
    "L40S": 0.000542,
    "A100": 0.000583,
    "A100-80GB": 0.000694,
    "H100": 0.001097,
    "H200": 0.001261,
    "B200": 0.001736,
}


@dataclass
class Settings:
    """The service as a whole. Times are real seconds, except those of a request: they count ``second_s``."""

    workspace: str = "test-workspace"
    second_s: float = 1.0  # how long a second of a sandbox's timeouts takes here
    timeout_late_s: float = 10.0  # [real] of `second_s`: timeout=60 was rc 124 at 70 s
    terminate_s: float = 0.3  # stands for the 35 s in which poll() stays None after terminate [real]
    kill_after_s: float = 0.2  # between SIGTERM and SIGKILL of a terminated sandbox [inf]
    list_lag_s: float = 0.0  # a new sandbox is in no list before
    result_lag_s: float = 0.0  # a result is seen so long after the end
    log_lag_s: float = 0.0  # lines reach the App's logs so late
    log_entries: str = "line"  # or "chunk": an entry is what one read of the stream gave [inf]
    log_limit: int = 20_000  # [src] entries of one AppFetchLogs
    log_days: float = 35.0  # [src] the longest range of one request
    commit_lag_s: float = 0.0  # written files appear in the Volume so long after the end
    background_commit_s: float = 0.0  # how often a running sandbox commits by itself; 0: never [inf]
    commit_after_kill: bool = True  # False: a sandbox that did not end by itself commits nothing [inf]
    lists_tags: bool = True  # [src] a list selects by tags; whether it also has them is unknown
    page_size: int = 100  # sandboxes of a page of the list [inf]
    stats_page: int = 100  # groups of a page of the statistics [inf]
    stats_lag_s: float = 0.0  # a sandbox is in no statistics before
    ring_bytes: int = 4 << 20  # what a worker keeps of a stream; older bytes are dropped [inf]
    router_keeps_s: float = 60.0  # how long the worker answers after the end of a sandbox [inf]
    token_s: float = 1200.0  # lifetime of the tokens of AuthTokenGet
    router_token_s: float = 1200.0  # lifetime of the tokens with which a worker is read
    v1_found_after_exit: bool = False  # whether include_terminated finds a V1 sandbox
    honours_idempotency_key: bool = False  # True: a repeated request gets the first answer again [inf]
    queue_s: float = 0.0  # how long a V1 sandbox waits for a GPU
    build_s: float = 0.0  # how long the build of an image takes
    default_memory_mb: int = 128  # [doc] the request without one
    private_tmp: bool = True  # a sandbox has a /tmp of its own
    shared: list[str] = field(default_factory=list)  # folders that stay visible below a private /tmp
    container_env: dict[str, str] = field(default_factory=dict)  # more variables, as an image has them
    proxies: list[str] = field(default_factory=list)  # names of proxies that exist
    gpus: list[str] = field(default_factory=lambda: list(GPUS))
    regions: list[str] = field(default_factory=lambda: list(REGIONS))
    clouds: list[str] = field(default_factory=lambda: ["aws", "gcp", "oci", "auto"])
    rates: dict[str, list[float]] = field(default_factory=dict)  # RPC -> [per second, burst]
    prices: dict[str, float] = field(default_factory=lambda: dict(RATES))
    plans: list[list[Any]] = field(default_factory=list)  # [pattern of sandbox names, fields of Plan]

    def plan(self, name: str) -> Plan:
        """Return the plan of a sandbox: later entries win."""
        found = Plan()
        for pattern, changes in self.plans:
            if fnmatchcase(name, pattern):
                change(found, changes)
        return found


@dataclass
class Plan:
    """What happens to a sandbox. Phases: ``queue`` (V1), ``start``, ``end``, ``commit``, ``result``.

    ``hold`` names phases in which the sandbox stays until the test releases them. In ``end`` the command has
    ended, in ``commit`` its files are not in the Volume, and in ``result`` nobody can see the result. With
    ``list`` it is in no list, and with ``log`` its lines are not in the App's logs.
    """

    hold: list[str] = field(default_factory=list)
    queue_s: float | None = None
    no_capacity: bool = False  # a V1 sandbox that never gets a task
    start_s: float = 0.0
    fail: str = ""  # the status with which it ends before its command: INIT_FAILURE or INTERNAL_FAILURE
    message: str = ""  # the text of the result
    end: str = ""  # a status with which the service ends it, after ``end_after_s`` of running
    end_after_s: float = 0.0
    commit_after_kill: bool | None = None
    commit_lag_s: float | None = None
    log_lag_s: float | None = None
    run: bool = True  # False: no process; the sandbox runs for ``run_s`` and ends with ``exit_code``
    run_s: float = 0.0
    exit_code: int = 0


def change(target: T, changes: dict[str, Any]) -> T:
    """Set attributes; refuse a name that does not exist."""
    known = {one.name for one in fields(target)}  # type: ignore[arg-type]  # a dataclass
    for name, value in changes.items():
        if name not in known:
            raise ValueError(f"{type(target).__name__} has no {name}; it has {', '.join(sorted(known))}")
        setattr(target, name, value)
    return target
