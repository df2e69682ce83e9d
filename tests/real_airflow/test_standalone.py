"""``make airflow``: it comes up with the examples, and Ctrl-C ends all of it but the database."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE_S = 300


@pytest.fixture
def standalone(tmp_path, free_port):
    """The script in a copy of the checkout, so that it leaves the checkout's own Airflow home alone."""
    for name in ("scripts", "dags_examples"):
        shutil.copytree(ROOT / name, tmp_path / name)
    # a session of its own, as a terminal gives one; Ctrl-C there is a signal to its group of processes
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-u", str(tmp_path / "scripts" / "standalone.py")],
            env={**os.environ, "PORT": str(free_port), "AIRFLOW_CONN_OF_THE_USER": "generic://"},
            stdout=out,
            stderr=out,
            start_new_session=True,
            # as what a shell starts with &
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # noqa: PLW1509 - no other threads
        )
    yield process
    for pid in processes_in(tmp_path):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    remove = [tmp_path / "scripts" / "postgres", "remove", tmp_path / ".airflow" / "postgres"]
    subprocess.run(remove, check=True)


def processes_in(folder):
    """Return the processes whose Airflow home is below ``folder``, and the script itself; no database."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            is_ours = f"AIRFLOW_HOME={folder}".encode() in (path / "environ").read_bytes()
            command = (path / "cmdline").read_bytes()
            is_script = str(folder).encode() in command and b"/postgres\0" not in command
            is_alive = (path / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            continue
        if (is_ours or is_script) and is_alive:
            found.append(int(path.name))
    return found


def wait_for(is_there, explain):
    end = time.monotonic() + PATIENCE_S
    while not is_there():
        assert time.monotonic() < end, explain()
        time.sleep(0.2)


def airflow(folder, *arguments):
    """Run a command as the quickstart has it: nothing but the home leads to the deployment."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    done = subprocess.run(
        [Path(sys.executable).with_name("airflow"), *arguments],
        env={**env, "AIRFLOW_HOME": str(folder / ".airflow")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_comes_up_and_ctrl_c_ends_all_of_it(standalone, tmp_path):
    def told():
        return (tmp_path / "out").read_text()

    wait_for(lambda: re.search(r"==> http://localhost:\d+  user: admin  password: \S+", told()), told)
    assert len(processes_in(tmp_path)) > 4
    if "uses SQLite instead" in told():
        assert not os.environ.get("STEPOP_CI"), told()
    else:
        assert "postgresql" in airflow(tmp_path, "config", "get-value", "database", "sql_alchemy_conn")
    for pid in processes_in(tmp_path):
        assert b"AIRFLOW_CONN_OF_THE_USER=" in Path(f"/proc/{pid}/environ").read_bytes()
    wait_for(lambda: "quickstart" in airflow(tmp_path, "dags", "list"), told)
    os.killpg(standalone.pid, signal.SIGINT)
    wait_for(lambda: standalone.poll() is not None, told)
    assert standalone.returncode == 0, told()
    wait_for(lambda: not processes_in(tmp_path), lambda: str(processes_in(tmp_path)))
    assert "==> ending Airflow" in told()
    assert "quickstart" in airflow(tmp_path, "dags", "list")
    log = (tmp_path / ".airflow" / "standalone.log").read_text()
    assert log.rstrip().endswith("Complete"), "it was killed, and did not end by itself"
