"""``airflow stepop describe BACKEND --fit``: what the text says, and the table of machines."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest

from airflow_stepop.cli import backends
from airflow_stepop.cli.fit import fitting_machines, parse_fit
from airflow_stepop.exceptions import StepConfigError, UnsupportedError
from airflow_stepop.hooks.common.machines import Machines
from airflow_stepop.hooks.local import LocalStepHook
from airflow_stepop.hooks.sagemaker.machines import machines
from airflow_stepop.resources import ResourceSettings
from tests.support.third_party import install_backend


class RentedHook(LocalStepHook):
    """A backend whose jobs run on machine types: those of SageMaker."""

    backend = "rented"

    def machines(self) -> Machines | None:
        return machines()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cpu=4,memory=16GB,gpu=1", ResourceSettings(cpu_count=4, memory="16GB", gpu_count=1)),
        (" cpu_count = 0.5 , ", ResourceSettings(cpu_count=0.5)),
        ("gpus=2,gpu_type=NVIDIA_TESLA_A100", ResourceSettings(gpu_count=2, gpu_type="NVIDIA_TESLA_A100")),
        ("disk=1TB", ResourceSettings(disk="1TB")),
        ("", ResourceSettings()),
    ],
)
def test_the_text_is_that_of_resource_settings(text: str, expected: ResourceSettings) -> None:
    assert parse_fit(text) == expected


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("cpu", "'cpu' is not NAME=VALUE"),
        ("cpu=", "is not NAME=VALUE"),
        ("cpu=1,cpus=2", "once for each name: cpu=4,memory=16GB,gpu=1"),
        ("cpu=many", "cpu_count='many' is not a number"),
        ("memory=16", "write '16GB' or '16GiB'"),
        ("memry=16GB", "did you mean memory"),
        ("gpu_type=A100", "needs gpu_count"),
    ],
)
def test_a_mistake_in_the_text(text: str, error: str) -> None:
    with pytest.raises(StepConfigError, match=error):
        parse_fit(text).check_complete()


def test_the_table_is_in_the_order_of_preference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install_backend(monkeypatch, tmp_path / "site", "rented", f"{RentedHook.__module__}:RentedHook")
    given = Namespace(backend="rented", output="json", verbose=False, fit="cpu=4,memory=16GB,gpu=1")
    backends.describe_command(given)
    rows = json.loads(capsys.readouterr().out)
    assert [row["machine"] for row in rows][:3] == ["ml.g4dn.xlarge", "ml.g6.xlarge", "ml.g7.2xlarge"]
    assert rows[0] == {
        "machine": "ml.g4dn.xlarge",
        "cpu_count": 4,
        "memory": "16 GiB",
        "gpu_count": 1,
        "gpu_type": "T4",
        "gpu_memory": "16 GiB",
        "disk": "125 GB",
    }


def test_a_backend_without_machine_types_says_so() -> None:
    with pytest.raises(UnsupportedError, match="backend 'local' has no machine types"):
        list(fitting_machines(LocalStepHook(), ResourceSettings()))
