"""What Airflow's database holds of a step: a later version reads what an earlier one has written.

The folder ``tests/fixtures/stored_forms/0.1`` is what version 0.1 wrote, and is never changed. So a change
that an upgrade does not survive fails here. For example:

- ``log_limit`` of :class:`RemoteStepTrigger` gets another name: ``test_the_row_of_a_trigger``;
- :class:`PauseTrigger` moves into another module: ``test_the_row_of_a_trigger``;
- ``StepLink`` gets another name: ``test_the_link_of_a_served_dag``;
- the field ``submitted_at`` of a record gets another name: ``test_a_record_says_the_same``;
- the codec ``arrow_batch`` gets another name: ``test_an_xcom_of_each_codec``.
"""

from __future__ import annotations

import hashlib
import hmac
import inspect
import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.sdk._shared.module_loading import import_string
from airflow.sdk.serde import deserialize
from airflow.serialization.serialized_objects import DagSerialization

import airflow_stepop.plugin  # noqa: F401 - each process of Airflow loads the plugin
from airflow_stepop.failure import Category
from airflow_stepop.hooks.common.input_files import checkpoint_keys
from airflow_stepop.hooks.common.receipts import receipt_of, with_receipt
from airflow_stepop.job import JobHandle, JobState, JobStatus
from airflow_stepop.lifecycle.collecting import Collected
from airflow_stepop.lifecycle.request import StepRequest
from airflow_stepop.links import StepLink
from airflow_stepop.operators import RemoteStepOperator
from airflow_stepop.payload.outcome import to_xcom
from airflow_stepop.record import ResumeDecision, StepRecord, checked_record, resume_decision
from airflow_stepop.results import StepResult
from airflow_stepop.runner.archive import pack
from airflow_stepop.runner.failures import RefusedError
from airflow_stepop.runner.snapshots import Snapshots
from airflow_stepop.waiting.deadlines import StopReason
from tests.support.stored_forms import BUCKET_ENVIRONMENT, owner_of, part_of, placed

