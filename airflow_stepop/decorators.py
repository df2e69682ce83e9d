"""``@remote_step``, or ``@task.remote_step``: a function of the DAG file that runs elsewhere.

Airflow finds the decorator here through the provider's description, a DAG file in ``airflow_stepop``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar, Unpack, overload

from airflow.sdk.bases.decorator import (
    DecoratedOperator,
    _TaskDecorator,
    task_decorator_factory,
)

from airflow_stepop.arguments import check_mapped, check_names
from airflow_stepop.operators import RemoteStepOperator
from airflow_stepop.retries import mapped_recovery_arguments

if TYPE_CHECKING:
    from airflow.sdk import XComArg
    from airflow.sdk.definitions._internal.expandinput import ExpandInput

    from airflow_stepop.signatures import StepArguments, StepTask

P = ParamSpec("P")
R = TypeVar("R")


class RemoteStepDecoratedOperator(DecoratedOperator, RemoteStepOperator):
    """The operator behind ``@task.remote_step``. See :class:`RemoteStepOperator` for every argument."""

    custom_operator_name = "@task.remote_step"
    template_fields: Sequence[str] = (*DecoratedOperator.template_fields, *RemoteStepOperator.template_fields)
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **DecoratedOperator.template_fields_renderers,
        **RemoteStepOperator.template_fields_renderers,
    }
    shallow_copy_attrs: Sequence[str] = ("python_callable",)


class RemoteStepTaskDecorator(_TaskDecorator[Any, Any, Any]):
    """Gives mapped steps the same recovery retry that plain ones have, and checks names before any call."""

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()  # type: ignore[no-untyped-call] # of Airflow
        check_names(self.operator_class, self.kwargs)

    def _expand(self, expand_input: ExpandInput, *, strict: bool) -> XComArg:
        check_mapped(self.operator_class, self.kwargs)
        self.kwargs.update(mapped_recovery_arguments(self.kwargs))
        return super()._expand(expand_input, strict=strict)


@overload
def remote_step(python_callable: Callable[P, R]) -> StepTask[P, R]: ...


@overload
def remote_step(
    python_callable: None = None, multiple_outputs: bool | None = None, **kwargs: Unpack[StepArguments]
) -> Callable[[Callable[P, R]], StepTask[P, R]]: ...


def remote_step(
    python_callable: Callable[..., Any] | None = None, multiple_outputs: bool | None = None, **kwargs: Any
) -> Any:
    """Run the decorated function as a remote step; its return value is the task's XCom.

    Used as ``@remote_step`` or ``@remote_step(backend="kubernetes", ...)``. ``@task.remote_step`` is the same
    without the types.

    :param python_callable: the function
    :param multiple_outputs: push each value of a returned dict under its own key
    :param kwargs: any argument of :class:`RemoteStepOperator` but ``command``, ``inputs``, ``outputs``,
        ``workdir``
    """
    made: Any = task_decorator_factory(
        python_callable=python_callable,
        multiple_outputs=multiple_outputs,
        decorated_operator_class=RemoteStepDecoratedOperator,
        **kwargs,
    )
    if isinstance(made, _TaskDecorator):
        return _step_decorator(made)
    return lambda function: _step_decorator(made(function))


def _step_decorator(made: Any) -> Any:
    return RemoteStepTaskDecorator(
        function=made.function,
        multiple_outputs=made.multiple_outputs,
        operator_class=made.operator_class,
        kwargs=made.kwargs,
    )
