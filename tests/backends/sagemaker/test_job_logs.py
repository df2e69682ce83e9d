"""The logs of jobs: nothing is lost, nothing comes twice, and the limits of the service are kept."""

from __future__ import annotations

import contextlib
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_stepop.connections.aws_clients import AwsClients
from airflow_stepop.hooks.sagemaker import job_logs
from airflow_stepop.hooks.sagemaker.hook import SageMakerStepHook
from airflow_stepop.hooks.sagemaker.job_logs import GROUP, JobLogs
from airflow_stepop.hooks.sagemaker.log_access import refused_reads
from airflow_stepop.job import JobHandle, JobState
from tests.support.sagemaker import SageMaker
from tests.support.waiting import wait_until


class Writer:
    """Writes into the streams of jobs that only the log knows."""

    def __init__(self, service: SageMaker) -> None:
        self._client = service.client("logs")
        self._made: set[str] = set()

    def put(self, job: str, *lines: tuple[int, str], attempt: int = 1) -> None:
        self.put_into(f"{job}/algo-1-{attempt}", *lines)

    def put_into(self, stream: str, *lines: tuple[int, str]) -> None:
        if stream not in self._made:
            self.create(stream)
        events = [{"timestamp": at, "message": text} for at, text in lines]
        self._client.put_log_events(logGroupName=GROUP, logStreamName=stream, logEvents=events)

    def create(self, stream: str) -> None:
        if not self._made:
            with contextlib.suppress(self._client.exceptions.ResourceAlreadyExistsException):
                self._client.create_log_group(logGroupName=GROUP)
        self._client.create_log_stream(logGroupName=GROUP, logStreamName=stream)
        self._made.add(stream)


@pytest.fixture
def writer(service: SageMaker) -> Writer:
    return Writer(service)


@pytest.fixture
def logs(hook: SageMakerStepHook) -> Callable[[], JobLogs]:
    """Return a function that makes a reader, as a new process has."""
    clients = hook._in(None).clients
    return lambda: JobLogs(clients)


def a_job() -> str:
    return f"s-log-{uuid.uuid4().hex[:12]}"


def texts(read: dict[str, Any], job: str) -> list[str]:
    return [event.text for event in read[job][0]] if job in read else []


def now_ms() -> int:
    return int(time.time() * 1000)


def test_a_group_that_does_not_exist(service, logs):
    """No job of the region has printed yet."""
    client = service.client("logs", region="eu-west-2")
    assert client.describe_log_groups()["logGroups"] == []
    elsewhere = JobLogs(AwsClients(logs().clients._connection, "eu-west-2"))
    assert elsewhere.read({a_job(): None}) == {}
    assert elsewhere.last(a_job(), 5) == ([], None)


def test_many_lines_of_one_millisecond(logs, writer):
    job, at = a_job(), now_ms()
    writer.put(job, *((at, f"{index}") for index in range(3000)))
    read = logs().read({job: None})
    assert texts(read, job) == [str(index) for index in range(3000)]
    cursor = read[job][1]
    writer.put(job, (at, "one more"))
    assert texts(logs().read({job: cursor}), job) == ["one more"]


def test_lines_of_any_form(service, hook, writer):
    """NUL, carriage returns, the longest event, and a stream that is not the step's."""
    job, at = a_job(), now_ms()
    long = "x" * (256 * 1024 - 26)
    for other in (f"{job}/data-log", f"{job}/algo-1-1/data-log"):
        writer.put_into(other, (at, "not the step's"))
    writer.put(job, (at, "a\x00b"), (at + 1, "10%\r20%\r30%"), (at + 2, long), (at + 3, "é\U0001f4a9"))
    handle = handle_of(job)
    chunk = hook.logs({handle: None})[handle]
    assert [line.text for line in chunk.lines] == ["a\x00b", "30%", long, "é\U0001f4a9"]


def handle_of(job: str) -> JobHandle:
    detail = {"results": "s3://b/r", "inputs": "s3://b/i", "submitted_at": time.time()}
    return JobHandle("sagemaker", "aws_default", "123456789012/us-east-1", job, job, detail)


def test_late_batches(logs, writer):
    """An event that comes some seconds later than a newer one is read, once."""
    job, at = a_job(), now_ms()
    writer.put(job, (at, "first"), (at + 9000, "third"))
    read = logs().read({job: None})
    writer.put(job, (at + 5000, "second"))
    again = logs().read({job: read[job][1]})
    assert texts(again, job) == ["second"]
    assert logs().read({job: again[job][1]}) == {}


