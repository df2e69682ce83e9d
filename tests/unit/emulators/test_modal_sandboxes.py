"""Sandboxes of the Modal emulator: their commands really run, and end in every way that the API has."""

from __future__ import annotations

import os
import time

import pytest

from tests.support.processes import wait_gone
from tests.support.waiting import wait_until

STATUSES = ["INIT_FAILURE", "INTERNAL_FAILURE"]
KILLED = ["IDLE_TIMEOUT", "MEMORY_MANAGER_EVICTION", "MEMORY_THRASHING_EVICTION", "KERNEL_OOM_KILL"]


def test_a_command_runs_with_its_environment(sandboxes):
    """V2: the environment, ephemeral and named Secrets; the last one wins. The service adds its own names."""
    import modal

    sandboxes.service.do("secret", name="named", values={"A": "named", "B": "named"})
    sandbox = sandboxes.ended(
        *("sh", "-c", 'echo "$A $B $C $MODAL_TASK_ID $MODAL_IMAGE_ID"; echo wrong >&2; exit 3'),
        env={"C": "env"},
        secrets=[
            modal.Secret.from_name("named", client=sandboxes.client),
            modal.Secret.from_dict({"B": "ephemeral"}),
        ],
    )
    known = sandboxes.service.sandbox(sandbox.object_id)
    assert sandbox.returncode == 3
    assert sandbox.stdout.read() == f"named ephemeral env {known['task_id']} {known['image']}\n"
    assert sandbox.stderr.read() == "wrong\n"
    assert known["env"] == ["A", "B", "C"]


def test_a_gpu_makes_a_v1_sandbox(sandboxes):
    """V1: all values are Secrets by id, the id has another shape, and the streams come from the service."""
    import modal

    sandbox = sandboxes.ended(
        *("sh", "-c", 'echo "$A $B"; echo wrong >&2'),
        gpu="T4:2",
        env={"B": "env"},
        secrets=[modal.Secret.from_dict({"A": "ephemeral"})],
    )
    known = sandboxes.service.sandbox(sandbox.object_id)
    assert (sandbox.returncode, known["version"], known["gpu"]) == (0, 1, ["T4", 2])
    assert len(sandbox.object_id) == 25
    assert sandbox.stdout.read() == "ephemeral env\n"
    assert sandbox.stderr.read() == "wrong\n"
    assert sandboxes.service.calls("SandboxGetLogs") >= 2


def test_a_working_folder_that_is_missing_is_made(sandboxes):
    folder = f"/work-{os.getpid()}/a/b"
    assert sandboxes.ended("pwd", workdir=folder).stdout.read() == f"{folder}\n"
    assert not os.path.exists(folder)


def test_what_a_command_writes_at_home_is_not_the_hosts(sandboxes):
    name = f"written-{os.getpid()}"
    assert sandboxes.ended("sh", "-c", f"echo 1 > {name}; ls; pwd").stdout.read().endswith(f"{name}\n/root\n")
    assert not os.path.exists(f"/root/{name}")


def test_a_network_that_is_blocked(sandboxes):
    """The command has no network, not even this host's."""
    code = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])))"
    port = sandboxes.service.url.rpartition(":")[2]
    assert sandboxes.ended("python3", "-c", code, port).returncode == 0
    assert sandboxes.ended("python3", "-c", code, port, block_network=True).returncode == 1


def test_a_bucket_that_is_mounted_is_an_empty_folder(sandboxes):
    import modal

    keys = modal.Secret.from_dict({"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"})
    mounts = {"/bucket": modal.CloudBucketMount("name", secret=keys)}
    for options in ({}, {"gpu": "T4"}):
        sandbox = sandboxes.ended(
            "sh", "-c", "ls -A /bucket && echo 1 > /bucket/x", volumes=mounts, **options
        )
        assert (sandbox.returncode, sandbox.stdout.read()) == (0, "")


def test_a_python_of_this_host_and_a_tmp_of_its_own(sandboxes, tmp_path):
    code = "import os, sys; print(sys.version_info[0], os.listdir('/tmp'))"
    assert sandboxes.ended("python3", "-c", code).stdout.read() == "3 []\n"


