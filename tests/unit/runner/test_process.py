"""What the step does to its process, and what signals and disks do to the runner."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from airflow_stepop.failure import Category, Failure
from airflow_stepop.runner import protocol
from tests.support.processes import printed, started, wait_gone
from tests.support.waiting import wait_until


@pytest.mark.parametrize(
    ("body", "code", "summary"),
    [
        ("os._exit(3)", 3, "The step's process ended with exit code 3 before the step returned"),
        ("os._exit(0)", 0, "The step's process ended with exit code 0 before the step returned"),
        ("os.abort()", 134, "The step's process was killed by SIGABRT"),
        ("ctypes.string_at(0)", 139, "The step's process was killed by SIGSEGV"),
        ("os.kill(os.getpid(), 9)", 137, "killed by SIGKILL; it may have been the out-of-memory killer"),
        ("os.kill(os.getpid(), 15)", 143, "The step's process was killed by SIGTERM"),
    ],
)
def test_death_of_the_process(folder, edge_python, body, code, summary):
    """However the step's process dies, there is an outcome that says how."""
    done = folder.reference(f"import ctypes, os\ndef f():\n    {body}\n", "f").run(edge_python)
    assert summary in done.failure["summary"]
    assert done.failure["exit_code"] == code
    assert done.failure["category"] == "user_error"
    assert done.code == protocol.EXIT_STEP_FAILED
    assert done.outcome["usage"]["wall_s"] > 0
    assert Failure.from_json(done.failure).category is Category.USER_ERROR


def test_crash_shows_python_lines(folder):
    """A crash of native code leaves the Python traceback in the log."""
    done = folder.reference("import ctypes\ndef deep():\n    ctypes.string_at(0)\n", "deep").run()
    assert "in deep" in done.stderr


@pytest.mark.parametrize(
    ("body", "summary", "code"),
    [
        ("sys.exit(5)", "The step called sys.exit(5)", 5),
        ("sys.exit()", "The step called sys.exit() and returned nothing", 0),
        ("sys.exit(0)", "The step called sys.exit() and returned nothing", 0),
        ("sys.exit('no data')", "The step called sys.exit: no data", 1),
    ],
)
def test_system_exit(folder, body, summary, code):
    """sys.exit() is a failure of the step with its code, not the end of the runner."""
    done = folder.reference(f"import sys\ndef f():\n    {body}\n", "f").run()
    assert done.failure["summary"] == summary
    assert done.failure["exit_code"] == code
    assert done.failure["category"] == "user_error"


WAIT = "import time, sys\ndef f():\n    print('ready', flush=True)\n    time.sleep(600)\n"
TRAP = "import signal, time\ndef f():\n    got = []\n    signal.signal(15, lambda *a: got.append(a))\n"


def signalled(folder, signum, python=sys.executable, caller=()):
    """Start the step, signal the runner once the step is ready, and return what it left."""
    argv = [*caller, *folder.argv(python)]
    with started(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signum)
        stdout, stderr = printed(process)
    return folder.finished(process.returncode, stdout, stderr)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_cancelled(folder, edge_python, signum):
    """The runner passes a signal on to the step and says that it was cancelled."""
    done = signalled(folder.reference(WAIT, "f"), signum, edge_python)
    assert done.failure["category"] == "cancelled"
    assert done.code == protocol.EXIT_STEP_FAILED


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_cancelled_command(folder, signum):
    """A command is sent the signal, too."""
    folder.command(sys.executable, "-c", "import time\nprint('ready', flush=True)\ntime.sleep(600)")
    done = signalled(folder, signum)
    assert done.failure["category"] == "cancelled"
    assert "was stopped by SIG" in done.failure["summary"]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("kind", ["function", "command"])
def test_cancelled_where_the_signal_was_ignored(folder, signum, kind):
    """A caller that ignores the signal (a shell in its background) does not make the step deaf to it."""
    if kind == "function":
        folder.reference(WAIT, "f")
    else:
        folder.command(sys.executable, "-c", "import time\nprint('ready', flush=True)\ntime.sleep(600)")
    caller = ["sh", "-c", f"trap '' {signum:d}; exec \"$@\"", "sh"]
    done = signalled(folder, signum, caller=caller)
    assert done.failure["category"] == "cancelled"


def test_step_that_survives_the_signal(folder):
    """A step that handles SIGTERM and returns has succeeded."""
    source = (
        TRAP + "    print('ready', flush=True)\n    while not got: time.sleep(0.01)\n    return 'saved'\n"
    )
    assert signalled(folder.reference(source, "f"), signal.SIGTERM).value() == "saved"


