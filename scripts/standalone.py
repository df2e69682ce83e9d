"""``make airflow``: start Airflow with the examples in it, in a home of its own."""

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

from airflow_home import EXAMPLES, use_home

HOME = ".airflow"
END_LIMIT_S = 30
PORT = os.environ.get("PORT", "8080")


def main() -> None:
    home = use_home(HOME)
    os.environ |= {
        "AIRFLOW__API__PORT": PORT,
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://localhost:{PORT}/execution/",
    }
    log = home / "standalone.log"
    print(f"==> starting Airflow with {EXAMPLES} (log: {HOME}/{log.name}; Ctrl-C ends it)", flush=True)
    # A closed terminal is a Ctrl-C, too. What a shell starts with & ignores SIGINT, and so would Airflow
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


def end(airflow: subprocess.Popen[bytes]) -> None:
    """End Airflow and everything that it started.

    It has a session of its own, so that Ctrl-C reaches it once. A triggerer may hang for ever when the
    terminal interrupts it while ``airflow standalone`` terminates it.
    """
    print("==> ending Airflow", flush=True)
    try:
        airflow.send_signal(signal.SIGINT)
        airflow.wait(END_LIMIT_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        pass  # what is left is killed
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(airflow.pid, signal.SIGKILL)


def announce(airflow: subprocess.Popen[bytes], home: Path) -> None:
    """Say where to log in, once the API server answers."""
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
