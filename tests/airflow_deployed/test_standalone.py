"""``make airflow`` starts Airflow with the examples, and Ctrl-C ends every process but the database."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.needs import IS_CI
from tests.support.paths import ROOT
from tests.support.processes import ended, is_alive, kill, those
from tests.support.waiting import wait_until


@pytest.fixture
def standalone(tmp_path, free_port):
    """Run the script in a copy of the checkout, to leave the checkout's own Airflow home alone."""
    for name in ("scripts", "dags_examples"):
        shutil.copytree(ROOT / name, tmp_path / name)
    # A session of its own, as in a terminal, where Ctrl-C signals the whole process group.
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-u", str(tmp_path / "scripts" / "standalone.py")],
            env={**os.environ, "PORT": str(free_port), "AIRFLOW_CONN_OF_THE_USER": "generic://"},
            stdout=out,
            stderr=out,
            start_new_session=True,
            # as a shell starts a command with &
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # noqa: PLW1509 - no other threads
        )
    yield process
    kill(processes_in(tmp_path))
    process.kill()
    process.wait()
    remove = [tmp_path / "scripts" / "postgres", "remove", tmp_path / ".airflow" / "postgres"]
    subprocess.run(remove, check=True)


def processes_in(folder):
    """Return the script and all processes whose Airflow home is below ``folder``, without the database."""

    def is_one(process):
        command = (process / "cmdline").read_bytes()
        is_script = str(folder).encode() in command and b"/postgres\0" not in command
        is_ours = f"AIRFLOW_HOME={folder}".encode() in (process / "environ").read_bytes()
        return is_ours or is_script

    return [pid for pid in those(is_one) if is_alive(pid)]


def airflow(folder, *arguments):
    """Run a command as in the quickstart: only AIRFLOW_HOME leads to the deployment."""
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


def test_make_airflow_starts_and_ctrl_c_ends_every_process(standalone, tmp_path):
    def output():
        return (tmp_path / "out").read_text()

    address = re.compile(r"==> http://localhost:\d+  user: admin  password: \S+")
    wait_until(lambda: address.search(output()), "its address", explain=output)
    assert len(processes_in(tmp_path)) > 4
    if "uses SQLite instead" in output():
        assert not IS_CI, output()
    else:
        assert "postgresql" in airflow(tmp_path, "config", "get-value", "database", "sql_alchemy_conn")
    assert airflow(tmp_path, "config", "get-value", "core", "load_examples").strip() == "False"
    for pid in processes_in(tmp_path):
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"AIRFLOW_CONN_OF_THE_USER=" in environment
        assert b"PYTHONWARNINGS=" not in environment  # a step of the user may warn
    wait_until(lambda: "quickstart" in airflow(tmp_path, "dags", "list"), "the examples", explain=output)
    text = (tmp_path / "dags_examples" / "quickstart.py").read_text().replace("quickstart", "a_new_file")
    (tmp_path / "dags_examples" / "a_new_file.py").write_text(text)
    wait_until(lambda: "a_new_file" in airflow(tmp_path, "dags", "list"), "a new file", explain=output)
    os.killpg(standalone.pid, signal.SIGINT)
    assert ended(standalone) == 0, output()
    wait_until(lambda: processes_in(tmp_path), "all of it to end", holds=lambda left: not left)
    assert "==> ending Airflow" in output()
    assert "quickstart" in airflow(tmp_path, "dags", "list")
    log = (tmp_path / ".airflow" / "standalone.log").read_text()
    assert log.rstrip().endswith("Complete"), "it was killed, and did not end by itself"
