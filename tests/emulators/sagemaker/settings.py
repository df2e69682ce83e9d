"""What a test can set: of the service, and of single jobs. A name that does not exist is an error."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from typing import Any, TypeVar

T = TypeVar("T")

# Documented: CreateTrainingJob, ListTrainingJobs, FilterLogEvents, DescribeLogStreams.
# The others are what pollers meet, and the bursts are guesses
REAL_RATES = {
    "CreateTrainingJob": [1.0, 5.0],
    "ListTrainingJobs": [2.0, 2.0],
    "DescribeTrainingJob": [10.0, 20.0],
    "StopTrainingJob": [1.0, 5.0],
    "GetLogEvents": [25.0, 25.0],
    "FilterLogEvents": [5.0, 5.0],
    "DescribeLogStreams": [25.0, 25.0],
}


@dataclass
class Settings:
    """The service as a whole. Times are real seconds, except where ``second_s`` is named."""

    account: str = "123456789012"
    second_s: float = 1.0  # how long a second of StoppingCondition and of the warm pool takes here
    phase_s: dict[str, float] = field(default_factory=lambda: {"Stop": 0.02})
    kill_after_s: float = 2.0  # stands for the 120 s between SIGTERM and SIGKILL
    max_runtime_late: float = 1.4  # 603 s asked, 841 s of training time seen: the end is late
    touch_after_end_s: float = 0.5  # LastModifiedTime moves once more; 30 s after the end were recorded
    list_lag_s: float = 0.0  # how old the answers of ListTrainingJobs are
    describe_misses: int = 0  # so many first DescribeTrainingJob of a new job do not find it
    failure_text: bool = True  # False: a reason never has the text of /opt/ml/output/failure, as many reports
    late_objects_hold: bool = False  # objects of a Failed job do not come before this is False again
    late_logs_hold: bool = False  # log lines do not come before this is False again
    log_batch_s: float = 0.1
    checkpoint_sync_s: float = 0.1
    layout: str = "plain"  # of CompressionType NONE: plain, tar, or mixed (model plain, output.tar.gz)
    refuse_second_stop: bool = False  # StopTrainingJob of a job that is Stopping: what AWS does is not known
    oom_text: bool = False  # exit code 137 becomes the text for too little memory
    bad_entrypoint: str = "exit code"  # or "oci": how an executable that is not there is told
    tag_missing: str = "failed"  # or "sync": a missing tag of an image (2025 and 2020)
    data_log: bool = False  # a stream JOB/data-log appears, too
    log_page: int = 10_000  # events of a page of FilterLogEvents at most: a megabyte may be few events
    empty_log_pages: int = 0  # pages without an event, and with a token, before each page of FilterLogEvents
    spot_billed: float = 0.67  # 6,386 of 9,527 seconds were recorded
    spot_sigterm: bool = False  # whether a Spot reclaim sends SIGTERM first is not known
    clock_skew_s: float = 0.0  # the clock of the service, against that of this host
    signature_tolerance_s: float = 300.0
    default_order: str = "Ascending"  # of ListTrainingJobs without SortOrder; another text says Descending
    session_s: float | None = None  # lifetime of temporary credentials; None: as STS says
    private_tmp: bool = True  # a job has a /tmp of its own
    shared: list[str] = field(default_factory=list)  # folders that stay visible below a private /tmp
    container_env: dict[str, str] = field(default_factory=dict)  # more variables, as an image has them
    quotas: dict[str, int] = field(default_factory=dict)  # instances per quota name or instance type
    default_quota: int | None = None  # of all others; None: no limit
    no_capacity: list[str] = field(default_factory=list)  # instance types
    rates: dict[str, list[float]] = field(default_factory=dict)  # operation -> [per second, burst]
    plans: list[list[Any]] = field(default_factory=list)  # [pattern of job names, fields of Plan]

    def plan(self, job_name: str) -> Plan:
        """Return the plan of a job: later entries win."""
        found = Plan()
        for pattern, changes in self.plans:
            if fnmatchcase(job_name, pattern):
                change(found, changes)
        return found

    def seconds_of(self, phase: str, plan: Plan) -> float:
        return plan.phase_s.get(phase, self.phase_s.get(phase, 0.0))


@dataclass
class Plan:
    """What happens to a job. Phases: the secondary statuses, ``Stop`` (between StopTrainingJob and Stopping).

    ``hold`` names phases in which the job stays until the test releases them.
    """

    hold: list[str] = field(default_factory=list)
    phase_s: dict[str, float] = field(default_factory=dict)
    pending: bool = False  # waits for capacity: the phase Pending
    capacity_error: bool = False
    internal_errors: int = 0  # so many attempts end with InternalServerError
    fail: str = ""  # a FailureReason of the service
    interrupt_after_s: list[float] = field(default_factory=list)  # Spot: seconds of training, per attempt
    run: bool = True  # False: no container; the job trains for train_s, until it is stopped
    train_s: float = 0.0
    exit_code: int = 0


def change(target: T, changes: dict[str, Any]) -> T:
    """Set attributes; refuse a name that does not exist."""
    known = {one.name for one in fields(target)}  # type: ignore[arg-type]  # a dataclass
    for name, value in changes.items():
        if name not in known:
            raise ValueError(f"{type(target).__name__} has no {name}; it has {', '.join(sorted(known))}")
        if name == "rates" and value == "real":
            value = REAL_RATES  # noqa: PLW2901 - the documented rates have a name
        setattr(target, name, value)
    return target
