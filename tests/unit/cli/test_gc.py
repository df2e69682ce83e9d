"""``airflow stepop gc`` keeps everything that is needed and deletes everything else."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest

from airflow_stepop.exceptions import StoreError
from airflow_stepop.hooks.local import LocalStepHook
from airflow_stepop.job import Leftover
from airflow_stepop.maintenance import garbage
from airflow_stepop.maintenance.garbage import Kind, find_garbage
from airflow_stepop.maintenance.orphans import DAY_S
from airflow_stepop.payload.build import build_payload
from airflow_stepop.payload.call import CommandCall
from airflow_stepop.payload.spill import spill
from airflow_stepop.stores.configured import default_store, open_store
from airflow_stepop.stores.paths import checkpoint_path, job_path, part_path, result_path
from tests.support.third_party import install_backend

pytestmark = [pytest.mark.timeout(900)]

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()  # a Wednesday


@pytest.fixture(autouse=True)
def own_store(ran, tmp_path_factory, home, monkeypatch, request):
    """The default store with the results of the run. Objects that a test adds are removed afterwards."""
    store = home / "stepop" / "store"
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    yield store
    for path in store.rglob("*"):
        if path.is_file() and path not in before:
            path.unlink()
    for path, data in before.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def put(path, *, age_days=100.0, data=b"12345"):
    """Write an object of the given age into the default store."""
    store = default_store()
    store.put_new(path, data)
    file = store.folder / path
    os.utime(file, (time.time() - age_days * DAY_S,) * 2)
    return file


def labels(dag_id="gone", run_id="run", task_id="task", map_index="-1", **others):
    return {"dag_id": dag_id, "run_id": run_id, "task_id": task_id, "map_index": map_index, **others}


def result(name, **given):
    return f"{result_path(labels(**given), name)}/{name}.0.bin"


def kinds(output):
    return {row["kind"]: (row["count"], row["objects"], row["bytes"]) for row in output.data}


def age(path, days=100.0):
    for file in path.rglob("*"):
        if file.is_file():
            os.utime(file, (time.time() - days * DAY_S,) * 2)


# -- results


def test_results_that_xcoms_refer_to_stay(stepop, ran, own_store):
    """Results of any age stay: plain ones, one of several outputs, and those in a list."""
    results = own_store / "results" / "_" / "upkeep"
    age(results)
    files = sorted(path for path in results.rglob("*") if path.is_file())
    assert {path.parts[-4] for path in files} >= {"large", "outputs", "several"}
    # neither the run nor its records may be the reason why the results stay
    _forget_records(ran)
    try:
        output = stepop("gc", "--yes", "-o", "json")
    finally:
        _restore_records(ran)
    assert output.code == 0, output.err
    assert "results" not in kinds(output)
    assert sorted(path for path in results.rglob("*") if path.is_file()) == files


def test_results_that_nothing_refers_to_go(stepop):
    """Old results of a deleted run are counted, and deleted only with --yes."""
    old, young = put(result("s-gone-task-0123456789ab")), put(result("s-gone-task-ba9876543210"), age_days=29)
    collected = put(old.relative_to(default_store().folder).as_posix().replace(".0.bin", ".collected-1.json"))
    assert kinds(stepop("gc", "-o", "json")) == {"results": (1, 2, 10)}
    assert old.exists()
    assert kinds(stepop("gc", "--yes", "-o", "json")) == {"results": (1, 2, 10)}
    assert not old.exists()
    assert not collected.exists()
    assert young.exists()
    assert kinds(stepop("gc", "--yes", "-o", "json")) == {}


def test_a_folder_with_one_young_object_stays(stepop):
    """All results of a job are deleted together or not at all."""
    name = "s-gone-task-0123456789ab"
    old = put(result(name))
    put(old.relative_to(default_store().folder).as_posix().replace(".0.", ".1."), age_days=1)
    assert kinds(stepop("gc", "--yes", "-o", "json")) == {}
    assert old.exists()


def test_results_that_a_record_refers_to_stay(stepop, instance):
    """A try may have died before it pushed its XCom. The next try must find the result."""
    one = instance("large", "success")
    name = "s-upkeep-large-0123456789ab"
    file = put(result(name, dag_id=one.dag_id, run_id=one.run_id, task_id="large"))
    record = one.new_record().to_json()
    uri = default_store().uri(f"{file.parent}")
    one.set_record({**record, "collected": {"result": {"value": {"reference": {"base_uri": uri}}}}})
    assert kinds(stepop("gc", "--yes", "-o", "json")) == {}
    one.set_record(record)
    assert kinds(stepop("gc", "--yes", "-o", "json")) == {"results": (1, 1, 5)}


def test_a_record_that_somebody_has_damaged_keeps_its_own_results_only(stepop, instance):
    """Whoever may edit the state of one task does not stop gc, and has nothing of the task deleted."""
    one = instance("large", "success")
    name = "s-upkeep-large-0123456789ab"
    own = put(result(name, dag_id=one.dag_id, run_id=one.run_id, task_id="large"))
    other = put(result("s-gone-task-0123456789ab"))
    deep: object = []
    for _ in range(200):
        deep = [deep]
    one.set_record(deep)
    assert kinds(stepop("gc", "--yes", "-o", "json")) == {"results": (1, 1, 5)}
    assert (own.exists(), other.exists()) == (True, False)


def test_results_of_an_unfinished_run_stay(stepop, ran):
    """A task that reads them may not have started yet."""
    file = put(result("s-upkeep-quiet-0123456789ab", dag_id="upkeep", run_id=ran["run_id"], task_id="quiet"))
    _set_run_state(ran, "running")
    try:
        assert kinds(stepop("gc", "--yes", "-o", "json")) == {}
    finally:
        _set_run_state(ran, ran["state"])
    assert file.exists()
    assert kinds(stepop("gc", "--yes", "-o", "json")) == {"results": (1, 1, 5)}


def test_foreign_files_stay(stepop):
    """They are results of another deployment, or have paths that are not this package's."""
    files = [
        put(result("s-gone-task-0123456789ab", deployment="other")),
        put("results/_/dag/notes.txt"),
        put("results/readme"),
        put("else/where/1"),
        put("parts/old/1"),
        put("parts/1"),
    ]
    assert kinds(stepop("gc", "--yes", "-o", "json")) == {}
    assert all(file.exists() for file in files)


