"""The watcher: one status call for all jobs, no job forgotten, nothing left behind."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from airflow_stepop.exceptions import IntegrityError, WrongHostError
from airflow_stepop.job import JobState, JobStatus
from airflow_stepop.waiting import watcher as watcher_module
from airflow_stepop.waiting.watcher import Watcher, watcher_for
from tests.support.waiting import PATIENCE_S, in_time, until


def maker(*hooks):
    """Return a factory of these hooks: one after the other, and then the last one again and again."""
    left = list(hooks)

    async def make():
        return left.pop(0) if len(left) > 1 else left[0]

    return make


async def until_over(watcher, handle, poll_interval_s=0.05, lines=None):
    lines = [] if lines is None else lines
    async with watcher.subscribe(handle, poll_interval_s) as subscription:
        while True:
            update = await subscription.next(5)
            lines += [line.text for line in update.lines]
            if update.error is not None:
                raise update.error
            if update.status is not None and update.status.state.is_terminal:
                return update.status.state, lines


def test_a_thousand_jobs_share_each_status_call(hook):
    """Every subscriber learns of its job's end, in batches. The calls grow with time, not with the jobs."""

    async def scenario():
        watcher = Watcher(hook)
        handles = [hook.add(f"job-{n}") for n in range(1000)]
        # An interval too long for fifty calls on any machine; only the first polls follow each other quickly
        waiting = [asyncio.create_task(until_over(watcher, handle, 10)) for handle in handles]
        await until(lambda: hook.largest_batch, "a call for all", holds=lambda size: size == 1000)
        for handle in handles:
            hook.end(handle.id)
        states = await in_time(asyncio.gather(*waiting), "all ends")
        assert {state for state, _ in states} == {JobState.SUCCEEDED}
        return watcher

    watcher = asyncio.run(scenario())
    assert hook.calls["status"] < 50
    assert watcher._subscriptions == {}
    assert watcher._known == {}
    assert watcher._tasks == []


def test_a_late_subscriber_is_answered_at_once(hook):
    async def scenario():
        watcher = Watcher(hook)
        handle = hook.add("job")
        async with watcher.subscribe(handle, 0.05) as first:
            await first.next(PATIENCE_S)
            calls = hook.calls["status"]
            hook.error = ConnectionError("nobody can be asked now")
            async with watcher.subscribe(handle, 60) as second:
                update = await second.next(PATIENCE_S)
            assert update.status.state is JobState.RUNNING
            assert hook.calls["status"] <= calls + 1

    asyncio.run(scenario())


def test_a_job_that_ended_before_it_was_watched_is_reported(hook):
    hook.end("job")
    state, _ = asyncio.run(_once(hook, "job"))
    assert state is JobState.SUCCEEDED


async def _once(hook, name):
    return await in_time(until_over(Watcher(hook), hook.handle(name), 30), f"the end of {name}")


def test_an_api_error_is_never_a_job_state(hook):
    """No subscriber sees the error. The watcher backs off and asks again."""

    async def scenario():
        watcher = Watcher(hook)
        handle = hook.add("job")
        hook.error = ConnectionError("503")
        waiting = asyncio.create_task(until_over(watcher, handle, 0.01))
        begun = time.monotonic()
        await until(lambda: hook.calls["status"], "the fifth call", holds=lambda count: count >= 5)
        assert not waiting.done()
        # The shortest pauses after four errors with this interval: 10, 20, 40 and 80 ms
        assert time.monotonic() - begun >= 0.15, "it must back off"
        hook.error = None
        hook.end(handle.id)
        return await in_time(waiting, "the end of the job")

    assert asyncio.run(scenario())[0] is JobState.SUCCEEDED


def test_a_permanent_error_is_reported(hook):
    hook.error = WrongHostError("the job runs on another host")
    with pytest.raises(WrongHostError, match="another host"):
        asyncio.run(_once(hook, "job"))


