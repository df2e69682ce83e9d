"""Many sandboxes at once: no request of a poll is for one sandbox alone."""

from __future__ import annotations

from collections.abc import Mapping

from airflow_stepop.hooks.modal.hook import ModalStepHook
from airflow_stepop.hooks.modal.log_text import Position
from airflow_stepop.job import Cursor, JobHandle, JobState, LogChunk
from tests.support.modal import Modal
from tests.support.modal_many import receipt_line, simulated
from tests.support.waiting import wait_until

COUNT, PAGE, BATCH = 120, 20, 30  # sandboxes, those of a page of the list, those of a call for logs
REQUESTS = COUNT // PAGE + 1  # of a list; the last page is empty


def logs_of(hook: ModalStepHook, cursors: Mapping[JobHandle, Cursor]) -> dict[JobHandle, LogChunk]:
    """Read the logs as the watcher does, in several calls."""
    handles, found = list(cursors), dict[JobHandle, LogChunk]()
    for first in range(0, len(handles), BATCH):
        found |= hook.logs({handle: cursors[handle] for handle in handles[first : first + BATCH]})
    return found


def test_the_requests_for_many_sandboxes(hook: ModalStepHook, modal_server: Modal) -> None:
    """States cost one list. The logs of all cost one read, in however many calls they are asked for."""
    modal_server.do("settings", page_size=PAGE)
    handles = simulated(hook, modal_server, COUNT)
    statuses = hook.status(handles)
    assert {one.state for one in statuses.values()} == {JobState.RUNNING}
    cursors: dict[JobHandle, Cursor] = dict.fromkeys(handles)
    logs_of(hook, cursors)
    modal_server.do("forget_calls")
    for _ in range(3):
        assert hook.status(handles) == statuses
        logs_of(hook, cursors)
    assert modal_server.report()["calls"] == {}, "the last answers are used again"
    modal_server.do("say", sandbox="*", text="here I am")

    def read() -> dict[JobHandle, LogChunk]:
        chunks = logs_of(hook, cursors)
        cursors.update({handle: chunk.cursor for handle, chunk in chunks.items()})
        return chunks

    chunks = wait_until(read, "the lines of all", holds=lambda found: len(found) == COUNT)
    assert {len(chunk.lines) for chunk in chunks.values()} == {1}
    calls = modal_server.report()["calls"]
    assert set(calls) <= {"AppCountLogs OK", "AppFetchLogs OK"}, calls
    assert read() == {}, "no line comes twice"


def test_a_receipt_announces_an_end(hook: ModalStepHook, modal_server: Modal) -> None:
    """The list of many sandboxes is not asked for often. One whose log has the receipt is asked for alone."""
    modal_server.do("settings", page_size=PAGE)
    handles = simulated(hook, modal_server, COUNT)
    ends, *others = handles
    hook.status(handles)
    modal_server.do("say", sandbox=ends.name, text=receipt_line(ends))
    found = wait_until(lambda: hook.logs({ends: None}), "the receipt")
    assert Position.parse(found[ends].cursor).has_receipt
    modal_server.do("end", sandbox=ends.name, status="SUCCESS", exit_code=0)
    modal_server.wait_over(ends.name)
    modal_server.do("forget_calls")
    statuses = hook.status(handles)
    assert statuses[ends].state.is_terminal
    assert {statuses[one].state for one in others} == {JobState.RUNNING}
    assert modal_server.calls("SandboxListV2") <= 2, "for the times of the one that has ended"
