"""A thousand logs are read while the states of their jobs are watched."""

from __future__ import annotations

import asyncio
import time

from airflow_stepop.hooks.kubernetes import KubernetesStepHook
from airflow_stepop.job import JobState
from airflow_stepop.waiting.watcher import Watcher
from tests.support.cluster_jobs import wait_running
from tests.support.waiting import until

PRINTS = "import time\nwhile True:\n    print('x' * 20_000)\n    time.sleep(0.2)"
JOBS, READERS = 4, 1000
# seconds after the end, on a busy host; reading a thousand logs takes longer, at five a second
NOTICED_S = 120


async def read(watcher, handle, heard):
    async with watcher.subscribe(handle, 1.0) as subscription:
        while True:
            update = await subscription.next(5)
            heard.update(line.text for line in update.lines)
            if update.status is not None and update.status.state.is_terminal:
                return update.status, time.time()


def test_the_end_of_a_job_is_noticed_while_a_thousand_logs_are_read(hook, submitted):
    printing = [submitted(["python3", "-c", PRINTS])[1] for _ in range(JOBS)]
    for handle in printing:
        wait_running(hook, handle)
    asked = []

    class Counting(KubernetesStepHook):
        def logs(self, cursors):
            asked.append(len(cursors))
            return super().logs(cursors)

    heard = [set() for _ in range(READERS)]

    async def scenario():
        watcher = Watcher(Counting())
        readers = [
            asyncio.create_task(read(watcher, printing[number % JOBS], lines))
            for number, lines in enumerate(heard)
        ]
        await until(lambda: any(heard), "a line of one of the logs", pause_s=0.1)
        _, ends = await asyncio.to_thread(submitted, ["sleep", "5"])
        try:
            return *await read(watcher, ends, set()), sum(map(bool, heard))
        finally:
            for task in readers:
                task.cancel()
            await asyncio.gather(*readers, return_exceptions=True)

    status, noticed_at, served = asyncio.run(scenario())
    assert status.state is JobState.SUCCEEDED
    assert noticed_at - status.finished_at < NOTICED_S
    assert 0 < max(asked) <= hook.log_reads_per_second
    assert 1 < served < READERS, "it is noticed before all logs have had their turn"
