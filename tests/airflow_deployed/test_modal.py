"""Steps in sandboxes of Modal in a real Airflow: deferred, watched, many at once, ended by the user.

There is no bucket: input and results pass through the Volume of the emulator, and the store is a folder.
"""

from __future__ import annotations

import pytest

from tests.support.deployed_steps import CloudSteps, DeployedSteps

LAGS = ("list_lag_s", "result_lag_s", "log_lag_s", "commit_lag_s")
PREEMPTED = "sandbox_preempted"


@pytest.fixture(scope="module")
def steps(airflow, modal_service):
    def report():
        found = list(modal_service.report()["sandboxes"].values())
        names = [one["name"] for one in found]
        assert len(set(names)) == len(names), "no job was created twice"
        return dict(zip(names, found, strict=True))

    yield DeployedSteps(
        airflow,
        "sandbox",
        report,
        is_stopped=lambda job: job["over"] and job["status"] == "TERMINATED",
        is_over=lambda job: job["over"],
    )
    assert all(job["over"] for job in report().values()), "no sandbox is left"
    assert modal_service.calls(answer="BROKEN") == 0, "the emulator failed: see its standard error"


class TestSteps(CloudSteps):
    """What holds for every backend."""

    @pytest.fixture
    def while_ten_run(self, steps, modal_service):
        """The watcher needs one list, and one look into the log of the App, for all ten."""

        def look(run):
            airflow = steps.airflow
            for index in range(10):
                first = f"line one of {airflow.marks}/sandbox_ten"
                airflow.wait_for(
                    lambda one=first, index=index: one in steps.lines("ten", run, "waits", map_index=index),
                    f"the first line of step {index}",
                )
            modal_service.do("forget_calls")
            airflow.wait_for(lambda: modal_service.calls("SandboxListV2"), "lists", holds=lambda n: n >= 4)
            calls = {name.split()[0] for name in modal_service.report()["calls"]}
            assert calls <= {"SandboxListV2", "AppFetchLogs", "AppCountLogs"}

        return look


def wait_refused(airflow, service, answer, count=3):  # each further pause of who asks is longer
    """Wait until so many more requests were answered with an error."""
    before = service.calls(answer=answer)
    airflow.wait_for(
        lambda: service.calls(answer=answer), f"{count} answers {answer}", holds=lambda n: n >= before + count
    )


def test_storms_of_errors_and_everything_late_cost_nothing(steps, airflow, modal_service):
    """Also, an answer to a submit is lost, and the steps end while the token is revoked.

    The deferred step has a GPU.
    """
    service, before = modal_service, steps.jobs_of("faults").keys()
    service.do("settings", **dict.fromkeys(LAGS, 1.0))
    service.do("fault", kind="unavailable", rpc="SandboxCreate*", count=4)
    service.do("fault", kind="lost", rpc="SandboxCreate*", count=1, after=True)
    run = steps.begin("faults")
    for kind, answer in {"unavailable": "UNAVAILABLE", "exhausted": "RESOURCE_EXHAUSTED"}.items():
        service.do("fault", kind=kind)
        wait_refused(airflow, service, answer)
        service.do("clear_faults")
    service.do("token", token_id="ak-test", secret=None)
    wait_refused(airflow, service, "UNAUTHENTICATED")
    steps.let_go("faults", run)
    service.do("token", token_id="ak-test", secret="as-test")
    steps.finish("faults", run, before)
    service.do("settings", **dict.fromkeys(LAGS, 0.0))


def test_a_preempted_step_goes_on_where_it_was(steps, airflow, modal_service):
    """In another sandbox, within the same try of the task. Sandboxes without a GPU are not preempted."""
    run = airflow.trigger(PREEMPTED)
    steps.wait_started(PREEMPTED)
    airflow.wait_trigger(PREEMPTED, run, "saves")
    (first,) = steps.jobs_of("preempted")
    modal_service.do("preempt", sandbox=first)
    steps.wait_started(PREEMPTED, 2)
    assert steps.is_over(steps.report()[first]), "it ended before the other began"
    airflow.let_go(PREEMPTED)
    assert airflow.wait_run(PREEMPTED, run) == {"saves": "success"}
    (second,) = steps.jobs_of("preempted").keys() - {first}
    assert airflow.xcom(PREEMPTED, run, "saves") == {"begun_at": "the half", "job": second}
    assert airflow.instance(PREEMPTED, run, "saves")["try_number"] == 1
    assert "resubmitting (1 of 10)" in airflow.log(PREEMPTED, run, "saves")
    volumes = modal_service.report()["volumes"].values()
    left = [path for volume in volumes for path in volume["files"] if "preempted" in path]
    assert left == [], "its folders are gone"
