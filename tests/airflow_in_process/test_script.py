"""DAG files run as scripts with ``dag.test()``, each in a process and an Airflow home of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack

import pytest

from tests.support.processes import ended, is_alive, started
from tests.support.waiting import wait_until

SLOW = """
import os
from pathlib import Path
from airflow.sdk import DAG
from airflow_stepop import RemoteStepOperator

with DAG("slow", schedule=None) as dag:
    RemoteStepOperator(
        task_id="slow",
        command=["sh", "-c", "sleep 300 & echo the sleeper is $!; wait"],
        deferrable={deferrable},
    )

if __name__ == "__main__":
    dag.test()
"""

ELSEWHERE = """
from airflow.sdk import dag, task
from airflow_stepop import ResourceSettings


@dag(schedule=None)
def elsewhere():
    @task.remote_step(
        backend="kubernetes",
        conn_id="no_such_connection",
        image="example.com/gpu:1",
        settings={"node_selector": {"pool": "gpu"}},
        resource_settings=ResourceSettings(gpu_count=8, nodes=4, memory="1TB"),
    )
    def train():
        return "trained"

    train()


dag = elsewhere()
if __name__ == "__main__":
    run = dag.test()
    assert run.state == "success", run.state
"""


SUBFOLDER = """
from airflow.sdk import dag, task
from common.names import PREFIX
from beside import SUFFIX


@dag(schedule=None)
def subfolder():
    @task
    def plain():
        from common.late import middle

        return PREFIX + middle() + SUFFIX

    @task.remote_step
    def step(wanted):
        from common.late import middle

        assert wanted == PREFIX + middle() + SUFFIX
        return wanted

    step(plain())


dag = subfolder()
if __name__ == "__main__":
    run = dag.test()
    assert run.state == "success", run.state
"""

MODULES = {
    "common/__init__.py": "",
    "common/names.py": "PREFIX = 'a'",
    "common/late.py": "from common import names\nmiddle = lambda: 'b' + names.PREFIX",
    "team/project/beside.py": "SUFFIX = 'c'",
}


def environment(home, dags, **env):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "STEPOP", "PYTEST"))}
    return {
        **inherited,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "PYTHONWARNINGS": "ignore",
        **env,
    }


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """An empty database of Airflow, made once."""
    home = tmp_path_factory.mktemp("home")
    migrate = [sys.executable, "-m", "airflow", "db", "migrate"]
    subprocess.run(migrate, env=environment(home, home / "dags"), check=True, capture_output=True)
    return home / "airflow.db"


@pytest.fixture
def script(tmp_path, database):
    """Start a DAG file as a script in a fresh Airflow home."""
    with ExitStack() as stack:

        def start(text, name="file.py", argv=None, **env):
            path = tmp_path / "dags" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            (tmp_path / "home").mkdir()
            shutil.copy(database, tmp_path / "home" / "airflow.db")
            env = environment(tmp_path / "home", tmp_path / "dags", **env)
            log = stack.enter_context((tmp_path / "log").open("wb"))
            argv = [sys.executable, *(argv or [str(path)])]
            return stack.enter_context(started(argv, env=env, stdout=log, stderr=log))

        start.log = lambda: (tmp_path / "log").read_text(errors="replace")
        yield start


@pytest.mark.parametrize("deferrable", [False, True])
def test_ctrl_c_cancels_the_job(script, deferrable):
    """dag.test() calls no on_kill: the interruption itself must end the job."""
    process = script(SLOW.format(deferrable=deferrable))
    printed = re.compile(r"the sleeper is (\d+)\b")  # the step's line in the task log: it is being waited for
    found = wait_until(lambda: printed.search(script.log()), "the sleeper", explain=script.log, pause_s=0.1)
    sleeper = int(found[1])
    assert is_alive(sleeper)
    process.send_signal(signal.SIGINT)
    wait_until(lambda: not is_alive(sleeper), "the sleeper to end", explain=script.log)


def test_a_dag_written_for_another_backend_runs_here_unchanged(script):
    process = script(ELSEWHERE, AIRFLOW__STEPOP__BACKEND_OVERRIDE="local")
    assert ended(process) == 0, script.log()
    log = script.log()
    assert "written for kubernetes and runs on local: its settings are not used (node_selector)" in log
    assert log.count("runs on this host without what it asks for") == 1
    for refused in ("image", "gpu_count", "nodes", "memory"):
        assert refused in log


def test_without_the_override_it_is_refused_when_the_file_is_read(script):
    process = script(ELSEWHERE, AIRFLOW_CONN_NO_SUCH_CONNECTION='{"conn_type": "kubernetes"}')
    assert ended(process) != 0
    assert "nodes=4: backend 'kubernetes' runs a step in one pod" in script.log()


@pytest.mark.parametrize("way", ["airflow dags test", "airflow dags test with a file", "script"])
def test_modules_of_the_dags_folder_for_a_dag_in_a_subfolder(script, tmp_path, way):
    """Modules of the DAGs folder and modules beside the DAG file are found, as in a worker."""
    for name, text in MODULES.items():
        (tmp_path / "dags" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "dags" / name).write_text(text)
    beside, name = tmp_path / "dags" / "team" / "project", "team/project/dag_file.py"
    command = ["-m", "airflow", "dags", "test", "subfolder"]
    argv = {
        "airflow dags test": command,
        "airflow dags test with a file": [*command, "--dagfile-path", str(tmp_path / "dags" / name)],
        "script": None,
    }[way]
    path = f"{beside}:{tmp_path / 'dags'}" if way == "script" else str(beside)
    process = script(SUBFOLDER, name, argv, PYTHONPATH=path)
    assert ended(process) == 0, script.log()
    assert "state=success" in script.log() or way == "script", script.log()