def test_a_new_stream_after_an_interruption(service, hook, step, writer):
    """The state of the job says that there is one; no clock has to pass."""
    service.do("plan", job="*", run=False, train_s=1000.0, hold=["Interrupted"])
    made = step(settings={"use_spot_instances": True})
    handle = hook.submit(made.spec, made.payload)
    service.wait_for(handle.name, "Training")
    at = now_ms()
    writer.put(handle.name, (at, "first attempt"))
    hook.status([handle])
    chunk = hook.logs({handle: None})[handle]
    assert [line.text for line in chunk.lines] == ["first attempt"]
    service.do("interrupt", job=handle.name)
    service.wait_for(handle.name, "Interrupted")
    status = hook.status([handle])[handle]
    assert status.state is JobState.PENDING
    assert status.waits_since is not None
    assert hook.logs({handle: chunk.cursor}) == {}
    service.do("release", job=handle.name, phase="Interrupted")
    service.wait_for(handle.name, "Training")
    writer.put(handle.name, (at + 1, "second attempt"), attempt=2)
    assert hook.status([handle])[handle].state is JobState.RUNNING
    chunk = hook.logs({handle: chunk.cursor})[handle]
    assert [line.text for line in chunk.lines] == ["second attempt"]


def test_an_interruption_that_no_poll_has_seen(service, hook, step, writer):
    """The job trains before and after; the time of its last change says that it has another stream."""
    service.do("plan", job="*", run=False, train_s=1000.0)
    made = step(settings={"use_spot_instances": True})
    handle = hook.submit(made.spec, made.payload)
    others = [replace(handle, id=f"s-none-{i:012x}", name=f"s-none-{i:012x}") for i in range(5)]
    service.wait_for(handle.name, "Training")
    at = now_ms()
    writer.put(handle.name, (at, "first attempt"))
    hook.status([handle, *others])
    chunk = hook.logs({handle: None})[handle]
    service.do("interrupt", job=handle.name)
    wait_until(lambda: service.report()["jobs"][handle.name]["attempts"], "an attempt", holds=lambda n: n > 1)
    service.wait_for(handle.name, "Training")
    writer.put(handle.name, (at + 1, "second attempt"), attempt=2)
    assert hook.status([handle, *others])[handle].state is JobState.RUNNING
    chunk = hook.logs({handle: chunk.cursor})[handle]
    assert [line.text for line in chunk.lines] == ["second attempt"]


@pytest.fixture
def small_pages(monkeypatch):
    """Pages of a hundred events, so that fewer events do not fit into a read."""
    monkeypatch.setattr(job_logs, "EVENTS", 100)


@pytest.mark.usefixtures("small_pages")
def test_the_end_of_a_long_log(logs, writer):
    """The last lines of a log that is far longer than what one read takes, and that pauses at its end."""
    job, at = a_job(), now_ms() - 500_000
    writer.put(job, *((at + 10 * index, f"{index}") for index in range(4000)))
    events, cursor = logs().last(job, 20, ended_at=time.time())
    assert [event.text for event in events][-20:] == [str(index) for index in range(3980, 4000)]
    assert logs().read({job: cursor}) == {}
    writer.put(job, (now_ms(), "last"))
    events, _ = logs().last(job, 20, cursor)
    assert [event.text for event in events] == ["last"]


def test_the_end_of_a_short_log(service, logs, writer):
    """The window grows over the whole log at once."""
    job, at = a_job(), now_ms()
    writer.put(job, (at - 300_000, "first"), (at, "last"))
    before = requests(service, "FilterLogEvents")
    assert [event.text for event in logs().last(job, 50)[0]] == ["first", "last"]
    assert requests(service, "FilterLogEvents") - before == 2


@pytest.mark.usefixtures("small_pages")
def test_very_many_lines_at_the_end(logs, writer):
    """Of one moment: no shorter time has fewer."""
    job, at = a_job(), now_ms()
    writer.put(job, *((at, f"{index}") for index in range(900)))
    assert [event.text for event in logs().last(job, 5)[0]][-1] == "899"


def all_of(logs: Callable[[], JobLogs], job: str) -> list[str]:
    """Return what reads find that follow each other, until one finds nothing."""
    found: list[str] = []
    cursor = None
    while (read := logs().read({job: cursor})) and job in read:
        found += texts(read, job)
        cursor = read[job][1]
    return found


