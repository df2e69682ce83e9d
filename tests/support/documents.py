"""One valid document of each stored kind, as its writer writes it. Tests damage copies of these."""

from __future__ import annotations

from airflow_stepop.failure import Category, Failure
from airflow_stepop.job import JobHandle, JobState, JobStatus
from airflow_stepop.record import CallIdentity, StepRecord
from airflow_stepop.results import StepResult
from airflow_stepop.runner.outcome import empty_outcome
from airflow_stepop.runner.values import encode_value

HANDLE = JobHandle("memory", None, "here", "s-job", "s-job", {"folder": "/jobs"}).to_json()
EXCEPTION = {
    "type": "ValueError",
    "module": "builtins",
    "qualname": "ValueError",
    "message": "no",
    "traceback": ["line 1"],
    "mro": ["builtins.ValueError"],
    "args": ["no"],
}
FAILURE = Failure(Category.USER_ERROR, "it failed", "", 1, "", ("last line",), EXCEPTION).to_json()
STATUS = JobStatus(JobState.FAILED, Failure.from_json(FAILURE), "Error", 3.0, 4.0).to_json()
RECORD = StepRecord(
    generation=1,
    nonce="0123456789abcdef",
    call=CallIdentity("key", 1, 0),
    backend="memory",
    conn_id=None,
    name="s-job",
    started_at=1.0,
    labels={"dag_id": "d"},
    handle=JobHandle.from_json(HANDLE),
    submitted_at=2.0,
    end=JobStatus.from_json(STATUS),
).to_json()
INLINE = encode_value("é" * 10, None).to_entry(None)
PICKLED = encode_value(object(), lambda value, keep: b"not unpickled").to_entry(None)
REFERENCE = StepResult.signed(PICKLED, "", "s-job", "train").to_json()
XCOM = StepResult.signed(PICKLED, "", "s-job", "train").serialize()
OUTCOME = {**empty_outcome("s-job", "n"), "status": "success", "value": INLINE}
