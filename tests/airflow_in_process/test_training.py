"""A DAG whose steps are SageMaker training jobs, and the commands that look at its jobs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.emulators.sagemaker.container import unavailable
from tests.support.needs import needs
from tests.support.sagemaker import log_service, sagemaker
from tests.support.wheels import make_wheel

pytestmark = [pytest.mark.timeout(900)]

HERE = Path(__file__).parent
SECOND_S = 0.02  # of the service's time limits
COUNT = 500_000

# Runs commands in one process, and then looks for garbage as of a day far away
COMMANDS = """
import contextlib, io, json, sys, time
from airflow.cli.cli_parser import get_parser
from airflow_stepop.maintenance.garbage import find_garbage

def run(words):
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            args = get_parser().parse_args(["stepop", *words])
            args.func(args)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else str(end.code)
    return {"out": out.getvalue(), "err": err.getvalue(), "code": code}

found = [run(words) for words in json.loads(sys.argv[1])]
late = find_garbage(now=time.time() + 400 * 86400, retention_s=86400.0, complain=print)
told = [[one.kind, one.name, one.count] for one in late]
print("\\nanswer", json.dumps({"commands": found, "garbage": told}))
"""


@dataclass
class Output:
    """What a command wrote, and its exit code."""

    out: str
    err: str
    code: int | str

    @property
    def data(self):
        assert self.code == 0, (self.code, self.out, self.err)
        return json.loads(self.out)


@pytest.fixture(scope="module")
def service(s3_server, airflow_process):
    needs(not unavailable(), f"namespaces for containers: {unavailable()}")
    shared = [str(airflow_process.home.parent)]
    with log_service() as logs_url, sagemaker(s3_server, logs_url, second_s=SECOND_S, shared=shared) as found:
        yield found


@pytest.fixture(scope="module")
def where(service, s3_server, airflow_process):
    env = {
        f"AIRFLOW_CONN_{s3_server.conn_id.upper()}": s3_server.connection(),
        "AIRFLOW_CONN_AWS_DEFAULT": service.connection(stepop={"settings": {"role": service.role}}),
        "AIRFLOW_CONN_HIDDEN": "postgres://login:a-long-password@host/db",
        "AIRFLOW__STEPOP__DEPLOYMENT": "tests",
    }
    return airflow_process.place("training", s3_server.new_address(), env)


@pytest.fixture(scope="module")
def run(airflow_process, where, service):
    wheels = airflow_process.home.parent / "wheels"
    make_wheel(wheels, "stepop_dep", "1.0")
    file = HERE / "dags" / "training.py"
    found = airflow_process.run(file, place=where, env={"AIRFLOW_VAR_TRAINING_WHEELS": str(wheels)})
    found.jobs = service.report()["jobs"]
    return found


# -- values


def test_small_values(run, service):
    run.assert_state("small")
    value = run.value("small")
    assert value["sum"] == 12
    assert value["job"] in run.jobs
    assert run.value("small_deferred")["sum"] == 4
    run.assert_state("nothing")
    assert "return_value" not in run.xcoms["nothing"]


@pytest.mark.parametrize("task", ["small", "small_deferred"])
def test_its_log_has_the_lines_of_the_job_once(run, task):
    run.assert_state(task)
    log = run.log(task)
    assert log.count(f"the log of {task}") == 1
    assert "STEPOP-RECEIPT" not in log
    assert "Submitted: " in log


def test_the_link_leads_to_the_console(run):
    link = next(value for key, value in run.xcoms["small"].items() if "link" in key.lower())
    console = "https://us-east-1.console.aws.amazon.com/sagemaker/home?region=us-east-1#/jobs/"
    assert link == console + run.value("small")["job"]


def test_usage(run):
    assert run.xcoms["small"]["usage"]["wall_s"] > 0
    run.assert_state("reads_usage")


def test_a_large_result_is_a_reference_into_the_output_of_the_job(run):
    run.assert_state("large")
    assert len(json.dumps(run.value("large"))) < 2_000
    assert "/output/" in json.dumps(run.value("large"))
    assert max(found.size for found in run.results("large")) >= COUNT * 8


@pytest.mark.parametrize("task", ["reads_array", "reads_array_deferred", "reads_array_locally"])
def test_another_step_reads_it(run, task):
    run.assert_state(task)
    assert run.value(task) == [COUNT * (COUNT - 1) / 2, "float64", COUNT]


def test_a_task_of_airflow_reads_it(run):
    run.assert_state("reads_array_here")
    assert run.value("reads_array_here") == [COUNT * (COUNT - 1) / 2 + 1, "float64", COUNT]


def test_tables_and_objects(run):
    run.assert_state("reads_table")
    assert run.value("reads_table") == [19_999 * 10_000, ["a", "b"], 20_000]
    run.assert_state("reads_model")
    assert run.value("reads_model") == ["Model", 100_000.0]


def test_multiple_outputs(run):
    run.assert_state("outputs")
    assert run.xcoms["outputs"]["small"] == 1
    run.assert_state("reads_outputs")
    assert run.value("reads_outputs") == [1, 200_000]


def test_mapped_steps(run):
    assert [run.value(f"squares[{index}]") for index in range(3)] == [1, 4, 9]
    run.assert_state("total")
    assert run.value("total") == 14
    assert [run.value(f"length[{index}]") for index in range(3)] == [50_000] * 3


def test_commands(run):
    run.assert_state("command")
    assert "to the log" in run.log("command")
    assert run.results("command")


# -- failures


def test_an_exception_comes_back(run):
    error = run.error("raises")
    assert "UnluckyError" in error["mro"] or "UnluckyError" in json.dumps(error)
    assert "out of luck" in error["text"]
    assert (run.place.marks / "called_back").read_text().startswith("raises: ")
    error = run.error("raises_deferred")
    assert "ZeroDivisionError" in json.dumps(error)


def test_exit_codes(run):
    assert "7" in run.error("exits")["text"]
    error = run.error("command_fails")["text"]
    assert "exit code 3" in error or "exit status 3" in error
    assert "why: user_error" in error
    assert "oh no" in error


def test_a_time_limit(run):
    assert "why: timeout" in run.error("too_long")["text"]


# -- what else a step may ask for


def test_secrets(run, service):
    run.assert_state("secret")
    assert run.value("secret") == len("a-long-password")
    client = service.client("sagemaker")
    for name in run.jobs:
        assert "a-long-password" not in str(client.describe_training_job(TrainingJobName=name))


def test_a_checkpoint_is_found_by_the_next_try(run):
    run.assert_state("resumes")
    assert run.tries("resumes") == 2
    assert run.value("resumes") == "of the first try"


def test_requirements(run):
    run.assert_state("requires")
    assert run.value("requires") == "1.0"
    log = run.log("requires")
    assert "stepop: installed" in log or "stepop: requirements ready (cached)" in log


def test_one_job_for_each_try(run):
    """None was started twice, and none runs."""
    steps = set(run.records) - {"reads_array_locally"}
    assert len(run.jobs) == sum(map(run.tries, steps))
    assert {job["status"] for job in run.jobs.values()} <= {"Completed", "Failed", "Stopped"}
    assert [name for name, job in run.jobs.items() if job["attempts"] != 1] == []


# -- the commands


@pytest.fixture(scope="module")
def commands(run, airflow_process):
    failed = json.loads(run.records["command_fails"])
    name = failed["handle"]["name"] if isinstance(failed["handle"], dict) else ""
    file = str(airflow_process.dags / "training.py")
    wanted = {
        "jobs": ["jobs", "--dag-id", "training", "-o", "json", "--wide"],
        "logs": ["logs", name],
        "describe": ["describe", "sagemaker"],
        "describe_conn": ["describe", "aws_default", "-o", "json"],
        "list": ["list", "-o", "json"],
        "check": ["check", "aws_default", "-o", "json"],
        "render": ["render", "training", "secret", "-f", file, "-o", "json"],
        "sweep": ["sweep", "--min-age", "0", "-o", "json"],
        "gc": ["gc", "-o", "json"],
    }
    env = {**airflow_process.env, **run.place.env}
    command = [sys.executable, "-c", COMMANDS, json.dumps(list(wanted.values()))]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    answer = done.stdout.rpartition("\nanswer ")[2]
    assert answer.startswith("{"), done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads(answer)
    outputs = dict(zip(wanted, (Output(**one) for one in found["commands"]), strict=True))
    return {**outputs, "garbage": found["garbage"], "failed": name}


def test_jobs_shows_what_was_kept(run, commands):
    """``keep`` is "failed" by default."""
    states = {row["job"].rpartition("-")[0]: row["state"] for row in commands["jobs"].data}
    failed = ("raises", "raises-deferred", "exits", "command-fails")
    assert [states[f"s-training-{task}"] for task in failed] == ["failed"] * len(failed)
    assert "s-training-small" not in states


def test_logs(commands):
    assert "oh no" in commands["logs"].out, commands["logs"]


def test_describe(commands):
    assert "instance_type" in commands["describe"].out
    assert "role" in commands["describe_conn"].out


def test_list_and_check(commands):
    assert "sagemaker" in commands["list"].out
    assert "ok" in commands["check"].out, commands["check"]


def test_render_shows_the_request_and_no_secret(commands):
    text = commands["render"].out
    assert "TrainingJobName" in text, commands["render"]
    assert "a-long-password" not in text


def test_sweep_has_nothing_to_cancel(commands):
    assert [row for row in commands["sweep"].data if row.get("action") == "cancel"] == []


def test_gc_keeps_what_an_xcom_names_and_collects_staged_input(run, commands):
    assert [row for row in commands["gc"].data if row["count"]] == []
    kinds = {}
    for kind, name, _ in commands["garbage"]:
        kinds.setdefault(kind, []).append(name)
    results = kinds.get("results", [])
    for task in ("large", "table", "model", "outputs"):
        assert not [name for name in results if f"/{task}/" in name]
    staged = kinds["staged input"]
    assert [name for name in staged if "/command-fails-" in name]
    assert not [name for name in staged if "/large/" in name], "it was deleted with its job"


def test_nothing_of_a_job_that_succeeded_is_left(run):
    from airflow_stepop.stores.configured import open_store

    left = [found.path for found in open_store(run.place.store).objects("jobs")]
    assert left
    assert not [path for path in left if re.search("/(small|large|table|secret)/", path)]
    assert not [path for path in left if path.endswith(".sealed")], "no secret stays"
