"""Which GPUs, cores and memory a sandbox gets: of the settings, and of ``resource_settings``."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_stepop.exceptions import StepConfigError, UnsupportedError
from airflow_stepop.hooks.modal import ModalSettings
from airflow_stepop.hooks.modal.gpus import KINDS, choose, parse_gpu
from airflow_stepop.hooks.modal.literals import check_literals
from airflow_stepop.hooks.modal.resources import resources_of
from airflow_stepop.resources import ResourceSettings


def chosen(settings: dict[str, Any], **resources: Any) -> tuple[str, ...]:
    return choose(ModalSettings(**settings), ResourceSettings(**resources)).gpus


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_documented_kind_parses(kind: Any) -> None:
    """In any case, alone and with each number of GPUs."""
    assert parse_gpu(kind.name.lower()).kind is kind
    assert str(parse_gpu(f"{kind.name}:{kind.largest_count}")) == f"{kind.name}:{kind.largest_count}"
    with pytest.raises(ValueError, match=f"1 to {kind.largest_count} GPUs"):
        parse_gpu(f"{kind.name}:{kind.largest_count + 1}")


def test_any_is_the_cheapest_kind_that_fits() -> None:
    """The log says what was chosen, for which price, and what else fits."""
    priced = [kind.price_per_s for kind in KINDS if kind.price_per_s is not None]
    cheapest = min(KINDS, key=lambda kind: kind.price_per_s or 1.0)
    assert chosen({"gpu": "any"}) == (cheapest.name,) == ("T4",)
    assert cheapest.price_per_s == min(priced)
    choice = choose(ModalSettings(gpu="any"), ResourceSettings())
    assert choice.message.startswith("chose T4 for gpu='any': the cheapest kind that fits, $0.59 an hour in ")
    assert "also possible: L4, A10, L40S, A100" in choice.message
    assert choose(ModalSettings(gpu="T4"), ResourceSettings()).message == ""


@pytest.mark.parametrize(
    ("settings", "resources", "expected"),
    [
        ({}, {}, ()),
        ({}, {"gpu_count": 0}, ()),
        ({}, {"gpu_count": 1}, ("T4",)),
        ({}, {"gpu_count": 8}, ("T4:8",)),
        ({}, {"gpu_count": 1, "gpu_type": "A100"}, ("A100",)),
        ({}, {"gpu_count": 1, "gpu_type": "NVIDIA_TESLA_A100"}, ("A100",)),
        ({}, {"gpu_count": 1, "gpu_type": "NVIDIA_A100_80GB"}, ("A100-80GB",)),
        ({}, {"gpu_count": 2, "gpu_type": "nvidia-a100-80gb"}, ("A100-80GB:2",)),
        ({}, {"gpu_count": 1, "gpu_type": "A100-40GB"}, ("A100-40GB",)),
        ({}, {"gpu_count": 1, "gpu_type": "nvidia-l4"}, ("L4",)),
        ({}, {"gpu_count": 4, "gpu_type": "A10G"}, ("A10:4",)),
        ({}, {"gpu_count": 1, "gpu_type": "NVIDIA_H100_MEGA_80GB"}, ("H100",)),
        ({}, {"gpu_count": 1, "gpu_type": "h100!"}, ("H100!",)),
        ({}, {"gpu_count": 1, "gpu_type": "NVIDIA_H200_141GB"}, ("H200",)),
        ({}, {"gpu_count": 1, "gpu_type": "NVIDIA_RTX_PRO_6000"}, ("RTX-PRO-6000",)),
        ({"gpu": "any"}, {"gpu_count": 3}, ("T4:3",)),
        ({"gpu": "any:2"}, {"gpu_count": 1}, ("T4:2",)),
        ({"gpu": "any"}, {"gpu_count": 1, "gpu_type": "B200"}, ("B200",)),
        ({"gpu": "A100-80GB:2"}, {"gpu_count": 2, "gpu_type": "NVIDIA_A100_80GB"}, ("A100-80GB:2",)),
        ({"gpu": "B200+"}, {"gpu_count": 1, "gpu_type": "nvidia-b200"}, ("B200+",)),
        ({"gpu": ["H100", "A100-80GB"]}, {"gpu_count": 1}, ("H100", "A100-80GB")),
    ],
)
def test_the_gpus_of_a_step(
    settings: dict[str, Any], resources: dict[str, Any], expected: tuple[str, ...]
) -> None:
    """Explicit kinds stay; names of other clouds are understood; else the cheapest kind that fits."""
    assert chosen(settings, **resources) == expected


@pytest.mark.parametrize(
    ("settings", "resources", "text"),
    [
        ({"gpu": "A100"}, {"gpu_count": 2}, "gpu_count=2; write gpu='A100:2'"),
        ({"gpu": "any:2"}, {"gpu_count": 4}, "write gpu='any:4'"),
        ({"gpu": "any"}, {"gpu_count": 0}, "gpu_count=0; leave one of them out"),
        ({"gpu": "T4"}, {"gpu_count": 0}, "gpu_count=0; leave one of them out"),
        (
            {"gpu": "T4"},
            {"gpu_count": 1, "gpu_type": "A100"},
            "contradicts .*: gpu_type='A100'",
        ),
        ({"gpu": ["H100", "T4"]}, {"gpu_count": 1, "gpu_type": "H100"}, "settings.gpu='T4' contradicts"),
        ({"gpu": "A100"}, {"gpu_count": 1, "gpu_type": "A100-80GB"}, "gpu_type='A100-80GB'"),
        ({"cpu": 2}, {"cpu_count": 4}, "cpu_count=4 is more; write cpu=4"),
        ({"memory": 16384}, {"memory": "32GB"}, "are 30518 MiB; write memory=30518"),
        ({"memory": (512, 2048)}, {"memory": "1GiB"}, "are 1024 MiB"),
    ],
)
def test_contradictions(settings: dict[str, Any], resources: dict[str, Any], text: str) -> None:
    """Settings that have less than the resources ask for are errors when the DAG file is parsed."""
    with pytest.raises(StepConfigError, match=text):
        ModalSettings(**settings).check_with(None, ResourceSettings(**resources))


@pytest.mark.parametrize(
    ("resources", "text"),
    [
        ({"gpu_count": 9}, "a sandbox of Modal has at most 8 GPUs; write gpu_count=8 or less"),
        ({"gpu_count": 8, "gpu_type": "A10G"}, "at most 4 A10 GPUs"),
        ({"gpu_count": 1, "gpu_type": "V100"}, r"Modal has no such GPU; kinds: T4 \(16 GB\), L4 \(24 GB\)"),
        ({"gpu_count": 1, "gpu_type": "L4S"}, "did you mean 'L40S'"),
        ({"nodes": 2}, "runs a step in one sandbox; use nodes=1"),
        ({"shm": "1GiB"}, "leave shm out"),
        ({"disk": "513GiB"}, "use disk='512GiB' or less, a Volume"),
    ],
)
def test_what_no_sandbox_has(resources: dict[str, Any], text: str) -> None:
    """It is refused when the DAG file is parsed, with and without settings."""
    wants = ResourceSettings(**resources)
    for check in (lambda: check_literals(None, wants), lambda: ModalSettings().check_with(None, wants)):
        with pytest.raises(UnsupportedError, match=text):
            check()


@pytest.mark.parametrize(
    ("settings", "resources", "cpu", "memory"),
    [
        ({}, {}, None, None),
        ({}, {"cpu_count": 8, "memory": "32GB"}, 8.0, (30518, 30518)),
        ({}, {"cpu_count": 0.1, "memory": "64MiB"}, 0.125, (128, 128)),
        ({"cpu": 4.0, "memory": 16384}, {"cpu_count": 4, "memory": "16GiB"}, 4.0, (16384, 16384)),
        ({"memory": 16384}, {"memory": "16GB"}, None, (16384, 16384)),
        ({"cpu": (0.5, 4), "memory": (512, 2048)}, {}, (0.5, 4.0), (512, 2048)),
    ],
)
def test_cores_and_memory(
    settings: dict[str, Any], resources: dict[str, Any], cpu: object, memory: object
) -> None:
    """Memory is request and limit in whole MiB: a request alone would be no limit."""
    found = resources_of(ModalSettings(**settings), ResourceSettings(**resources))
    assert (found.cpu, found.memory) == (cpu, memory)


def test_the_disk_that_every_sandbox_has_is_accepted() -> None:
    check_literals(None, ResourceSettings(disk="512GiB"))
