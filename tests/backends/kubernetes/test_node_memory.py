"""A whole node is out of memory: the kernel kills all processes of a container at once.

Nothing is left in the container that could report it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_stepop.exceptions import OutcomeLostError
from airflow_stepop.failure import Category
from airflow_stepop.hooks.kubernetes.pods import containers_of
from airflow_stepop.job import JobState
from tests.support.cluster_jobs import pods_of, wait_lines, wait_over
from tests.support.needs import needs_parts_of_cluster
from tests.support.processes import kill, those

SCRIPT = "echo first; sleep 600 & sleep 600 & echo last; wait"


@pytest.fixture
def processes():
    """Return a function that lists a container's processes by its id; they must be visible on this host."""
    needs_parts_of_cluster()
    return processes_of


def processes_of(container):
    return those(lambda process: container in (process / "cgroup").read_text())


def kill_whole(container):
    """Kill a whole container at once, as the kernel does with ``memory.oom.group``."""
    (first, *_) = processes_of(container)
    (group,) = [
        line.removeprefix("0::/")
        for line in Path(f"/proc/{first}/cgroup").read_text().splitlines()
        if line.startswith("0::")
    ] or [""]
    for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
        switch = Path(root, group, "cgroup.kill")
        if group and switch.exists():
            switch.write_text("1")
            return
    kill(processes_of(container))


def container_of(hook, handle):
    (pod,) = pods_of(hook, handle)
    ((_, container),) = containers_of(pod)
    return container["containerID"].partition("://")[2]


def test_a_container_that_is_killed_whole_fails_for_its_machine(hook, submitted, processes):
    _, handle = submitted(["sh", "-c", SCRIPT])
    wait_lines(hook, handle, "first", "last")
    container = container_of(hook, handle)
    assert len(processes(container)) >= 4, "the runner, the shell, and what it has started"
    kill_whole(container)
    status = wait_over(hook, handle)
    assert status.state is JobState.FAILED
    assert status.failure.category is Category.INFRA
    assert status.failure.summary == "The step's container was killed by signal 9"
    assert status.failure.exit_code == 137
    # not OOMKilled, since the container's own limit was not reached
    assert status.failure.native_reason == "Error"
    assert "its node ran out of memory as a whole" in status.failure.hint
    with pytest.raises(OutcomeLostError, match="left no outcome"):
        hook.outcome(handle)
    assert [line.text for line in hook.tail(handle, 5).lines] == ["first", "last"]
    lines = [line.text for chunk in hook.chunks(handle) for line in chunk.lines]
    assert lines == ["first", "last"]
    assert not processes(container)
