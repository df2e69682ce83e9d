"""Each GPU of this host belongs to one step at a time, whatever process dies.

The driver is a program that prints what ``nvidia-smi`` prints.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from airflow_stepop.exceptions import UnsupportedError
from airflow_stepop.failure import Category
from airflow_stepop.hooks.local import LocalStepHook
from airflow_stepop.hooks.local.supervisor.gpus import LOCK_FOLDER, Gpu, describe, matching, parse_list
from airflow_stepop.job import JobHandle, JobState
from airflow_stepop.resources import ResourceSettings
from airflow_stepop.testing import make_step
from tests.support.local_jobs import Bench
from tests.support.waiting import wait_until

A100, T4, RTX = "NVIDIA A100-SXM4-40GB", "Tesla T4", "NVIDIA GeForce RTX 4090"
ONE, TWO = ResourceSettings(gpu_count=1), ResourceSettings(gpu_count=2)


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[str]]]:
    """Give this host GPUs: ``driver(name, ...)`` puts an ``nvidia-smi`` on the PATH and returns the UUIDs."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")

    made: list[str] = []

    def install(*names: str, script: str = "") -> list[str]:
        uuids = [f"GPU-{secrets.token_hex(4)}-0000-4000-8000-{secrets.token_hex(6)}" for _ in names]
        made.extend(uuids)
        lines = [f"GPU {n}: {name} (UUID: {uuids[n]})" for n, name in enumerate(names)]
        listing = "\n".join(lines)
        script = script or f'[ "$*" = -L ] || exit 2\ncat << END\n{listing}\nEND'
        path = bin_folder / "nvidia-smi"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return uuids

    yield install
    for uuid in made:
        (Path(LOCK_FOLDER) / uuid).unlink(missing_ok=True)


# -- listing and choosing GPUs


def test_the_list_of_the_driver_is_read() -> None:
    """The list as the driver prints it: whole GPUs, and one that is divided into parts (MIG)."""
    assert parse_list(
        "GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)\n"
        "  MIG 3g.20gb     Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)\n"
        "  MIG 2g.10gb     Device  1: (UUID: MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb)\n"
        "GPU 1: Tesla T4 (UUID: GPU-00000000-d33d-2b2c-524d-9e3d8d2b8a77)\n"
    ) == [
        Gpu(*["MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f"] * 2, f"{A100} MIG 3g.20gb"),
        Gpu(*["MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb"] * 2, f"{A100} MIG 2g.10gb"),
        Gpu("GPU-00000000-d33d-2b2c-524d-9e3d8d2b8a77", "1", T4),
    ]
    assert parse_list("No devices found.\n") == []


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (None, [A100, T4, RTX]),
        ("A100", [A100]),
        ("nvidia-a100", [A100]),
        ("A100-40GB", [A100]),
        ("A100-80GB", []),
        ("A10", []),
        ("nvidia-tesla-t4", [T4]),
        ("t4", [T4]),
        ("RTX4090", [RTX]),
        ("rtx 4090", [RTX]),
        ("nvidia", [A100, T4, RTX]),
    ],
)
def test_a_kind_is_named_as_people_do(wanted: str | None, names: list[str]) -> None:
    """The words of the name decide; A10 does not match A100."""
    gpus = [Gpu(str(n), str(n), name) for n, name in enumerate([A100, T4, RTX])]
    assert [gpu.name for gpu in matching(gpus, wanted)] == names


def test_many_are_described_by_kind() -> None:
    gpus = [Gpu(str(n), str(n), name) for n, name in enumerate([A100, A100, T4])]
    assert describe(gpus) == f"3 (2 x {A100}, 1 x {T4})"
    assert describe([Gpu("0", "0", "")]) == "1"
    assert describe([]) == "none"


@pytest.mark.parametrize(
    ("value", "numbers"), [("1,0", "10"), ("", ""), ("-1", ""), ("1,x,0", "1"), ("GPU", "1"), ("0,7", "0")]
)
def test_only_gpus_that_the_worker_may_use(
    driver, monkeypatch: pytest.MonkeyPatch, value: str, numbers: str
) -> None:
    """``CUDA_VISIBLE_DEVICES`` of the worker limits the choice as CUDA reads it; a UUID may be shortened."""
    uuids = driver(A100, T4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", uuids[1][:12] if value == "GPU" else value)
    assert "".join(gpu.visible for gpu in LocalStepHook().host.gpus) == numbers


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        (
            ResourceSettings(gpu_count=4),
            f"gpu_count=4: this host has 3 (2 x {A100}, 1 x {T4}); "
            "ask for at most 3, or use a remote backend",
        ),
        (
            ResourceSettings(gpu_count=2, gpu_type="T4"),
            f"gpu_count=2 with gpu_type='T4': this host has 3 (2 x {A100}, 1 x {T4}); "
            "ask for at most 1, or use a remote backend",
        ),
        (
            ResourceSettings(gpu_count=1, gpu_type="H100"),
            f"gpu_count=1 with gpu_type='H100': this host has 3 (2 x {A100}, 1 x {T4}); "
            "name a type that this host has, or use a remote backend",
        ),
    ],
)
def test_what_the_host_does_not_have_is_refused(driver, resources: ResourceSettings, message: str) -> None:
    """The error lists the GPUs of the host."""
    driver(A100, A100, T4)
    with pytest.raises(UnsupportedError) as caught:
        LocalStepHook().render(make_step(["true"], resources=resources).spec)
    assert str(caught.value) == message


