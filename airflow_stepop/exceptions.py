"""Every error that airflow-stepop raises on purpose.

::

    StepopError                      base; never raised itself
    ├── StepConfigError              the task, its settings or its connection are wrong: retrying cannot help
    │   ├── BackendNotFoundError     no backend of that name
    │   ├── BackendNotInstalledError known backend whose extra is missing
    │   ├── UnsupportedError         a resource or option that this backend cannot honour
    │   └── WrongHostError           a job or a folder store of another host or cluster
    ├── PayloadError                 the function or an argument cannot be sent
    ├── QuotaError                   the service takes no further job now; the same submit may succeed later
    ├── StoreError                   the store cannot be read or written
    ├── IntegrityError               what is stored is not what was written: nothing was loaded
    │   └── UntrustedRecordError     the record of a step has no valid signature
    ├── NewerVersionError            a newer version wrote what is stored, in a form that this one cannot read
    ├── ResultNotLoadedError         a result is intact, and this process cannot load it
    ├── OutcomeLostError             the job ended and left no outcome
    ├── OutcomeNotReadyError         the job ended, and its outcome comes a little later
    ├── StepFailedError              the step ran and failed; carries a Failure
    └── StepInterruptedError         we lost touch with a job that may go on; the next try attaches to it
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping


class StepopError(Exception):
    """Base of every error of this package."""

    is_final: ClassVar[bool] = False
    """Another call, or another try, would meet the same error."""

    def __str__(self) -> str:
        """Return the message, with nothing that a terminal or a log page obeys.

        The message may have a text of a service, of an XCom, of a record or of a file.
        """
        from airflow_stepop.core.printable import printable_text

        return printable_text(super().__str__())


class StepConfigError(StepopError, ValueError):
    """The task, its settings or its connection are wrong; trying again cannot help."""

    is_final = True


class BackendNotFoundError(StepConfigError):
    """No backend of that name is known."""


class BackendNotInstalledError(StepConfigError):
    """The backend is known and its extra is not installed."""


class UnsupportedError(StepConfigError):
    """A resource or an option that the backend cannot honour. Nothing is silently ignored."""


class WrongHostError(StepConfigError):
    """A job, or a file of a folder store, that only another host or another cluster can see."""


class PayloadError(StepopError):
    """The function or one of its arguments cannot be sent to the step."""

    is_final = True


class QuotaError(StepopError):
    """The service takes no further job now, because a quota is used up; the same submit may succeed later."""


class StoreError(StepopError):
    """The store cannot be read or written."""


class IntegrityError(StepopError):
    """Stored bytes differ from the digest that was recorded for them, or stored JSON from the form in which
    it is written; nothing was loaded from them.
    """

    is_final = True


class UntrustedRecordError(IntegrityError):
    """The record of a step has no valid signature for its task instance, so nothing in it is used."""


class NewerVersionError(StepopError):
    """A newer version of this package wrote what is stored, in a form that this version cannot read. The next
    try may run in a process that was upgraded.
    """


class ResultNotLoadedError(StepopError):
    """A stored result is intact, and this process cannot load it: most often, a package is missing here."""

    is_final = True


class OutcomeLostError(StepopError):
    """The job is over and left no outcome behind (killed before it could write one)."""


class OutcomeNotReadyError(StepopError):
    """The job is over, and its outcome cannot be read yet: the service writes it a little after the end.

    ``StepHook.outcome`` raises this error. The task asks again until 15 minutes after the job's end.

    :param message: what did not come, and where it should be
    :param retry_after_s: seconds until the next question makes sense; ``None``: the caller chooses the pause
    :param failure: what the service itself says of the step's failure, as ``Failure.to_json()`` returns
        it. The task fails with it if the outcome never comes
    """

    def __init__(
        self,
        message: str,
        retry_after_s: float | None = None,
        *,
        failure: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.failure = failure


class StepInterruptedError(StepopError):
    """An error on our side while the job may go on; the record leads the next try to it."""


def is_final(error: BaseException) -> bool:
    """Return whether another call, or another try, would meet the same error of this package."""
    return isinstance(error, StepopError) and error.is_final


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Return ``StepFailedError``, which lives in ``failure`` beside the failure that it carries.

        Type checkers find it in ``airflow_stepop``. An import statement here would close a circle, since
        ``failure`` needs the other errors.
        """
        if name != "StepFailedError":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module("airflow_stepop.failure"), name)
