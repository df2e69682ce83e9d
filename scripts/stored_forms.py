"""Writes the stored forms of this version: ``python scripts/stored_forms.py 0.2``.

The forms are what a deployment holds of its steps while it is upgraded: see ``docs/upgrade.md``. The tests
hold that later code reads them. A folder that exists is never overwritten: it is what that version wrote.
Until a version is released, its folder may be removed and written anew.

``tests/support/stored_forms.py`` says where the forms lie, and how they are made independent of this host.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DAGS = ROOT / "tests" / "fixtures" / "dags"
sys.path.insert(0, str(ROOT))

from tests.airflow_in_process.conftest import AirflowProcess, Run  # noqa: E402 - after sys.path
from tests.support.stored_forms import ENVIRONMENT, FORMS, Places, placed  # noqa: E402

XCOMS = (
    "waiting", "plain", "json", "numpy", "arrow", "arrow_batch", "bytes_", "bytearray_", "str_", "pickle",
    "pickle_of_dag", "stored", "references", "elsewhere",
)  # fmt: skip
# task of forms.py -> the record that it leaves
COLLECTED = {
    "plain": "collected_success",
    "failing": "collected_failure",
    "stored": "collected_reference",
    "elsewhere": "collected_elsewhere",
}
RUNNING, ENDED = "local_running", "local_ended"
# What an earlier step of a job's life has not written yet
NOT_YET = ("state.json", "log", "out", "supervisor.log", "state.reserve", "wake")


def main(version: str) -> None:
    target = FORMS / version
    if "STEPOP_S3SERVER" not in os.environ:
        sys.exit("set STEPOP_S3SERVER=scripts/s3server: the emulator of SageMaker needs it")
    if target.exists():
        sys.exit(f"{target} exists: it is what version {version} wrote, and is never written again")
    with place_of_work() as work:
        os.environ |= {**ENVIRONMENT, "AIRFLOW_HOME": f"{work}/own"}
        draft = Path(work, "draft")
        draft.mkdir()
        write_json(draft / "about.json", {"python": list(sys.version_info[:2])})
        write_airflow_forms(draft, Path(work, "airflow"))
        write_json(draft / "dag.json", serialized_dag(work))
        write_json(draft / "retry_policy.json", retry_policy())
        write_supervisor(draft / "supervisor.pyz")
        from stored_forms_services import write_checkpoint, write_kubernetes, write_sagemaker

        def write(name: str, form: Any) -> None:
            write_json(draft / f"{name}.json", form)

        write_checkpoint(draft, write)
        write_kubernetes(write)
        write_sagemaker(draft, write)
        shutil.copytree(draft, target)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{target.relative_to(ROOT)}: {size / 1024:.0f} KiB")


@contextmanager
def place_of_work() -> Iterator[str]:
    """Context manager: an empty folder with the same path at each run, since pickled code has its path."""
    work = Path("/tmp/stored-forms")  # noqa: S108 - a folder that exists is an error
    work.mkdir(mode=0o700)
    try:
        yield str(work)
    finally:
        shutil.rmtree(work)


def write_json(path: Path, form: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(form, indent=1) + "\n")


def write_airflow_forms(draft: Path, work: Path) -> None:
    """Run the tasks of ``forms.py``, and take what they leave: XComs, records, a job's folder, results."""
    go = work / "go"
    airflow = AirflowProcess(work, {**ENVIRONMENT, "STEPOP_FORMS_GO": str(go)})
    go.write_text("forty-two\n")
    (draft / "dags").mkdir()
    shutil.copy(DAGS / "forms.py", draft / "dags")  # the same code is the same call, also after an upgrade
    try:
        run = airflow.run(DAGS / "forms.py")
    finally:
        airflow.end()
    if bad := {name: state for name, state in run.states.items() if state != "success"}.keys() - {"failing"}:
        sys.exit(f"{', '.join(sorted(bad))} did not succeed\n{airflow.output()}")
    home = airflow.home / "stepop"
    places = places_of(run, home, go)
    for task in XCOMS:
        name = "file" if task == "waiting" else task.rstrip("_")
        write_json(draft / "xcoms" / f"{name}.json", placed(run.value(task), places))
    for task, name in COLLECTED.items():
        write_json(draft / "records" / f"{name}.json", placed(json.loads(run.records[task]), places))
    shutil.copytree(home / "store", draft / "store")
    write_local_job(draft, json.loads(run.records["waiting"]), home / "jobs", places)


def places_of(run: Run, home: Path, go: Path) -> Places:
    """Return what stands for the values of this host, the longest value first."""
    from airflow_stepop.core.host import host_id
    from airflow_stepop.hooks.local.supervisor.linux import boot_id

    values = {
        str(home / "jobs"): "@JOBS@",
        str(home / "store"): "@STORE@",
        str(go): "@JOBS@/go",
        str(home.parents[1]): "@WORK@",
        sys.executable: "@PYTHON@",
        host_id(): "@HOST@",
        boot_id(): "@BOOT@",
    }
    return {text: values[text] for text in sorted(values, key=len, reverse=True)}