def test_a_driver_that_fails_is_named(driver) -> None:
    """A step that wants a GPU and the check report the driver's error. Other steps do not call the driver."""
    why = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    driver(script=f'echo "{why}"; exit 9')
    hook = LocalStepHook()
    with pytest.raises(UnsupportedError, match=f"exit code 9: {why}"):
        hook.render(make_step(["true"], resources=ONE).spec)
    (finding,) = [finding for finding in hook.check() if finding.subject == "gpus"]
    assert not finding.is_ok
    assert why in finding.message
    assert hook.render(make_step(["true"]).spec)["gpus"]["count"] == 0


def test_a_step_for_another_backend_gets_what_there_is(driver) -> None:
    """A step that asks for eight H100 gets a laptop's one T4; without any GPU it gets none."""
    step = make_step(["true"], resources=ResourceSettings(gpu_count=8, gpu_type="H100"), is_overridden=True)
    (uuid,) = driver(T4)
    request = LocalStepHook().render(step.spec)
    assert request["gpus"] == {"count": 1, "devices": [[uuid, "0", T4]]}
    driver()
    assert LocalStepHook().render(step.spec)["gpus"] == {"count": 0, "devices": []}


def test_the_variable_cannot_be_given_twice(driver) -> None:
    driver(T4)
    step = make_step(["true"], resources=ONE, env={"CUDA_VISIBLE_DEVICES": "0"})
    with pytest.raises(UnsupportedError, match="env sets CUDA_VISIBLE_DEVICES, but gpu_count sets this"):
        LocalStepHook().render(step.spec)


def test_a_part_of_a_gpu_is_used_alone(driver) -> None:
    part = "  MIG 3g.20gb     Device  %d: (UUID: MIG-%d)"
    driver(script=f"cat << END\nGPU 0: {A100} (UUID: GPU-1)\n{part % (0, 0)}\n{part % (1, 1)}\nEND")
    with pytest.raises(UnsupportedError, match="one part of a divided GPU"):
        LocalStepHook().render(make_step(["true"], resources=TWO).spec)


# -- holding and waiting

SEES = ["sh", "-c", 'echo "sees <$CUDA_VISIBLE_DEVICES>"']

HOLD = """
import fcntl, os, subprocess, sys, time
folder, hold_s = sys.argv[1], float(sys.argv[2])
for device in os.environ["CUDA_VISIBLE_DEVICES"].split(","):
    witness = os.open(f"{folder}/witness-{device}", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(witness, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("TWICE", device, flush=True)
    os.set_inheritable(witness, True)
# uses the GPUs on, whatever becomes of its parent
subprocess.Popen(["setsid", "sleep", "600"], close_fds=False)
print("has", os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
end = time.monotonic() + hold_s
while time.monotonic() < end and not os.path.exists(f"{folder}/release"):
    time.sleep(0.02)
"""


def hold(bench: Bench, folder: Path, hold_s: float, resources: ResourceSettings = ONE) -> JobHandle:
    """Start a step that holds its GPUs for some time and reports if another step has one of them too."""
    command = [sys.executable, "-c", HOLD, str(folder), str(hold_s)]
    return bench.submit(bench.step(command, resources=resources))


def has(bench: Bench, handle: JobHandle) -> bool:
    return any(line.startswith("has ") for line in bench.lines(handle))


def is_pending(bench: Bench, handle: JobHandle) -> bool:
    return bench.status(handle).state is JobState.PENDING


def test_a_step_sees_its_own_gpus_and_no_other(bench: Bench, driver) -> None:
    """A step that asks for no GPU sees none, unless its environment sets CUDA_VISIBLE_DEVICES."""
    uuids = driver(A100, T4)
    told = {"env": {"CUDA_VISIBLE_DEVICES": "1"}}
    kinds = [
        ({}, ""),
        ({"resources": TWO}, "0,1"),
        ({"resources": ResourceSettings(gpu_count=1, gpu_type="T4")}, "1"),
        (told, "1"),
    ]
    for options, seen in kinds:
        handle, status = bench.run(bench.step(SEES, **options))
        assert status.state is JobState.SUCCEEDED
        assert bench.lines(handle) == [f"sees <{seen}>"]
    assert stat.S_IMODE(os.stat(LOCK_FOLDER).st_mode) == 0o700
    for uuid in uuids:
        assert (Path(LOCK_FOLDER) / uuid).read_bytes() == b""


