"""Read task instances, DAG runs and the records of steps, through Airflow's models and its state backend.

The callers (``cli``, ``maintenance``) run where Airflow's database can be reached. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from airflow_stepop.core.stored_json import parsed_json
from airflow_stepop.exceptions import IntegrityError, NewerVersionError, StepConfigError, UntrustedRecordError
from airflow_stepop.record import STATE_KEY, StepRecord, UntrustedRecord, checked_record

if TYPE_CHECKING:
    from sqlalchemy.exc import DBAPIError

ROWS = 1000  # rows that one fetch from the database loads
# Airflow's key for a reference: the value itself is in the workers' own state store backend
_REFERENCE = "__airflow_state_ref__"


@dataclass(frozen=True)
class TaskKey:
    """One task instance, independent of its tries."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int

    @classmethod
    def of(cls, labels: Mapping[str, str]) -> TaskKey | None:
        """Return the task instance that a job's labels name; ``None`` if a label is missing or wrong."""
        try:
            return cls(labels["dag_id"], labels["run_id"], labels["task_id"], int(labels["map_index"]))
        except (KeyError, ValueError):
            return None

    def labels(self, deployment: str) -> dict[str, str]:
        """Return the labels of the task instance's jobs, without the nonce."""
        return {"deployment": deployment, **asdict(self), "map_index": str(self.map_index)}

    def __str__(self) -> str:
        index = f"[{self.map_index}]" if self.map_index >= 0 else ""
        return f"{self.dag_id}.{self.task_id}{index} of {self.run_id}"


def database_trouble(error: DBAPIError) -> str:
    """Return the message for the user when Airflow's database is missing, or older than this Airflow."""
    message = str(error.orig).partition("\n")[0]
    return f"Airflow's database cannot be read: {message}; see airflow db check, and airflow db migrate"


def task_states(keys: Iterable[TaskKey]) -> dict[TaskKey, str | None]:
    """Return the state of each task instance. The result has no entry for a task instance that is gone."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import select

    wanted = set(keys)
    states: dict[TaskKey, str | None] = {}
    with create_session() as session:
        for dag_id, run_id in sorted({(key.dag_id, key.run_id) for key in wanted}):
            query = select(TaskInstance.task_id, TaskInstance.map_index, TaskInstance.state).where(
                TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id
            )
            for task_id, map_index, state in session.execute(query):
                states[TaskKey(dag_id, run_id, task_id, map_index)] = state
    return {key: state for key, state in states.items() if key in wanted}


def is_finished(state: str | None) -> bool:
    """Return whether a task instance is finished: Airflow starts another try only after a clear."""
    from airflow.utils.state import State

    return state in State.finished


def raw_record(key: TaskKey) -> Any:
    """Return the record of a task instance as parsed JSON; ``None`` if it has no record.

    :raises IntegrityError: the record is no JSON
    :raises StepConfigError: the record is in a state store backend of the workers that is not configured here
    """
    from airflow.state import TaskScope, get_state_backend

    scope = TaskScope(dag_id=key.dag_id, run_id=key.run_id, task_id=key.task_id, map_index=key.map_index)
    stored = get_state_backend().get(scope, STATE_KEY)
    return _parsed(stored) if stored is not None else None


def _parsed(stored: str) -> Any:
    value = parsed_json(stored, "a record")
    if isinstance(value, Mapping) and _REFERENCE in value:
        return _from_workers(value[_REFERENCE])
    return value


def _from_workers(reference: str) -> Any:
    from airflow.sdk.execution_time.context import _get_worker_state_store_backend

    backend = _get_worker_state_store_backend()
    if backend is None:
        raise StepConfigError(
            f"the workers keep task state in their own backend ({reference}); "
            "set [workers] state_store_backend on this host to the value that the workers have"
        )
    return backend.deserialize_task_state_store_from_ref(reference)


def record_of(key: TaskKey) -> StepRecord | None:
    """Return the record of a task instance; ``None`` if it has no record.

    :raises UntrustedRecordError: the record is not that of the task instance, or was changed
    :raises NewerVersionError: a newer version of this package wrote the record in another form
    :raises IntegrityError: the record is damaged
    :raises StepConfigError: see ``raw_record``
    """
    value = raw_record(key)
    return checked(value, key) if value is not None else None


def checked(value: Any, key: TaskKey) -> StepRecord:
    """Return the record of a task instance from its JSON. The errors are those of :func:`record_of`."""
    from airflow.sdk.configuration import conf

    try:
        record = checked_record(value, key.labels(str(conf.get("stepop", "deployment", fallback=""))))
    except (IntegrityError, NewerVersionError) as error:
        raise type(error)(f"the record of {key} cannot be read: {error}") from error
    if isinstance(record, UntrustedRecord):
        raise UntrustedRecordError(f"the record of {key} is not used: {record.why}")
    return record


def raw_records() -> Iterator[tuple[TaskKey, Any]]:
    """Yield every record as parsed JSON, with its task instance. No signature is checked here.

    A record that is no JSON, which somebody has damaged, is ``None``: it hides no other one.

    :raises StepConfigError: see ``raw_record``
    """
    from airflow.models.task_state_store import TaskStateStoreModel
    from airflow.state import get_state_backend
    from airflow.state.metastore import MetastoreBackend
    from airflow.utils.session import create_session
    from sqlalchemy import select

    if type(get_state_backend()) is not MetastoreBackend:  # no other backend lists its keys
        for key, _ in task_instances():
            with suppress(IntegrityError):
                if (found := raw_record(key)) is not None:
                    yield key, found
        return
    table = TaskStateStoreModel
    columns = (table.dag_id, table.run_id, table.task_id, table.map_index)
    with create_session(scoped=False) as session:
        query = select(*columns, table.value).where(table.key == STATE_KEY)
        rows = session.execute(query.execution_options(yield_per=ROWS))
        for dag_id, run_id, task_id, map_index, stored in rows:
            data = None
            with suppress(IntegrityError):
                data = _parsed(stored)
            yield TaskKey(dag_id, run_id, task_id, map_index), data


def task_instances() -> Iterator[tuple[TaskKey, str | None]]:
    """Yield every task instance and its state."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import select

    columns = (TaskInstance.dag_id, TaskInstance.run_id, TaskInstance.task_id, TaskInstance.map_index)
    # Not the thread's session: a caller that looks up records between two rows uses that one and closes it.
    with create_session(scoped=False) as session:
        query = select(*columns, TaskInstance.state).execution_options(yield_per=ROWS)
        for dag_id, run_id, task_id, map_index, state in session.execute(query):
            yield TaskKey(dag_id, run_id, task_id, map_index), state


def dag_ids() -> set[str]:
    """Return the id of every DAG that Airflow knows, also of those whose file is gone."""
    from airflow.models.dag import DagModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        return set(session.scalars(select(DagModel.dag_id)))


def unfinished_runs() -> set[tuple[str, str]]:
    """Return the (dag_id, run_id) of every DAG run that is not finished."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from airflow.utils.state import State
    from sqlalchemy import select

    query = select(DagRun.dag_id, DagRun.run_id).where(DagRun.state.in_(State.unfinished_dr_states))
    with create_session() as session:
        return {(dag_id, run_id) for dag_id, run_id in session.execute(query)}