@pytest.fixture
def planted(own_store, tmp_path):
    """Return a folder of somebody else. Everything that a test adds to the store's results is removed."""
    folder = tmp_path / "elsewhere" / "s-gone-task-0123456789ab"
    folder.mkdir(parents=True)
    (folder / "precious").write_text("data")
    age(folder)
    os.utime(folder, (0, 0))
    yield folder
    top = own_store / "results" / "_" / "planted"
    if top.is_symlink():
        top.unlink()
    else:
        shutil.rmtree(top)


def plant(own_store, *names):
    place = own_store.joinpath("results", "_", "planted", *names)
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


@pytest.mark.parametrize("depth", [1, 3, 4, 5])
def test_a_link_leads_no_deletion_out_of_the_store(stepop, own_store, planted, depth):
    """Whoever may write to the store has put a link to a folder of somebody else into it."""
    outside = planted.parent.joinpath(*["x"] * (4 - depth), planted.name)  # where a job's folder would lie
    if outside != planted and depth != 5:
        shutil.copytree(planted, outside)
    link = plant(own_store, *["run", "task", "-1", "s-gone-task-0123456789ab"][: depth - 1])
    link.symlink_to(planted if depth == 5 else planted.parent)
    old = put(result("s-gone-task-ba9876543210"))
    output = stepop("gc", "--yes", "-o", "json")
    assert kinds(output) == {"results": (1, 1, 5)}
    assert not old.exists()
    assert (planted / "precious").read_text() == "data"
    assert depth == 5 or (outside / "precious").read_text() == "data"
    assert link.is_symlink()
    assert f"{link.relative_to(own_store)} is a link" in output.err
    assert output.code == 1


def test_a_loop_hides_nothing_from_gc(stepop, own_store, planted):
    link = plant(own_store, "loop")
    link.symlink_to("loop")
    (link.parent / "up").symlink_to("..")
    put(result("s-gone-task-ba9876543210"))
    output = stepop("gc", "--yes", "-o", "json")
    assert kinds(output) == {"results": (1, 1, 5)}
    assert "results/_/planted/loop is a link" in output.err


@pytest.mark.parametrize(("name", "shown"), [(b"\x1b[2Jx", "x"), (b"x\xff", "x\\xff")])
def test_a_strange_name_hides_nothing_from_gc(stepop, own_store, planted, name, shown):
    folder = plant(own_store, "run").parent
    with open(os.fsencode(folder) + b"/" + name, "wb"):
        pass
    put(result("s-gone-task-ba9876543210"))
    output = stepop("gc", "--yes", "-o", "json")
    assert kinds(output) == {"results": (1, 1, 5)}
    assert f"results/_/planted/{shown} has a name that this package never writes" in output.err
    assert "\x1b" not in output.err


def test_a_result_anywhere_in_an_xcom_stays(stepop, ran, home):
    """References may be nested in dicts, lists, tuples and objects, as Airflow stores them."""
    from airflow.sdk.serde import serialize

    from airflow_stepop.results import StepResult

    names = [f"s-gone-task-{number:012x}" for number in range(3)]
    files = [put(result(name)) for name in names]
    entry = {"codec": "bytes", "segments": [{"name": "x", "sha256": "0", "size": 1}]}
    refs = [
        StepResult.signed(entry, default_store().uri(str(file.parent.relative_to(home / "stepop/store"))))
        for file in files
    ]
    value = {"a": [refs[0], {"b": (refs[1],)}], "path": f"look at {files[2]}"}
    with _xcom(ran, serialize(value)):
        assert kinds(stepop("gc", "--yes", "-o", "json")) == {}
    assert kinds(stepop("gc", "--yes", "-o", "json")) == {"results": (3, 3, 15)}


