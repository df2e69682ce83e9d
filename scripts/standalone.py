"""``make airflow``: start Airflow with the examples, in the separate home ``.airflow``.

Airflow's database is a PostgreSQL (``scripts/postgres``), which stays up until ``make clean``. The database's
address is in ``airflow.cfg``. So ``AIRFLOW_HOME=$PWD/.airflow airflow ...`` uses this database, while Airflow
runs and afterwards.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from airflow_home import EXAMPLES, ROOT, sqlite_url, use_home

HOME = ".airflow"
NO_POSTGRES = 3  # the exit code of scripts/postgres
END_LIMIT_S = 30
NEW_FILES_S = 10  # between two looks for new DAG files; Airflow's default is 300
PORT = os.environ.get("PORT", "8080")


def main() -> None:
    home = use_home(HOME)
    configure(home)
    log = home / "standalone.log"
    print(f"==> starting Airflow with {EXAMPLES} (log: {HOME}/{log.name}; Ctrl-C ends it)", flush=True)
    # Closing the terminal counts as Ctrl-C. A program that a shell starts with & ignores SIGINT, and so would
    # the Airflow that this program starts
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with log.open("w") as file:
        airflow = subprocess.Popen(
            [sys.executable, "-m", "airflow", "standalone"], stdout=file, stderr=file, start_new_session=True
        )
    threading.Thread(target=announce, args=(airflow, home), daemon=True).start()
    try:
        code = airflow.wait()
    except KeyboardInterrupt:
        end(airflow)
        return
    sys.exit(f"Airflow ended with {code}; see {log}")


def configure(home: Path) -> None:
    """Write the settings of this program into the home's ``airflow.cfg``, and keep all other settings.

    Airflow creates the file if it does not exist yet.
    """
    file = home / "airflow.cfg"
    settings = {
        ("core", "dags_folder"): str(EXAMPLES),
        ("core", "load_examples"): "False",
        ("core", "execution_api_server_url"): f"http://localhost:{PORT}/execution/",
        ("dag_processor", "refresh_interval"): str(NEW_FILES_S),
        ("database", "sql_alchemy_conn"): database(home),
        ("api", "port"): PORT,
    }
    if not file.exists():
        made = [sys.executable, "-m", "airflow", "config", "get-value", "core", "executor"]
        subprocess.run(made, check=True, stdout=subprocess.DEVNULL)
    section, lines = "", []
    for line in file.read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        name = line.removeprefix("# ").partition(" =")[0]
        value = settings.pop((section, name), None)
        lines.append(line if value is None else f"{name} = {value.replace('%', '%%')}")
    if settings:
        sys.exit(f"{file} has no line for {sorted(settings)}; delete the file, and Airflow creates a new one")
    file.write_text("\n".join(lines) + "\n")


def database(home: Path) -> str:
    """Start Airflow's database and return its address: PostgreSQL, or SQLite if it cannot run here."""
    command = [ROOT / "scripts" / "postgres", "up", home / "postgres"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == NO_POSTGRES:
        print(done.stderr.strip())
        print("==> Airflow uses SQLite instead. With SQLite, the error 'database is locked' may end", end=" ")
        print("concurrent tasks and the triggerer", flush=True)
        return sqlite_url(home)
    if done.returncode:
        sys.exit(done.stderr.strip())
    return done.stdout.strip()


def end(airflow: subprocess.Popen[bytes]) -> None:
    """End Airflow and all processes that it has started.

    Airflow runs in its own session, so that Ctrl-C in the terminal reaches it only through this function. A
    triggerer may hang for ever if the terminal interrupts it while ``airflow standalone`` terminates it.
    """
    print("==> ending Airflow", flush=True)
    try:
        airflow.send_signal(signal.SIGINT)
        airflow.wait(END_LIMIT_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        pass  # the processes that are left are killed below
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(airflow.pid, signal.SIGKILL)
    print(f"    AIRFLOW_HOME=$PWD/{HOME} .venv/bin/airflow ... still works, until make clean", flush=True)


def announce(airflow: subprocess.Popen[bytes], home: Path) -> None:
    """Print the address, user and password once the API server answers."""
    passwords = home / "simple_auth_manager_passwords.json.generated"
    while airflow.poll() is None:
        if passwords.exists() and answers(f"http://localhost:{PORT}/api/v2/version"):
            ((user, password),) = json.loads(passwords.read_text()).items()
            print(f"==> http://localhost:{PORT}  user: {user}  password: {password}", flush=True)
            examples = sorted(path.stem for path in EXAMPLES.glob("*.py") if "@dag" in path.read_text())
            print(f"    Switch a DAG on and trigger it: {', '.join(examples)}", flush=True)
            return
        time.sleep(1)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:  # noqa: S310 - a fixed http address
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


if __name__ == "__main__":
    main()
