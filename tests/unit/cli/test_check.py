"""``airflow stepop check`` reports what works, and fails if something does not."""

from __future__ import annotations

import json
import os
import re
import time

import pytest

from airflow_stepop.cli.smoke_test import TASK, SmokeTest, run_smoke_test
from airflow_stepop.hooks.local import LocalStepHook
from airflow_stepop.job import JobState
from airflow_stepop.payload.standalone import make_step
from tests.support.third_party import LackingHook, install_backend


def rows(output):
    return {row["what"]: row for row in output.data}


@pytest.fixture(autouse=True)
def store(home, tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW__STEPOP__STORE", f"file://{tmp_path}/store")
    monkeypatch.setenv("AIRFLOW__STEPOP__DEPLOYMENT", "tests")
    monkeypatch.setenv("AIRFLOW__STEPOP__SIGNING_KEY", "secret")
    return tmp_path / "store"


def test_everything_works(stepop, store):
    """The command checks backends, stores and the configuration, and leaves nothing in the store."""
    output = stepop("check", "-o", "json")
    assert output.code == 0, output.out
    found = rows(output)
    assert {"host", "folder", "store", "signing key", "deployment"} <= set(found)
    assert found["store"]["found"].startswith(f"file://{store} can be written")
    assert [path for path in store.rglob("*") if path.is_file()] == []


def test_the_store_of_a_connection(stepop, tmp_path, monkeypatch):
    """The command says what names the store. The store need not be in the settings, too."""
    address = f"file://{tmp_path}/of_connection"
    extra = {"stepop": {"backend": "local", "store": address}}
    monkeypatch.setenv("AIRFLOW_CONN_GPU", json.dumps({"conn_type": "generic", "extra": extra}))
    output = stepop("check", "gpu", "-o", "json")
    assert output.code == 0, output.out
    assert rows(output)["store"]["found"] == (
        f"{address}, from the connection 'gpu', can be written, listed, read and deleted from"
    )
    (tmp_path / "of_connection").rename(tmp_path / "away")
    (tmp_path / "of_connection").touch()
    output = stepop("check", "-o", "json")
    assert [row["where"] for row in output.data if row["what"] == "store" and not row["ok"]] == [
        "local (gpu)"
    ]


def test_a_store_that_others_may_change_is_named(stepop, store):
    """That is no error: an administrator has decided it."""
    store.mkdir()
    store.chmod(0o700)
    assert [row for row in stepop("check", "-o", "json").data if str(store) in row["found"][:200]][1:] == []
    store.chmod(0o2775)
    output = stepop("check", "-o", "json")
    assert output.code == 0
    found = [row["found"] for row in output.data if row["what"] == "access"]
    assert any(
        text.startswith(f"{store} has the mode 2775: other users may write to it")
        and "checkpoints in a folder are not" in text
        for text in found
    )


def test_a_store_that_cannot_be_written(stepop, store):
    """The command prints the store's own error, and what to do."""
    store.touch()
    output = stepop("check", "-o", "json")
    assert output.code == 1
    assert rows(output)["store"]["ok"] is False
    assert str(store) in rows(output)["store"]["found"]
    assert rows(output)["store"]["what_to_do"]


def test_a_store_with_a_wrong_address(stepop, monkeypatch):
    """A wrong address is one finding. The other checks run all the same."""
    monkeypatch.setenv("AIRFLOW__STEPOP__STORE", "ftp://host/folder")
    output = stepop("check", "-o", "json")
    assert output.code == 1
    assert "ftp://host/folder" in rows(output)["store"]["found"]
    assert rows(output)["host"]["ok"] is True


def test_settings_that_several_hosts_must_share(stepop, monkeypatch):
    """A deployment with a shared store needs a name and a key. On one host it needs neither."""
    monkeypatch.delenv("AIRFLOW__STEPOP__DEPLOYMENT")
    monkeypatch.delenv("AIRFLOW__STEPOP__SIGNING_KEY")
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "")
    output = stepop("check", "-o", "json")
    assert output.code == 1
    assert [what for what, row in rows(output).items() if row["ok"] is False] == ["signing key", "deployment"]
    monkeypatch.delenv("AIRFLOW__STEPOP__STORE")
    assert stepop("check", "-o", "json").code == 0


