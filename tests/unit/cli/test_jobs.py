"""``airflow stepop jobs``, ``logs`` and ``cancel``, with running, finished and failed jobs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading

import pytest

from airflow_stepop.job import JobState
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.timeout(900)]


def test_jobs_of_a_run(stepop, ran):
    """The jobs of a finished run are listed in the order of its tasks, with all known fields."""
    output = stepop("jobs", "--dag-id", "upkeep", "-o", "json")
    assert output.code == 0, output.err
    rows = {row["task_id"]: row for row in output.data}
    assert list(rows) == ["fails", "large"], "the others were deleted, as keep says"
    assert rows["fails"]["state"] == "failed"
    assert rows["large"]["state"] == "succeeded"
    assert rows["large"]["run_id"] == ran["run_id"]
    assert 0 <= rows["large"]["duration_s"] < 100
    assert rows["large"]["labels"]["nonce"]
    assert rows["large"]["backend"] == "local"
    assert rows["large"]["started_at"] <= rows["large"]["finished_at"]


def test_jobs_of_another_run(stepop, ran):
    """The filters match exactly."""
    assert stepop("jobs", "--run-id", "no-such-run", "-o", "json").data == []
    assert stepop("jobs", "--dag-id", "upkee", "-o", "json").data == []
    both = stepop("jobs", "--dag-id", "upkeep", "--run-id", ran["run_id"], "-o", "json")
    assert len(both.data) == 2


def test_usage_is_shown_where_it_was_collected(stepop, ran, instance):
    """The usage is in the record. The table shows it in short, the data in full."""
    one = instance("large", "success")
    record = ran["records"]["large"]
    nonce = json.loads(record)["nonce"]
    usage = {"wall_s": 1.5}
    one.set_record({**json.loads(record), "collected": {"result": {}, "usage": usage}})
    rows = {row["task_id"]: row for row in stepop("jobs", "--dag-id", "upkeep", "-o", "json").data}
    assert rows["large"]["usage"] == usage
    assert rows["large"]["labels"]["nonce"] == nonce
    one.set_record({**json.loads(record), "nonce": "other", "collected": {"result": {}, "usage": usage}})
    rows = {row["task_id"]: row for row in stepop("jobs", "--dag-id", "upkeep", "-o", "json").data}
    assert rows["large"]["usage"]["wall_s"] != 1.5, "what the backend itself measured is all that is known"


def test_jobs_as_a_table(stepop, ran):
    """Each job has one line, with its whole name. The lines fit into 100 characters."""
    data = {row["task_id"]: row for row in stepop("jobs", "--dag-id", "upkeep", "-o", "json").data}
    for output in ("table", "plain"):
        head, *lines = stepop("jobs", "--dag-id", "upkeep", "-o", output).out.splitlines()
        assert head.split() == ["job", "state", "age", "task", "CPU", "memory"]
        assert max(map(len, [head, *lines])) <= 100
        cells = [re.split("  +", line) for line in lines]
        assert [cell[0] for cell in cells] == [data["fails"]["job"], data["large"]["job"]]
        assert [cell[1] for cell in cells] == ["failed (user_error)", "succeeded"]
        assert [cell[3] for cell in cells] == ["fails", "large"]
        assert re.fullmatch(r"[0-9.]+ of 1", cells[1][4])
        assert re.fullmatch(r"[0-9.]+ MiB of 512 MiB", cells[1][5])


@pytest.mark.parametrize(("index", "shown"), [(0, "t[0]"), (3, "t[3]"), (-1, "t"), (None, "t")])
def test_the_map_index_is_shown(index, shown):
    from airflow_stepop.cli.jobs import _short

    row = dict.fromkeys(("job", "native_state", "why", "usage", "age_s")) | {"state": "running", "asked": {}}
    assert _short({**row, "task_id": "t", "map_index": index})["task"] == shown


def test_jobs_as_a_wide_table(stepop, ran):
    head, *lines = stepop("jobs", "--dag-id", "upkeep", "--wide").out.splitlines()
    assert head.split()[6:] == ["duration", "backend", "dag", "run", "link"]
    assert all(re.search(rf" local +upkeep +{re.escape(ran['run_id'])}", line) for line in lines)


def test_jobs_in_a_state(stepop, ran):
    def tasks(*states):
        options = [word for state in states for word in ("--state", state)]
        return [row["task_id"] for row in stepop("jobs", "--dag-id", "upkeep", "-o", "json", *options).data]

    assert tasks("failed") == ["fails"]
    assert tasks("succeeded") == ["large"]
    assert tasks("failed", "succeeded") == ["fails", "large"]
    assert tasks("running") == []


def test_jobs_of_a_dag_that_is_not_there(stepop, ran):
    output = stepop("jobs", "--dag-id", "upkee", "-o", "json")
    assert (output.code, output.data) == (1, [])
    assert "there is no DAG 'upkee'; did you mean 'upkeep'?" in output.err


def test_a_field_of_a_job_has_its_own_type(stepop, ran):
    """Programs read the category of the step's own error, numbers as numbers, and keys without spaces."""
    rows = {row["task_id"]: row for row in stepop("jobs", "--dag-id", "upkeep", "-o", "json").data}
    assert rows["fails"]["why"] == "user_error"
    assert rows["large"]["why"] is None
    assert rows["large"]["map_index"] == -1
    assert rows["large"]["age_s"] > rows["large"]["duration_s"]
    assert rows["large"]["asked"] == {"cpu_count": 1, "memory": "512MiB"}
    for command in (["list"], ["gc"], ["sweep"], ["jobs"]):
        for row in stepop(*command, "-o", "json").data:
            assert not [key for key in row if " " in key]
    assert {row["usable"] for row in stepop("list", "-o", "json").data} == {True, False}