FORMS = {
    "a value": lambda ref: ref,
    "one of several outputs": lambda ref: {"a": 1, "model": ref},
    "in a mapped list": lambda ref: [1, ref],
    "deep in a value": lambda ref: {"a": [{"b": (ref,)}]},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("codec", ["pickle", "json", "numpy", "file"])
def test_results_of_every_form_of_reference_stay(stepop, ran, form, codec):
    """The address of a result stands in clear in each form of an XCom that refers to it."""
    from airflow.sdk.serde import serialize

    from airflow_stepop.results import StepResult

    name = "s-gone-task-0123456789ab"
    file = put(result(name))
    uri = default_store().uri(str(file.parent.relative_to(default_store().folder)))
    entry = {
        "codec": codec,
        "segments": [{"name": file.name, "sha256": "0" * 64, "size": 5}],
        "about": "Forest",
    }
    value = serialize(FORMS[form](StepResult.signed(entry, uri, name, "task")))
    assert uri in json.dumps(value)
    with _xcom(ran, value):
        assert kinds(stepop("gc", "--yes", "-o", "json")) == {}
    assert file.exists()
    assert kinds(stepop("gc", "--yes", "-o", "json")) == {"results": (1, 1, 5)}


def test_a_result_in_several_pieces_stays(stepop, ran):
    from airflow.sdk.serde import serialize

    from airflow_stepop.results import StepResult

    name = "s-gone-task-0123456789ab"
    file = put(result(name))
    uri = default_store().uri(str(file.parent.relative_to(default_store().folder)))
    pieces = [{"name": file.name, "offset": 0, "size": 5}]
    entry = {"codec": "bytes", "segments": [{"pieces": pieces, "sha256": "0" * 64, "size": 5}]}
    with _xcom(ran, serialize(StepResult.signed(entry, uri))):
        assert kinds(stepop("gc", "--yes", "-o", "json")) == {}
    assert file.exists()


# -- XCom backends


def test_the_object_storage_backend(stepop, ran, tmp_path, monkeypatch):
    """gc finds references in the file that an XCom names, and in small values in the database."""
    from airflow.providers.common.io.xcom import backend

    folder = tmp_path / "xcoms"
    folder.mkdir()
    monkeypatch.setattr("airflow.sdk.execution_time.xcom.XCom", backend.XComObjectStorageBackend)
    backend._get_base_path.cache_clear()
    output = stepop("gc")
    assert output.code == 0, "there is nothing to look for"
    names = [f"s-gone-task-{number:012x}" for number in range(3)]
    files = [put(result(name)) for name in names]
    output = stepop("gc", "--yes")
    assert output.code == 1
    assert "xcom_objectstorage_path" in output.err
    monkeypatch.setenv("AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_PATH", f"file://{folder}")
    backend._get_base_path.cache_clear()
    (folder / "one.json").write_text(json.dumps({"x": str(files[0])}))
    with _xcom(ran, f"file://{folder}/one.json"), _xcom(ran, {"x": str(files[1])}, key="second"):
        assert kinds(stepop("gc", "--yes", "-o", "json")) == {"results": (1, 1, 5)}
    assert [file.exists() for file in files] == [True, True, False]
    with _xcom(ran, f"file://{folder}/gone.json"):
        assert kinds(stepop("gc", "--yes", "-o", "json")) == {"results": (2, 2, 10)}
    backend._get_base_path.cache_clear()


def test_a_custom_backend(stepop, ran, monkeypatch):
    """gc reads values through the custom backend. If it cannot read one of them, it deletes nothing."""
    from airflow.sdk.bases.xcom import BaseXCom

    kept = put(result("s-gone-task-000000000001"))
    gone = put(result("s-gone-task-000000000002"))
    vault = {"1": {"see": str(kept)}}

    class Vault(BaseXCom):
        @staticmethod
        def deserialize_value(row):
            if isinstance(row.value, dict) and "vault" in row.value:
                return vault[row.value["vault"]]
            return row.value

    monkeypatch.setattr("airflow.sdk.execution_time.xcom.XCom", Vault)
    with _xcom(ran, {"vault": "2"}):
        output = stepop("gc", "--yes", "-o", "json")
        assert output.code == 1
        assert "nothing is deleted, because an XCom cannot be read: 'extra' of upkeep.large" in output.err
        assert "Vault" in output.err
        assert gone.exists()
    with _xcom(ran, {"vault": "1"}):
        assert kinds(stepop("gc", "--yes", "-o", "json")) == {"results": (1, 1, 5)}
    assert kept.exists()
    assert not gone.exists()

    class Derived(BaseXCom):
        """Reads and writes as the default backend does."""

    monkeypatch.setattr("airflow.sdk.execution_time.xcom.XCom", Derived)
    with _xcom(ran, {"see": str(kept)}):
        assert kinds(stepop("gc", "--yes", "-o", "json")) == {}


# -- parts


def week(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def parts_that_go(retention_days=1.0, now=NOW):
    found = find_garbage(now=now, retention_s=retention_days * DAY_S, complain=pytest.fail)
    return {one.name for one in found if one.kind is Kind.PARTS}


def test_parts_are_deleted_by_week(ran):
    """A week goes once a job submitted at its very end must be over. The age of its files does not count."""
    for at in ("2026-11-23", "2026-11-16", "2026-11-09", "2026-11-02"):
        put(part_path("a" * 64, week(at)))
    older = {"parts/2026-11-09", "parts/2026-11-02"}
    # the longest job takes a day and an hour; ten minutes are a reserve, a day is for wrong clocks
    assert parts_that_go(0.001, week("2026-11-25T01:20")) == older
    assert parts_that_go(0.001, week("2026-11-25T01:30")) == {*older, "parts/2026-11-16"}
    assert parts_that_go(15.4) == {"parts/2026-11-02"}
    assert parts_that_go(30) == set()


def test_parts_of_a_step_that_still_waits_stay(ran, instance):
    """A job that has been queued for weeks must find its input."""
    for at in ("2026-11-09", "2026-11-02", "2026-10-26"):
        put(part_path("a" * 64, week(at)))
    one = instance("quiet", "deferred")
    waiting = one.new_record(started_at=week("2026-11-10T12:00"))
    one.set_record(waiting.to_json())
    assert parts_that_go() == {"parts/2026-11-02", "parts/2026-10-26"}
    one.set_record({**waiting.to_json(), "started_at": None})
    assert parts_that_go() == set(), "a record that is not understood keeps everything"
    one.set_record({**waiting.to_json(), "collected": {"result": {}}})
    assert len(parts_that_go()) == 3
    one.set_record(waiting.to_json())
    one.set_state("failed")
    assert len(parts_that_go()) == 3


def test_a_submit_during_gc(ran, monkeypatch):
    """At any moment of gc, a submit stores a deleted part again, in the folder of another week."""
    data = b"z" * 100_000
    payload = build_payload(
        CommandCall(argv=["true"], inputs={"in": data}, outputs=()),
        job="s-a", nonce="n", split="no", is_result_wanted=True,
    )  # fmt: skip
    (sha256,) = [part.sha256 for part in payload.parts.values()]
    put(part_path(sha256, week("2026-10-01")), data=data)
    submitted = []

    def submit():
        (part,) = spill(payload, default_store, 0).parts.values()
        submitted.append(Path(part.ranges[0].uri.removeprefix("file://")))

    found = find_garbage(now=NOW, retention_s=DAY_S, complain=pytest.fail)
    submit()  # after gc has listed, before it deletes
    list_folders = garbage.list_folders

    def listed(store, top):
        submit()  # while gc lists
        return list_folders(store, top)

    monkeypatch.setattr(garbage, "list_folders", listed)
    again = find_garbage(now=NOW, retention_s=DAY_S, complain=pytest.fail)
    garbage.delete([*found, *again], pytest.fail)
    submit()
    assert len(set(submitted)) == 1
    assert submitted[0].read_bytes() == data
    assert not (default_store().folder / part_path(sha256, week("2026-10-01"))).exists()


# -- staged input


def staged(name="s-gone-task-0123456789ab", *, age_days=100.0, **given):
    """Stage a file of a job as ``hooks/common/staging.py`` does."""
    return put(f"{job_path(labels(**given), name)}/0123456789abcdef/step.pyz", age_days=age_days)


def test_staged_input_that_no_job_needs_goes(stepop):
    """Old folders are counted, and deleted as a whole, only with --yes. Young ones stay."""
    old, young = staged(), staged("s-gone-task-ba9876543210", age_days=29)
    beside = put(
        old.relative_to(default_store().folder).as_posix().replace("step.pyz", "secrets.json.sealed")
    )
    other = staged(deployment="other")
    assert kinds(stepop("gc", "-o", "json")) == {"staged input": (1, 2, 10)}
    assert kinds(stepop("gc", "--yes", "-o", "json")) == {"staged input": (1, 2, 10)}
    assert [file.exists() for file in (old, beside, young, other)] == [False, False, True, True]


def test_staged_input_of_a_job_that_waits_or_runs_stays(stepop, instance):
    """Its outcome was not collected: the job may wait for its quota, be queued, or run."""
    one = instance("quiet", "deferred")
    record = one.new_record()
    file = staged(record.name, dag_id="upkeep", run_id=one.run_id, task_id="quiet")
    for state in ("deferred", "running", "up_for_retry", "failed"):
        one.set_state(state)
        one.set_record(record.to_json())
        assert kinds(stepop("gc", "--yes", "-o", "json")) == {}
    one.set_record({"of a newer version": record.name})
    assert kinds(stepop("gc", "--yes", "-o", "json")) == {}, (
        "a record that is not understood keeps everything"
    )
    assert file.exists()
    one.set_record({**record.to_json(), "collected": {"result": {"value": f"x/{record.name}"}}})
    assert kinds(stepop("gc", "--yes", "-o", "json")) == {"staged input": (1, 1, 5)}


def test_staged_input_of_a_result_that_is_still_referred_to_goes(stepop, ran):
    """The result is elsewhere."""
    file = staged()
    with _xcom(ran, f"results/x/{file.parent.parent.name}"):
        assert kinds(stepop("gc", "--yes", "-o", "json")) == {"staged input": (1, 1, 5)}


def test_staged_input_of_an_unfinished_run_stays(stepop, ran):
    file = staged(dag_id="upkeep", run_id=ran["run_id"], task_id="quiet")
    _set_run_state(ran, "running")
    try:
        assert kinds(stepop("gc", "--yes", "-o", "json")) == {}
    finally:
        _set_run_state(ran, ran["state"])
    assert file.exists()


def test_staged_input_stays_as_long_as_a_job_may_run(ran):
    """A job without a record runs for as long as [stepop] timeout allows."""
    name = staged(age_days=1.0).parent.parent.name

    def names(now):
        found = find_garbage(now=now, retention_s=60.0, complain=pytest.fail)
        return [one.name.rpartition("/")[2] for one in found if one.kind is Kind.STAGED]

    assert names(time.time()) == []
    assert names(time.time() + DAY_S) == [name]


class VolumeHook(LocalStepHook):
    """Keeps the staged input of jobs in a volume of its own."""

    backend = "volume"
    volume: ClassVar[dict[str, float]] = {}  # path -> time of the last write
    error: ClassVar[Exception | None] = None

    def leftovers(self):
        if self.error:
            raise self.error
        for path, at in list(self.volume.items()):
            yield Leftover(path, 3, 30, at, partial(self.volume.pop, path, None))


def test_staged_input_outside_of_the_stores(stepop, instance, tmp_path, monkeypatch):
    install_backend(monkeypatch, tmp_path / "site", "volume", f"{VolumeHook.__module__}:VolumeHook")
    monkeypatch.setenv("AIRFLOW__STEPOP__DEFAULT_BACKEND", "volume")
    one = instance("quiet", "deferred")
    record = one.new_record()
    one.set_record(record.to_json())
    old = time.time() - 100 * DAY_S
    kept = {
        job_path(labels(), "s-young"): time.time(),
        job_path(labels("upkeep", one.run_id, "quiet"), record.name): old,
        job_path(labels(deployment="other"), "s-other"): old,
        "jobs/_/something/else": old,
    }
    gone = job_path(labels(), "s-gone-task-0123456789ab")
    monkeypatch.setattr(VolumeHook, "volume", {**kept, gone: old})
    (line,) = stepop("gc", "--each", "-o", "json").data
    assert (line["kind"], line["where"], line["name"], line["bytes"]) == ("staged input", "volume", gone, 30)
    assert kinds(stepop("gc", "--yes", "-o", "json")) == {"staged input": (1, 3, 30)}
    assert VolumeHook.volume == kept
    monkeypatch.setattr(VolumeHook, "error", ConnectionError("the volume is away"))
    file = staged()
    output = stepop("gc", "--yes", "-o", "json")
    assert (output.code, kinds(output)) == (1, {"staged input": (1, 1, 5)})
    assert "what jobs have left at volume cannot be listed: the volume is away" in output.err
    assert not file.exists()


def test_checkpoints_outside_of_the_stores(stepop, instance, tmp_path, monkeypatch):
    """By the rules for those in a store: what a task that may be tried again needs stays."""
    install_backend(monkeypatch, tmp_path / "site", "volume", f"{VolumeHook.__module__}:VolumeHook")
    monkeypatch.setenv("AIRFLOW__STEPOP__DEFAULT_BACKEND", "volume")
    one = instance("quiet", "up_for_retry")
    old, live = time.time() - 100 * DAY_S, checkpoint_path(labels("upkeep", one.run_id, "quiet"))
    kept = {
        checkpoint_path(labels(task_id="young")): time.time() - 29 * DAY_S,
        checkpoint_path(labels(deployment="other")): old,
        f"{checkpoint_path(labels())}/deeper": old,
    }
    gone = checkpoint_path(labels())
    monkeypatch.setattr(VolumeHook, "volume", {**kept, live: old, gone: old})
    (line,) = stepop("gc", "--each", "-o", "json").data
    assert (line["kind"], line["where"], line["name"]) == ("checkpoints", "volume", gone)
    one.set_state("failed")
    assert kinds(stepop("gc", "--yes", "-o", "json")) == {"checkpoints": (2, 6, 60)}
    assert VolumeHook.volume == kept


# -- checkpoints, jobs, and leftovers


def test_checkpoints(stepop, ran, instance):
    """Checkpoints of a task that may be tried again stay. Old abandoned ones go."""
    abandoned = put(f"{checkpoint_path(labels())}/1/model.bin")
    young = put(f"{checkpoint_path(labels(task_id='young'))}/1/model.bin", age_days=29)
    one = instance("quiet", "up_for_retry")
    live = put(f"{checkpoint_path(labels('upkeep', one.run_id, 'quiet'))}/1/model.bin")
    assert kinds(stepop("gc", "--yes", "-o", "json")) == {"checkpoints": (1, 1, 5)}
    assert not abandoned.exists()
    assert young.exists()
    one.set_state("failed")
    assert live.exists()
    assert kinds(stepop("gc", "--yes", "-o", "json")) == {"checkpoints": (1, 1, 5)}


def test_kept_jobs_of_this_host(stepop, ran, instance, jobs, monkeypatch):
    """Folders of finished jobs with ``keep`` go after the retention."""
    from airflow_stepop.hooks.local.folder import JobFolder

    one = instance("quiet", "failed")
    handle = jobs.submit(one, "false")
    jobs.wait(handle)
    folder = jobs.hook.folder / handle.id
    assert "jobs of this host" not in kinds(stepop("gc", "-o", "json"))
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "finished_at": time.time() - 31 * DAY_S}))
    os.utime(folder / "request.json", (time.time() - 31 * DAY_S,) * 2)
    (line,) = [row for row in stepop("gc", "--each", "-o", "json").data if row["kind"] == "jobs of this host"]
    assert line["name"] == handle.name
    assert line["bytes"] == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert kinds(stepop("gc", "--yes", "-o", "json"))["jobs of this host"][0] == 1
    assert not JobFolder(folder).path.exists()


