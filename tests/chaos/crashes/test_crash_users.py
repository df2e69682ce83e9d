"""A user or a limit ends a task at each point. The job ends too, and a cleared task starts a new job."""

from __future__ import annotations

import time

import pytest
import sqlalchemy

ENDED = "A user ends or clears the task"
LIMITS = "A limit of Airflow ends the task"
WAYS = {"running": "while it waits in the worker", "deferred": "while it is deferred"}
ON_KILL = {
    "running": "cancelling",  # at once, or after Airflow has said why the worker has to end
    "deferred": "The task is {state}: cancelling",
}

pytestmark = pytest.mark.usefixtures("run")


@pytest.fixture(scope="module")
def timeout_run(airflow):
    return airflow.trigger("crash_run_timeout")


@pytest.fixture(scope="module")
def run(airflow, timeout_run):
    """One run with a task for each row."""
    return airflow.trigger("crash_users")


@pytest.mark.parametrize("way", WAYS)
def test_cleared_after_success(run, airflow, crashed, way):
    """The clear starts a new job instead of returning the finished one's result."""
    task = crashed("crash_users", run, f"cleared_after_{way}")
    task.touch("go")
    airflow.wait_state(*task.where, "success")
    task.wait_scheduler_knows("success")  # before that, Airflow may lose a clear
    airflow.clear(*task.where)
    task.wait_started(2)
    end = {"running": "in the worker", "deferred": "deferred"}[way]
    task.settle(
        (ENDED, f"cleared after it had succeeded {end}"), state="success", log="found: replace", jobs=2
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("new_state", ["failed", "success"])
def test_marked(run, airflow, crashed, way, new_state):
    task = crashed("crash_users", run, f"{new_state}_{way}")
    task.wait_started(is_deferred=way == "deferred")
    airflow.patch(*task.where, new_state)
    title = (ENDED, f"marked {new_state} {WAYS[way]}")
    task.settle(title, state=new_state, log=ON_KILL[way].format(state=new_state), has_value=False)


def test_marked_before_the_job_exists(run, airflow, crashed):
    task = crashed("crash_users", run, "failed_submitting")
    task.wait_for("held")
    airflow.patch(*task.where, "failed")
    task.wait_for_log(ON_KILL["running"])
    task.touch("let")
    title = (ENDED, "marked failed in the submit, before the job exists")
    task.settle(title, state="failed", log=ON_KILL["running"], jobs=(0, 1))


def test_marked_before_the_handle_is_saved(run, airflow, crashed):
    task = crashed("crash_users", run, "failed_submitted")
    task.wait_for("held")
    task.wait_started()
    airflow.patch(*task.where, "failed")
    title = (ENDED, "marked failed between the submit and saving the handle")
    task.settle(title, state="failed", log=ON_KILL["running"])


def test_marked_in_the_middle_of_a_question_to_airflow(run, airflow, crashed):
    """on_kill cannot ask Airflow for the reason, since its channel is in use until the answer arrives."""
    task = crashed("crash_users", run, "failed_asking")
    task.wait_for("held")
    task.wait_started()
    airflow.patch(*task.where, "failed")
    task.wait_for_log("the job goes on")
    task.touch("let")
    title = (ENDED, "marked failed in the middle of a question to Airflow")
    task.settle(title, state="failed", log="The task is failed: cancelling its job")


def test_marked_in_the_middle_of_an_import(run, airflow, crashed):
    """The cancel cannot import the client then, because the signal interrupted its import."""
    task = crashed("crash_users", run, "failed_importing")
    task.wait_for("held")
    task.wait_started()
    airflow.patch(*task.where, "failed")
    task.wait_for_log("could not be cancelled yet")
    task.touch("let")
    title = (ENDED, "marked failed while its worker imports the client of the service")
    task.settle(title, state="failed", log="could not be cancelled yet")


def test_taken_for_failed_by_a_busy_scheduler(airflow, crashed):
    """A busy scheduler learns of the worker's end too late and believes that the task has failed."""
    task = crashed("crash_scheduler", airflow.trigger("crash_scheduler"), "taken_for_dead")
    task.wait_started()
    dag_id, run_id, task_id = task.where
    # keeps no connection open
    engine = sqlalchemy.create_engine(airflow.database, poolclass=sqlalchemy.NullPool)
    with engine.begin() as database:
        database.execute(
            sqlalchemy.text(
                "update task_instance set state = 'up_for_retry', end_date = start_date "
                "where dag_id = :dag_id and run_id = :run_id and task_id = :task_id"
            ),
            {"dag_id": dag_id, "run_id": run_id, "task_id": task_id},
        )
    task.wait_for_log("found: attach")
    task.touch("go")
    title = (ENDED, "taken for failed by a busy scheduler, and tried again")
    task.settle(title, state="success", log="found: attach")


@pytest.mark.parametrize("way", WAYS)
def test_cleared(run, airflow, crashed, way):
    task = crashed("crash_users", run, f"cleared_{way}")
    task.wait_started(is_deferred=way == "deferred")
    (first,) = airflow.pids(task.mark)
    airflow.clear(*task.where)
    task.wait_started(2)
    assert first not in airflow.alive(task.mark), "the first job must be over before the second begins"
    task.touch("go")
    task.settle((ENDED, f"cleared {WAYS[way]}"), state="success", log="found: replace", jobs=2)


@pytest.mark.parametrize("way", WAYS)
def test_cleared_twice(run, airflow, crashed, way):
    """The second clear may come at any point of the first one."""
    task = crashed("crash_users", run, f"cleared_twice_{way}")
    task.wait_started(is_deferred=way == "deferred")
    airflow.clear(*task.where)
    time.sleep(0.5)  # any point will do, so longer does no harm
    airflow.clear(*task.where)
    task.wait_started(2)
    task.touch("go")
    title = (ENDED, f"cleared twice quickly, {WAYS[way]}")
    task.settle(title, state="success", log="found: replace", jobs=(2, 3))


# -- limits; they take time, which passes while the tests above run


@pytest.mark.parametrize("way", WAYS)
def test_the_run_is_out_of_time(timeout_run, crashed, way):
    task = crashed("crash_run_timeout", timeout_run, way)
    task.wait_started()
    log = ON_KILL[way].format(state="skipped")
    task.settle((LIMITS, f"`dagrun_timeout`, {WAYS[way]}"), state="skipped", log=log)


@pytest.mark.parametrize("way", WAYS)
def test_the_task_is_out_of_time(run, crashed, way):
    """Airflow 3 does not enforce execution_timeout while a task is deferred; the trigger does."""
    task = crashed("crash_users", run, f"out_of_time_{way}")
    log = "execution_timeout passed and the step was cancelled"
    task.settle((LIMITS, f"`execution_timeout`, {WAYS[way]}"), state="failed", log=log)


def test_the_task_is_out_of_time_before_the_job_exists(run, airflow, crashed):
    """Airflow calls on_kill while it still has the task as running. No later try will look for a job."""
    task = crashed("crash_users", run, "out_of_time_submitting")
    log = "The task's execution_timeout passed: cancelling its job"
    title = (LIMITS, "`execution_timeout`, in the submit, before the job exists")
    task.settle(title, state="failed", log=log, jobs=0)
    assert "the job goes on" not in airflow.logs(*task.where)
