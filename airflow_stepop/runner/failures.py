"""How the runner says that a step cannot go on, or how it ended. The fields are those of ``job.Failure``."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SUMMARY_CHARS = 500


class StepError(Exception):
    """The step cannot go on, or failed in a way we can explain; the fields are those of ``job.Failure``."""

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
        self.exception: dict[str, Any] | None = None
        self.log_tail: list[str] = []  # when other lines than the step's last ones say why

    def to_json(self) -> dict[str, Any]:
        return {
            **({"log_tail": self.log_tail} if self.log_tail else {}),
            "category": self.category,
            "summary": cut(self.summary, 4 * SUMMARY_CHARS),
            "native_reason": self.native_reason,
            "exit_code": self.exit_code,
            "hint": cut(self.hint, 4 * SUMMARY_CHARS),
            "exception": self.exception,
        }


class RefusedError(StepError):
    """The step was not started at all."""


def ended(what: str, code: int, forwarded: list[int]) -> StepError:
    """Return the failure of a process that ended with this exit code (negative: by that signal).

    :param forwarded: signals that the runner was sent and passed on
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