def test_jobs_of_another_deployment_are_not_shown(stepop, jobs, instance, monkeypatch):
    """Two Airflows with one account see only their own jobs."""
    handle = jobs.submit(instance("quiet"), "true", deployment="other")
    listed = {row["job"] for row in stepop("jobs", "-o", "json").data}
    assert handle.name not in listed
    monkeypatch.setenv("AIRFLOW__STEPOP__DEPLOYMENT", "other")
    assert [row["job"] for row in stepop("jobs", "-o", "json").data] == [handle.name]


def test_a_job_is_listed_once_however_many_connections_lead_to_it(stepop, ran, monkeypatch):
    """Two connections that lead to the same place list its jobs once."""
    monkeypatch.setenv("AIRFLOW_CONN_HERE", '{"conn_type": "generic", "extra": {"backend": "local"}}')
    assert len(stepop("jobs", "--dag-id", "upkeep", "-o", "json").data) == 2


def test_a_connection_that_fails_does_not_hide_the_others(stepop, ran, monkeypatch):
    """The failure is printed, and the exit code tells a script that the list is incomplete."""
    monkeypatch.setenv("AIRFLOW_CONN_BROKEN", "{not json")
    output = stepop("jobs", "--dag-id", "upkeep", "-o", "json")
    assert output.code == 1
    assert len(output.data) == 2
    assert "the connection 'broken' cannot be read" in output.err


def test_a_place_that_fails_does_not_hide_the_others(stepop, ran, monkeypatch, tmp_path):
    """A backend that cannot list its jobs is reported."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("AIRFLOW__STEPOP__LOCAL_FOLDER", str(tmp_path / "file"))
    output = stepop("jobs", "-o", "json")
    assert (output.code, output.data) == (1, [])
    assert "the jobs of local cannot be listed" in output.err


def test_a_connection_can_be_named(stepop, ran):
    """A connection that is not in the list of connections is used if named. A wrong name is an error."""
    output = stepop("jobs", "--conn-id", "nowhere")
    assert output.code == 1
    assert "there is no connection 'nowhere'" in output.err


def test_logs(stepop, ran):
    """The command prints the job's output. The beginning of a name suffices."""
    name = next(row["job"] for row in stepop("jobs", "-o", "json").data if row["task_id"] == "fails")
    output = stepop("logs", name)
    assert output.out.startswith("so long\n"), output.err
    assert stepop("logs", name[:-4]).out == output.out
    assert stepop("logs", name, "--follow").out == output.out


def test_logs_of_a_running_job(stepop, jobs, instance, tmp_path):
    """Without ``--follow`` the command prints the lines so far. With it, the command ends with the job."""
    go = tmp_path / "go"
    script = f"echo one; until test -e {go}; do sleep 0.1; done; echo two"
    handle = jobs.submit(instance("quiet"), "sh", "-c", script)
    wait_until(lambda: stepop("logs", handle.name).out, "the first line")
    assert stepop("logs", handle.name).out == "one\n"
    # during ``--follow``; if the job ends before the command starts, the output is the same
    threading.Timer(2, go.touch).start()
    assert stepop("logs", handle.name, "--follow").out == "one\ntwo\n"


def test_logs_do_no_harm_to_a_terminal(stepop, jobs, instance):
    """A step's output cannot set the clipboard or the title, or fake a line, in a user's terminal."""
    handle = jobs.submit(instance("quiet"), "printf", r"\033]0;title\007a\033[2Jb\fc\033[31mred\n")
    jobs.wait(handle)
    assert stepop("logs", handle.name).out == "ab\N{SYMBOL FOR FORM FEED}c\x1b[31mred\n"


def test_an_ambiguous_name_lists_the_candidates(stepop, ran):
    """No job is touched that the user may not have meant."""
    output = stepop("cancel", "s-upkeep-")
    assert output.code == 1
    assert "could be any of 2 jobs" in output.err
    assert "s-upkeep-fails-" in output.err
    assert "s-upkeep-large-" in output.err
    assert "there is no job 's-nothing'" in stepop("logs", "s-nothing").err


def test_cancel(stepop, jobs, instance):
    """A running job is cancelled. A finished job is left alone, which is no error."""
    handle = jobs.submit(instance("quiet"), "sleep", "600")
    output = stepop("cancel", handle.name)
    assert output.code == 0
    assert "is being cancelled" in output.out
    assert jobs.wait(handle) is JobState.CANCELLED
    output = stepop("cancel", handle.name)
    assert output.code == 0
    assert "has already ended: cancelled" in output.out


def test_as_a_user_calls_it(home, ran):
    """The real command prints one document and nothing else, even into a pipe that is closed early."""
    env = {**os.environ, "AIRFLOW_HOME": str(home), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "airflow", "stepop", "jobs", "--dag-id", "upkeep", "-o", "yaml"]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("- job: s-upkeep-fails-")
    assert done.stderr == ""
    piped = f"{sys.executable} -m airflow stepop jobs -o json | head -c 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", piped], capture_output=True, text=True, env=env)
    assert (done.stdout, done.stderr) == ("[", "")
