"""``scripts/postgres``: a PostgreSQL server from a wheel or of the system, killed and started again."""

from __future__ import annotations

import glob
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psycopg2
import pytest

from tests.support.needs import needs
from tests.support.paths import SCRIPTS

NO_POSTGRES = 3
ENV = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def call(verb, folder, **env):
    """Run the script. Variables that the user has set for another server must not matter."""
    env = {**ENV, "PGHOST": "elsewhere", "PGPORT": "1", "PGSSLMODE": "require", **env}
    command = [SCRIPTS / "postgres", verb, folder]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


def up(folder, **env):
    done = call("up", folder, **env)
    needs(done.returncode != NO_POSTGRES, f"a PostgreSQL: {done.stderr}")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def sql(url, command):
    connection = psycopg2.connect(url.replace("+psycopg2", ""))
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(command)
        rows = cursor.fetchall() if cursor.description else []
    connection.close()
    return rows


def place_of(folder):
    found = folder / "place"
    return Path(found.read_text().strip()) if found.exists() else folder


def pid_of(folder):
    return int((place_of(folder) / "data" / "postmaster.pid").read_text().split()[0])


@pytest.fixture
def folder(tmp_path):
    """A folder with a space in its name. As root, the server's user cannot enter pytest's own folders."""
    found = tmp_path / "a folder"
    yield found
    assert call("remove", found).returncode == 0
    assert not found.exists()


def test_what_was_committed_outlives_a_crash(folder):
    url = up(folder)
    sql(url, "create table kept as select 17 as number")
    for _ in range(2):
        assert call("down", folder).returncode == 0  # the second time there is nothing to do
    with pytest.raises(psycopg2.OperationalError):
        sql(url, "select 1")
    assert up(folder) == url
    os.kill(pid_of(folder), signal.SIGKILL)
    assert up(folder) == url
    assert sql(url, "select number from kept") == [(17,)]


def test_nobody_logs_in_without_the_password(folder):
    user, _, rest = up(folder).rpartition("@")
    with pytest.raises(psycopg2.OperationalError, match="password"):
        sql(f"{user.rpartition(':')[0]}@{rest}", "select 1")


def test_a_port_that_is_taken_is_named(folder):
    url = up(folder)
    call("down", folder)
    with socket.create_server(("127.0.0.1", int((folder / "port").read_text()))):
        done = call("up", folder)
    assert done.returncode == 1
    assert "another program uses port" in done.stderr
    assert "End that program, or delete" in done.stderr
    (folder / "port").unlink()
    assert up(folder) != url


def test_a_process_with_the_number_of_a_dead_server_is_not_the_server(folder):
    url = up(folder)
    call("down", folder)
    stale = place_of(folder) / "data" / "postmaster.pid"
    stale.write_text(f"{os.getpid()}\n{stale.parent}\n")
    assert call("down", folder).returncode == 0  # and leaves this process alone
    assert up(folder) == url


def test_removing_leaves_nothing(folder):
    up(folder)
    place, pid = place_of(folder), pid_of(folder)
    assert call("remove", folder).returncode == 0
    assert not folder.exists()
    assert not place.exists()
    command = Path(f"/proc/{pid}/cmdline")
    assert not command.exists() or not command.read_bytes()  # a zombie has no command line


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives the server another user")
def test_as_root_the_server_has_a_user_without_rights(folder, tmp_path):
    tmp_path.chmod(0o700)
    up(folder)
    assert place_of(folder).parent == Path("/var/tmp")
    assert Path(f"/proc/{pid_of(folder)}").owner() == "nobody"
    assert oct(tmp_path.stat().st_mode & 0o777) == "0o700", "it opened a folder for everybody"
    call("down", folder)
    shutil.rmtree(place_of(folder))  # as some cleaner of /var/tmp may do
    assert sql(up(folder), "select 1") == [(1,)]


@pytest.mark.skipif(bool(glob.glob("/usr/lib/postgresql/*/bin")), reason="this machine has a PostgreSQL")
def test_without_any_postgres_the_script_says_so(tmp_path):
    shutil.copytree(SCRIPTS, tmp_path / "scripts")  # away from the environment that has the wheel
    done = subprocess.run(
        [tmp_path / "scripts" / "postgres", "up", tmp_path / "data"],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == NO_POSTGRES
    assert "Debian: apt-get install postgresql" in done.stderr