def test_ignored_sigchld(folder):
    """A caller that ignores SIGCHLD does not keep the runner from its child's status."""
    folder.reference("def f(): return 1\n", "f")
    ignore = lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # noqa: E731
    code = subprocess.run(folder.argv(), preexec_fn=ignore).returncode
    assert folder.finished(code).value() == 1


@pytest.mark.parametrize(
    "body",
    [
        "os.close(1); os.close(2)",
        "sys.stdout.close(); sys.stderr.close()",
        "sys.stdout = sys.stderr = None",
        "os.close(0); os.close(1); os.close(2); print('lost')",
        "os.closerange(3, 200)",
        "os.chdir('/')",
        "shutil.rmtree(os.getcwd())",
        "sys.path.clear(); sys.path.append('/nowhere')",
        "os.environ.clear()",
        "threading.Thread(target=time.sleep, args=(0.2,)).start()",
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
        "atexit.register(lambda: 1 / 0)",
        "atexit.register(os._exit, 9)",
        "atexit.register(os.abort)",
        "resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))",
        "os.umask(0o777)",
    ],
)
def test_rude_steps(folder, edge_python, body):
    """What the step does to its own process does not touch its outcome."""
    imports = "import atexit, os, resource, shutil, sys, threading, time"
    done = folder.reference(
        f"{imports}\ndef f():\n    try:\n        {body}\n    finally:\n        return [1]\n", "f"
    )
    assert done.run(edge_python).value() == [1]


@pytest.mark.parametrize("umask", ["0o777", "0o077", "0"])
def test_the_umask_of_the_step_is_not_that_of_its_results(folder, umask):
    """The host may be another user than the step, and must read the outcome and the large value."""
    source = "import os\ndef f():\n    {}\n    return bytes(100_000)\n"
    modes = []
    for body in (f"os.umask({umask})", "pass"):
        done = folder.reference(source.format(body), "f").run()
        assert done.value() == bytes(100_000)
        files = [path for path in folder.path.rglob("*") if path.name.endswith((".bin", "outcome.json"))]
        assert len(files) == 2
        modes.append({(path.name, path.stat().st_mode, path.parent.stat().st_mode) for path in files})
    assert modes[0] == modes[1]


def test_forked_child_that_returns(folder):
    """A child that the step forked and that comes back from the function does not write the outcome."""
    source = """
import os, time
def f():
    if os.fork() == 0:
        return "child"
    os.wait()
    return "parent"
"""
    assert folder.reference(source, "f").run().value() == "parent"


@pytest.mark.parametrize(("end", "code"), [("raise SystemExit(5)", 5), ("raise ValueError('x')", 1)])
def test_forked_child_that_raises(folder, end, code):
    """Its exit code is what Python would have made of it, and the outcome is the parent's."""
    source = f"import os\ndef f():\n    if os.fork() == 0:\n        {end}\n    return os.wait()[1] >> 8\n"
    assert folder.reference(source, "f").run().value() == code


def test_children_that_live_on(folder):
    """A background process of the step neither delays nor breaks the outcome."""
    source = """
import os, time
def f():
    if os.fork() == 0:
        os.close(1); os.close(2)
        time.sleep(300)
        os._exit(0)
    return 1
"""
    assert folder.reference(source, "f").run().value() == 1  # within its limit, which is shorter


def test_orphans_are_reaped(folder):
    """As process 1 of a container, the runner reaps what the step leaves to it."""
    unshare = shutil.which("unshare")
    if not unshare or subprocess.run([unshare, "-pf", "true"]).returncode:
        pytest.skip("no PID namespace may be made here")
    source = """
import os, time
def f():
    if os.fork() == 0:
        if os.fork() == 0:
            os._exit(0)
        os._exit(0)
    os.wait()
    end = time.monotonic() + 200
    while orphans() and time.monotonic() < end:
        time.sleep(0.01)
    return [os.getppid(), orphans()]
def orphans():
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and name != str(os.getpid()):
            try:
                with open(f"/proc/{name}/stat") as stream:
                    fields = stream.read().rsplit(")", 1)[1].split()
            except OSError:
                continue  # reaped meanwhile
            if fields[1] == "1":
                found.append(fields)
    return found
"""
    done = folder.reference(source, "f").run(f"{unshare} -pf --mount-proc {sys.executable}")
    assert done.value() == [1, []]


def test_stale_outcome(folder):
    """An outcome of an earlier attempt in the same folder is never taken for this one's."""
    (folder.path / "out").mkdir()
    (folder.path / "out" / protocol.OUTCOME).write_text('{"status": "success", "nonce": "n0nce"}')
    assert folder.reference("import os\ndef f(): os._exit(1)\n", "f").run().failure["exit_code"] == 1


# -- receipts ------------------------------------------------------------------------------------------------


