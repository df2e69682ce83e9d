"""Machine types: the order, what fits, and what is said when nothing does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_stepop.exceptions import StepConfigError, UnsupportedError
from airflow_stepop.hooks.common.machines import Machine, Machines, is_gpu
from airflow_stepop.resources import ResourceSettings

GIB = 2**30
TABLE = [
    Machine("big", 8, 32 * GIB, family="a"),
    Machine("small", 2, 8 * GIB, family="a"),
    Machine("small-new", 2, 8 * GIB, family="b", generation=2),
    Machine("old", 1, 4 * GIB, is_preferred=False),
    Machine("gpu", 4, 16 * GIB, 1, "T4", 100 * 10**9, gpu_memory_bytes=16 * GIB),
    Machine("gpus", 32, 128 * GIB, 4, "T4", gpu_memory_bytes=16 * GIB),
    Machine("a100", 8, 64 * GIB, 1, "A100", gpu_memory_bytes=80 * GIB),
    Machine("chip", 4, 16 * GIB, 1, "Trainium", is_named_only=True),
]
MACHINES = Machines("Nomad", TABLE, reserved_bytes=GIB)


def names(**wants: Any) -> list[str]:
    return [one.name for one in MACHINES.fitting(ResourceSettings(**wants))]


def test_the_smallest_comes_first_and_the_newest_of_one_size() -> None:
    """A machine of a previous generation comes last, and none has GPUs that were not asked for."""
    assert names() == ["small-new", "small", "big", "old"]
    assert names(cpu_count=2.5) == ["big"]
    assert names(memory="7GiB") == ["small-new", "small", "big"]
    assert names(memory="7.1GiB") == ["big"]  # the service keeps 1 GiB
    assert names(gpu_count=0) == names()


def test_gpus_are_few_and_small_first() -> None:
    assert names(gpu_count=1) == ["gpu", "a100", "gpus"]
    assert names(gpu_count=2) == ["gpus"]
    assert names(gpu_count=1, gpu_type="a100") == ["a100"]
    assert names(gpu_count=1, memory="16GiB") == ["a100", "gpus"]
    assert names(gpu_count=1, disk="101GB") == ["a100", "gpus"]


def test_another_accelerator_is_chosen_only_by_its_name() -> None:
    """Code for GPUs does not run there."""
    assert "chip" not in names(gpu_count=1)
    assert names(gpu_count=1, gpu_type="trainium") == ["chip"]
    with pytest.raises(StepConfigError, match="name it with gpu_type='Trainium'"):
        MACHINES.check("chip", ResourceSettings(gpu_count=1))


def test_one_machine_of_each_family() -> None:
    found = MACHINES.smallest_of_each_family(ResourceSettings())
    assert [one.name for one in found] == ["small-new", "small", "old"]


@pytest.mark.parametrize(
    ("wants", "text"),
    [
        ({"cpu_count": 9}, r"no machine of Nomad has cpu_count=9.0; the largest: big \(8 CPUs, 32 GiB\)"),
        ({"gpu_count": 5}, r"the largest: gpus \(32 CPUs, 128 GiB, 4 T4\)"),
        ({"gpu_count": 1, "gpu_type": "A10"}, r"did you mean 'A100'\?; types of GPUs: A100 \(80 GiB\), T4"),
        ({"gpu_count": 1, "gpu_type": "A100-40GB"}, r"A100-40GB'; types of GPUs: A100 \(80 GiB\), T4"),
    ],
)
def test_nothing_fits(wants: dict[str, Any], text: str) -> None:
    """The message names what there is."""
    with pytest.raises(UnsupportedError, match=text):
        names(**wants)


@pytest.mark.parametrize(
    ("name", "wants", "text"),
    [
        ("small", {"cpu_count": 4}, r"cpu_count=4 is more than its 2; big \(8 CPUs, 32 GiB\) fits"),
        ("small", {"memory": "8GiB"}, r"memory='8GiB' is more than its 7 GiB \(the service keeps 1GiB\)"),
        ("gpu", {"gpu_count": 0}, r"gpu_count=0, and it has 1 T4; small-new"),
        ("gpu", {"gpu_count": 2}, r"gpu_count=2 is more than its 1; gpus"),
        ("gpu", {"gpu_count": 1, "gpu_type": "A100"}, r"gpu_type='A100' is not its T4; a100"),
        (
            "gpu",
            {"disk": "200GB", "gpu_count": 1},
            r"disk='200GB' is more than its fixed disk of 100 GB; a100",
        ),
    ],
)
def test_a_machine_that_contradicts_the_resources(name: str, wants: dict[str, Any], text: str) -> None:
    """The message names one that fits, of the same family if there is one."""
    with pytest.raises(StepConfigError, match=rf"machine '{name}' contradicts resource_settings: .*{text}"):
        MACHINES.check(name, ResourceSettings(**wants))


def test_a_machine_may_have_more_than_was_asked_for() -> None:
    assert MACHINES.check("gpus", ResourceSettings(cpu_count=1, gpu_count=1)) == MACHINES.get("gpus")
    assert MACHINES.check("gpu", ResourceSettings(cpu_count=1)) == MACHINES.get("gpu")


def test_an_unknown_machine_was_not_checked() -> None:
    assert MACHINES.check("later", ResourceSettings(cpu_count=10**6)) is None


def test_a_machine_for_people() -> None:
    assert str(MACHINES.get("gpu")) == "gpu (4 CPUs, 16 GiB, 1 T4, 100 GB disk)"


@pytest.mark.parametrize(
    ("own", "gib", "wanted"),
    [
        ("A100", 40, "A100"),
        ("A100", 40, "a100"),
        ("A100", 40, "NVIDIA_TESLA_A100"),
        ("A100", 40, "nvidia-tesla-a100"),
        ("A100", 40, "A100-40GB"),
        ("A100", 80, "NVIDIA_A100_80GB"),
        ("A100", 80, "NVIDIA-A100-SXM4-80GB"),
        ("H100", 80, "nvidia-h100-mega-80gb"),
        ("L4", 22.35, "L4-24GB"),
        ("V100", 16, "Tesla-V100-SXM2-16GB"),
        ("RTX PRO Server 6000", 96, "rtx-pro-6000"),
        ("NVIDIA_TESLA_T4", 16, "T4"),
        ("A100-80GB", 0, "A100"),
        ("A100-80GB", 0, "A100 80GB"),
        ("X1", 0, "X1-16GB"),
    ],
)
def test_spellings_of_one_gpu(own: str, gib: float, wanted: str) -> None:
    assert is_gpu(Machine("m", 1, GIB, 1, own, gpu_memory_bytes=int(gib * GIB)), wanted)


@pytest.mark.parametrize(
    ("own", "gib", "wanted"),
    [
        ("A100", 40, "A100-80GB"),
        ("A10G", 24, "A10"),
        ("L40S", 44.7, "L4"),
        ("L40S", 44.7, "L40"),
        ("T4", 16, "GB"),
    ],
)
def test_spellings_of_two_gpus(own: str, gib: float, wanted: str) -> None:
    assert not is_gpu(Machine("m", 1, GIB, 1, own, gpu_memory_bytes=int(gib * GIB)), wanted)


def test_a_machine_without_gpus_has_none() -> None:
    assert not is_gpu(Machine("m", 1, GIB), "T4")


@given(
    cpu_count=st.none() | st.floats(0.1, 40),
    memory=st.none() | st.integers(1, 140).map("{}GB".format),
    gpu_count=st.none() | st.integers(0, 5),
    disk=st.none() | st.integers(1, 200).map("{}GB".format),
)
def test_what_fits_passes_the_check(cpu_count: Any, memory: Any, gpu_count: Any, disk: Any) -> None:
    """And what does not fit is refused, unless it only has GPUs that nobody asked for."""
    wants = ResourceSettings(cpu_count=cpu_count, memory=memory, gpu_count=gpu_count, disk=disk)
    try:
        fitting = MACHINES.fitting(wants)
    except UnsupportedError:
        fitting = []
    for machine in MACHINES:
        try:
            assert MACHINES.check(machine.name, wants) is machine
            is_right = machine in fitting or (machine.gpu_count > 0 and not gpu_count)
        except StepConfigError:
            is_right = machine not in fitting
        assert is_right, machine