DECISIONS = {
    "intended": ResumeDecision.CONTINUE,
    "submitted": ResumeDecision.ATTACH,
    "collected_success": ResumeDecision.RETURN,
    "collected_reference": ResumeDecision.RETURN,
    "collected_elsewhere": ResumeDecision.RETURN,
    "collected_failure": ResumeDecision.REPLACE,
    "kubernetes_intended": ResumeDecision.CONTINUE,
    "kubernetes_submitted": ResumeDecision.ATTACH,
    "sagemaker_intended": ResumeDecision.CONTINUE,
    "sagemaker_submitted": ResumeDecision.ATTACH,
}
STORED = b"stored" * 10_000
# XCom -> the codec of the reference, and its value
VALUES = {
    "json": ("json", {"at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "pair": (1, 2)}),
    "numpy": ("numpy", np.arange(6, dtype="float32").reshape(2, 3)),
    "arrow": ("arrow", pa.table({"name": ["a", "b"], "count": [1, 2]})),
    "arrow_batch": ("arrow_batch", pa.record_batch({"name": ["a", "b"], "count": [1, 2]})),
    "bytes": ("bytes", b"\x00\x01bytes"),
    "bytearray": ("bytearray", bytearray(b"bytearray")),
    "str": ("json", "lone surrogate \ud800"),
    "pickle": ("pickle", SimpleNamespace(weights=[1, 2, 3])),
    "stored": ("bytes", STORED),
}


# -- records


def without_mac(stored):
    return {name: value for name, value in stored.items() if name != "mac"}


@pytest.mark.parametrize("name", DECISIONS)
def test_a_record_says_the_same(forms, name):
    """The signature is that of the earlier version, too."""
    stored = forms.read(f"records/{name}")
    record = checked_record(stored, owner_of(stored))
    assert isinstance(record, StepRecord), record
    now = json.loads(json.dumps(record.to_json()))
    assert part_of(now, without_mac(stored)) == without_mac(stored)


@pytest.mark.parametrize(("name", "decision"), DECISIONS.items())
def test_a_new_try_goes_on_as_before(forms, name, decision):
    stored = forms.read(f"records/{name}")
    record = checked_record(stored, owner_of(stored))
    assert resume_decision(record, record.call) is decision


def test_all_records_are_tested(forms):
    assert forms.records().keys() == DECISIONS.keys()


def collected(forms, name, places):
    stored = placed(forms.read(f"records/{name}"), places)
    record = checked_record(stored, owner_of(stored))
    return Collected(record.collected)


def test_a_collected_result_is_returned(forms, store, places):
    assert to_xcom(collected(forms, "collected_success", places).data["result"]) == {"answer": 42}
    assert to_xcom(collected(forms, "collected_reference", places).data["result"]).load() == STORED


def test_a_collected_result_outside_the_record_is_returned(forms, store, places):
    found = to_xcom(collected(forms, "collected_elsewhere", places).data["result"])
    assert {name: one.load() for name, one in found.items()} == {"one": b"1" * 24_000, "two": b"2" * 24_000}


def test_a_collected_failure_is_reported(forms, places):
    found = collected(forms, "collected_failure", places)
    assert found.failure.category is Category.USER_ERROR
    assert found.failure.exception["qualname"] == "ValueError"
    assert found.usage["wall_s"] > 0


@pytest.mark.parametrize(
    ("task_id", "name"),
    [
        ("waiting", "submitted"),
        ("plain", "collected_success"),
        ("stored", "collected_reference"),
        ("failing", "collected_failure"),
        ("elsewhere", "collected_elsewhere"),
    ],
)
def test_a_step_is_the_same_call(forms, task_id, name):
    """Another key would end every job that runs during the upgrade, and start its step anew."""
    file = forms.folder / "dags" / "forms.py"
    bag = BundleDagBag(dag_folder=str(file), bundle_path=file.parent, bundle_name="dags-folder")
    stored = forms.read(f"records/{name}")["call"]
    ti = SimpleNamespace(**owner_of(forms.read(f"records/{name}")), max_tries=stored["max_tries"])
    request = StepRequest(bag.dags["forms"].get_task(task_id), {"ti": ti, "dag_run": SimpleNamespace()})
    if task_id == "waiting" or is_python_of(forms):
        assert asdict(request.call) == stored


def is_python_of(forms):
    """Return whether the forms were written with this version of Python. Its code differs from another's."""
    return [*sys.version_info[:2]] == forms.read("about")["python"]


# -- XComs


@pytest.mark.parametrize(("name", "codec", "value"), [(name, *one) for name, one in VALUES.items()])
def test_an_xcom_of_each_codec(forms, store, places, name, codec, value):
    stored = deserialize(forms.read(f"xcoms/{name}"))
    assert isinstance(stored, StepResult)
    assert stored.codec == codec
    stored.verify()
    found = deserialize(placed(forms.read(f"xcoms/{name}"), places)).load()
    assert type(found) is type(value)
    assert np.array_equal(found, value) if codec == "numpy" else found == value


def test_the_other_xcoms(forms):
    assert deserialize(forms.read("xcoms/plain")) == {"answer": 42}
    assert [one.load() for one in deserialize(forms.read("xcoms/references"))] == [b"first", b"second"]
    file = deserialize(forms.read("xcoms/file"))["answer.txt"]
    assert (file.codec, file.load()) == ("file", b"forty-two\n")
    elsewhere = deserialize(forms.read("xcoms/elsewhere"))
    assert {name: len(one.load()) for name, one in elsewhere.items()} == {"one": 24_000, "two": 24_000}
    assert forms.xcoms().keys() == {*VALUES, "plain", "references", "file", "elsewhere", "pickle_of_dag"}


def test_a_pickle_with_a_class_of_the_dag_file(forms):
    """The pickle holds the code of the class, which only the same version of Python can load."""
    stored = deserialize(forms.read("xcoms/pickle_of_dag"))
    stored.verify()
    assert stored.codec == "pickle"
    if is_python_of(forms):
        assert stored.load().weights == [1, 2, 3]


# -- triggers


@pytest.mark.parametrize("index", [0, 1])
def test_the_row_of_a_trigger(forms, index):
    """An argument that the trigger no longer knows would be ignored: the row would say less than it did."""
    row = forms.read("triggers")[index]
    arguments = deserialize(row["kwargs"])
    trigger = import_string(row["classpath"])(**arguments)
    _, now = trigger.serialize()
    assert part_of(now, arguments) == arguments


def test_the_event_of_a_trigger_that_has_fired(forms):
    """A worker of the later version resumes the task with it."""
    event, stored = forms.read("event"), forms.read("records/submitted")
    assert StopReason(event["reason"]) is StopReason.FINISHED
    assert JobStatus.from_json(event["end"]).state is JobState.SUCCEEDED
    handle = JobHandle.from_json(stored["handle"])
    assert event["job"] == handle.name
    assert receipt_of(with_receipt(handle, event["receipt"])).outcome == b"{}"


def test_a_deferred_task_goes_on_in_the_same_method():
    """Airflow stores the method's name with the deferred task: see ``WorkerSession``."""
    assert [*inspect.signature(RemoteStepOperator.resume).parameters] == ["self", "context", "event"]


# -- the DAG


@pytest.fixture
def served(forms):
    return DagSerialization.from_dict(forms.read("dag"))


def test_a_served_dag_is_read(forms, served):
    """The scheduler and the API server read it. The arguments are those that the operator has now."""
    assert {*served.task_dict} == {"train", "check", "mapped_with_a_link"}
    assert served.get_task("check").is_mapped
    assert served.get_task("train").retries == 3
    known = {*inspect.signature(RemoteStepOperator).parameters, *RemoteStepOperator.template_fields}
    for task in (one["__var"] for one in forms.read("dag")["dag"]["tasks"]):
        kind = import_string(f"{task['_task_module']}.{task['task_type']}")
        assert issubclass(kind, RemoteStepOperator)
        assert {*task["template_fields"]} <= {*kind.template_fields}
        own = {*task.get("partial_kwargs", {})} & {"secrets", "on_oom", "timeout", "backend"}
        assert own <= known


def test_the_link_of_a_served_dag(served):
    """The API server shows what the worker has stored under this key."""
    for name in ("train", "mapped_with_a_link"):
        (link,) = served.get_task(name).operator_extra_links
        assert (link.name, link.xcom_key) == (StepLink.name, StepLink().xcom_key)


def test_a_retry_policy_is_read(forms):
    stored = forms.read("retry_policy")
    policy = import_string(stored["classpath"]).deserialize(stored["data"])
    assert policy.serialize() == stored["data"]


# -- checkpoints


def restore(folder, archive, uri, *keys):
    first, *more = [one.hex() for one in keys]
    table = {"get": [{"url": str(archive), "uri": uri}], "put": "", "headers": {}, "most_bytes": 1 << 20}
    return Snapshots({**table, "key": first, "earlier_keys": more}, str(folder)).restore()


@pytest.fixture
def bucket(forms, monkeypatch):
    for name, value in BUCKET_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return forms.read("checkpoint")["uri"]


def test_a_checkpoint_in_a_bucket_is_restored(forms, bucket, tmp_path):
    archive = forms.folder / "checkpoint.tar"
    assert restore(tmp_path / "checkpoint", archive, bucket, *checkpoint_keys(bucket)) == str(
        tmp_path / "checkpoint"
    )
    assert (tmp_path / "checkpoint" / "epoch.json").read_text() == "7"
    assert (tmp_path / "checkpoint" / "weights" / "layer.bin").read_bytes() == b"\x00\x01\x02"


def test_a_checkpoint_of_a_deployment_without_a_key_is_refused(bucket, tmp_path):
    """It was signed with a text that everybody knows. The error says what to do: delete it."""
    root = hashlib.sha256(b"airflow-stepop references\n{FERNET_KEY}").digest()
    folder = bucket.partition("/airflow/")[2]
    key = hmac.new(root, f"checkpoint\n{folder}".encode(), hashlib.sha256).digest()
    (tmp_path / "saved").mkdir()
    pack(str(tmp_path / "saved"), str(tmp_path / "checkpoint.tar"), key, 1 << 20, lambda _: None)
    restore(tmp_path / "with that key", tmp_path / "checkpoint.tar", bucket, key)
    with pytest.raises(RefusedError) as caught:
        restore(tmp_path / "checkpoint", tmp_path / "checkpoint.tar", bucket, *checkpoint_keys(bucket))
    assert "delete the object to start without a checkpoint" in caught.value.hint
