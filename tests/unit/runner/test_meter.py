"""What the runner says a step has used, against steps that use what they were told to."""

from __future__ import annotations

import os
import sys

import pytest

from tests.support.processes import wait_gone

MIB = 1024 * 1024

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is no /proc")

# A child that holds some memory; `hold` touches every page of it. `looks` returns once the runner has looked
# at its step some times more: it sleeps from one look to the next, and the kernel counts how often. (A look
# may sleep on its way, too; so there are two seconds first.)
HOLD = """
import os, sys, time
def hold(mib):
    data = bytearray(mib * 1024 * 1024)
    for at in range(0, len(data), 4096):
        data[at] = 1
    return data
def looks():
    def sleeps():
        with open("/proc/%d/status" % os.getppid()) as status:
            (line,) = [line for line in status if line.startswith("voluntary_ctxt_switches")]
        return int(line.split()[1])
    time.sleep(2)
    end = sleeps() + 3
    while sleeps() < end:
        time.sleep(0.02)
"""


def usage(folder, source, python=sys.executable, env=None):
    done = folder.reference(HOLD + source, "f").run(python, env=env)
    assert done.outcome is not None, done.stderr
    return done.outcome["usage"]


def test_time(folder, edge_python):
    used = usage(
        folder,
        """
def f():
    time.sleep(0.3)
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
""",
        edge_python,
    )
    assert used["wall_s"] >= 0.6
    assert 0.3 <= used["cpu_s"] < used["wall_s"]


def test_cpu_of_children_counts(folder):
    used = usage(
        folder,
        """
def f():
    if os.fork() == 0:
        while time.process_time() < 0.4:
            pass
        os._exit(0)
    os.wait()
""",
    )
    assert used["cpu_s"] >= 0.4


def test_a_peak_that_is_over_is_not_forgotten(folder, any_python):
    used = usage(folder, "\ndef f():\n    hold(150)\n", any_python)
    assert 150 * MIB < used["peak_memory_bytes"] < 250 * MIB


@linux
def test_processes_at_the_same_time_add_up(folder, edge_python):
    """The kernel keeps the peak of each process alone."""
    used = usage(
        folder,
        """
def f():
    ready, tell = os.pipe()
    children = []
    for _ in range(3):
        children.append(os.fork())
        if children[-1] == 0:
            data = hold(60)
            os.write(tell, b"x")
            time.sleep(600)
    for _ in children:
        os.read(ready, 1)
    looks()  # from the moment at which all of it is held
    for pid in children:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
""",
        edge_python,
    )
    assert 180 * MIB < used["peak_memory_bytes"] < 300 * MIB


@linux
def test_pages_that_processes_share_count_once(folder):
    used = usage(
        folder,
        """
def f():
    data = hold(120)
    for _ in range(3):
        if os.fork() == 0:
            time.sleep(2)  # some looks; on a slower machine there are fewer, and nothing can be too much
            os._exit(0)
    for _ in range(3):
        os.wait()
""",
    )
    assert 120 * MIB < used["peak_memory_bytes"] < 240 * MIB


def test_a_killed_step_has_its_usage(folder):
    used = usage(folder, "\ndef f():\n    data = hold(100)\n    os.kill(os.getpid(), 9)\n")
    assert used["peak_memory_bytes"] > 100 * MIB
    assert used["wall_s"] > 0


def test_the_timer_is_not_the_steps(folder, edge_python):
    """SIGALRM and the interval timer of the step's process are as Python leaves them."""
    done = folder.reference(
        """
import signal, time
def f():
    got = []
    signal.signal(signal.SIGALRM, lambda *_: got.append(time.monotonic()))
    begun = time.monotonic()
    before = signal.getitimer(signal.ITIMER_REAL)
    signal.setitimer(signal.ITIMER_REAL, 1.2)
    time.sleep(1.6)
    return [list(before), len(got), got[0] - begun >= 1.2]
""",
        "f",
    ).run(edge_python)
    assert done.value() == [[0.0, 0.0], 1, True]


# -- GPUs


@pytest.fixture
def nvidia_smi(tmp_path):
    """Return a maker of an ``nvidia-smi`` that prints some lines, and the environment that finds it."""

    def make(script: str, **env: str) -> dict[str, str]:
        path = tmp_path / "bin" / "nvidia-smi"
        path.parent.mkdir()
        path.write_text(f'#!/bin/sh\necho $$ "$@" >> {tmp_path}/asked\n{script}\n')
        path.chmod(0o755)
        inherited = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
        return {**inherited, "PATH": f"{path.parent}:{os.environ['PATH']}", **env}

    return make


TWO = "printf '0, GPU-aa, 1024\\n1, GPU-bb, 2048\\n'"
FIRST_SAMPLE_S = 0.4  # it comes 0.5 s after the start
SLEEP = "\ndef f():\n    time.sleep(2.2)\n"  # the first look and another one; on a slower machine fewer
# until it was asked, and several looks longer: the answer is read at the next one
ASKED = """
def f():
    asked = os.path.join(os.path.dirname(os.environ["PATH"].split(":")[0]), "asked")
    end = time.monotonic() + 200
    while not os.path.exists(asked) and time.monotonic() < end:
        time.sleep(0.05)
    looks()
"""


@pytest.mark.parametrize(
    ("visible", "mib"),
    [
        (None, 3072),
        ("1", 2048),
        ("GPU-aa", 1024),
        ("0,1", 3072),
    ],
)
def test_memory_of_the_gpus_that_the_step_sees(folder, nvidia_smi, visible, mib):
    env = nvidia_smi(TWO, **({"CUDA_VISIBLE_DEVICES": visible} if visible else {}))
    assert usage(folder, ASKED, env=env)["peak_gpu_memory_bytes"] == mib * MIB


@linux
@pytest.mark.parametrize(
    "script", [TWO, "exit 9", "echo 'NVIDIA-SMI has failed'", "exec sleep 600", "kill -9 $$"]
)
def test_a_step_goes_on_whatever_nvidia_smi_does(folder, nvidia_smi, tmp_path, script):
    """It is asked once in a while, and a hanging one does not outlive the runner."""
    done = folder.reference(HOLD + ASKED, "f").run(env=nvidia_smi(script))
    assert done.outcome["status"] == "success"
    assert ("peak_gpu_memory_bytes" in done.outcome["usage"]) == (script == TWO)
    (asked,) = (tmp_path / "asked").read_text().splitlines()
    pid, _, query = asked.partition(" ")
    assert "--query-gpu" in query
    wait_gone([int(pid)], "nvidia-smi")


@pytest.mark.parametrize("visible", ["", "-1"])
def test_a_step_without_gpus_asks_nobody(folder, nvidia_smi, tmp_path, visible):
    used = usage(folder, SLEEP, env=nvidia_smi(TWO, CUDA_VISIBLE_DEVICES=visible))
    assert "peak_gpu_memory_bytes" not in used
    assert not (tmp_path / "asked").exists()


def test_a_short_step_asks_nobody(folder, nvidia_smi, tmp_path):
    used = usage(folder, "\ndef f():\n    pass\n", env=nvidia_smi(TWO))
    is_short = used["wall_s"] < FIRST_SAMPLE_S  # on a busy machine even that may take longer
    assert not (is_short and (tmp_path / "asked").exists())