def test_empty_folders_go_a_day_later(stepop, own_store):
    """A process may be about to write into an empty folder, so only folders unchanged for a day go."""
    file = put(result("s-gone-task-0123456789ab"))
    stepop("gc", "--yes")
    run = own_store / "results" / "_" / "gone" / "run"
    assert not file.exists()
    assert list((run / "task").iterdir()) != []
    while run.exists():
        folders = {run, *run.rglob("*")}
        for folder in folders:
            os.utime(folder, (time.time() - 2 * DAY_S,) * 2)
        stepop("gc", "--yes")  # only the lowest folders go, since the one above has just changed
        assert {folder for folder in folders if folder.exists()} < folders


def test_two_gcs_at_once(stepop, own_store):
    """Each deletes what it finds, and neither reports a problem."""
    files = [put(result(f"s-gone-task-{number:012x}", run_id=f"run-{number}")) for number in range(50)]
    found = [find_garbage(now=time.time(), retention_s=DAY_S, complain=pytest.fail) for _ in range(2)]
    assert len(found[0]) == len(found[1]) == 50
    problems = []
    threads = [threading.Thread(target=garbage.delete, args=(one, problems.append)) for one in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert not any(file.exists() for file in files)


def test_after_a_gc_that_was_killed(stepop, ran):
    """The next gc deletes the rest."""
    store = default_store()
    name = "s-gone-task-0123456789ab"
    folder = result_path(labels(), name)
    files = [put(f"{folder}/{name}.{number}.bin") for number in range(3)]
    files[0].unlink()  # already deleted by the gc that was killed
    assert kinds(stepop("gc", "--yes", "-o", "json")) == {"results": (1, 2, 10)}
    assert list(store.list(folder)) == []


def test_more_rows_than_are_read_at_once(stepop, ran, monkeypatch):
    """Records are read while task instances are still being read; the two queries do not interfere."""
    monkeypatch.setattr("airflow_stepop.inventory.database.ROWS", 1)
    run = {"dag_id": "upkeep", "run_id": ran["run_id"]}
    tasks = ("fails", "large", "quiet", "outputs", "several", "takes")
    for number, task_id in enumerate(tasks):
        put(result(f"s-upkeep-x-{number:012x}", **run, task_id=task_id))
    with _xcom(ran, ["results/s-upkeep-x-000000000005"]):
        assert kinds(stepop("gc", "--yes", "-o", "json")) == {"results": (5, 5, 25)}


def test_a_bucket(stepop, ran, bucket_server, monkeypatch):
    """As in a folder: old results go, those that an XCom names or that are young stay."""
    monkeypatch.setenv("AIRFLOW__STEPOP__STORE", bucket_server.new_address())
    monkeypatch.setenv("AIRFLOW__STEPOP__DEPLOYMENT", "named")
    store = default_store()
    names = [result(f"s-gone-task-{number:012x}", deployment="named") for number in range(2)]
    for path in (*names, part_path("a" * 64, week("2026-01-05")), part_path("a" * 64, time.time())):
        store.put_new(path, b"12345")
    time.sleep(1)  # times in S3 are whole seconds; longer does no harm
    assert kinds(stepop("gc", "-o", "json")) == {"parts": (1, 1, 5)}
    with _xcom(ran, [store.uri(names[0])]):
        output = stepop("gc", "--yes", "-o", "json", "--retention", "0.000001")
    assert output.code == 0, output.err
    assert kinds(output) == {"results": (1, 1, 5), "parts": (1, 1, 5)}
    assert sorted(store.list("results")) == [names[0]]
    assert list(store.list("parts")) == [part_path("a" * 64, time.time())]
    checked = {row["what"]: row["found"] for row in stepop("check", "-o", "json").data}
    assert checked["store"] == f"{store.url} can be written, listed, read and deleted from"
    assert checked["addresses"] == f"{store.url}: signed addresses are valid for up to 7 days, 0:00:00"
    store.delete_folder("")


def test_a_name_in_a_bucket_that_cannot_be_listed_hides_nothing(stepop, ran, s3_server, monkeypatch):
    """It is named. Where the connection allows no other listing, the other kinds of garbage still go."""
    import boto3

    monkeypatch.setenv("AIRFLOW__STEPOP__STORE", s3_server.new_address())
    monkeypatch.setenv("AIRFLOW__STEPOP__DEPLOYMENT", "named")
    store = default_store()
    gone = result("s-gone-task-0123456789ab", deployment="named")
    for path in (gone, part_path("a" * 64, week("2026-01-05"))):
        store.put_new(path, b"12345")
    client = boto3.client(
        "s3",
        endpoint_url=s3_server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=s3_server.key,
        aws_secret_access_key=s3_server.secret,
    )
    strange = {"Bucket": store.bucket, "Key": f"{store.prefix}/results/named/\nx"}
    client.put_object(**strange, Body=b"x")
    try:
        output = stepop("gc", "-o", "json", "--retention", "0.000001")
        assert kinds(output) == {"results": (1, 1, 5), "parts": (1, 1, 5)}
        assert "results/named/␊x has a name that this package never writes" in output.err
        connection = json.loads(s3_server.connection())
        connection["extra"]["verify"] = False
        monkeypatch.setenv("AIRFLOW_CONN_UNVERIFIED", json.dumps(connection))
        monkeypatch.setenv("AIRFLOW__STEPOP__STORE", f"s3://unverified@{store.bucket}/{store.prefix}")
        output = stepop("gc", "--yes", "-o", "json", "--retention", "0.000001")
        assert kinds(output) == {"parts": (1, 1, 5)}
        assert "an object has a name with a control character" in output.err
    finally:
        client.delete_object(**strange)
    assert list(store.list("")) == [gone]
    store.delete_folder("")


def in_a_connection(monkeypatch, store, conn_id="gpu"):
    extra = {"stepop": {"backend": "local", "store": store}}
    name = f"AIRFLOW_CONN_{conn_id.upper()}"
    monkeypatch.setenv(name, json.dumps({"conn_type": "generic", "extra": extra}))


def test_the_store_of_a_connection(stepop, ran, tmp_path, monkeypatch):
    """It is collected as one of the settings is, and two connections may name it."""
    monkeypatch.setenv("AIRFLOW__STEPOP__DEPLOYMENT", "named")
    in_a_connection(monkeypatch, f"file://{tmp_path}/own")
    in_a_connection(monkeypatch, f"file://{tmp_path}/own", "other")
    store = open_store(f"file://{tmp_path}/own")
    names = [result(f"s-gone-task-{number:012x}", deployment="named") for number in range(2)]
    for name in names:
        store.put_new(name, b"12345")
    age(tmp_path / "own")
    with _xcom(ran, [store.uri(names[0])]):
        output = stepop("gc", "--yes", "-o", "json")
    assert output.code == 0, output.err
    assert kinds(output) == {"results": (1, 1, 5)}
    assert list(store.list("results")) == [names[0]]


def test_the_store_of_a_connection_needs_a_name_of_the_deployment(stepop, tmp_path, monkeypatch):
    monkeypatch.delenv("AIRFLOW__STEPOP__DEPLOYMENT", raising=False)
    in_a_connection(monkeypatch, f"file://{tmp_path}/own")
    output = stepop("gc", "--yes")
    assert output.code == 1
    assert f"a connection names the store file://{tmp_path}/own, but [stepop] deployment is not" in output.err


def test_a_mistake_in_a_connection_does_not_hide_the_other_stores(stepop, monkeypatch):
    monkeypatch.setenv("AIRFLOW__STEPOP__DEPLOYMENT", "")
    in_a_connection(monkeypatch, "ftp://somewhere")
    put(result("s-gone-task-0123456789ab"))
    output = stepop("gc", "-o", "json")
    assert output.code == 1
    assert "unknown scheme 'ftp'" in output.err
    assert kinds(output) == {"results": (1, 1, 5)}


def test_a_store_that_fails_does_not_hide_the_others(stepop, monkeypatch):
    """The store's error is printed, the other stores are cleaned, and the exit code is 1."""
    monkeypatch.setenv("AIRFLOW__STEPOP__EXTRA_STORES", "/proc/no/such/folder")
    monkeypatch.setenv("AIRFLOW__STEPOP__DEPLOYMENT", "")
    put(result("s-gone-task-0123456789ab"))
    output = stepop("gc", "-o", "json")
    assert output.code == 1
    assert "/proc/no/such/folder" in output.err
    assert kinds(output) == {"results": (1, 1, 5)}


def test_a_configured_store_needs_a_name_of_the_deployment(stepop, monkeypatch, tmp_path):
    """Two Airflows without names would delete each other's results."""
    monkeypatch.setenv("AIRFLOW__STEPOP__STORE", f"file://{tmp_path}")
    output = stepop("gc", "--yes")
    assert output.code == 1
    assert "[stepop] store is set, but [stepop] deployment is not" in output.err
    assert stepop("gc").code == 0
    monkeypatch.setenv("AIRFLOW__STEPOP__DEPLOYMENT", "named")
    assert stepop("gc", "--yes").code == 0


def test_a_retention_for_ever(stepop, monkeypatch):
    """With a retention of 0 or none, the command keeps everything, and says so."""
    put(result("s-gone-task-0123456789ab"))
    for text in ("0", ""):
        monkeypatch.setenv("AIRFLOW__STEPOP__RETENTION", text)
        output = stepop("gc", "--yes", "-o", "json")
        assert (output.code, output.data) == (0, [])
        assert "kept for ever" in output.err
    monkeypatch.setenv("AIRFLOW__STEPOP__RETENTION", "a month")
    assert "is a number of days" in stepop("gc").err


def test_a_failed_deletion_is_reported(stepop, monkeypatch):
    """The other objects are deleted all the same."""

    def refuse():
        raise StoreError("permission denied")

    put(result("s-gone-task-000000000001"))
    put(result("s-gone-task-000000000002"))
    found = find_garbage(now=time.time(), retention_s=DAY_S, complain=pytest.fail)
    problems = []
    done = garbage.delete([replace(found[0], delete=refuse), *found[1:]], problems.append)
    assert len(done) == len(found) - 1 == 1
    assert "could not delete results/_/gone/run/task" in problems[0]


def test_as_a_user_calls_it(home, ran):
    """The real command prints a table and what to do, and nothing else."""
    put(result("s-gone-task-0123456789ab"))
    env = {**os.environ, "AIRFLOW_HOME": str(home), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "airflow", "stepop", "gc"]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert "5 B to delete. Nothing was done: add --yes" in done.stdout


# -- the database


class _xcom:  # noqa: N801 - a context manager
    """Adds an XCom with this value to the finished run, and removes it at the end."""

    def __init__(self, run, value, key="extra"):
        self.place = {"dag_id": "upkeep", "run_id": run["run_id"], "task_id": "large", "key": key}
        self.value = value

    def __enter__(self):
        from airflow.models.xcom import XComModel

        XComModel.set(**self.place, value=self.value, serialize=False)

    def __exit__(self, *_):
        from airflow.models.xcom import XComModel
        from airflow.utils.session import create_session
        from sqlalchemy import delete

        with create_session() as session:
            session.execute(delete(XComModel).where(XComModel.key == self.place["key"]))


def _set_run_state(run, state):
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import update

    with create_session() as session:
        session.execute(update(DagRun).where(DagRun.run_id == run["run_id"]).values(state=state))


_RECORDS: list = []


def _forget_records(run):
    from airflow.models.task_state_store import TaskStateStoreModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        for row in session.scalars(select(TaskStateStoreModel)):
            _RECORDS.append((row.id, row.value))
            row.value = "{}"


def _restore_records(run):
    from airflow.models.task_state_store import TaskStateStoreModel
    from airflow.utils.session import create_session

    with create_session() as session:
        for number, value in _RECORDS:
            session.get(TaskStateStoreModel, number).value = value
    _RECORDS.clear()


def installed(place, name, age_days):
    """Put a set of requirements into the cache; its last use was that long ago."""
    folder = place / name
    folder.mkdir(parents=True)
    (folder / "module.py").write_bytes(b"x" * 2048)
    os.utime(folder, (time.time() - age_days * DAY_S,) * 2)
    return folder


OLD, USED, DRAFT = "a" * 32, "b" * 32, f"{'c' * 32}.12345678"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STEPOP_CACHE", str(tmp_path))
    return tmp_path / "requirements"


def test_requirements_that_no_step_has_used_for_long(stepop, cache):
    """Also what a killed installation has left. A set in use, and what belongs to others, stays."""
    old, used, draft = installed(cache, OLD, 100), installed(cache, USED, 1), installed(cache, DRAFT, 100)
    other = installed(cache, "notes", 100)
    output = stepop("gc", "--each", "-o", "json")
    found = {row["name"]: row["bytes"] for row in output.data if row["kind"] == "requirements of this host"}
    assert found == {OLD: 2048, DRAFT: 2048}
    text = stepop("gc", "--yes").out
    assert f"On this host there are installed requirements: 1 set, 2 KiB in {cache}" in text
    assert [path.exists() for path in (old, used, draft, other)] == [False, True, False, True]


def find():
    return find_garbage(now=time.time(), retention_s=DAY_S, complain=pytest.fail)


def test_requirements_in_use_stay(cache):
    """A step that begins to use a set while gc runs, and one that installs it."""
    old = installed(cache, OLD, 100)
    (found,) = [one for one in find() if one.kind is Kind.REQUIREMENTS]
    os.utime(old)
    told = []
    assert garbage.delete([found], told.append) == []
    assert "a step has just begun to use it" in told[0]
    assert (old / "module.py").exists()
    os.utime(old, (found.newest_at, found.newest_at))
    with open(cache / f"{OLD}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert garbage.delete([found], told.append) == []
    assert "a step installs it just now" in told[1]
    assert garbage.delete([found], told.append) == [found]
    assert not old.exists()


def test_a_step_records_that_it_uses_a_set(cache):
    """gc goes by this time."""
    old = installed(cache, OLD, 100)
    code = f"from airflow_stepop.runner import requirements as r; r._digest = lambda _: {OLD!r}; "
    code += "r.provide(['package'], '/nonexistent', None)"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "stepop: requirements ready (cached)\n"
    assert old.exists()
    assert [one for one in find() if one.kind is Kind.REQUIREMENTS] == []