@pytest.fixture
def many_requests(monkeypatch):
    """The rate of the reader would make a test of many pages long."""
    monkeypatch.setattr(job_logs, "FILTERS_PER_S", 1000.0)


@pytest.mark.usefixtures("many_requests")
def test_a_log_that_is_faster_than_a_read(service, logs, writer):
    """A read goes back some seconds for late events. What it has read before never keeps it from the rest."""
    service.do("settings", log_page=50)
    job, at = a_job(), now_ms()
    writer.put(job, *((at + index, f"{index}") for index in range(600)))
    assert all_of(logs, job) == [str(index) for index in range(600)]


@pytest.mark.usefixtures("many_requests")
def test_pages_without_events(service, logs, writer):
    """An answer may be empty and lead to more, as often as it likes."""
    service.do("settings", log_page=10, empty_log_pages=7)
    job, at = a_job(), now_ms()
    writer.put(job, *((at + index, f"{index}") for index in range(25)))
    assert all_of(logs, job) == [str(index) for index in range(25)]
    assert [event.text for event in logs().last(job, 5)[0]][-1] == "24"


@pytest.mark.usefixtures("small_pages")
def test_a_silent_job_among_loud_ones(logs, writer):
    """What loud jobs have printed since a silent one's last line never hides what is new."""
    silent, loud = a_job(), [a_job() for _ in range(3)]
    at = now_ms() - 60_000
    writer.put(silent, (at, "silent"))
    cursors: dict[str, Any] = dict.fromkeys([silent, *loud])
    reader = logs()
    for job in loud:
        writer.put(job, *((at + 1000 + 100 * i, f"{i}") for i in range(400)))
    seen: dict[str, list[str]] = {job: [] for job in cursors}
    for _ in range(30):
        read = reader.read(cursors)
        if not read:
            break
        for job in read:
            seen[job] += texts(read, job)
            cursors[job] = read[job][1]
    assert seen[silent] == ["silent"]
    assert [len(seen[job]) for job in loud] == [400] * 3
    writer.put(loud[0], (now_ms(), "new"))
    assert texts(reader.read(cursors), loud[0]) == ["new"]


def requests(service: SageMaker, operation: str) -> int:
    return int(service.report()["answers"].get(f"{operation} 200", 0))


@pytest.mark.usefixtures("small_pages")
def test_a_job_that_is_silent_for_long(service, logs, writer):
    """It costs one request. What the loud jobs have printed since its last line is not read again."""
    silent, loud, now = a_job(), [a_job() for _ in range(3)], now_ms()
    writer.put(silent, (now - 7_200_000, "silent"))
    for job in loud:
        writer.put(job, *((now - 5000 * i, f"{i}") for i in reversed(range(400))))
    reader, cursors = logs(), dict.fromkeys([silent, *loud])
    while read := reader.read(cursors):
        cursors |= {job: cursor for job, (_, cursor) in read.items()}
    before = requests(service, "FilterLogEvents")
    writer.put(loud[0], (now + 1, "loud"))
    writer.put(silent, (now + 1, "silent no more"))
    read = reader.read(cursors)
    assert {job: texts(read, job) for job in read} == {loud[0]: ["loud"], silent: ["silent no more"]}
    assert requests(service, "FilterLogEvents") - before == 2


@settings(max_examples=10)
@given(data=st.data())
def test_nothing_is_lost_or_repeated(request, data):
    """Any order of writes and reads, each read by a new process; events come up to 9 s late."""
    service, hook = request.getfixturevalue("service"), request.getfixturevalue("hook")
    clients, writer = hook._in(None).clients, Writer(service)
    jobs = [a_job() for _ in range(data.draw(st.integers(1, 3)))]
    at, count = now_ms() - 120_000, 0
    cursors: dict[str, Any] = dict.fromkeys(jobs)
    written: dict[str, list[str]] = {job: [] for job in jobs}
    seen: dict[str, list[str]] = {job: [] for job in jobs}
    for _ in range(data.draw(st.integers(1, 8))):
        at += data.draw(st.integers(0, 5000))
        job = data.draw(st.sampled_from(jobs))
        lines = []
        for late in sorted(data.draw(st.lists(st.integers(0, 9000), max_size=6)), reverse=True):
            lines.append((at - late, f"line {count}"))
            count += 1
        if lines:
            writer.put(job, *lines, attempt=data.draw(st.integers(1, 2)))
            written[job] += [text for _, text in lines]
        if data.draw(st.booleans()):
            for name, (events, cursor) in JobLogs(clients).read(cursors).items():
                seen[name] += [event.text for event in events]
                cursors[name] = cursor
    for name, (events, _) in JobLogs(clients).read(cursors).items():
        seen[name] += [event.text for event in events]
    assert {job: sorted(lines) for job, lines in seen.items()} == {
        job: sorted(lines) for job, lines in written.items()
    }


