"""A submit that is killed at any request, or whose answer is lost: the next one ends with one sandbox."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from airflow_stepop.hooks.modal import private
from airflow_stepop.hooks.modal.hook import ModalStepHook
from airflow_stepop.job import JobState
from airflow_stepop.testing import Step
from tests.support.modal import Modal
from tests.support.modal_steps import end_of
from tests.support.processes import those
from tests.support.waiting import wait_until

GPU = {"gpu": "T4"}
# RPC, and which of its requests: those that change something, as far as a later submit can see a difference
POINTS = [("VolumeGetOrCreate", 0), ("VolumePutFiles2", 0), ("VolumePutFiles2", 3), ("SandboxCreate*", 0)]
WAYS = {"plain": {}, "gpu": GPU, "gpu, public": GPU}


def close_the_door() -> None:
    names = private.DOORS[private.STARTING]
    private.DOORS[private.STARTING] = (*names, "modal.sandbox:gone")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(private.DOORS, private.STARTING, private.DOORS[private.STARTING])
    if request.param == "gpu, public":
        close_the_door()
    return str(request.param)


def submit_there(environment: Mapping[str, str], way: str, one: Step) -> None:
    """Submit in a process of its own."""
    os.environ.clear()
    os.environ.update(environment)
    if way == "gpu, public":
        close_the_door()
    ModalStepHook().submit(one.spec, one.payload)


class Killer:
    """Submits a step in another process, and kills this process at a request."""

    def __init__(self, service: Modal, way: str) -> None:
        self._service, self._way = service, way
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload([ModalStepHook.__module__, __name__])

    def kill_at(self, one: Step, rpc: str, nth: int, *, after: bool = True) -> bool:
        """Return whether the submit has come to the ``nth`` request of an RPC; it is dead then."""
        self._service.do("fault", kind="hold", rpc=rpc, skip=nth, after=after)
        process = self._processes.Process(target=submit_there, args=(dict(os.environ), self._way, one))
        process.start()
        wait_until(lambda: self._service.report()["held"] or not process.is_alive(), f"{rpc} to be held")
        is_held = bool(self._service.report()["held"])
        if is_held:
            process.kill()
        process.join()
        assert process.exitcode == (-signal.SIGKILL if is_held else 0)
        self._service.do("clear_faults")
        return is_held


def sandboxes(service: Modal, name: str) -> list[Any]:
    return [one for one in service.report()["sandboxes"].values() if one["name"] == name]


@pytest.mark.once
def test_a_submit_that_was_killed_at_a_request(
    way: str, hook: ModalStepHook, step: Callable[..., Step], modal_server: Modal
) -> None:
    """Each request that changes something is carried out, and its answer comes to nobody."""
    killer = Killer(modal_server, way)
    for rpc, nth in POINTS if way == "plain" else POINTS[-1:]:
        one = step(["true"], settings=WAYS[way], secrets={"TOKEN": "hush"})
        was_killed = killer.kill_at(one, rpc, nth)
        assert was_killed or way == "gpu, public"  # there, the parent may see the sandbox first, and end
        handle = hook.submit(one.spec, one.payload)
        assert end_of(hook, handle).state is JobState.SUCCEEDED, (rpc, nth)
        assert hook.outcome(handle).digest, (rpc, nth)
        assert len(sandboxes(modal_server, one.spec.name)) == 1, (rpc, nth)


@pytest.mark.once
@pytest.mark.usefixtures("hook")
def test_a_killed_submit_leaves_no_process_that_creates_later(
    step: Callable[..., Step], modal_server: Modal
) -> None:
    """By the public interface, a process of its own creates the sandbox. It ends with the submit."""
    one = step(["true"], settings=GPU)
    assert Killer(modal_server, "gpu, public").kill_at(one, "ImageGetOrCreate", 0, after=False)
    wait_until(lambda: not creators(), "the process that creates the sandbox to end")
    assert sandboxes(modal_server, one.spec.name) == []


def creators() -> list[int]:
    return those(lambda folder: b"hooks.modal.starting" in (folder / "cmdline").read_bytes())


@pytest.mark.once
@pytest.mark.parametrize("settings", [{}, GPU], ids=["plain", "gpu"])
def test_a_create_that_is_sent_again_after_the_step_has_ended(
    settings: dict[str, Any],
    hook: ModalStepHook,
    make_hook: Callable[[], ModalStepHook],
    step: Callable[..., Step],
    modal_server: Modal,
) -> None:
    """The client sends a create again by itself. The name is free by then, and a second sandbox begins.

    It runs nothing, and the result of the first one is that of the step.
    """
    rpc = "SandboxCreate" if settings else "SandboxCreateV2"
    one = step(["echo", "hello"], settings=settings)
    modal_server.do("fault", kind="lost", rpc=rpc, after=True, count=1)
    modal_server.do("fault", kind="hold", rpc=rpc, skip=1)
    found: list[Any] = []
    sender = threading.Thread(target=lambda: found.append(hook.submit(one.spec, one.payload)))
    sender.start()
    wait_until(lambda: modal_server.report()["held"], "the create to be sent again")
    modal_server.wait_over(one.spec.name)
    modal_server.do("clear_faults")
    sender.join()
    (handle,) = found
    assert len(sandboxes(modal_server, one.spec.name)) == 2
    for each in (hook, make_hook()):
        assert end_of(each, handle).state is JobState.SUCCEEDED
        assert each.outcome(handle).digest
        assert [line.text for line in each.tail(handle, 5).lines] == ["hello"]