def test_receipt_on_a_descriptor(folder):
    """The supervisor's pipe gets the receipt, and the step cannot write to it."""
    reader, writer = os.pipe()
    source = """
import os
def f(n):
    try:
        os.write(n, b'forged')
    except OSError as error:
        return str(error)
"""
    folder.reference(source, "f", writer)
    argv = folder.argv(receipt=f"fd:{writer}")
    assert subprocess.run(argv, pass_fds=(writer,)).returncode == 0
    os.close(writer)
    with open(reader, "rb") as stream:
        receipt = json.loads(stream.read())
    outcome = json.loads(base64.b64decode(receipt["outcome"]))
    assert outcome["status"] == "success"
    assert folder.finished(0).value() == "[Errno 9] Bad file descriptor"


def test_receipt_on_stdout(folder):
    """A line of the log carries the receipt behind its prefix, even after an unfinished line."""
    done = folder.reference("def f(): print('no line end', end='')\n", "f").run(receipt="-")
    assert done.code == 0
    (line,) = [line for line in done.stdout.splitlines() if protocol.RECEIPT_PREFIX in line]
    receipt = json.loads(line.partition(protocol.RECEIPT_PREFIX)[2])
    assert base64.b64decode(receipt["outcome"]) == (done.out / protocol.OUTCOME).read_bytes()


@pytest.mark.parametrize("limit", ["200", "4096"])
def test_receipt_limit(folder, limit):
    """The receipt is never longer than allowed; then it carries the digest alone."""
    done = folder.reference("def f(): return 'x' * 3000\n", "f").run(receipt_limit=limit)
    assert "outcome" not in done.receipt
    assert (folder.path / "receipt").stat().st_size <= int(limit)
    assert done.value() == "x" * 3000


def test_receipt_that_cannot_be_written(folder):
    """Without a receipt nobody would believe the outcome: the exit code says so."""
    done = folder.reference("def f(): return 1\n", "f").run(receipt=str(folder.path / "no" / "receipt"))
    assert done.code == protocol.EXIT_NO_OUTCOME
    assert "the receipt cannot be written" in done.stderr


@pytest.mark.parametrize(
    "change", [{"digest": None}, {"bogus": "1"}, {"receipt_limit": "many"}, {"receipt": "fd:x"}]
)
def test_wrong_command_line(folder, change):
    """A wrong command line shows the right one."""
    argv = folder.function(lambda: 1).argv(**{key: value for key, value in change.items() if value})
    if change.get("digest", 1) is None:
        i = argv.index("--digest")
        del argv[i : i + 2]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == protocol.EXIT_REFUSED
    assert "usage: python3 -u step.pyz run --in DIR" in done.stderr


# -- the time limit ------------------------------------------------------------------------------------------

SLEEP = """
import pathlib, signal, sys, time

def f(path):
    def told(*_):
        pathlib.Path(path).touch()
        {then}
    signal.signal(signal.SIGTERM, told)
    time.sleep(600)
    return "woken"
"""


@pytest.mark.parametrize(
    ("then", "grace"), [("raise ValueError", "600"), ("sys.exit(0)", "600"), ("time.sleep(600)", "3")]
)
def test_a_step_is_stopped_when_its_time_is_over(folder, tmp_path, then, grace):
    """It hears SIGTERM and has its grace period; however it ends then, it was too slow.

    Its own ten minutes, and those of its grace period, are longer than any test waits for it.
    """
    step = folder.reference(SLEEP.format(then=then), "f", str(tmp_path / "told"))
    done = step.run(timeout="5", grace=grace)
    assert (tmp_path / "told").exists()
    assert done.code == protocol.EXIT_STEP_FAILED
    failure = done.outcome["failure"]
    assert failure["category"] == "timeout"
    assert failure["summary"] == "The step ran longer than its timeout of 5 s and was stopped"


def test_a_step_that_is_done_in_its_grace_period_has_succeeded(folder):
    source = "import signal, time\ndef f():\n    signal.sigwait({signal.SIGTERM})\n    return 'saved'\n"
    mask = "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})\n"
    assert folder.reference(mask + source, "f").run(timeout="5", grace="30").value() == "saved"


# -- disks and users -----------------------------------------------------------------------------------------