def test_throttling_is_transient(service, hook, writer):
    job = a_job()
    writer.put(job, (now_ms(), "line"))
    service.do("fault", kind="throttle", operation="FilterLogEvents", count=9)
    handle = handle_of(job)
    with pytest.raises(Exception, match="Rate exceeded") as caught:
        hook.logs({handle: None})
    assert hook.is_transient(caught.value)
    service.do("clear_faults")
    assert [line.text for line in hook.logs({handle: None})[handle].lines] == ["line"]


def test_many_jobs_within_the_limits_of_the_service(service, logs, writer):
    """The documented rates: no request is refused, and a second look lists no stream."""
    count = 150
    jobs = [a_job() for _ in range(count)]
    for job in jobs:
        writer.put(job, (now_ms(), f"of {job}"))
    service.do("settings", rates="real")
    before = service.report()["answers"]
    reader = logs()
    read = reader.read(dict.fromkeys(jobs))
    assert all(texts(read, job) == [f"of {job}"] for job in jobs)
    cursors = {job: read[job][1] for job in jobs}
    loud = random.sample(jobs, 10)
    for job in loud:
        writer.put(job, (now_ms(), "again"))
    again = reader.read(cursors)
    assert {job: texts(again, job) for job in again} == {job: ["again"] for job in loud}
    after = service.report()["answers"]
    used = {name: number - before.get(name, 0) for name, number in after.items()}
    assert not [name for name in used if "Throttling" in name]
    assert used["DescribeLogStreams 200"] == count
    assert used["FilterLogEvents 200"] == 2 * -(-count // 100)


@pytest.mark.parametrize("has_streams", [True, False])
def test_repeated_lists_are_few(service, logs, writer, monkeypatch, has_streams):
    """Streams are listed anew for some of many jobs at a time, so that lists do not delay what is read."""
    monkeypatch.setattr(job_logs, "STREAMS_KNOWN_S", 0.0)
    monkeypatch.setattr(job_logs, "NO_STREAM_S", 0.0)
    jobs = [a_job() for _ in range(job_logs.MOST_REPEATS + 40)]
    for job in jobs[: len(jobs) if has_streams else 1]:
        writer.put(job, (now_ms(), "line"))
    reader, before = logs(), requests(service, "DescribeLogStreams")
    reader.read(dict.fromkeys(jobs))
    first = requests(service, "DescribeLogStreams") - before
    reader.read(dict.fromkeys(jobs))
    again = requests(service, "DescribeLogStreams") - before - first
    assert first == len(jobs)
    assert 1 <= again <= job_logs.MOST_REPEATS


def test_the_question_whether_logs_may_be_read_is_within_the_limits(service, hook):
    """Each worker process asks at its first submit, beside a triggerer that reads logs."""
    connection = hook._in(None).clients._connection
    asking = [AwsClients(connection, "us-east-1") for _ in range(12)]
    for clients in asking:
        clients.client("logs", is_sent_once=True)
    service.do("settings", rates="real")
    before = service.report()["answers"]
    assert [refused_reads(clients) for clients in asking] == [""] * len(asking)
    after = service.report()["answers"]
    refused = {name: count for name, count in after.items() if "Throttling" in name}
    assert refused == {name: count for name, count in before.items() if "Throttling" in name}


def test_waiting_jobs_are_seldom_listed(service, hook, step):
    """A thousand jobs that wait for capacity have no log."""
    service.do("plan", job="*", run=False, hold=["Starting"])
    made = step()
    handle = hook.submit(made.spec, made.payload)
    hook.status([handle])
    listed = "DescribeLogStreams 200"
    before = service.report()["answers"].get(listed, 0)  # the submit asks whether logs may be read
    for _ in range(5):
        assert hook.logs({handle: None}) == {}
    assert service.report()["answers"].get(listed, 0) - before <= 1
