"""When a failed step is tried again: Airflow's ``retry_policy`` for steps, and the retry that every step has.

With Airflow's default of no retries, a killed worker would end the task while its job goes on. So a remote
step has retries unless the user says otherwise, and the policy keeps them for what they are meant for: an
error of the step itself fails at once, as it would have without them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import RetryPolicy
from airflow.sdk.configuration import conf
from airflow.sdk.definitions.retry_policy import RetryDecision
from airflow.sdk.exceptions import AirflowTaskTimeout

from airflow_stepop.exceptions import StepConfigError, is_final
from airflow_stepop.failure import Category, StepFailedError

if TYPE_CHECKING:
    from airflow.sdk import Context

RECOVERY_RETRIES = 3
RECOVERY_DELAY = timedelta(seconds=5)
# Where Airflow does not ask the policy, as when a worker could not even start: 5, 15 and 45 seconds. One
# pause of 5 seconds was over before a killed API server was back, and a finished result was lost.
RECOVERY_BACKOFF = 3.0
LONGEST_DELAY = timedelta(minutes=5)
RECOVERED = tuple(category.value for category in Category if category.is_retried)


class RemoteStepRetryPolicy(RetryPolicy):
    """Fails the step's own error at once, and tries again soon what was not its doing.

    It decides within ``retries`` and never beyond. A step that ran out of memory is tried again when its
    ``on_oom`` has more to give.

    :param infra_delay: pause before the second try, twice as long before each further one; ``None``: the
        task's own ``retry_delay``
    :param max_delay: longest of these pauses
    :param categories: failure categories that are tried again
    :param exceptions: exceptions of the step that are tried again nevertheless, after the task's own
        ``retry_delay``: classes, or names such as ``"requests.exceptions.ConnectionError"``, which need not
        be installed here. Subclasses count
    """

    def __init__(
        self,
        *,
        infra_delay: timedelta | None = RECOVERY_DELAY,
        max_delay: timedelta = LONGEST_DELAY,
        categories: Iterable[str] = RECOVERED,
        exceptions: Iterable[type[BaseException] | str] = (),
    ) -> None:
        self.infra_delay = _delay(infra_delay, "infra_delay")
        self.max_delay = _delay(max_delay, "max_delay") or LONGEST_DELAY
        self.categories = _categories(categories)
        self.exceptions = _names(exceptions)

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        failed = exception if isinstance(exception, StepFailedError) else exception.__cause__
        if not isinstance(failed, StepFailedError):
            if is_final(exception) or isinstance(exception, AirflowTaskTimeout):
                return RetryDecision.fail(f"{type(exception).__name__}: another try would meet it again")
            return self._soon(try_number, max_tries, context, "not an error of the step")
        category = failed.failure.category.value
        if category in self.categories and not failed.failure.has_succeeded:
            return self._soon(try_number, max_tries, context, f"{category}: not the step's doing")
        if failed.next_memory is not None:
            return self._soon(try_number, max_tries, context, f"the next try asks for {failed.next_memory}")
        raised = (failed.failure.exception or {}).get("mro") or ()
        if name := next((name for name in raised if name in self.exceptions), None):
            return RetryDecision.retry(reason=f"the policy tries {name} again")
        return RetryDecision.fail(f"{category} is not tried again")

    def _soon(self, try_number: int, max_tries: int, context: Context | None, reason: str) -> RetryDecision:
        if self.infra_delay is None:
            return RetryDecision.retry(reason=reason)
        # Clearing a task raises both numbers, and begins anew
        retries = getattr(context["task"], "retries", max_tries) if context else max_tries
        doublings = min(max(retries - (max_tries - try_number) - 1, 0), 30)
        return RetryDecision.retry(min(self.infra_delay * 2**doublings, self.max_delay), reason)

    def serialize(self) -> dict[str, Any]:
        return {
            "infra_delay": self.infra_delay.total_seconds() if self.infra_delay else None,
            "max_delay": self.max_delay.total_seconds(),
            "categories": list(self.categories),
            "exceptions": list(self.exceptions),
        }

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> RemoteStepRetryPolicy:
        delay = data["infra_delay"]
        return cls(
            infra_delay=timedelta(seconds=delay) if delay is not None else None,
            max_delay=timedelta(seconds=data["max_delay"]),
            categories=data["categories"],
            exceptions=data["exceptions"],
        )


def _delay(value: Any, name: str) -> timedelta | None:
    if value is not None and (not isinstance(value, timedelta) or value <= timedelta(0)):
        raise StepConfigError(f"{name}={value!r} is not a positive timedelta; write timedelta(seconds=30)")
    return value


def _categories(values: Iterable[str]) -> tuple[str, ...]:
    if values is RECOVERED:
        return RECOVERED
    known = [category.value for category in Category]
    names = (values,) if isinstance(values, str) else tuple(str(value) for value in values)
    for name in names:
        if name not in known:
            raise StepConfigError(f"there is no failure category {name!r}; they are {', '.join(known)}")
    return names


def _names(values: Iterable[type[BaseException] | str]) -> tuple[str, ...]:
    """Return full names as they are in a failure: ``builtins.ValueError``."""
    names = []
    for value in (values,) if isinstance(values, (str, type)) else values:
        if isinstance(value, type) and issubclass(value, BaseException):
            names.append(f"{value.__module__}.{value.__qualname__}")
        elif isinstance(value, str) and value.strip("."):
            names.append(value if "." in value else f"builtins.{value}")
        else:
            raise StepConfigError(f"exceptions has {value!r}; write a class, or its full name")
    return tuple(names)


def recovery_arguments(task_arguments: Mapping[str, Any], default_args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that give a task its recovery retries; none when the user decided about retries.

    A policy of ours that the user chose keeps its pause also where no policy is asked: after ``kill -9``.

    :param task_arguments: what the user gave to the task
    :param default_args: the defaults of the DAG and the task group
    """

    def explicit(name: str) -> Any:
        return task_arguments[name] if task_arguments.get(name) is not None else default_args.get(name)

    policy, has_delay = explicit("retry_policy"), explicit("retry_delay") is not None
    arguments: dict[str, Any] = {}
    is_decided = policy is not None or explicit("retries") is not None
    if not is_decided and conf.getint("core", "default_task_retries", fallback=0) == 0:
        policy = RemoteStepRetryPolicy(infra_delay=None if has_delay else RECOVERY_DELAY)
        arguments = {"retries": RECOVERY_RETRIES, "retry_policy": policy}
        if (
            not has_delay
            and explicit("retry_exponential_backoff") is None
            and explicit("max_retry_delay") is None
        ):
            arguments |= {"retry_exponential_backoff": RECOVERY_BACKOFF, "max_retry_delay": LONGEST_DELAY}
    if isinstance(policy, RemoteStepRetryPolicy) and policy.infra_delay is not None and not has_delay:
        arguments["retry_delay"] = policy.infra_delay
    return arguments


def mapped_recovery_arguments(task_arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same for a mapped task, whose defaults Airflow merges only when it makes the instances."""
    from airflow.sdk.bases.operator import get_merged_defaults
    from airflow.sdk.definitions._internal.contextmanager import DagContext, TaskGroupContext

    dag = task_arguments.get("dag") or DagContext.get_current()
    group = task_arguments.get("task_group") or (TaskGroupContext.get_current(dag) if dag else None)
    defaults, _ = get_merged_defaults(dag, group, None, task_arguments.get("default_args"))
    return recovery_arguments(task_arguments, defaults)