def test_the_entrypoint_of_an_image_comes_before_the_command(sandboxes):
    """The trap: an image with an ENTRYPOINT of its own never runs the command. An empty one clears it."""
    sandboxes.service.do("image", tag="trap:*", entrypoint=["echo", "trapped"], env={"FROM_IMAGE": "1"})
    image = sandboxes.image("trap:1")
    assert sandboxes.ended("echo", "hello", image=image).stdout.read() == "trapped echo hello\n"
    command = ("sh", "-c", "echo hello $FROM_IMAGE")
    assert sandboxes.ended(*command, image=image.entrypoint([])).stdout.read() == "hello 1\n"


def test_a_program_that_is_not_there(sandboxes):
    """INIT_FAILURE with the exit code unset: returncode is 0, wait raises nothing, the log says why."""
    sandbox = sandboxes.ended("no-such-program")
    assert sandbox.returncode == 0
    assert sandboxes.service.sandbox(sandbox.object_id)["status"] == "INIT_FAILURE"
    said = [entry for entry in sandboxes.app().logs.tail() if entry.source == "system"]
    assert "no-such-program" in said[0].message


@pytest.mark.parametrize("status", STATUSES)
def test_ends_before_the_command(workspace, status):
    workspace.service.do("plan", sandbox="bad", fail=status, message="no such host")
    sandbox = workspace.ended("true", name="bad")
    assert sandbox.returncode == 0
    known = workspace.service.sandbox("bad")
    assert (known["status"], known["exit_code"]) == (status, None)


@pytest.mark.parametrize("status", KILLED)
def test_the_service_ends_a_sandbox(workspace, status):
    """With the exit code unset, all of these look like success to the public API."""
    workspace.simulated("doomed", run_s=1000)
    sandbox = workspace.create("true", name="doomed")
    assert sandbox.poll() is None
    workspace.service.do("end", sandbox="doomed", status=status)
    sandbox.wait()
    assert sandbox.returncode == 0
    assert workspace.service.sandbox("doomed")["status"] == status


def test_an_exit_code_that_is_set(workspace):
    workspace.simulated("doomed", run_s=1000)
    sandbox = workspace.create("true", name="doomed")
    workspace.service.do("end", sandbox="doomed", status="KERNEL_OOM_KILL", exit_code=137)
    sandbox.wait()
    assert sandbox.returncode == 137


def test_a_timeout(sandboxes):
    """Status TIMEOUT, which the client says as 124, some time after the timeout."""
    import modal

    sandbox = sandboxes.create("sleep", "1000", timeout=1000)
    pid = sandboxes.service.wait_started(sandbox.object_id)["pid"]
    sandboxes.service.do("settings", second_s=0.0)
    with pytest.raises(modal.exception.SandboxTimeoutError):
        sandbox.wait()
    assert sandbox.returncode == 124
    wait_gone([pid], "the command")


def test_an_idle_timeout_counts_a_busy_command(sandboxes):
    sandboxes.service.do("settings", second_s=0.01)
    sandbox = sandboxes.ended("sleep", "1000", idle_timeout=5)
    assert sandboxes.service.sandbox(sandbox.object_id)["status"] == "IDLE_TIMEOUT"


def test_terminate_is_answered_before_the_end(sandboxes):
    """poll() stays None for a while, and a second terminate changes nothing; then 137."""
    import modal

    sandboxes.service.do("plan", sandbox="n", hold=["end"])
    sandbox = sandboxes.create("sleep", "1000", name="n")
    pid = sandboxes.service.wait_started("n")["pid"]
    sandbox.terminate()
    assert sandbox.poll() is None
    assert sandboxes.listed() == [sandbox.object_id]
    sandbox.terminate()
    wait_gone([pid], "the command")
    assert sandbox.poll() is None
    sandboxes.service.do("release", sandbox="n", phase="end")
    with pytest.raises(modal.exception.SandboxTerminatedError):
        sandbox.wait()
    assert (sandbox.poll(), sandboxes.listed()) == (137, [])
    sandbox.terminate()
    assert sandbox.poll() == 137


