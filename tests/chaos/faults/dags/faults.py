"""One DAG with a mapped step for each fault; see ``tests/chaos/faults/test_faults.py``."""

from __future__ import annotations

from airflow.sdk import DAG, task
from fault_steps import IS_FULL, KILLED, NODE, POINTS, mortal_step


def value(number, seconds):
    """Return what fits into a termination message; every fifth number returns more than fits."""
    import time

    time.sleep(seconds)
    return {"number": number, "data": "x" * (10_000 if number % 5 == 4 else 200)}


def fault(name, short, full, make=task.remote_step, settings=None, **arguments):
    """Make the DAG of a fault; ``short`` and ``full`` are (steps, seconds of each step) in the two forms."""
    count, seconds = full if IS_FULL else short
    arguments = {
        "backend": "kubernetes",
        "keep": "never",
        "deferrable": True,
        "resource_settings": {"memory": "64MiB"},
        "settings": {"termination_grace_period_seconds": 1, **(settings or {})},
        **arguments,
    }
    with DAG(f"fault_{name}", schedule=None):
        step = make(task_id="step", **arguments)(value)
        step.partial(seconds=seconds).expand(number=list(range(count)))


for point in POINTS:
    fault(f"{KILLED.removeprefix('fault_')}{point}", (1, 3), (5, 3), mortal_step)
fault("triggerer", (2, 15), (10, 60))
# one step must still run when the last trouble has come
fault("proxy", (10, 25), (200, 4), conn_id="kubernetes_proxy")
fault("api_server", (3, 30), (20, 90))
fault("kubelet", (3, 12), (20, 90))
for name in ("evicted", "deleted"):
    fault(name, (2, 30), (5, 120))
for name in ("drained", "node_lost"):
    fault(name, (2, 12), (5, 40))
lost = [
    {"key": f"node.kubernetes.io/{what}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}
    for what in ("unreachable", "not-ready")
]
fault("unreachable", (2, 120), (5, 120), settings={"tolerations": lost})
slot = {"resources": {"limits": {"stepop.test/slot": "1"}}}
fault("preempted", (1, 25), (1, 120), settings=slot)
fault("token", (2, 10), (10, 60), conn_id="kubernetes_token")
fault("connection", (2, 10), (10, 60), conn_id="kubernetes_stored")
fault("image", (2, 1), (5, 1), image="127.0.0.1:1/nothing:1")
fault("quota_pods", (8, 2), (50, 2), conn_id="kubernetes_full_pods")
fault("quota_jobs", (5, 2), (50, 2), conn_id="kubernetes_full_jobs")
later = {"resources": {"limits": {"stepop.test/later": "1"}}}
fault("secret", (1, 2), (5, 2), settings=later)
bound = {"pod_template": {"spec": {"nodeName": NODE}}, "node_selector": {"stepop.test/later": "yes"}}
fault("refused", (1, 1), (5, 1), settings=bound)
fault("autoscaled", (3, 25), (10, 20), pool="autoscaled")
fault("namespace", (2, 300), (10, 300), conn_id="kubernetes_doomed", retries=0)
fault("two", (2, 25), (10, 60))
fault("etcd", (2, 300), (10, 300), conn_id="kubernetes_token", retries=0)