@pytest.mark.parametrize("damage", [IntegrityError, WrongHostError])
def test_a_damaged_handle_does_not_disturb_the_other_jobs(hook, damage):
    """The handle's subscriber gets the error. One call still asks for the status of the others."""
    hook.damage = damage
    hook.damaged.add("bad")

    async def scenario():
        watcher = Watcher(hook)
        handles = [hook.add(name) for name in ("one", "bad", "two")]
        one, bad, two = [asyncio.create_task(until_over(watcher, handle)) for handle in handles]
        with pytest.raises(damage, match="damaged"):
            await in_time(bad, "the error")
        for name in ("one", "two"):
            hook.end(name)
        return [await in_time(good, "the end of the others") for good in (one, two)]

    assert [state for state, _ in asyncio.run(scenario())] == [JobState.SUCCEEDED] * 2


def test_lines_arrive_in_order_and_once(hook):
    async def scenario():
        watcher = Watcher(hook)
        handle = hook.add("job")
        hook.lines["job"], lines = [], []
        waiting = asyncio.create_task(until_over(watcher, handle, 0.05, lines))
        for n in range(4):
            hook.lines["job"] += [f"line {n}", f"line {n} again"]
            await until(lambda: lines, f"line {n}", holds=lambda seen, n=n: f"line {n} again" in seen)
        looks = hook.calls["logs"]
        await until(lambda: hook.calls["logs"] > looks, "one more look at the log")  # no line comes twice
        hook.end("job")
        return await in_time(waiting, "the end of the job")

    _, lines = asyncio.run(scenario())
    assert lines == [text for n in range(4) for text in (f"line {n}", f"line {n} again")]


def test_slow_logs_do_not_hold_up_the_status(hook):
    """The end of the job is reported while a log request is still unanswered."""
    asked, answer = threading.Event(), threading.Event()

    def slow_logs(cursors):
        asked.set()
        assert answer.wait(PATIENCE_S)
        return {}

    hook.logs = slow_logs

    async def scenario():
        waiting = asyncio.create_task(until_over(Watcher(hook), hook.add("job"), 0.05))
        await until(asked.is_set, "a question about the log")
        hook.end("job")
        try:
            return await in_time(waiting, "the end of the job")
        finally:
            answer.set()

    assert asyncio.run(scenario())[0] is JobState.SUCCEEDED


@pytest.fixture
def telling(hook, monkeypatch):
    """Let the service report changes. ``told`` is its next report, ``asked`` the jobs of each status call."""
    told = []
    asked = []
    real = hook.status

    def changed():
        found, told[:] = list(told), []
        return found

    monkeypatch.setattr(hook, "changed_jobs", changed)
    monkeypatch.setattr(hook, "status", lambda handles: asked.append(set(handles)) or real(handles))
    return SimpleNamespace(told=told, asked=asked)


def test_of_many_jobs_only_changed_ones_are_asked_for(hook, telling, monkeypatch):
    """Then neither the interval of calls for all jobs nor the number of jobs matters."""
    monkeypatch.setattr(watcher_module, "ALL_INTERVAL_S", 600)

    async def scenario():
        watcher = Watcher(hook)
        handles = [hook.add(f"job-{n}") for n in range(100)]
        waiting = [asyncio.create_task(until_over(watcher, h, poll_interval_s=60)) for h in handles]
        await until(lambda: len(watcher._known), "all jobs to be known", holds=lambda count: count == 100)
        telling.asked.clear()
        telling.told += [hook.handle("of somebody else"), *handles[:2]]
        for handle in handles[:2]:
            hook.end(handle.id)
        states = await in_time(asyncio.gather(*waiting[:2]), "two ends")
        new = hook.add("new")
        waiting.append(asyncio.create_task(until_over(watcher, new, poll_interval_s=60)))
        await until(lambda: new in watcher._known, "the new job to be known")
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert {state for state, _ in states} == {JobState.SUCCEEDED}
        assert telling.asked == [set(handles[:2]), {new}]

    asyncio.run(scenario())