PUBLIC_PYTHONS = ["/usr/bin/python3", "/usr/local/bin/python3", os.path.realpath(sys.executable)]
CHECK = "import sys; sys.exit(sys.version_info < (3, 8))"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KB; yields its folder."""
    path = tmp_path / "small"
    path.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", path], capture_output=True
    ).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    yield path
    subprocess.run(["umount", "-l", path], check=True)


def test_disk_too_small_for_the_result(folder, small_disk):
    """A result that does not fit fails with the reason, and leaves no half of it behind."""
    done = folder.reference("def f(): return b'x' * 1000000\n", "f").run(out=str(small_disk))
    assert done.code == protocol.EXIT_STEP_FAILED
    failure = json.loads((small_disk / protocol.OUTCOME).read_bytes())["failure"]
    assert "its result could not be written: [Errno 28] No space left on device" in failure["summary"]
    assert failure["category"] == "infra"
    assert failure["hint"] == "give the step more disk, or return less"
    assert os.listdir(small_disk) == [protocol.OUTCOME]


@pytest.mark.parametrize(
    ("end", "summary"),
    [("return 1", "its outcome could not be written"), ("raise ValueError('mine')", "ValueError: mine")],
)
def test_disk_full(folder, small_disk, end, summary):
    """When the output folder takes nothing at all, the receipt alone carries the outcome."""
    fill = "    try:\n        open(p + '/fill', 'wb', 0).write(b'x' * 1000000)\n    except OSError: pass\n"
    source = f"def f(p):\n{fill * 2}    with open(p + '/fill', 'ab', 0) as s:\n"
    source += "        try:\n            while s.write(b'x'): pass\n        except OSError: pass\n"
    done = folder.reference(f"{source}    {end}\n", "f", str(small_disk)).run(out=str(small_disk))
    assert done.code == protocol.EXIT_NO_OUTCOME
    assert not (small_disk / protocol.OUTCOME).exists()
    assert summary in done.failure["summary"]


def test_output_folder_that_cannot_be_written(folder):
    """A refusal of the output folder is in the receipt."""
    done = folder.reference("def f(): return 1\n", "f").run(out="/proc/nowhere")
    assert done.code == protocol.EXIT_NO_OUTCOME
    assert "its outcome could not be written" in done.failure["summary"]


def test_file_size_limit(folder):
    """RLIMIT_FSIZE is reported like a full disk."""
    limit = "setrlimit(RLIMIT_FSIZE, (99999, 99999))"
    source = f"from resource import *\ndef f():\n    {limit}\n    return b'x' * 200000\n"
    assert "[Errno 27] File too large" in folder.reference(source, "f").run().failure["summary"]


def test_any_user_and_read_only_root(folder):
    """A user without name or home, on a read-only root, needs only the folders that it is given."""
    unshare = shutil.which("unshare")
    if os.getuid() != 0 or not unshare or subprocess.run([unshare, "-m", "true"]).returncode:
        pytest.skip("making a read-only root needs root and a mount namespace")
    drop = "import os, sys; os.setgroups([]); os.setgid(54321); os.setuid(54321); os.chdir('/'); "
    drop = [sys.executable, "-c", drop + "os.execve(sys.argv[1], sys.argv[1:], {})"]
    pythons = [
        path
        for path in PUBLIC_PYTHONS
        if not subprocess.run([*drop, path, "-c", CHECK], capture_output=True).returncode
    ]
    if not pythons:
        pytest.skip("no Python that another user can run")
    folder.reference("import os\ndef f(): return [os.getuid(), os.path.dirname(os.getcwd())]\n", "f")
    for name in ("out", "tmp"):
        (folder.path / name).mkdir()
        (folder.path / name).chmod(0o777)
    argv = folder.argv(pythons[0], receipt=str(folder.path / "out" / "receipt"))
    argv = [word.replace(str(folder.path), "/mnt") for word in argv]
    run = f'mount --bind {folder.path} /mnt && mount -o remount,ro,bind / && exec "$@"'
    done = subprocess.run(
        [unshare, "-m", "sh", "-c", run, "sh", *drop, *argv], capture_output=True, text=True
    )
    assert done.stderr == ""
    uid, scratch_base = folder.finished(done.returncode).value()
    assert uid == 54321
    assert scratch_base in ("/tmp", "/var/tmp", "/mnt/out")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such signal")
@pytest.mark.parametrize("kind", ["function", "command"])
def test_a_step_dies_with_its_runner(folder, edge_python, tmp_path, kind):
    """kill -9 of the runner leaves nothing behind: neither the step nor the program that it started."""
    pids = tmp_path / "pids"
    script = f"echo $$ >> {pids}; echo $PPID >> {pids}; sleep 600"
    if kind == "function":
        folder.reference(f"import subprocess\ndef f():\n    subprocess.run(['sh', '-c', {script!r}])\n", "f")
    else:
        folder.command("sh", "-c", script)
    with started(folder.argv(edge_python), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        wait_until(
            lambda: pids.read_text().split() if pids.exists() else [],
            "the step and its program to begin",
            holds=lambda found: len(found) == 2,
        )
    wait_gone(map(int, pids.read_text().split()), "the step and its program")
