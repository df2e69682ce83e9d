"""The watcher: one status call for all, nobody forgotten, nothing left behind."""

from __future__ import annotations

import asyncio

import pytest

from airflow_stepop import watch
from airflow_stepop.exceptions import WrongHostError
from airflow_stepop.job import JobState
from airflow_stepop.watch import Watcher, watcher_for


async def until_over(watcher, handle, poll_interval_s=0.05):
    lines = []
    async with watcher.subscribe(handle, poll_interval_s) as subscription:
        while True:
            update = await subscription.next(5)
            lines += [line.text for line in update.lines]
            if update.error is not None:
                raise update.error
            if update.status is not None and update.status.state.is_terminal:
                return update.status.state, lines


def test_a_thousand_jobs_share_each_status_call(hook):
    """All get their end, in batches; calls grow with time and not with jobs."""

    async def scenario():
        watcher = Watcher(hook)
        handles = [hook.add(f"job-{n}") for n in range(1000)]
        waiting = [asyncio.create_task(until_over(watcher, handle)) for handle in handles]
        await asyncio.sleep(0.3)
        for handle in handles:
            hook.end(handle.id)
        states = await asyncio.wait_for(asyncio.gather(*waiting), 20)
        assert {state for state, _ in states} == {JobState.SUCCEEDED}
        return watcher

    watcher = asyncio.run(scenario())
    assert hook.largest_batch == 1000
    assert hook.calls["status"] < 50
    assert watcher._subscriptions == {}
    assert watcher._known == {}
    assert watcher._tasks == []


def test_a_late_subscriber_is_answered_at_once(hook):
    async def scenario():
        watcher = Watcher(hook)
        handle = hook.add("job")
        async with watcher.subscribe(handle, 0.05) as first:
            await first.next(5)
            calls = hook.calls["status"]
            hook.error = ConnectionError("nobody can be asked now")
            async with watcher.subscribe(handle, 60) as second:
                update = await second.next(1)
            assert update.status.state is JobState.RUNNING
            assert hook.calls["status"] <= calls + 1

    asyncio.run(scenario())


def test_a_job_that_ended_before_anybody_watched_is_told(hook):
    hook.end("job")
    state, _ = asyncio.run(_once(hook, "job"))
    assert state is JobState.SUCCEEDED


async def _once(hook, name):
    return await asyncio.wait_for(until_over(Watcher(hook), hook.handle(name), 30), 5)


def test_an_api_error_is_never_a_job_state(hook):
    """Nobody hears of it; the watcher backs off and asks again."""

    async def scenario():
        watcher = Watcher(hook)
        handle = hook.add("job")
        hook.error = ConnectionError("503")
        waiting = asyncio.create_task(until_over(watcher, handle, 0.01))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        calls = hook.calls["status"]
        assert calls < 12, "it must back off"
        hook.error = None
        hook.end(handle.id)
        return await asyncio.wait_for(waiting, 10)

    assert asyncio.run(scenario())[0] is JobState.SUCCEEDED


def test_an_error_that_asking_cannot_mend_is_told(hook):
    hook.error = WrongHostError("the job runs on another host")
    with pytest.raises(WrongHostError, match="another host"):
        asyncio.run(_once(hook, "job"))


def test_lines_arrive_in_order_and_once(hook):
    async def scenario():
        watcher = Watcher(hook)
        handle = hook.add("job")
        hook.lines["job"] = []
        waiting = asyncio.create_task(until_over(watcher, handle, 0.05))
        for n in range(10):
            hook.lines["job"].append(f"line {n}")
            await asyncio.sleep(0.15)
        await asyncio.sleep(1.2)
        hook.end("job")
        return await waiting

    _, lines = asyncio.run(scenario())
    assert lines == [f"line {n}" for n in range(10)]


def test_slow_logs_do_not_hold_up_the_status(hook):
    import time

    hook.logs = lambda cursors: time.sleep(2) or {}

    async def scenario():
        watcher = Watcher(hook)
        handle = hook.add("job")
        asyncio.get_running_loop().call_later(0.2, hook.end, "job")
        begun = time.monotonic()
        await until_over(watcher, handle, 0.05)
        return time.monotonic() - begun

    assert asyncio.run(scenario()) < 1.5


def test_a_subscriber_that_goes_away_leaves_nothing_behind(hook):
    async def scenario():
        watcher = watcher_for("key", hook)
        handle = hook.add("job")
        waiting = asyncio.create_task(until_over(watcher, handle))
        await asyncio.sleep(0.1)
        assert watcher_for("key", hook) is watcher
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert watch._watchers[asyncio.get_running_loop()] == {}
        await asyncio.sleep(0.05)
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert others == []

    asyncio.run(scenario())


def test_a_closed_loop_is_forgotten(hook):
    """dag.test() runs each trigger in a loop of its own."""
    import gc

    for _ in range(3):
        asyncio.run(_through_registry(hook))
    gc.collect()
    assert not [loop for loop in watch._watchers if loop.is_closed() and watch._watchers[loop]]


async def _through_registry(hook):
    hook.end("job")
    return await until_over(watcher_for("key", hook), hook.handle("job"))


def test_the_status_is_asked_for_outside_the_event_loop(hook):
    asyncio.run(_through_registry(hook))
    assert "MainThread" not in hook.threads


def test_jobs_that_come_all_the_time_do_not_multiply_the_calls(hook):
    """A newcomer is looked at soon when it is alone; among many it waits for the next look at all."""

    async def scenario():
        watcher = Watcher(hook)
        waiting = []
        for n in range(100):
            waiting.append(asyncio.create_task(until_over(watcher, hook.add(f"job-{n}"), 0.5)))
            await asyncio.sleep(0.02)
        for n in range(100):
            hook.end(f"job-{n}")
        await asyncio.gather(*waiting)

    asyncio.run(scenario())
    ramp = 10  # 0.05 s, growing by 1.3 to 0.5 s
    assert hook.calls["status"] <= ramp + 2 / 0.5 + 4
