"""Logs that are hard to read: much at once, everything in one line, rotated away."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from airflow_stepop.hooks.kubernetes.cluster import Cluster
from airflow_stepop.hooks.kubernetes.log_lines import LINE_BYTES
from airflow_stepop.hooks.kubernetes.pod_log import BYTES, MISSING, PodLog
from airflow_stepop.hooks.kubernetes.resources import amount_of
from airflow_stepop.job import JobState, LogChunk
from airflow_stepop.payload.call import FunctionCall
from airflow_stepop.payload.outcome import read_outcome, to_xcom
from tests.support.cluster import only_node
from tests.support.cluster_answers import answer_of
from tests.support.cluster_jobs import pods_of, wait_lines, wait_over


@pytest.fixture
def rotated_at_bytes(kubernetes_namespace):
    """Return the size at which the node begins another log file, from the configuration of its kubelet."""
    import json

    from kubernetes import client, config

    core = client.CoreV1Api(config.new_client_from_config())
    found = core.connect_get_node_proxy_with_path(only_node(core), "configz", _preload_content=False)
    size = json.loads(found.data)["kubeletconfig"]["containerLogMaxSize"]
    return int(amount_of(size))


def texts(hook, handle, cursor=None):
    """Return all lines, read in chunks as a triggerer reads them."""
    return [line.text for chunk in hook.chunks(handle, cursor) for line in chunk.lines]


def test_what_is_printed_all_at_once_is_read_in_full(hook, submitted):
    """The API returns lines since a second, limited to a number of bytes."""
    _, handle = submitted(["python3", "-c", r"print(*range(60_000), sep='\n')"])
    wait_over(hook, handle)
    assert texts(hook, handle) == [str(number) for number in range(60_000)]


def test_a_line_longer_than_one_answer_is_one_line(hook, submitted):
    _, handle = submitted(["python3", "-c", "print('a' * 600_000); print('b', end='')"])
    wait_over(hook, handle)
    assert texts(hook, handle) == ["a" * 600_000, "b"]


def test_a_line_is_read_only_when_it_has_ended(hook, submitted):
    script = "import sys, time; print('x' * 50_000, end='', flush=True); time.sleep(3); print('y')"
    _, handle = submitted(["python3", "-c", script])
    seen, cursor = [], None
    while True:
        is_over = hook.status([handle])[handle].state.is_terminal
        chunk = hook.logs({handle: cursor}).get(handle)
        if chunk is not None:
            seen += [line.text for line in chunk.lines]
            cursor = chunk.cursor
        if is_over:
            break
    assert seen + texts(hook, handle, cursor) == ["x" * 50_000 + "y"]


def test_whatever_is_printed_last_is_there(hook, submitted):
    """When a container's process ends, its runtime may drop what it has not yet read of the pipe.

    On a busy host every second step lost lines this way.
    """

    def print_much():
        print(*range(50_000), sep="\n")
        return "x" * 40_000

    call = FunctionCall(function=print_much, args=[], kwargs={}, reference=None)
    started = [submitted(call) for _ in range(4)]
    for step, handle in started:
        assert wait_over(hook, handle).state is JobState.SUCCEEDED
        found = to_xcom(read_outcome(hook.outcome(handle), step.spec.name, step.spec.nonce)["result"])
        assert found == "x" * 40_000
        (last,) = hook.tail(handle, 1).lines
        assert last.text == "49999"


def test_lines_that_the_node_has_rotated_away_are_named(hook, submitted, rotated_at_bytes):
    """The result still arrives, since it is printed last."""
    script = f"""