def test_a_changed_job_is_asked_for_with_the_handle_of_its_trigger(hook, telling, monkeypatch):
    """A hook that tells of a change knows the name of the job. The trigger's handle has its nonce, too."""
    monkeypatch.setattr(watcher_module, "ALL_INTERVAL_S", 600)
    nonces, answer = [], hook.status

    def noting(handles):
        nonces.append([handle.nonce for handle in handles])
        return answer(handles)

    monkeypatch.setattr(hook, "status", noting)

    async def scenario():
        watcher, handle = Watcher(hook), replace(hook.add("job"), nonce="ours")
        waiting = asyncio.create_task(until_over(watcher, handle, poll_interval_s=60))
        await until(lambda: handle in watcher._known, "the job to be known")
        hook.end("job")
        telling.told.append(hook.handle("job"))
        return await in_time(waiting, "the end of the job")

    assert asyncio.run(scenario())[0] is JobState.SUCCEEDED
    assert nonces == [["ours"], ["ours"]]


def test_a_change_reported_during_a_status_call_is_not_lost(hook, telling, monkeypatch):
    """The answer of the call for all jobs may be older than the change of one of them."""
    monkeypatch.setattr(watcher_module, "ALL_INTERVAL_S", 600)
    answer = hook.status

    def slow(handles):
        found = answer(handles)
        if len(telling.asked) == 1:
            telling.told.append(hook.handle("job"))
            hook.end("job")
        return found

    monkeypatch.setattr(hook, "status", slow)

    async def scenario():
        waiting = asyncio.create_task(until_over(Watcher(hook), hook.add("job"), poll_interval_s=60))
        return await in_time(waiting, "the end of the job")

    assert asyncio.run(scenario())[0] is JobState.SUCCEEDED


def test_an_error_between_two_calls_for_all_jobs_makes_a_pause(hook, telling, monkeypatch):
    monkeypatch.setattr(watcher_module, "CHANGES_INTERVAL_S", 0.001)
    answer, failed = hook.status, []

    def broken(handles):
        if telling.asked:
            failed.append(handles)
            raise ConnectionError("503")
        return answer(handles)

    monkeypatch.setattr(hook, "status", broken)

    async def scenario():
        waiting = asyncio.create_task(until_over(Watcher(hook), hook.add("job"), poll_interval_s=60))
        await until(lambda: telling.asked, "the first question for all")
        telling.told.append(hook.handle("job"))
        await until(lambda: failed, "the question that fails")
        await asyncio.sleep(0.5)  # the pause is at least half a minute: a slow machine asks no sooner
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    asyncio.run(scenario())
    assert len(failed) == 1


def test_all_jobs_are_asked_for_in_the_end_whatever_the_service_reports(hook, telling, monkeypatch):
    monkeypatch.setattr(watcher_module, "ALL_INTERVAL_S", 0.5)

    async def scenario():
        watcher = Watcher(hook)
        waiting = asyncio.create_task(until_over(watcher, hook.add("job"), poll_interval_s=60))
        await until(lambda: watcher._known, "the job to be known")
        hook.end("job")
        return await in_time(waiting, "the end of the job")

    assert asyncio.run(scenario())[0] is JobState.SUCCEEDED


def test_a_service_that_reports_no_changes_any_more_is_asked(hook, telling, monkeypatch):
    monkeypatch.setattr(watcher_module, "ALL_INTERVAL_S", 600)

    async def scenario():
        watcher = Watcher(hook)
        waiting = asyncio.create_task(until_over(watcher, hook.add("job"), poll_interval_s=0.05))
        await until(lambda: watcher._known, "the job to be known")
        monkeypatch.setattr(hook, "changed_jobs", lambda: None)
        hook.end("job")
        return await in_time(waiting, "the end of the job")

    assert asyncio.run(scenario())[0] is JobState.SUCCEEDED


def test_logs_that_occupy_every_thread_do_not_hold_up_the_status(hook):
    """A thousand jobs may end at once on a node that returns their logs slowly."""
    release = threading.Event()

    async def scenario():
        watcher = Watcher(hook)
        loop = asyncio.get_running_loop()
        stuck = [loop.run_in_executor(None, release.wait) for _ in range(100)]
        waiting = asyncio.create_task(until_over(watcher, hook.add("job")))
        await until(lambda: hook.calls["status"] > 2, "three calls")
        hook.end("job")
        state, _ = await in_time(waiting, "the end of the job")
        release.set()
        await asyncio.gather(*stuck)
        return state

    assert asyncio.run(scenario()) is JobState.SUCCEEDED


