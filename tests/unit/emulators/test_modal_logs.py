"""What sandboxes of the Modal emulator print: their streams, and the logs of the App."""

from __future__ import annotations

import concurrent.futures
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.waiting import wait_until


def fetched(workspace, *, minutes=5, **options):
    since = datetime.now(UTC) - timedelta(minutes=minutes)
    return list(workspace.app().logs.fetch(since=since, **options))


def test_the_logs_of_an_app(sandboxes):
    """Entries of all sandboxes in the order of their times, with the task's id; in two requests."""
    first = sandboxes.ended("sh", "-c", "echo one; echo wrong >&2", name="first")
    second = sandboxes.ended("sh", "-c", "echo two", name="second", gpu="T4")
    sandboxes.service.do("forget_calls")
    found = fetched(sandboxes)
    assert {(entry.message, entry.source) for entry in found[:2]} == {
        ("one\n", "stdout"),
        ("wrong\n", "stderr"),
    }
    assert (found[2].message, found[2].source) == ("two\n", "stdout")
    tasks = [sandboxes.service.sandbox(one.object_id)["task_id"] for one in (first, second)]
    assert [entry.context_ids for entry in found] == [[tasks[0]], [tasks[0]], [tasks[1]]]
    assert [entry.timestamp for entry in found] == sorted(entry.timestamp for entry in found)
    calls = {rpc: sandboxes.service.calls(rpc) for rpc in ("AppCountLogs", "AppFetchLogs")}
    assert calls == {"AppCountLogs": 1, "AppFetchLogs": 1}


def test_a_batch_of_the_logs_names_its_sandbox(workspace):
    """The public entries have the task's id alone."""
    from modal_proto import api_pb2

    workspace.simulated("*", run_s=1000)
    created = [workspace.create("true", name=name).object_id for name in ("a", "b")]
    for name in ("a", "b", "b"):
        workspace.service.do("say", sandbox=name, text=name)
    request = api_pb2.AppFetchLogsRequest(app_id=workspace.app().app_id, limit=10)
    request.since.FromDatetime(datetime.now(UTC) - timedelta(minutes=1))
    request.until.FromDatetime(datetime.now(UTC) + timedelta(minutes=1))
    batches = workspace.raw("AppFetchLogs", request).batches
    found = [(batch.sandbox_id, [item.data for item in batch.items]) for batch in batches]
    assert found == [(created[0], ["a\n"]), (created[1], ["b\n", "b\n"])]


def test_a_part_of_the_logs(sandboxes):
    """By source, text and time. The range begins at ``since`` and ends before ``until``."""
    sandbox = sandboxes.ended("sh", "-c", "echo one; echo two; echo wrong >&2")
    assert [entry.message for entry in fetched(sandboxes, source="stderr")] == ["wrong\n"]
    assert [entry.message for entry in fetched(sandboxes, search_text="tw")] == ["two\n"]
    assert [entry.message for entry in sandboxes.app().logs.tail(1)] == [fetched(sandboxes)[-1].message]
    assert {entry.message for entry in sandbox.logs.tail(10)} == {"one\n", "two\n", "wrong\n"}
    one = next(entry for entry in fetched(sandboxes) if entry.message == "one\n")
    before = one.timestamp - timedelta(milliseconds=1)  # the client rounds to about a microsecond
    assert "one\n" in [entry.message for entry in sandboxes.app().logs.fetch(since=before)]
    earlier = sandboxes.app().logs.fetch(since=before - timedelta(minutes=1), until=before)
    assert "one\n" not in [entry.message for entry in earlier]


def test_the_range_of_a_request_is_limited(workspace):
    import modal

    with pytest.raises(modal.exception.LogsFetchError):
        fetched(workspace, minutes=36 * 24 * 60)
    with pytest.raises(modal.exception.LogsFetchError):
        list(workspace.app().logs.tail(20_001))


def test_lines_that_come_late(sandboxes):
    """A line has the time at which it was printed, and is not there before its lag is over."""
    sandboxes.service.do("plan", sandbox="slow", log_lag_s=1000.0)
    sandboxes.service.do("plan", sandbox="held", hold=["log"])
    for name in ("slow", "held"):
        sandboxes.ended("echo", "late", name=name)
    assert fetched(sandboxes) == []
    sandboxes.service.do("release", sandbox="held", phase="log")
    assert [one.message for one in fetched(sandboxes)] == ["late\n"]
    sandboxes.service.do("settings", log_lag_s=0.1)
    sandboxes.ended("echo", "soon")
    wait_until(
        lambda: fetched(sandboxes),
        "the line",
        holds=lambda found: [one.message for one in found] == ["late\n", "soon\n"],
    )


