"""Runs the checks of a backend for ``airflow stepop check``. An error in a check becomes a finding.

A backend's :meth:`StepHook.check` lists its checks and yields the findings of :func:`run_checks`.
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

    :param subject: subject of the finding if ``run`` raises an error
    :param run: the check itself; returns or yields findings
    :param fix: how to correct an error
    :param prefix: text in front of the service's message, if the service answers with an error
    :param is_needed: skip the checks that follow if this check finds a problem, because they depend on it
    """

    subject: str
    run: Callable[[], Iterable[Finding]]
    fix: str
    prefix: str = ""
    is_needed: bool = False


def run_checks(classify: Callable[[Exception], ApiError], checks: Iterable[Check]) -> Iterator[Finding]:
    """Yield the findings of the checks, in order.

    :param classify: ``hook.api_error``
    """
    for check in checks:
        try:
            found = list(check.run())
        except StepopError as error:
            found = [Finding(False, check.subject, str(error), check.fix)]
        except Exception as error:  # noqa: BLE001, RUF100 - an SDK may raise anything
            message = f"{check.prefix}{classify(error).message or type(error).__name__}"
            found = [Finding(False, check.subject, message, check.fix)]
        yield from found
        if check.is_needed and not all(one.is_ok for one in found):
            return