def test_logs_that_cannot_be_read_are_asked_for_less_and_less_often(hook, monkeypatch, caplog):
    monkeypatch.setattr(watcher_module, "LOG_INTERVAL_S", 0.01)

    def fail(cursors):
        raise ConnectionError("no logs today")

    def pauses():
        return [record.args[2] for record in caplog.records if "no logs" in str(record.msg)]

    hook.logs = fail

    async def scenario():
        waiting = asyncio.create_task(until_over(Watcher(hook), hook.add("job")))
        await until(pauses, "eight failed reads", holds=lambda found: len(found) >= 8)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    asyncio.run(scenario())
    found = pauses()
    assert found[0] <= 0.02
    assert found[7] >= 0.01 * 2**8 / 2


def test_a_damaged_log_holds_back_no_other_one(hook, monkeypatch, caplog):
    """A step may damage its own log. Where many jobs share a call, the others are read by themselves."""
    monkeypatch.setattr(watcher_module, "LOG_INTERVAL_S", 0.01)
    read = hook.logs

    def fail(cursors):
        if any(handle.id == "damaged" for handle in cursors):
            raise ValueError("no log is like this")
        return read(cursors)

    hook.logs = fail

    async def scenario():
        watcher, lines = Watcher(hook), {"damaged": [], "sound": []}
        waiting = [
            asyncio.create_task(until_over(watcher, hook.add(name), lines=found))
            for name, found in lines.items()
        ]
        await until(lambda: len(watcher._known), "both jobs to be known", holds=lambda count: count == 2)
        hook.lines["sound"] = ["a line"]
        await until(lambda: lines["sound"], "the line of the sound job")
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    asyncio.run(scenario())
    assert [one.args[0].id for one in caplog.records if "cannot be read" in str(one.msg)] == ["damaged"]


def test_logs_that_cost_a_request_each_are_read_in_turn(hook, monkeypatch):
    monkeypatch.setattr(watcher_module, "LOG_INTERVAL_S", 0.02)
    monkeypatch.setattr(type(hook), "log_reads_per_second", 3, raising=False)
    asked = []
    read = hook.logs
    hook.logs = lambda cursors: asked.append([handle.id for handle in cursors]) or read(cursors)

    async def scenario():
        watcher = Watcher(hook)
        handles = [hook.add(f"job-{n}") for n in range(9)]
        hook.add("waits", JobState.PENDING)
        waiting = [asyncio.create_task(until_over(watcher, h)) for h in [*handles, hook.handle("waits")]]
        await until(lambda: len(watcher._known), "all jobs to be known", holds=lambda count: count == 10)
        asked.clear()
        await until(lambda: len(asked), "seven reads of logs", holds=lambda count: count > 6)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    asyncio.run(scenario())
    assert max(map(len, asked)) == 3
    assert sorted(name for names in asked[1:4] for name in names) == sorted(f"job-{n}" for n in range(9))
    assert not any("waits" in names for names in asked)


def test_a_subscriber_that_goes_away_leaves_nothing_behind(hook):
    async def scenario():
        watcher = await watcher_for("key", maker(hook))
        handle = hook.add("job")
        waiting = asyncio.create_task(until_over(watcher, handle))
        await until(lambda: hook.calls["status"], "a call")
        assert await watcher_for("key", maker(hook)) is watcher
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert watcher_module._watchers[asyncio.get_running_loop()].known == {}
        await until(lambda: asyncio.all_tasks() == {asyncio.current_task()}, "no task to be left")

    asyncio.run(scenario())


