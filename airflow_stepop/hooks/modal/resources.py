"""CPU, memory and GPUs of a sandbox, of the settings and of ``resource_settings``, as pure functions.

Source: https://modal.com/docs/guide/resources
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.hooks.modal.gpus import Choice, GpuSettings, choose
from airflow_stepop.hooks.modal.literals import check_literals
from airflow_stepop.hooks.modal.sizes import LEAST_CPU, LEAST_MIB

if TYPE_CHECKING:
    from airflow_stepop.resources import ResourceSettings

MIB = 2**20


class SizeSettings(GpuSettings, Protocol):
    """What ``ModalSettings`` says about sizes."""

    @property
    def cpu(self) -> float | tuple[float, float] | None: ...
    @property
    def memory(self) -> int | tuple[int, int] | None: ...


@dataclass(frozen=True)
class Resources:
    """The resources of a sandbox.

    :param cpu: physical cores: request, or request and limit; ``None``: Modal's default
    :param memory: MiB: request and limit; ``None``: Modal's default, without a limit
    :param gpu: the GPUs, in the order in which they are tried
    """

    cpu: float | tuple[float, float] | None
    memory: tuple[int, int] | None
    gpu: Choice

    @property
    def memory_limit_bytes(self) -> int | None:
        return None if self.memory is None else self.memory[1] * MIB


def resources_of(settings: SizeSettings, wants: ResourceSettings) -> Resources:
    """Return the resources of a step.

    :param wants: the resources that the step asks for
    :raises UnsupportedError: no sandbox can have a resource
    :raises StepConfigError: the settings have less than the resources ask for
    """
    check_literals(None, wants)
    return Resources(_cpu(settings, wants), _memory(settings, wants), choose(settings, wants))


def _cpu(settings: SizeSettings, wants: ResourceSettings) -> float | tuple[float, float] | None:
    named, asked = settings.cpu, wants.cpu_count
    if named is None:
        return None if asked is None else max(asked, LEAST_CPU)
    request = named[0] if isinstance(named, tuple) else named
    if asked is not None and asked > request:
        raise StepConfigError(
            f"settings.cpu={named!r} contradicts resource_settings: cpu_count={asked:g} is more; write "
            f"cpu={asked:g}, or leave one of them out"
        )
    return named


def _memory(settings: SizeSettings, wants: ResourceSettings) -> tuple[int, int] | None:
    """Return request and limit. One number is both: a request alone would be no limit."""
    named = settings.memory
    asked = None if wants.memory_bytes is None else math.ceil(wants.memory_bytes / MIB)
    if named is None:
        return None if asked is None else (max(asked, LEAST_MIB),) * 2
    request, limit = named if isinstance(named, tuple) else (named, named)
    if asked is not None and asked > request:
        raise StepConfigError(
            f"settings.memory={named!r} (MiB) contradicts resource_settings: memory={wants.memory!r} are "
            f"{asked} MiB; write memory={asked}, or leave one of them out"
        )
    return request, limit