def test_a_command_hears_of_its_termination(sandboxes):
    sandboxes.service.do("settings", kill_after_s=60.0)
    code = "import signal, sys; signal.signal(15, lambda *_: sys.exit('heard')); "
    code += "print('on', flush=True); signal.pause()"
    sandbox = sandboxes.create("python3", "-c", code)
    assert next(iter(sandbox.stdout)) == "on\n"
    sandbox.terminate(wait=True)
    assert sandbox.stderr.read() == "heard\n"


def test_too_much_memory(sandboxes):
    """A limit is enforced; a request alone is none."""
    code = "data = b'x' * (200 << 20); print('fine', flush=True); import time; time.sleep({})"
    sandbox = sandboxes.ended("python3", "-c", code.format(1000), memory=(64, 128))
    known = sandboxes.service.sandbox(sandbox.object_id)
    assert (known["status"], sandbox.returncode) == ("KERNEL_OOM_KILL", 0)
    sandbox = sandboxes.ended("python3", "-c", code.format(0), memory=64)
    assert (sandbox.returncode, sandbox.stdout.read()) == (0, "fine\n")


def test_everything_that_a_command_started_ends_with_it(sandboxes):
    marker = f"marker{time.time_ns()}"
    sandbox = sandboxes.ended("sh", "-c", f"sh -c 'sleep 1000; : {marker}' & echo done")
    assert sandbox.returncode == 0
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and marker in command_of(pid)]


def command_of(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def test_a_result_that_comes_late(workspace):
    """The command has ended, and the sandbox still counts as running: its name is taken."""
    import modal

    name = workspace.simulated("late", hold=["result"])
    sandbox = workspace.create("true", name=name)
    wait_until(lambda: workspace.service.sandbox(name)["status"], "the end")
    assert sandbox.poll() is None
    assert workspace.listed() == [sandbox.object_id]
    with pytest.raises(modal.exception.AlreadyExistsError):
        workspace.create("true", name=name)
    workspace.service.do("release", sandbox=name, phase="result")
    sandbox.wait()
    assert sandbox.poll() == 0


def test_a_result_that_takes_a_time(workspace):
    workspace.service.do("settings", result_lag_s=0.2)
    name = workspace.simulated("late", exit_code=3)
    sandbox = workspace.create("true", name=name)
    wait_until(lambda: workspace.service.sandbox(name)["status"], "the end")
    sandbox.wait()
    assert (sandbox.returncode, workspace.service.sandbox(name)["over"]) == (3, True)


def test_a_gpu_is_waited_for(workspace):
    """A V1 sandbox has no task before it has a GPU, and create waits for one. By name it is there at once."""
    import concurrent.futures

    name = workspace.simulated("queued", run_s=1000, hold=["queue"])
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        creating = pool.submit(workspace.create, "true", name=name, gpu="A100")
        wait_until(lambda: workspace.service.calls("SandboxGetTaskId"), "the client to wait")
        assert not creating.done()
        assert workspace.find(name).poll() is None
        assert workspace.service.sandbox(name)["task_id"] == ""
        workspace.service.do("release", sandbox=name, phase="queue")
        assert creating.result().object_id == workspace.service.sandbox(name)["id"]


def test_a_gpu_that_never_comes(workspace):
    """Without capacity there is never a task. The sandbox can be terminated, and create says so."""
    import concurrent.futures

    import modal

    name = workspace.simulated("never", no_capacity=True)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        creating = pool.submit(workspace.create, "true", name=name, gpu="H100")
        wait_until(lambda: workspace.service.calls("SandboxGetTaskId"), "the client to wait")
        workspace.find(name).terminate()
        with pytest.raises(modal.exception.ConflictError):
            creating.result()
    assert workspace.service.sandbox(name)["status"] == "TERMINATED"


def test_a_preemption_looks_like_a_termination(workspace):
    """Nobody is told why: TERMINATED, which the client says as 137. Only GPUs are taken."""
    workspace.simulated("*", run_s=1000)
    sandbox = workspace.create("true", name="gpu", gpu="T4")
    workspace.service.do("preempt", sandbox="gpu")
    sandbox.wait(raise_on_termination=False)
    assert sandbox.returncode == 137
    workspace.create("true", name="cpu")
    with pytest.raises(AssertionError, match="only a sandbox with a GPU"):
        workspace.service.do("preempt", sandbox="cpu")