def test_bytes_that_are_no_text(sandboxes):
    """In the logs they are replaced. The stream of a V2 sandbox raises at the first one."""
    command = ("sh", "-c", "echo good; printf 'bad \\377\\n'")
    sandbox = sandboxes.ended(*command)
    assert [entry.message for entry in fetched(sandboxes)] == ["good\n", "bad \ufffd\n"]
    with pytest.raises(UnicodeDecodeError):
        sandbox.stdout.read()
    assert sandboxes.ended(*command, gpu="T4").stdout.read() == "good\nbad \ufffd\n"


def test_a_worker_keeps_the_end_of_a_stream(sandboxes, caplog):
    """The ring may begin inside a character; older bytes are gone, and the client warns of it."""
    sandboxes.service.do("settings", ring_bytes=5)
    sandbox = sandboxes.ended("sh", "-c", "echo 0123456789")
    assert sandbox.stdout.read() == "6789\n"
    assert "dropped 6 bytes" in caplog.text
    with pytest.raises(UnicodeDecodeError):
        sandboxes.ended("sh", "-c", "printf 'ab\\303\\2441234'").stdout.read()


def test_a_stream_is_read_while_it_is_written(sandboxes):
    sandbox = sandboxes.create("sh", "-c", "echo one; sleep 1000")
    assert next(iter(sandbox.stdout)) == "one\n"
    assert sandbox.poll() is None
    sandbox = sandboxes.create("sh", "-c", "echo one; sleep 1000", gpu="T4")
    assert next(iter(sandbox.stdout)) == "one\n"


def test_a_worker_forgets_a_sandbox_that_ended(sandboxes):
    import modal

    sandboxes.service.do("settings", router_keeps_s=0.0)
    sandbox = sandboxes.ended("echo", "one")
    again = modal.Sandbox.from_id(sandbox.object_id, client=sandboxes.client)
    with pytest.raises(modal.exception.NotFoundError, match="Task has already finished with status success"):
        again.stdout.read()


def test_a_stream_of_v1_is_resumed(sandboxes):
    """``last_entry_id`` is the last entry that the client has; ``eof`` is the end."""
    from modal_proto import api_pb2

    sandbox = sandboxes.ended("sh", "-c", "echo one; echo wrong >&2; echo two", gpu="T4")
    request = api_pb2.SandboxGetLogsRequest(sandbox_id=sandbox.object_id, timeout=10, file_descriptor=1)
    request.last_entry_id = "0-0"
    answers = sandboxes.raw("SandboxGetLogs", request)
    assert [item.data for answer in answers for item in answer.items] == ["one\n", "two\n"]
    assert [answer.eof for answer in answers] == [False, True]
    request.last_entry_id = answers[0].entry_id
    (answer,) = sandboxes.raw("SandboxGetLogs", request)
    assert (answer.eof, len(answer.items)) == (True, 0)


def test_new_lines_of_an_app_are_streamed(workspace):
    """From the moment at which a reader comes."""
    workspace.simulated("*", run_s=1000)
    workspace.create("true", name="n")
    workspace.service.do("say", sandbox="n", text="early")
    lines = iter(workspace.app().logs.stream())
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(next, lines)
        wait_until(lambda: said(workspace) and first.done(), "a line", pause_s=0.05)
    assert first.result().message == "now\n"
    lines.close()


def said(workspace) -> bool:
    workspace.service.do("say", sandbox="n", text="now")
    return True


def test_entries_may_be_pieces(sandboxes):
    """A long line becomes several entries; with ``chunk`` an entry is what one read gave."""
    sandboxes.ended("python3", "-c", "print('x' * 40000)")
    found = [entry.message for entry in fetched(sandboxes)]
    assert [len(message) for message in found[:2]] == [16384, 16384]
    assert "".join(found) == "x" * 40000 + "\n"
    sandboxes.service.do("settings", log_entries="chunk")
    sandboxes.ended("sh", "-c", "printf 'a\\nb\\nc'")
    assert fetched(sandboxes)[-1].message == "a\nb\nc"


def test_more_entries_than_a_request_may_have(workspace):
    """The client then narrows the range. A single moment with too many is an error of the client."""
    import modal

    workspace.simulated("*", run_s=1000)
    workspace.create("true", name="n")
    for number in range(3):
        workspace.service.do("say", sandbox="n", text=str(number))
    found = [entry.message for entry in fetched(workspace, source="system")]
    assert found == ["0\n", "1\n", "2\n"]
    workspace.service.do("settings", log_limit=2)
    with pytest.raises(modal.exception.InvalidError, match="limit cannot exceed 2"):
        fetched(workspace)
