"""What the benchmarks of this folder share: an account with its services, and training jobs in it.

The account is the emulator of the tests (``tests/emulators/sagemaker``), a process of its own. It keeps the
documented rates of the real service, and answers a request above them with ``ThrottlingException``.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from airflow_stepop.hooks.sagemaker.hook import SageMakerStepHook
from airflow_stepop.job import JobHandle
from airflow_stepop.stores.paths import result_path
from airflow_stepop.testing import Step, make_step
from benchmarks.measure import is_installed
from benchmarks.processes import as_json, child, count_of, quieten, tell, told, variables
from tests.support.s3 import started
from tests.support.sagemaker import SageMaker, log_service, sagemaker

__all__ = [
    "Answers",
    "Room",
    "as_json",
    "child",
    "count_of",
    "quieten",
    "room",
    "tell",
    "told",
    "variables",
    "why_not",
]
CONN_ID = "aws_default"
LOGS = ("FilterLogEvents", "DescribeLogStreams", "GetLogEvents")
THREADS = 4
LONG_S = 1e6  # of a simulated job that does not end by itself


@dataclass(frozen=True)
class Room:
    """An account for one benchmark.

    :param address: address of the store of its steps
    """

    service: SageMaker
    address: str

    def step(self, call: Any = ("sleep", "1"), **options: Any) -> Step:
        """Return a step with the role, the image and the store of this account."""
        from airflow_stepop.stores.configured import open_store

        given = {"image": self.service.image, "settings": {"role": self.service.role}, **options}
        made = make_step(call, **given)
        store = open_store(self.address)
        return make_step(call, result_uri=store.uri(result_path(made.spec.labels, made.spec.name)), **given)

    def created(self, count: int, **plan: Any) -> list[JobHandle]:
        """Create simulated jobs, without the limit of the service, and return when all of them train.

        :param plan: fields of ``Plan`` in ``tests/emulators/sagemaker/settings.py``
        """
        self.service.do("settings", rates={})
        self.service.do("plan", job="*", run=False, **plan)
        hook, first = SageMakerStepHook(), self.step()
        hook.submit(first.spec, first.payload)
        client = self.service.client("sagemaker")
        seen = client.describe_training_job(TrainingJobName=first.spec.name)
        fields = ("AlgorithmSpecification", "RoleArn", "OutputDataConfig", "ResourceConfig")
        request = {name: seen[name] for name in (*fields, "StoppingCondition", "Environment")}
        inputs = f"{first.spec.result_uri}/in"

        def one(number: int) -> JobHandle:
            name = f"s-bench-{number:012x}"
            arn = client.create_training_job(TrainingJobName=name, **request)["TrainingJobArn"]
            return hook._handle(arn, name, first.spec.result_uri or "", inputs, time.time())

        with ThreadPoolExecutor(THREADS) as pool:
            handles = list(pool.map(one, range(count)))
        self.service.do("settings", rates="real")
        return handles

    def answers(self) -> Answers:
        return Answers(self.service.report()["answers"])


@dataclass(frozen=True)
class Answers:
    """How many requests the account has answered, by operation and answer (``"ListTrainingJobs 200"``)."""

    counted: Mapping[str, int]

    def __sub__(self, before: Answers) -> Answers:
        return Answers({name: count - before.counted.get(name, 0) for name, count in self.counted.items()})

    def states(self) -> int:
        """Return the requests that are not for logs."""
        return sum(count for name, count in self.counted.items() if name.split()[0] not in LOGS)

    def logs(self) -> int:
        return sum(count for name, count in self.counted.items() if name.split()[0] in LOGS)

    def of(self, begin: str) -> int:
        """Return the requests of an operation, or of an operation and an answer."""
        return sum(count for name, count in self.counted.items() if f"{name} ".startswith(f"{begin} "))

    def throttled(self) -> int:
        return sum(count for name, count in self.counted.items() if "Throttling" in name)


def why_not() -> str:
    """Return why these benchmarks cannot run here; empty when they can."""
    if not os.environ.get("STEPOP_S3SERVER"):
        return "set STEPOP_S3SERVER=scripts/s3server"
    missing = [name for name in ("airflow.providers.amazon", "moto", "aiobotocore") if not is_installed(name)]
    return f"install {', '.join(missing)}" if missing else ""


@contextlib.contextmanager
def room() -> Iterator[Room]:
    """Start an account with the documented rates, and the connections to it; end it at the end."""
    quieten()
    server = started(os.environ["STEPOP_S3SERVER"])
    address = server.new_address()
    with log_service() as logs_url, sagemaker(server, logs_url, rates={}) as service:
        given = {
            f"AIRFLOW_CONN_{server.conn_id.upper()}": server.connection(),
            f"AIRFLOW_CONN_{CONN_ID.upper()}": service.connection(
                stepop={"settings": {"role": service.role}}
            ),
            "AIRFLOW__STEPOP__STORE": address,
        }
        with variables(given):
            yield Room(service, address)
