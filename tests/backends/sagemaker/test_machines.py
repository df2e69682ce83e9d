"""The machine of a training job: the table, the smallest that fits, the disk, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_stepop.exceptions import StepConfigError, UnsupportedError
from airflow_stepop.hooks.sagemaker.machines import Choice, choose, is_accelerated, machines
from airflow_stepop.hooks.sagemaker.settings import SageMakerSettings
from airflow_stepop.resources import ResourceSettings

# the table has no row: the only machine with ARM processors, for which most images do not exist
WITHOUT_ROW = {"ml.p6e-gb200.36xlarge"}


def chosen(wants: dict[str, Any] | None = None, input_bytes: int = 0, **settings: Any) -> Choice:
    return choose(SageMakerSettings(**settings), ResourceSettings(**(wants or {})), input_bytes)


def test_the_table_has_the_machines_of_the_service() -> None:
    """If this fails after an update of botocore: run scripts/sagemaker_machines.py."""
    import botocore.session

    model = botocore.session.get_session().get_service_model("sagemaker")
    names = set(model.shape_for("TrainingInstanceType").enum)
    assert {one.name for one in machines()} == names - WITHOUT_ROW


@pytest.mark.parametrize(
    ("wants", "expected"),
    [
        ({}, "ml.m5.large"),
        ({"disk": "100GB"}, "ml.m5.large"),
        ({"cpu_count": 1}, "ml.c7i.large"),
        ({"cpu_count": 4}, "ml.c8i.xlarge"),
        ({"cpu_count": 4, "memory": "16GB"}, "ml.m8i.xlarge"),
        ({"cpu_count": 4, "memory": "16GiB"}, "ml.r8i.xlarge"),
        ({"memory": "3TB"}, "ml.r8i.96xlarge"),
        ({"cpu_count": 4, "memory": "16GB", "gpu_count": 1}, "ml.g4dn.xlarge"),
        ({"cpu_count": 8, "memory": "32GB", "gpu_count": 1}, "ml.g4dn.2xlarge"),
        ({"cpu_count": 8, "memory": "32GB", "gpu_count": 2}, "ml.g7.12xlarge"),
        ({"gpu_count": 1, "disk": "500GB"}, "ml.g4dn.8xlarge"),
        ({"gpu_count": 1, "gpu_type": "L4"}, "ml.g6.xlarge"),
        ({"gpu_count": 1, "gpu_type": "A10G"}, "ml.g5.xlarge"),
        ({"gpu_count": 1, "gpu_type": "V100"}, "ml.p3.2xlarge"),
        ({"gpu_count": 1, "gpu_type": "NVIDIA_TESLA_A100"}, "ml.p4d.24xlarge"),
        ({"gpu_count": 1, "gpu_type": "A100-80GB"}, "ml.p4de.24xlarge"),
        ({"gpu_count": 1, "gpu_type": "H100"}, "ml.p5.4xlarge"),
        ({"gpu_count": 8, "gpu_type": "H100"}, "ml.p5.48xlarge"),
        ({"gpu_count": 1, "gpu_type": "Trainium"}, "ml.trn1.2xlarge"),
    ],
)
def test_the_smallest_machine_that_fits(wants: dict[str, Any], expected: str) -> None:
    """The log says what was chosen and what else fits."""
    choice = chosen(wants)
    assert choice.instance_types == (expected,)
    assert choice.message.startswith(f"chose {expected} (")
    assert all(name in choice.message for name in choice.runners_up)
    assert len({name.split(".")[1] for name in (expected, *choice.runners_up)}) == len(choice.runners_up) + 1


def test_no_burstable_machine_comes_before_a_steady_one() -> None:
    found = [one.name for one in machines().fitting(ResourceSettings(cpu_count=2))]
    last_steady = max(n for n, name in enumerate(found) if name.split(".")[1] in ("m8i", "c8i", "r8i", "m7i"))
    assert all(found.index(name) > last_steady for name in found if "t3." in name or "-flex." in name)


@pytest.mark.parametrize(
    ("instance_type", "wants", "text"),
    [
        ("ml.m5.large", {"memory": "8GB"}, r"\(the service keeps 1GB\); ml.m5.xlarge .* fits"),
        ("ml.p3.2xlarge", {"gpu_count": 2}, "ml.p3.8xlarge .* fits"),
        (["ml.m5.4xlarge", "ml.m5.large"], {"cpu_count": 4}, "'ml.m5.large' contradicts"),
    ],
)
def test_a_named_machine_is_checked(instance_type: Any, wants: dict[str, Any], text: str) -> None:
    with pytest.raises(StepConfigError, match=text):
        chosen(wants, instance_type=instance_type)


def test_a_named_machine_is_taken() -> None:
    choice = chosen({"cpu_count": 8, "memory": "32GB", "gpu_count": 1}, instance_type="ml.p3.2xlarge")
    assert (choice.instance_types, choice.message, choice.warnings) == (("ml.p3.2xlarge",), "", ())
    both = chosen({"cpu_count": 2}, instance_type=["ml.m5.large", "ml.m5.xlarge"])
    assert both.instance_types == ("ml.m5.large", "ml.m5.xlarge")


def test_an_unknown_machine_is_passed_on_with_a_warning() -> None:
    """The service may have machines that the table does not have yet."""
    choice = chosen({"cpu_count": 8, "gpu_count": 1}, instance_type="ml.g9.xlarge")
    assert choice.instance_types == ("ml.g9.xlarge",)
    assert choice.machine is None
    assert choice.is_accelerated
    assert choice.warnings == (
        "the table of machines does not have 'ml.g9.xlarge', so it was not compared with resource_settings",
    )


@pytest.mark.parametrize(
    ("wants", "settings", "input_bytes", "expected_gb"),
    [
        ({}, {}, 0, 30),
        ({}, {}, 20 * 2**30, 40),
        ({"disk": "100GB"}, {}, 0, 94),  # the service counts in GiB
        ({"disk": "100GiB"}, {}, 60 * 2**30, 120),
        ({}, {"volume_size_in_gb": 10}, 60 * 2**30, 10),
        ({"disk": "10GiB"}, {"volume_size_in_gb": 10}, 0, 10),
        ({}, {"instance_type": "ml.p3.8xlarge", "volume_size_in_gb": 100}, 0, 100),
        ({}, {"instance_type": "ml.g5.xlarge"}, 0, 250),
        ({}, {"instance_type": "ml.g5.xlarge", "volume_size_in_gb": 100}, 0, 100),
        ({}, {"instance_type": ["ml.g5.xlarge", "ml.m5.xlarge"]}, 0, 30),
        ({}, {"instance_type": "ml.g9.xlarge"}, 0, 30),
        ({"gpu_count": 1}, {"volume_size_in_gb": 500}, 0, 500),
    ],
)
def test_the_size_of_the_volume(
    wants: dict[str, Any], settings: dict[str, Any], input_bytes: int, expected_gb: int
) -> None:
    """A machine with NVMe disks always says their size: jobs share a warm pool only if they say the same."""
    assert chosen(wants, input_bytes, **settings).volume_gb == expected_gb


def test_a_machine_is_chosen_for_its_disk() -> None:
    assert chosen({"gpu_count": 1}, volume_size_in_gb=500).instance_types == ("ml.g4dn.8xlarge",)


@pytest.mark.parametrize(
    ("wants", "settings", "text"),
    [
        ({"disk": "20GB"}, {"volume_size_in_gb": 10}, "write volume_size_in_gb=19 or more"),
        ({}, {"instance_type": "ml.g5.xlarge", "volume_size_in_gb": 251}, "at most volume_size_in_gb=250"),
        ({}, {"instance_type": "ml.g5.xlarge", "volume_kms_key": "k"}, "encrypts with its own key"),
    ],
)
def test_a_disk_that_the_service_does_not_give(
    wants: dict[str, Any], settings: dict[str, Any], text: str
) -> None:
    with pytest.raises(StepConfigError, match=text):
        chosen(wants, **settings)


@pytest.mark.parametrize(
    ("wants", "text"),
    [
        ({"shm": "1GB"}, "shm='1GB': SageMaker decides the size of /dev/shm"),
        ({"nodes": 2}, "nodes=2: .* use nodes=1"),
        ({"cpu_count": 1000}, r"no machine of SageMaker has cpu_count=1000.0; the largest: ml.r8i.96xlarge"),
    ],
)
def test_what_no_machine_has_is_refused(wants: dict[str, Any], text: str) -> None:
    with pytest.raises(UnsupportedError, match=text):
        chosen(wants)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ml.m5.large", False),
        ("ml.g5.xlarge", True),
        ("ml.trn1.2xlarge", True),
        ("ml.p9.48xlarge", True),
        ("ml.m9.large", False),
    ],
)
def test_machines_with_accelerators(name: str, expected: bool) -> None:
    assert is_accelerated(name) is expected


def test_an_image_for_gpus_is_for_gpus_only() -> None:
    assert chosen(instance_type="ml.g5.xlarge").has_gpu
    assert chosen(instance_type=["ml.m5.xlarge", "ml.p9.48xlarge"]).has_gpu
    assert not chosen(instance_type="ml.trn1.2xlarge").has_gpu
    assert not chosen().has_gpu