def test_one_connection(stepop, monkeypatch):
    """Only the named connection is checked. If it leads to no backend, the error says what to write."""
    monkeypatch.setenv("AIRFLOW_CONN_HERE", '{"conn_type": "generic", "extra": {"backend": "local"}}')
    output = stepop("check", "here", "-o", "json")
    assert output.code == 0
    assert {row["where"] for row in output.data} == {"local (here)"}
    monkeypatch.setenv("AIRFLOW_CONN_WEB", "http://example.com")
    assert "leads to no backend" in stepop("check", "web").err
    assert "there is no connection 'nowhere'" in stepop("check", "nowhere").err


def test_a_backend_that_is_not_installed(stepop, monkeypatch):
    """The command fails if it names the connection. Otherwise other software may use the connection."""
    monkeypatch.setenv("AIRFLOW_CONN_CLOUD", '{"conn_type": "aws"}')
    output = stepop("check", "cloud", "-o", "json")
    assert output.code == 1
    assert "sagemaker" in output.out + output.err
    assert stepop("check", "-o", "json").code == 0


# -- --run


def jobs_of_trials():
    return list(LocalStepHook().find(TASK))


def test_a_step_is_run_and_removed(stepop, store):
    """Every phase has its time, in order, and nothing of the step is left."""
    output = stepop("check", "--run", "-o", "json")
    assert output.code == 0, output.out
    found = rows(output)["run"]["found"]
    assert "a step ran, with Python 3." in found
    phases = re.findall(r"(submitted|started|ended|outcome read) after ([0-9.]+) s", found)
    assert [phase for phase, _ in phases] == ["submitted", "started", "ended", "outcome read"]
    times = [float(after) for _, after in phases]
    assert times == sorted(times)
    assert "running a step on local" in output.err
    assert jobs_of_trials() == []
    assert [path for path in store.rglob("*") if path.is_file()] == []


def test_a_backend_is_checked_by_its_name(stepop):
    """No connection is needed. A connection of the same name would be preferred."""
    output = stepop("check", "local", "--run", "-o", "json")
    assert output.code == 0
    assert {row["where"] for row in output.data} == {"local"}
    assert "run" in rows(output)


def test_an_image_for_a_backend_without_images(stepop):
    """The backend's own error says to leave the image out."""
    output = stepop("check", "local", "--run", "--image", "python:3", "-o", "json")
    assert output.code == 1
    assert "leave image out" in rows(output)["run"]["found"]
    assert rows(output)["run"]["what_to_do"]
    assert "--image needs --run" in stepop("check", "--run", "--image", "python:3").err
    assert "--image needs --run" in stepop("check", "local", "--image", "python:3").err


def test_resources_and_settings_of_the_step(stepop):
    """The step of ``--run`` gets them as a task gives them. A mistake is named."""
    settings = '{"log_limit": "1MiB"}'
    output = stepop(
        "check", "local", "--run", "--resources", '{"cpu_count": 1}', "--settings", settings, "-o", "json"
    )
    assert output.code == 0, output.out
    wrong = stepop("check", "local", "--run", "--settings", '{"log_limi": 1}', "-o", "json")
    assert wrong.code == 1
    assert "did you mean 'log_limit'?" in rows(wrong)["settings"]["found"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--settings", "{}x", "local"], "--settings is no JSON"),
        (["--settings", "[1]", "local"], "--settings must be an object"),
        (["--run", "--resources", '{"cpu": 1}', "local"], "cpu"),
        (["--resources", '{"cpu_count": 1}', "local"], "--resources needs --run"),
        (["--run", "--settings", '{"a": 1}'], "--settings needs the name of a connection or backend"),
        (["--namespace", "x", "local"], "backend 'local' has no namespaces: leave --namespace out"),
    ],
)
def test_options_of_the_step_that_cannot_be_used(stepop, arguments, message):
    output = stepop("check", *arguments)
    assert output.code == 1
    assert message in output.err


@pytest.fixture
def lacking(tmp_path, monkeypatch):
    """Install a backend under the name ``lacking``; one of its checks finds that something is missing."""
    install_backend(monkeypatch, tmp_path / "site", "lacking", f"{LackingHook.__module__}:LackingHook")


def test_where_something_is_missing_no_step_is_run(stepop, lacking):
    """A step would only repeat the finding in a less clear way."""
    output = stepop("check", "lacking", "--run", "-o", "json")
    assert output.code == 1
    assert rows(output)["run"]["found"] == "no step was run"
    assert "running a step" not in output.err