def test_a_thousand_triggers_look_their_connection_up_once(hook):
    """When a triggerer starts, all its triggers come before the first one has the connection."""
    made = []

    async def make():
        await asyncio.sleep(0.05)
        made.append(hook)
        return hook

    async def through_registry(name):
        return await until_over(await watcher_for("key", make), hook.handle(name))

    async def scenario():
        names = [f"job-{n}" for n in range(1000)]
        for name in names:
            hook.end(name)
        return await asyncio.gather(*map(through_registry, names))

    assert {state for state, _ in asyncio.run(scenario())} == {JobState.SUCCEEDED}
    assert len(made) == 1


def test_a_failed_lookup_of_a_connection_affects_only_its_own_trigger(hook):
    """The next trigger looks the connection up again."""
    fails = [LookupError("no such connection")]

    async def make():
        if fails:
            raise fails.pop()
        return hook

    async def scenario():
        hook.end("job")
        with pytest.raises(LookupError):
            await watcher_for("key", make)
        return await until_over(await watcher_for("key", make), hook.handle("job"))

    state, _ = asyncio.run(scenario())
    assert state is JobState.SUCCEEDED


def test_a_changed_connection_is_used_by_jobs_that_already_wait(hook):
    """The token was replaced in Airflow, so the old one fails for ever."""
    from airflow.sdk import Connection

    old, same, new = (type(hook)() for _ in range(3))
    for one, password in ((old, "old"), (same, "old"), (new, "new")):
        one.conn_id = "here"
        one._connection = Connection(conn_id="here", conn_type="generic", password=password)
    old.error = same.error = ConnectionError("401")
    new.end("job")
    state, _ = asyncio.run(_through_registry(old, same, new))
    assert state is JobState.SUCCEEDED
    assert old.calls["status"] > 1
    assert not same.calls["status"], "what a hook has read stays where nothing was changed"


def test_a_status_at_the_moment_of_a_cancellation_does_not_undo_it(hook):
    """The cancelled trigger ends, and the watcher ends when its last subscriber has left."""

    async def scenario():
        watcher = Watcher(hook)
        handle = hook.add("job")
        waiting = asyncio.create_task(until_over(watcher, handle, 30))
        await until(lambda: watcher._known, "the job to be known")
        (subscription,) = watcher._subscriptions[handle]
        await until(lambda: not subscription._news.is_set(), "the news to be read")
        subscription.report_status(JobStatus(JobState.PENDING))
        waiting.cancel()
        await asyncio.wait([waiting], timeout=PATIENCE_S)
        assert waiting.cancelled()
        async with watcher.subscribe(hook.add("another"), 30):
            await until(lambda: watcher._known and not watcher._arrival.is_set(), "the arrival to be seen")
            watcher._arrival.set()
        await until(lambda: asyncio.all_tasks() == {asyncio.current_task()}, "no task to be left")

    asyncio.run(scenario())


def test_a_closed_loop_is_forgotten(hook):
    """dag.test() runs each trigger in an event loop of its own."""
    import gc

    for _ in range(3):
        asyncio.run(_through_registry(hook))
    gc.collect()
    assert not [
        loop for loop in watcher_module._watchers if loop.is_closed() and watcher_module._watchers[loop].known
    ]


async def _through_registry(hook, *later):
    hook.end("job")
    return await until_over(await watcher_for("key", maker(hook, *later)), hook.handle("job"))


def test_the_status_is_asked_for_outside_the_event_loop(hook):
    asyncio.run(_through_registry(hook))
    assert "MainThread" not in hook.threads


def test_jobs_that_keep_coming_do_not_multiply_the_calls(hook):
    """A single new job is asked for soon. Among many, a new job waits for the next call for all jobs."""

    async def scenario():
        watcher = Watcher(hook)
        waiting = []
        for n in range(100):
            waiting.append(asyncio.create_task(until_over(watcher, hook.add(f"job-{n}"), 0.5)))
            await asyncio.sleep(0.02)
        for n in range(100):
            hook.end(f"job-{n}")
        await asyncio.gather(*waiting)

    began = time.monotonic()
    asyncio.run(scenario())
    ramp = 10  # calls at intervals that grow by 1.3 from 0.05 s to 0.5 s
    assert hook.calls["status"] <= ramp + (time.monotonic() - began) / 0.5 + 4
