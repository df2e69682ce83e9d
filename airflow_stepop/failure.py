"""How a step failed: its category, what a person needs to read, and the error that carries both.

Plain, frozen, JSON-able data, as in ``job``: a backend says it, the record keeps it, and the task raises it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from airflow_stepop.core.printable import printable, without_groups
from airflow_stepop.core.stored_json import LIST, OBJECT, TEXT, TEXTS, TRUTH, checked_fields, or_nothing
from airflow_stepop.exceptions import IntegrityError, StepopError

if TYPE_CHECKING:
    from airflow_stepop.runner import wire


class Category(StrEnum):
    """Why a step failed. The values are a stable contract: dashboards and retry policies match on them."""

    USER_ERROR = "user_error"
    OOM = "oom"
    IMAGE_PULL = "image_pull"
    BAD_CONFIG = "bad_config"
    DENIED = "denied"
    UNSCHEDULABLE = "unschedulable"
    NO_CAPACITY = "no_capacity"
    QUOTA = "quota"
    PREEMPTED = "preempted"
    TIMEOUT = "timeout"
    START_TIMEOUT = "start_timeout"
    CANCELLED = "cancelled"
    REQUIREMENTS = "requirements"
    LOST = "lost"
    INFRA = "infra"

    @property
    def is_resubmitted(self) -> bool:
        """Whether the same try submits another job: the service took the machine away, or had none."""
        return self in (Category.PREEMPTED, Category.NO_CAPACITY)

    @property
    def is_retried(self) -> bool:
        """Whether the recovery retries of a task run the step again: it was not the step's doing."""
        return self.is_resubmitted or self in (Category.LOST, Category.INFRA, Category.QUOTA)

    @property
    def is_replaced(self) -> bool:
        """Whether a new try that finds such a job submits another one instead of reporting the failure.

        Nobody watched while the job ended so, and it was not the step's doing.
        """
        return self.is_resubmitted or self in (Category.LOST, Category.INFRA, Category.CANCELLED)


@dataclass(frozen=True)
class Failure:
    """How a step failed, for a person (summary, hint, last lines) and for a program (category, exit code)."""

    category: Category
    summary: str
    native_reason: str = ""
    exit_code: int | None = None
    hint: str = ""
    log_tail: tuple[str, ...] = ()
    exception: Mapping[str, Any] | None = None  # the remote exception as data; see runner/exception_data.py
    # the service says that the step succeeded, but its outcome is lost: only a clear runs the step again
    has_succeeded: bool = False

    def describe(self, where: str = "", *, with_frames: bool = True) -> str:
        """Return what happened, where, why, what to do, and the last log lines.

        :param with_frames: show tracebacks; otherwise only the last line of a traceback that is in the log
        """
        lines = [self.summary]
        if where:
            lines.append(f"  where: {where}")
        why = self.category.value
        if self.native_reason:
            why += f" ({self.native_reason})"
        if self.exit_code is not None:
            why += f", exit code {self.exit_code}"
        lines.append(f"  why: {why}")
        if self.hint:
            lines.append(f"  what to do: {self.hint}")
        exception = self.exception or {}
        traceback = [line.rstrip() for text in exception.get("traceback", ()) for line in text.splitlines()]
        if traceback and (with_frames or not self._is_logged(traceback, str(exception.get("message", "")))):
            lines.append("  traceback in the step:")
            lines += [f"    {line}" for line in traceback]
            last = _without(self.log_tail, traceback, str(exception.get("message", "")))
        else:
            last = list(self.log_tail) if with_frames else _without_frames(self.log_tail)
        if last:
            lines.append("  last lines of the step:")
            lines += [f"    {line}" for line in last]
        text = "\n".join(printable(part) for line in lines for part in line.split("\n"))
        return without_groups(text)

    def _is_logged(self, traceback: Sequence[str], message: str) -> bool:
        """Return whether the step's log shows the traceback: the step may have closed its log before."""
        lines = message.splitlines()
        return any(
            line.strip() == traceback[-1].strip() or bool(lines and lines[-1] and line.endswith(lines[-1]))
            for line in self.log_tail
        )

    def to_json(self) -> wire.Failure:
        # type checkers do not see into asdict
        return {**asdict(self), "category": self.category.value, "log_tail": list(self.log_tail)}  # type: ignore[typeddict-item]

    @classmethod
    def from_json(cls, data: Any) -> Failure:
        """Return the failure.

        :raises IntegrityError: this is none
        """
        required = {"category": TEXT, "summary": TEXT}
        known = checked_fields(data, "a failure", required, _FAILURE_FIELDS)
        try:
            known["category"] = Category(known["category"])
        except ValueError:
            names = ", ".join(Category)
            raise IntegrityError(
                f"a failure has category={known['category'][:80]!r}, which is not one of {names}; "
                "a newer airflow-stepop may have written it"
            ) from None
        if known.get("exception") is not None:
            checked_fields(known["exception"], "the exception of a failure", {}, _EXCEPTION_FIELDS)
        return cls(**{**known, "log_tail": tuple(known.get("log_tail", ()))})


def _without(lines: Sequence[str], traceback: Sequence[str], message: str) -> list[str]:
    """Return the lines that a reader of the traceback has not seen: Python prints one when a step raises."""
    seen = {line.strip() for line in traceback} | {"Traceback (most recent call last):"}
    last = message.splitlines()[0] if message else ""
    return [line for line in lines if line.strip() not in seen and not (last and line.endswith(f": {last}"))]


def _without_frames(lines: Sequence[str]) -> list[str]:
    """Return the lines without the frames of the tracebacks that Python has printed among them."""
    kept, is_frame = [], False
    for line in lines:
        text = _GROUP.sub("", line)  # the tracebacks in an exception group are indented
        is_frame = bool(_FRAME.match(text)) or (is_frame and text.startswith("  "))
        if not is_frame:
            kept.append(line)
    return kept


_GROUP = re.compile(r"^ +[|+] ?")
_FRAME = re.compile(r'(?:  )?(?:Exception Group )?Traceback \(most recent call last\):|  File ".*", line \d+')
_WHOLE_OR_NOTHING = ("a whole number or nothing", lambda value: value is None or type(value) is int)
_FAILURE_FIELDS = {
    "native_reason": TEXT,
    "exit_code": _WHOLE_OR_NOTHING,
    "hint": TEXT,
    "log_tail": TEXTS,
    "exception": or_nothing(OBJECT),
    "has_succeeded": TRUTH,
}
# what the host reads of it; see runner/exception_data.py
_EXCEPTION_FIELDS = {
    "module": TEXT,
    "qualname": TEXT,
    "message": TEXT,
    "traceback": TEXTS,
    "mro": TEXTS,
    "args": or_nothing(LIST),
    "attributes": or_nothing(OBJECT),
    "exceptions": or_nothing(LIST),
}


class StepFailedError(StepopError):
    """The step ran and failed; :attr:`failure` says how, and its text is what a person needs to read.

    :param next_memory: what the next try asks for, because the step ran out of memory and ``on_oom`` has more
    """

    is_final = True  # of the job; whether a retry runs the step again, its category says

    def __init__(self, failure: Failure, where: str = "", next_memory: str | None = None) -> None:
        self.failure = failure
        self.where = where
        self.next_memory = next_memory
        super().__init__(failure.describe(where, with_frames=False))  # the log has them already

    def __str__(self) -> str:
        return Exception.__str__(self)  # :meth:`Failure.describe` has made it harmless, with its colours

    def __reduce__(self) -> tuple[type[StepFailedError], tuple[Failure, str, str | None]]:
        return type(self), (self.failure, self.where, self.next_memory)
