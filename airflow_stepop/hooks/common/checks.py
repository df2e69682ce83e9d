"""Runs the checks of a backend: an error in one of them is a finding, like everything else.

:meth:`StepHook.check` of a backend lists its checks and yields what :func:`run_checks` finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_stepop.exceptions import StepopError
from airflow_stepop.job import Finding

if TYPE_CHECKING:
    from airflow_stepop.hooks.common.api_errors import ApiError


@dataclass(frozen=True)
class Check:
    """One check.

    :param subject: what is looked at, for the finding of an error
    :param run: yields what it finds
    :param fix: what to do about an error
    :param prefix: what an error of the service means, in front of the service's message
    :param is_needed: nothing can be said of the checks that follow when this one has found something wrong
    """

    subject: str
    run: Callable[[], Iterable[Finding]]
    fix: str
    prefix: str = ""
    is_needed: bool = False


def run_checks(classify: Callable[[Exception], ApiError], checks: Iterable[Check]) -> Iterator[Finding]:
    """Yield what the checks find.

    :param classify: ``hook.api_error``, which says what an error means
    """
    for check in checks:
        try:
            found = list(check.run())
        except StepopError as error:
            found = [Finding(False, check.subject, str(error), check.fix)]
        except Exception as error:  # noqa: BLE001, RUF100 - whatever it is, the user has to know
            message = f"{check.prefix}{classify(error).message or type(error).__name__}"
            found = [Finding(False, check.subject, message, check.fix)]
        yield from found
        if check.is_needed and not all(one.is_ok for one in found):
            return