@pytest.mark.parametrize("limit", ["0", "-1", "nan", "inf"])
def test_a_wrong_limit_is_refused(stepop, limit):
    assert "--limit is a number of seconds" in stepop("check", "local", "--run", "--limit", limit).err


def test_with_a_wrong_address_of_the_store_no_step_is_run(stepop, monkeypatch):
    monkeypatch.setenv("AIRFLOW__STEPOP__STORE", "ftp://host/folder")
    output = stepop("check", "local", "--run", "-o", "json")
    assert output.code == 1
    assert "no step could be started" in rows(output)["run"]["found"]


def test_a_text_of_several_lines_is_printed_below_the_table(stepop, lacking):
    """In a table, a text of several lines could not be copied."""
    output = stepop("check", "lacking")
    assert output.code == 1
    assert "apply this (all of it is below)" in output.out
    assert output.out.rstrip().endswith("lacking, role, what to do:\n\napply this:\nkind: Role")
    assert stepop("check", "lacking", "-o", "json").data[0]["what_to_do"] == "apply this:\nkind: Role"


def trial(home, call, limit_s=60.0):
    hook, step = LocalStepHook(), make_step(call)
    tried = SmokeTest(hook, step, limit_s)
    return hook, step, tried, tried.run()


def test_a_step_that_fails_is_described(home):
    """Category, hint, traceback and last lines are printed as for a failed task."""
    hook, step, tried, found = trial(home, ["sh", "-c", "echo what it printed; exit 3"])
    assert not found.is_ok
    assert found.message.startswith("user_error: ")
    assert "exit code 3" in found.message
    assert "what it printed" in found.message
    assert found.fix
    assert tried.remove() == []
    assert hook.lookup(step.spec) is None


def test_a_step_that_is_not_over_in_time_is_ended(home):
    hook, step, tried, found = trial(home, ["sleep", "600"], limit_s=1.0)
    assert not found.is_ok
    assert found.message.startswith("timeout: the step was still running after 1 s")
    handle = hook.lookup(step.spec)
    assert tried.remove() == []
    assert hook.status([handle])[handle].state is JobState.GONE


def test_an_api_that_fails_for_a_while_is_asked_again(home):
    errors = [ConnectionError("not now")] * 2

    class Away(LocalStepHook):
        def status(self, handles):
            if errors:
                raise errors.pop()
            return super().status(handles)

    (found,) = run_smoke_test(Away(), "tests", None)
    assert found.is_ok, found
    assert errors == []


def test_a_job_that_cannot_be_removed_is_reported(home):
    class Undeletable(LocalStepHook):
        def delete(self, handle):
            raise ConnectionError("not now")

    run, left = run_smoke_test(Undeletable(), "tests", None)
    assert run.is_ok
    assert "may still exist: not now" in left.message
    assert "sweep" in left.fix
    for job in jobs_of_trials():
        assert job.labels["deployment"] == "tests"
        LocalStepHook().delete(job.handle)


def test_an_interrupted_check_leaves_nothing(home):
    """Ctrl-C ends the step as well."""
    interruptions = [KeyboardInterrupt]

    class Interrupted(LocalStepHook):
        def status(self, handles):
            if interruptions:
                raise interruptions.pop()
            return super().status(handles)

    with pytest.raises(KeyboardInterrupt):
        run_smoke_test(Interrupted(), "tests", None)
    assert jobs_of_trials() == []


def cached(tmp_path, name, age_days, size=2048):
    """Put a set of requirements into the cache, used that long ago."""
    folder = tmp_path / "cache" / "requirements" / (name * 32)
    folder.mkdir(parents=True)
    (folder / "module.py").write_bytes(b"x" * size)
    os.utime(folder, (time.time() - age_days * 86400,) * 2)
    return folder


def test_the_cache_of_requirements_has_a_size(stepop, monkeypatch, tmp_path):
    monkeypatch.setenv("STEPOP_CACHE", str(tmp_path / "cache"))
    assert "requirements" not in rows(stepop("check", "-o", "json"))
    cached(tmp_path, "a", 0)
    cached(tmp_path, "b", 0, size=1024)
    found = rows(stepop("check", "-o", "json"))["requirements"]
    assert found["ok"] is True
    place = tmp_path / "cache" / "requirements"
    assert found["found"].startswith(f"installed requirements: 2 sets, 3 KiB in {place}; gc deletes")
