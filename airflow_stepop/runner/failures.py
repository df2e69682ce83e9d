"""The runner's exceptions for a step that cannot start, cannot continue, or failed."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .wire import Failure, Raised

SUMMARY_CHARS = 500
PREFIX = "unusual_prefix_"  # Airflow names the module of a DAG file PREFIX, a hash, "_" and the file's name


class StepError(Exception):
    """The step cannot continue, or failed for a known reason. The fields are those of ``failure.Failure``."""

    def __init__(
        self,
        category: str,
        summary: str,
        hint: str = "",
        native_reason: str = "",
        exit_code: int | None = None,
    ) -> None:
        super().__init__(summary)
        self.category = category
        self.summary = summary
        self.hint = hint
        self.native_reason = native_reason
        self.exit_code = exit_code
        self.exception: Raised | None = None
        self.log_tail: list[str] = []  # set when other lines than the last ones of the log show the reason

    def to_json(self) -> Failure:
        return {
            **({"log_tail": self.log_tail} if self.log_tail else {}),
            "category": self.category,
            "summary": cut(plain(self.summary), 4 * SUMMARY_CHARS),
            "native_reason": self.native_reason,
            "exit_code": self.exit_code,
            "hint": cut(self.hint, 4 * SUMMARY_CHARS),
            "exception": self.exception,
        }


class RefusedError(StepError):
    """The runner refused the step before the user's code ran."""


def ended(what: str, code: int, forwarded: list[int]) -> StepError:
    """Return the failure of a process that has ended.

    :param what: name of the process in the message
    :param code: exit code; negative for the number of the signal that killed the process
    :param forwarded: signals that the runner received and passed on to the process
    """
    if forwarded:
        name = signal_name(forwarded[-1])
        status = code if code >= 0 else 128 - code
        return StepError("cancelled", f"{what} was stopped by {name}", native_reason=name, exit_code=status)
    if code >= 0:
        return StepError("user_error", f"{what} ended with exit code {code}", exit_code=code)
    name = signal_name(-code)
    summary, hint = f"{what} was killed by {name}", ""
    if name == "SIGKILL":
        summary += "; it may have been the out-of-memory killer"
        hint = "give the step more memory"
    return StepError("user_error", summary, hint, name, exit_code=128 - code)


def signal_name(signum: int) -> str:
    import signal

    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {signum}"


def cut(text: str, chars: int) -> str:
    return text if len(text) <= chars else text[: chars - 1] + "…"


def plain(text: str) -> str:
    """Return the text with the modules of DAG files as people know them: by the file's name."""
    first, *others = text.split(PREFIX)
    for other in others:
        code, mark, name = other.partition("_")
        first += name if mark and code.isalnum() else PREFIX + other
    return first
