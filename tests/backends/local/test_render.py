"""The request of the local backend to its supervisor, and the errors of render and submit."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from airflow_stepop.exceptions import StepConfigError, UnsupportedError
from airflow_stepop.hooks.local import LocalSettings, LocalStepHook
from airflow_stepop.hooks.local.host import HostFacts, step_environment
from airflow_stepop.job import StepSpec
from airflow_stepop.resources import ResourceSettings

GIB = 2**30
HOST = HostFacts(cpu_count=8, memory_bytes=16 * GIB, python="/usr/bin/python3")


def spec(**options: object) -> StepSpec:
    fields = {
        "name": "s-dag-task-0123456789ab",
        "nonce": "ab" * 16,
        "digest": "cd" * 32,
        "labels": {"dag_id": "dag", "nonce": "ab" * 16},
        "resources": ResourceSettings(),
        "result_uri": "file:///srv/store/results/a%20b",
        **options,
    }
    return StepSpec(**fields)


@pytest.fixture
def hook(tmp_path: Path) -> LocalStepHook:
    hook = LocalStepHook(folder=tmp_path)
    hook.host = HOST
    return hook


def test_render_is_the_golden_request(hook: LocalStepHook) -> None:
    """The golden request belongs to a step that uses every option of the backend."""
    asked = spec(
        resources=ResourceSettings(cpu_count=2.5, memory="1.5GiB", nodes=1, gpu_count=0),
        settings=LocalSettings(python="/opt/py/bin/python", grace_period_s=3, log_limit="2MiB"),
        env={"A": "b"},
        timeout_s=60.0,
    )
    golden = json.loads((Path(__file__).parent / "golden_request.json").read_text())
    assert hook.render(asked) == golden


def test_render_of_a_plain_step_limits_only_its_time(hook: LocalStepHook) -> None:
    """Without options, only the run time is limited."""
    request = hook.render(spec(result_uri=""))
    assert request["limits"] == {
        "cpu_count": None,
        "memory_bytes": None,
        "timeout_s": 86400.0,
        "grace_period_s": 10.0,
        "log_bytes": 128 * 2**20,
    }
    assert request["argv"][:3] == ["/usr/bin/python3", "-u", "in/step.pyz"]
    assert "--segments" not in request["argv"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"resources": ResourceSettings(cpu_count=9)},
            "cpu_count=9: this host has 8; ask for at most 8, or use a remote backend",
        ),
        (
            {"resources": ResourceSettings(memory="32GB")},
            "memory='32GB': this host has 16 GiB; ask for at most 16 GiB, or use a remote backend",
        ),
        (
            {"resources": ResourceSettings(gpu_count=1)},
            "gpu_count=1: this host has none; leave it out, or use a remote backend",
        ),
        (
            {"resources": ResourceSettings(nodes=2)},
            "nodes=2: the local backend is one host; use nodes=1, or a remote backend",
        ),
        (
            {"image": "python:3.12"},
            "image='python:3.12': the local backend runs on this host without containers; leave image out",
        ),
    ],
)
def test_what_the_host_cannot_give_is_refused(hook: LocalStepHook, options: dict, message: str) -> None:
    """The error says what was asked for, what the host has, and what would work."""
    with pytest.raises(UnsupportedError) as caught:
        hook.render(spec(**options))
    assert message == str(caught.value)


def test_all_problems_are_reported_at_once(hook: LocalStepHook) -> None:
    """Nobody has to fix one problem to learn of the next."""
    with pytest.raises(
        UnsupportedError, match=r"cpu_count=9.*; memory='1TB'.*; gpu_count=1 with gpu_type='A100'"
    ):
        hook.render(spec(resources=ResourceSettings(cpu_count=9, memory="1TB", gpu_count=1, gpu_type="A100")))


def test_a_step_of_another_backend_runs_with_what_there_is(
    hook: LocalStepHook, capsys: pytest.CaptureFixture[str]
) -> None:
    """One warning lists all requests that cannot be honoured."""
    asked = spec(
        is_overridden=True,
        image="cuda:12",
        settings={"gpu": "A100"},
        resources=ResourceSettings(cpu_count=64, memory="512GB", gpu_count=8, disk="1PB"),
    )
    assert hook.render(asked)["limits"]["cpu_count"] is None
    assert hook.render(asked)["limits"]["memory_bytes"] is None
    hook._check_now(asked)
    warning = capsys.readouterr().out
    assert warning.count("This step runs on this host without what it asks for") == 1
    for name in ("image='cuda:12'", "cpu_count=64", "memory='512GB'", "gpu_count=8", "disk='1PB'"):
        assert name in warning


@pytest.mark.parametrize("name", ["disk", "shm"])
def test_free_room_is_checked_when_the_step_is_submitted(hook: LocalStepHook, name: str) -> None:
    """Disk and shared memory must be free now; else an error says how much there is."""
    with pytest.raises(
        UnsupportedError, match=rf"{name}='1PB': /\S+ has [0-9.]+ \w+ free; make room, or ask for"
    ):
        hook._check_now(spec(resources=ResourceSettings(**{name: "1PB"})))
    hook._check_now(spec(resources=ResourceSettings(**{name: "1MB"})))


@pytest.mark.parametrize("python", ["/no/such/python", "python3", "/tmp", __file__])
def test_an_interpreter_that_cannot_run_is_refused(hook: LocalStepHook, python: str) -> None:
    """The submit fails before it starts anything."""
    if python == __file__:
        assert not os.access(python, os.X_OK)
    with pytest.raises(StepConfigError, match=rf"settings python='{python}' is not an executable file"):
        hook._check_now(spec(settings=LocalSettings(python=python)))


def test_the_step_inherits_no_airflow() -> None:
    """The step gets the worker's environment without the variables of Airflow and of the worker's Python."""
    worker = {
        "PATH": "/bin",
        "HOME": "/root",
        "AIRFLOW_HOME": "x",
        "AIRFLOW__CORE__FERNET_KEY": "x",
        "_AIRFLOW_PROCESS_CONTEXT": "x",
        "__AIRFLOW_SUPERVISOR_FD": "x",
        "AIRFLOW_CONN_AWS": "x",
        "STEPOP_NONCE": "x",
        "PYTHONHOME": "x",
        "PYTHONSTARTUP": "x",
        "PYTHONPATH": "/dags",
    }
    own = step_environment(worker, is_own_python=True)
    assert own == {"PATH": "/bin", "HOME": "/root", "PYTHONPATH": "/dags"}
    assert step_environment(worker, is_own_python=False) == {"PATH": "/bin", "HOME": "/root"}


def test_jobs_live_where_the_configuration_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Jobs live in ``[stepop] local_folder``, by default a folder below Airflow's home."""
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    assert LocalStepHook().folder == tmp_path / "stepop" / "jobs"
    monkeypatch.setenv("AIRFLOW__STEPOP__LOCAL_FOLDER", str(tmp_path / "elsewhere"))
    assert LocalStepHook().folder == tmp_path / "elsewhere"


def test_check_says_what_works(hook: LocalStepHook) -> None:
    """``check`` reports the host, the folder and the interpreter."""
    findings = {finding.subject: finding for finding in hook.check()}
    assert all(finding.is_ok for finding in findings.values())
    assert "8 CPUs, 16 GiB of memory" in findings["host"].message


def test_check_of_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """``check`` says why the folder cannot be made, and which option to set."""
    (tmp_path / "file").touch()
    finding = next(
        f for f in LocalStepHook(folder=tmp_path / "file" / "jobs").check() if f.subject == "folder"
    )
    assert not finding.is_ok
    assert "Not a directory" in finding.message
    assert "[stepop] local_folder" in finding.fix