def test_four_steps_share_two_gpus(bench: Bench, driver, tmp_path: Path) -> None:
    """Two steps wait and log a line about it. No GPU belongs to two steps."""
    driver(A100, A100)
    handles = [hold(bench, tmp_path, 600) for _ in range(4)]
    wait_until(lambda: sum(has(bench, handle) for handle in handles) >= 2, "two steps to begin")
    waiting = [handle for handle in handles if is_pending(bench, handle)]
    assert len(waiting) == 2
    assert bench.status(waiting[0]).started_at is None
    said = f"[stepop] waiting for 1 of the GPUs of this host: 2 (2 x {A100})"
    bench.wait_for_line(waiting[0], said)
    assert bench.lines(waiting[0]) == [said]
    (tmp_path / "release").touch()
    for handle in handles:
        assert bench.wait(handle).state is JobState.SUCCEEDED
        assert bench.lines(handle)[-1] in ("has 0", "has 1")


def test_a_step_that_waits_can_be_cancelled(bench: Bench, driver, tmp_path: Path) -> None:
    """The cancellation takes effect at once, and the step never runs."""
    driver(T4)
    first = hold(bench, tmp_path, 600)
    wait_until(lambda: has(bench, first), "the first step to begin")
    second = hold(bench, tmp_path, 600)
    assert is_pending(bench, second)
    bench.hook.cancel(second)
    assert bench.wait(second).state is JobState.CANCELLED
    assert not has(bench, second)
    assert bench.status(first).state is JobState.RUNNING


def test_a_supervisor_that_waits_may_be_killed(bench: Bench, driver, tmp_path: Path) -> None:
    """SIGTERM (as from a host that shuts down) or SIGKILL: the failure is INFRA, and the holder goes on."""
    driver(T4)
    first = hold(bench, tmp_path, 600)
    wait_until(lambda: has(bench, first), "the first step to begin")
    for number in (signal.SIGTERM, signal.SIGKILL):
        waiting = hold(bench, tmp_path, 600)
        assert is_pending(bench, waiting)
        os.kill(bench.supervisor(waiting), number)
        failure = bench.wait(waiting).failure
        assert failure is not None
        assert failure.category is Category.INFRA


def test_a_killed_holder_gives_its_gpu_back(bench: Bench, driver, tmp_path: Path) -> None:
    """The GPU goes to the next waiting step once all processes of the killed one are gone."""
    driver(T4)
    first = hold(bench, tmp_path, 600)
    wait_until(lambda: has(bench, first), "the first step to begin")
    second = hold(bench, tmp_path, 0.1)
    assert is_pending(bench, second)
    os.kill(bench.supervisor(first), signal.SIGKILL)
    assert bench.wait(second).state is JobState.SUCCEEDED
    assert [line for line in bench.lines(second) if not line.startswith("[stepop]")] == ["has 0"]


def test_a_step_that_wants_both_is_not_passed_for_ever(bench: Bench, driver, tmp_path: Path) -> None:
    """A step that comes later and wants one GPU waits behind the step that wants both."""
    driver(A100, A100)
    first = [hold(bench, tmp_path, 600) for _ in range(2)]
    wait_until(lambda: all(has(bench, handle) for handle in first), "both GPUs to be taken")
    both = hold(bench, tmp_path, 0.5, TWO)
    wait_until(lambda: bench.lines(both), "the step that wants both to wait")
    later = hold(bench, tmp_path, 0.1)
    bench.hook.cancel(first[0])
    bench.wait(first[0])
    # one GPU is free, and neither waiting step may take it; a slow machine only weakens the test
    time.sleep(1.0)
    assert is_pending(bench, both)
    assert is_pending(bench, later)
    bench.hook.cancel(first[1])
    assert bench.wait(both).state is JobState.SUCCEEDED
    assert bench.lines(both)[-1] == "has 0,1"
    assert bench.wait(later).state is JobState.SUCCEEDED
    begun = [bench.status(handle).started_at for handle in (both, later)]
    assert begun == sorted(begun)


@pytest.mark.parametrize("seed", [1, 2])
def test_kills_at_random_give_no_gpu_twice_and_lose_none(
    bench: Bench, driver, tmp_path: Path, seed: int
) -> None:
    """Holders and waiters are killed. The others succeed, and both GPUs are free at the end."""
    driver(A100, A100)
    dice = random.Random(seed)
    handles = [hold(bench, tmp_path, dice.uniform(0, 0.4)) for _ in range(8)]
    killed = dice.sample(handles, 4)
    for handle in killed:
        wait_until(
            lambda handle=handle: has(bench, handle) or dice.random() < 0.02, "a moment to kill", pause_s=0.01
        )
        if bench.status(handle).state in (JobState.RUNNING, JobState.PENDING):
            with suppress(ProcessLookupError):  # the supervisor has just ended
                os.kill(bench.supervisor(handle), signal.SIGKILL)
    last = hold(bench, tmp_path, 0, TWO)
    assert bench.wait(last).state is JobState.SUCCEEDED
    for handle in handles:
        status = bench.wait(handle)
        assert status.state is JobState.SUCCEEDED or handle in killed
    lines = [line for handle in [*handles, last] for line in bench.lines(handle)]
    assert not [line for line in lines if line.startswith("TWICE")]
