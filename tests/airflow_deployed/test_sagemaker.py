"""Steps as SageMaker training jobs in a real Airflow: deferred, watched, many at once, ended by the user."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.emulators.sagemaker.container import unavailable
from tests.support import deployment
from tests.support.needs import needs
from tests.support.sagemaker import log_service, sagemaker
from tests.support.waiting import wait_until

DAGS = Path(__file__).parent / "dags_sagemaker"
OVER = {"Completed", "Failed", "Stopped"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sagemaker")


@pytest.fixture(scope="module")
def service(s3_server, folder):
    needs(not unavailable(), f"namespaces for containers: {unavailable()}")
    with log_service() as logs_url, sagemaker(s3_server, logs_url, shared=[str(folder)]) as found:
        yield found


@pytest.fixture(scope="module")
def airflow(service, s3_server, folder):
    env = {
        f"AIRFLOW_CONN_{s3_server.conn_id.upper()}": s3_server.connection(),
        "AIRFLOW_CONN_AWS_DEFAULT": service.connection(stepop={"settings": {"role": service.role}}),
        "AIRFLOW__STEPOP__STORE": s3_server.new_address(),
    }
    found = deployment.Deployment(folder / "home", DAGS, env)
    with found.running():
        yield found


def jobs(service, text):
    """Return the jobs whose name has ``text``: name -> what the emulator knows."""
    return {name: job for name, job in service.report()["jobs"].items() if text in name}


def events(airflow, dag_id, run, task, **which):
    return [json.loads(line)["event"] for line in airflow.log(dag_id, run, task, **which).splitlines()]


def wait_started(airflow, mark, count=1):
    airflow.wait_for(lambda: airflow.count(f"{mark}.started") >= count, f"start {count} of {mark}")


def test_a_deferred_step_shows_its_lines_while_it_runs_and_resumes(airflow, service):
    run = airflow.trigger("training_log")
    airflow.wait_state("training_log", run, "waits", "deferred")
    one, two = (f"line {word} of {airflow.marks}/training_log" for word in ("one", "two"))
    airflow.wait_for(lambda: one in events(airflow, "training_log", run, "waits"), "its first line")
    assert airflow.state("training_log", run, "waits") == "deferred"
    airflow.let_go("training_log")
    assert airflow.wait_run("training_log", run) == {"waits": "success"}
    found = events(airflow, "training_log", run, "waits")
    assert [event for event in found if event in (one, two)] == [one, two]
    assert not [event for event in found if "STEPOP-RECEIPT" in event]
    (job,) = jobs(service, "training-log")
    assert airflow.xcom("training_log", run, "waits") == {"number": 0, "job": job}


def test_ten_steps_at_once(airflow, service):
    run = airflow.trigger("training_ten")
    wait_started(airflow, "training_ten", 10)
    assert {job["status"] for job in jobs(service, "training-ten").values()} == {"InProgress"}
    airflow.let_go("training_ten")
    assert set(airflow.wait_run("training_ten", run).values()) == {"success"}
    found = [airflow.xcom("training_ten", run, "waits", map_index=index) for index in range(10)]
    assert [one["number"] for one in found] == list(range(10))
    assert {one["job"] for one in found} == set(jobs(service, "training-ten"))
    assert airflow.count("training_ten.started") == 10, "no step was started twice"
    for index in range(10):
        lines = events(airflow, "training_ten", run, "waits", map_index=index)
        assert len([line for line in lines if line.startswith("line two of")]) == 1


@pytest.fixture(scope="module")
def ended(airflow):
    """A run whose steps have all started."""
    run = airflow.trigger("training_user")
    for way in ("running", "deferred"):
        for act in ("failed", "cleared"):
            wait_started(airflow, f"training_user.{act}_{way}")
            airflow.wait_state("training_user", run, f"{act}_{way}", way)
            if way == "deferred":
                airflow.wait_trigger("training_user", run, f"{act}_{way}")
    return run


@pytest.mark.parametrize("way", ["running", "deferred"])
def test_the_user_ends_a_step(airflow, service, ended, way):
    airflow.patch("training_user", ended, f"failed_{way}", "failed")
    (name,) = jobs(service, f"failed-{way}")
    wait_until(
        lambda: jobs(service, name)[name],
        "its job to stop",
        holds=lambda job: job["status"] == "Stopped",
        explain=lambda: [
            airflow.logs("training_user", ended, f"failed_{way}"),
            airflow.output_of("triggerer"),
        ],
    )
    assert airflow.count(f"training_user.failed_{way}.started") == 1


@pytest.mark.parametrize("way", ["running", "deferred"])
def test_a_clear_ends_the_job_and_starts_another(airflow, service, ended, way):
    mark = f"training_user.cleared_{way}"
    (first,) = jobs(service, f"cleared-{way}")
    airflow.clear("training_user", ended, f"cleared_{way}")
    wait_started(airflow, mark, 2)
    assert jobs(service, first)[first]["status"] in OVER, "it ended before the other began"
    airflow.let_go(mark)
    assert airflow.wait_state("training_user", ended, f"cleared_{way}") == "success"
    (second,) = jobs(service, f"cleared-{way}").keys() - {first}
    assert airflow.xcom("training_user", ended, f"cleared_{way}")["job"] == second


# -- faults


WAYS = ("running", "deferred")


def begin(airflow):
    """Start a step in each way, and return the run."""
    run = airflow.trigger("training_faults")
    for way in WAYS:
        wait_started(airflow, f"training_faults.{run}.{way}")
        airflow.wait_state("training_faults", run, way, way)
    airflow.wait_trigger("training_faults", run, "deferred")
    return run


def finish(airflow, service, run, before):
    """Let the steps end. Each has run once, in one job."""
    for way in WAYS:
        airflow.let_go(f"training_faults.{run}.{way}")
    states = airflow.wait_run("training_faults", run)
    assert states == dict.fromkeys(WAYS, "success"), "".join(
        airflow.log("training_faults", run, way)[-3000:] for way in WAYS
    )
    assert [airflow.count(f"training_faults.{run}.{way}.started") for way in WAYS] == [1, 1]
    found = {airflow.xcom("training_faults", run, way)["job"] for way in WAYS}
    assert jobs(service, "training-faults").keys() - before == found


def wait_refused(airflow, service, code, count=3):  # each further pause of who asks is longer
    """Wait until so many more requests were answered with an error."""

    def refused():
        answers = service.report()["answers"]
        return sum(number for answer, number in answers.items() if answer.endswith(f" {code}"))

    before = refused()
    airflow.wait_for(refused, f"{count} answers {code}", holds=lambda now: now >= before + count)


def test_storms_of_errors_cost_nothing(airflow, service):
    before = jobs(service, "training-faults").keys()
    service.do("fault", kind="throttle", operation="CreateTrainingJob", count=2)
    service.do("fault", kind="lost", operation="CreateTrainingJob", count=1, after=True)
    run = begin(airflow)
    storms = {
        "throttle": "ThrottlingException",
        "internal": "InternalFailure",
        "expired": "ExpiredTokenException",
    }
    for kind, code in storms.items():
        service.do("fault", kind=kind)
        wait_refused(airflow, service, code)
        if kind == "expired":
            for way in WAYS:  # the steps end while the token is expired
                airflow.let_go(f"training_faults.{run}.{way}")
        service.do("clear_faults")
    finish(airflow, service, run, before)


@pytest.mark.parametrize("skew_s", [-290.0, 290.0])
def test_clocks_may_differ_by_almost_five_minutes(airflow, service, skew_s):
    """The service refuses signatures beyond that."""
    before = jobs(service, "training-faults").keys()
    service.do("settings", clock_skew_s=skew_s)
    try:
        finish(airflow, service, begin(airflow), before)
    finally:
        service.do("settings", clock_skew_s=0.0)


def test_a_job_that_somebody_deleted_is_replaced(airflow, service):
    before = jobs(service, "training-faults").keys()
    run = begin(airflow)
    for name in jobs(service, "training-faults").keys() - before:
        service.do("vanish", job=name)
    for way in WAYS:
        mark = f"training_faults.{run}.{way}"
        wait_started(airflow, mark, 2)
        airflow.let_go(mark)
    assert airflow.wait_run("training_faults", run) == dict.fromkeys(WAYS, "success")
    assert len(jobs(service, "training-faults").keys() - before) == len(WAYS)