import time
print("first", flush=True)
time.sleep(30)  # the test reads this line meanwhile, and none of the others
for _ in range({rotated_at_bytes} // 100_000 + 10):
    print("x" * 100_000)
print("filled", flush=True)
time.sleep(25)  # a kubelet looks every ten seconds whether a log is too large
print("last")
"""
    _, handle = submitted(["python3", "-c", script])
    wait_lines(hook, handle)
    (chunk,) = hook.logs({handle: None}).values()
    assert [line.text for line in chunk.lines] == ["first"]
    wait_over(hook, handle)
    found = texts(hook, handle, chunk.cursor)
    assert found[0] == MISSING
    assert found[-1] == "last"
    assert found.count(MISSING) == 1


def log_of(uid, *lines):
    """Return the log of an ended pod, as the API server returns it."""
    answers = SimpleNamespace(path=lambda *_: "", open=lambda *_, **__: answer_of(lines))
    return PodLog(answers, {"metadata": {"name": uid, "uid": uid}, "status": {"phase": "Succeeded", **BEGAN}})


BEGAN = {"containerStatuses": [{"name": "step", "state": {"terminated": {"exitCode": 0}}}]}


@pytest.mark.parametrize(
    "stamp",
    [
        "9999-99-99TxZ",
        "2026-13-01T00:00:00Z",
        "2026-01-01T",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
    ],
)
def test_the_rest_of_a_line_that_looks_like_a_stamp_is_no_line(stamp):
    """An answer may begin within a long line, whose text the step has chosen."""
    found = log_of("a", f"{stamp} forged", "2026-01-01T00:00:00.000000001Z true").since(None)
    assert [line.text for line in found.lines] == ["true"]


def test_lines_of_the_hour_that_comes_twice_are_not_lost():
    """A node writes local times, and their offset changes when summer time ends."""
    summer, winter = "2026-10-25T02:59:59.900000000+02:00 one", "2026-10-25T02:00:00.100000000+01:00 two"
    cursor = log_of("a", summer).since(None).cursor
    found = log_of("a", summer, winter).since(cursor)
    assert [(line.text, line.time) for line in found.lines] == [("two", 1792890000.1)]
    assert log_of("a", summer, winter).since(found.cursor).lines == []


def test_a_job_that_goes_on_in_another_pod_has_a_log_from_its_beginning():
    """Kueue has stopped the job and started it again, and the clock of the new node may be behind."""
    cursor = log_of("a", "2026-01-01T00:00:09.000000000Z one").since(None).cursor
    found = log_of("b", "2026-01-01T00:00:08.000000000Z two").since(cursor)
    assert [line.text for line in found.lines] == ["two"]


def test_a_cursor_of_an_older_version_is_understood():
    log = log_of("a", "2026-01-01T00:00:08.000000000Z one", "2026-01-01T00:00:09.000000000Z two")
    assert [line.text for line in log.since('["2026-01-01T00:00:08.000000000Z", 1]').lines] == ["two"]


def test_a_line_without_an_end_is_cut_and_fetched_once(hook, submitted, monkeypatch):
    """The step goes on to print into the same line. A look fetches what is new, and not the line again."""
    script = """
import os, sys, time
def write(data):
    while data:
        data = data[os.write(1, data):]
write(b"begin\\n")
write(b"x" * 8_000_000)
while not os.path.exists("/tmp/go"):
    write(b"y")
    time.sleep(0.5)
write(b"z" * 3_000_000 + b"\\nafter\\n")
print("last")
"""
    _, handle = submitted(["python3", "-c", script])
    received = counted(monkeypatch)
    lines, cursor = [], None
    while len(lines) < 2:
        chunk = hook.logs({handle: cursor}).get(handle, LogChunk([], cursor))
        lines, cursor = [*lines, *chunk.lines], chunk.cursor
    assert [line.text[:5] for line in lines] == ["begin", "xxxxx"]
    assert len(lines[1].text) < LINE_BYTES + 100
    assert "[stepop: the rest of this line is left out" in lines[1].text[-100:]
    is_small = False
    while not is_small:
        received.clear()
        chunk = hook.logs({handle: cursor}).get(handle, LogChunk([], cursor))
        assert chunk.lines == []
        cursor, is_small = chunk.cursor, sum(received) < BYTES
    in_pod(hook, handle, "touch", "/tmp/go")
    wait_over(hook, handle)
    assert texts(hook, handle, cursor) == ["after", "last"]
    assert [line.text for line in hook.tail(handle, 2).lines] == ["after", "last"]


def counted(monkeypatch):
    """Return the list that gets the number of bytes of each answer to a log request."""
    received, send = [], Cluster.open

    def opened(self, method, path, *args, **options):
        answer = send(self, method, path, *args, **options)
        if not path.endswith("/log"):
            return answer
        received.append(len(answer.data))
        return SimpleNamespace(
            data=answer.data,
            stream=lambda _: iter([answer.data]),
            headers=answer.headers,
            close=answer.close,
        )

    monkeypatch.setattr(Cluster, "open", opened)
    return received


def in_pod(hook, handle, *command):
    """Run a command in the container of the step."""
    from kubernetes import client, config
    from kubernetes.stream import stream

    (pod,) = pods_of(hook, handle)
    core = client.CoreV1Api(config.new_client_from_config())
    call = stream(
        core.connect_get_namespaced_pod_exec,
        pod["metadata"]["name"],
        pod["metadata"]["namespace"],
        container="step",
        command=[*command],
        stdout=True,
        _preload_content=False,
    )
    call.run_forever()
    call.sock.shutdown()
    assert call.returncode == 0