def write_local_job(draft: Path, record: Mapping[str, Any], jobs: Path, places: Places) -> None:
    """Write the records of the task ``waiting``, its rows, and its job before it began and after it ended."""
    running = placed({**record, "collected": None, "end": None}, places)
    intended = placed({**running, "handle": None, "submitted_at": None}, {})
    write_json(draft / "records" / "submitted.json", running)
    write_json(draft / "records" / "intended.json", intended)
    write_json(draft / "triggers.json", trigger_rows(running))
    write_json(draft / "event.json", fired_event(running))
    source = jobs / record["name"]
    for name, left_out in ((RUNNING, NOT_YET), (ENDED, ("wake", "in"))):
        folder = draft / "jobs" / name
        shutil.copytree(source, folder, ignore=lambda _, names, out=left_out: {*names} & {*out})
        for path in folder.glob("*.json"):
            form = placed(json.loads(path.read_text()), places)
            write_json(path, {**form, "pid": 1} if "pid" in form else form)


def trigger_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return rows of Airflow's table ``trigger``. Their arguments are encrypted there with the fernet key."""
    from airflow.sdk.serde import serialize

    from airflow_stepop.job import JobHandle
    from airflow_stepop.triggers import PauseTrigger, RemoteStepTrigger
    from airflow_stepop.waiting.deadlines import Deadlines

    asked = {"timeout_s": 86400.0, "start_timeout_s": 600.0}
    waiter = {**record["labels"], "map_index": int(record["labels"]["map_index"]), "since": 1767225600.0}
    triggers = [
        RemoteStepTrigger(
            handle=JobHandle.from_json(record["handle"]).to_json(),
            deadlines=Deadlines.of_job(asked, 4102444800.0, 4102448400.0).to_json(),  # in 2100
            poll_interval=0.1,
            waiter=waiter,
            log_limit=1_000_000,
            debug=True,
        ),
        PauseTrigger(until=1767225600.0),
    ]
    rows = [trigger.serialize() for trigger in triggers]
    return [{"classpath": path, "kwargs": serialize(arguments)} for path, arguments in rows]


def fired_event(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the event of a trigger that has fired, which Airflow stores until a worker resumes the task."""
    from airflow_stepop.hooks.common.receipts import signed_receipt
    from airflow_stepop.job import JobHandle, JobState, JobStatus
    from airflow_stepop.waiting.deadlines import StopReason

    receipt = json.dumps({"digest": "0" * 64, "size": 2, "outcome": "e30="})
    end = JobStatus(JobState.SUCCEEDED, started_at=1767225600.0, finished_at=1767225660.0)
    return {
        "reason": StopReason.FINISHED.value,
        "job": record["handle"]["name"],
        "error": "",
        "end": end.to_json(),
        "receipt": signed_receipt(JobHandle.from_json(record["handle"]), receipt),
    }


def serialized_dag(work: str) -> Any:
    from airflow.serialization.serialized_objects import DagSerialization

    dag = runpy.run_path(str(DAGS / "served.py"))["served"]()
    return placed(DagSerialization.to_dict(dag), {work: "@WORK@", str(ROOT): "@ROOT@"})


def retry_policy() -> dict[str, Any]:
    from airflow_stepop.retries import RemoteStepRetryPolicy

    policy = RemoteStepRetryPolicy(exceptions=[ConnectionError, "requests.exceptions.Timeout"])
    return {
        "classpath": f"{type(policy).__module__}.{type(policy).__qualname__}",
        "data": policy.serialize(),
    }


def write_supervisor(path: Path) -> None:
    """Write the supervisor of local jobs as a program of its own: one that runs now outlives an upgrade."""
    code = (
        "import sys; sys.path.append(sys.argv[1]); import airflow_stepop.hooks.local.supervisor.main as m;"
        "from airflow_stepop.hooks.local.supervisor.systems import find_system; find_system('linux');"
        "print(*(v.__file__ for n, v in sys.modules.items() if n.startswith('airflow_stepop')), sep='\\n')"
    )
    found = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(ROOT)], capture_output=True, text=True, check=True
    )
    main = (
        "import sys\n\nfrom airflow_stepop.hooks.local.supervisor.main import main\n\n"
        "sys.exit(main(sys.argv[1]))\n"
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(found.stdout.split()):
            archive.write(name, Path(name).relative_to(ROOT))
        archive.writestr("__main__.py", main)


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1][:1].isdigit():
        sys.exit(__doc__)
    main(sys.argv[1])
