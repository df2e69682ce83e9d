"""One gibibyte goes through a bucket and back, and is never in memory twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

GIB = 1 << 30
# in addition to the array: pieces in transfer (8 threads with 16 MiB each, perhaps twice), and imports
ALLOWANCE = 320 << 20

HOST = """
import json, os, secrets, sys
from pathlib import Path

import numpy
from airflow_stepop.hooks.local import LocalStepHook
from airflow_stepop.job import StepSpec
from airflow_stepop.payload.build import build_payload
from airflow_stepop.payload.call import FunctionCall
from airflow_stepop.payload.outcome import to_xcom, read_outcome
from airflow_stepop.payload.spill import spill
from airflow_stepop.stores.configured import default_store

NONCE = secrets.token_hex(8)


def peak():
    # not ru_maxrss: a process inherits that of the one which started it
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


def add_one(array):
    import resource

    array += 1  # what a step gets is its own
    return array


def wait(hook, handle):
    import time

    while not hook.status([handle])[handle].state.is_terminal:
        time.sleep(0.1)
    found = read_outcome(hook.outcome(handle), "s-large", NONCE)
    return found


size = int(sys.argv[1])
store = default_store()
store.put_new("warm", b"x" * 3_000_000)  # what libraries need once is not counted
before = peak()
array = numpy.arange(size // 8, dtype="i8")
call = FunctionCall(function=add_one, args=(array,), kwargs={}, main_module="__main__", reference=None)
payload = build_payload(call, job="s-large", nonce=NONCE, split="no", is_result_wanted=True)
payload = spill(payload, lambda: store, 100_000)
sent = peak() - before
spec = StepSpec("s-large", NONCE, {}, payload.digest, result_uri=store.uri("results/_/large"), timeout_s=1000)
hook = LocalStepHook(folder=Path(os.environ["AIRFLOW_HOME"]) / "jobs")
found = wait(hook, hook.submit(spec, payload))
assert "result" in found, found
del array, call, payload
result = to_xcom(found["result"])
value = result.load()
assert value.shape == (size // 8,) and value[0] == 1 and value[-1] == size // 8 and value.flags.writeable
used = json.loads(hook.outcome(hook.lookup(spec)).data)["usage"]
print(json.dumps({"sent": sent, "loaded": peak() - before, "step": used["peak_memory_bytes"]}))
store.delete_folder("")
"""


@pytest.mark.timeout(900)
def test_a_gibibyte_there_and_back(s3_server, tmp_path):
    """One worker sends the array, the step changes it, and another worker loads it."""
    env = {**os.environ, "AIRFLOW_HOME": str(tmp_path), "AIRFLOW__STEPOP__STORE": s3_server.new_address()}
    done = subprocess.run(
        [sys.executable, "-c", HOST, str(GIB)], env=env, capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for name, peak in found.items():
        assert 0.9 * GIB < peak < GIB + ALLOWANCE, (name, found)
