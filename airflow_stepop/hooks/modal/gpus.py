"""The kinds of GPUs that Modal documents: reads ``gpu`` of the settings, and chooses a kind for a step.

``settings.py`` calls :func:`parse_gpu` when a DAG file is parsed. The hook calls :func:`choose`.

Source of the kinds and counts: https://modal.com/docs/guide/gpu. Source of the prices:
https://modal.com/pricing, as copied by others in mid 2026; they serve as an order, and for messages.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from airflow_stepop.core.naming import did_you_mean
from airflow_stepop.exceptions import StepConfigError, UnsupportedError

if TYPE_CHECKING:
    from airflow_stepop.resources import ResourceSettings

ANY = "any"
PRICES_OF = "mid 2026"


class Kind(NamedTuple):
    """One kind of GPU.

    :param name: as Modal writes it: ``A100-80GB``
    :param memory_gb: memory of one GPU, in GB
    :param price_per_s: of one GPU, in US dollars per second; ``None`` if no source has it
    :param largest_count: most GPUs of one sandbox
    :param about: what else a step may get, for people
    """

    name: str
    memory_gb: int
    price_per_s: float | None
    largest_count: int = 8
    about: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.memory_gb} GB)"

    def is_called(self, wanted: str) -> bool:
        """Return whether a name of another cloud, such as ``NVIDIA_TESLA_A100``, is this kind."""
        from airflow_stepop.hooks.common.machines import Machine, is_gpu

        plain = self.name.rstrip("!+")
        machine = Machine(plain, 0, 0, 1, plain, gpu_memory_bytes=self.memory_gb * 2**30)
        return is_gpu(machine, re.sub(r"\bA10G\b", "A10", wanted.upper().replace("_", "-")))


# In this order they are offered, where the price does not tell them apart
KINDS: Sequence[Kind] = (
    Kind("T4", 16, 0.000164),
    Kind("L4", 24, 0.000222),
    Kind("A10", 24, 0.000306, largest_count=4),
    Kind("L40S", 48, 0.000542),
    Kind("A100", 40, 0.000583, about="may be one of 80 GB, at the price of 40 GB"),
    Kind("A100-40GB", 40, 0.000583),
    Kind("A100-80GB", 80, 0.000694),
    Kind("H100", 80, 0.001097, about="may be an H200, at the price of an H100"),
    Kind("H100!", 80, 0.001097, about="never an H200"),
    Kind("H200", 141, 0.001261),
    Kind("B200", 192, 0.001736),
    Kind("B200+", 192, 0.001736, about="a B200 or a B300, at the price of a B200"),
    Kind("RTX-PRO-6000", 96, None),
)
LARGEST_COUNT = max(kind.largest_count for kind in KINDS)
_BY_NAME = {kind.name: kind for kind in KINDS}
_KIND_OF_OTHERS = {"A10G": "A10"}  # names that Modal had before
_OTHERS = frozenset({"V100", "P100", "P4", "K80", "A30", "A40", "L40", "GB200"})  # no misspelt names


class Gpu(NamedTuple):
    """What one text of ``gpu`` says.

    :param kind: ``None``: any kind
    :param number: of GPUs; ``None``: the text names none
    """

    kind: Kind | None
    number: int | None

    @property
    def how_many(self) -> int:
        return 1 if self.number is None else self.number

    def __str__(self) -> str:
        name = ANY if self.kind is None else self.kind.name
        return name if self.number in (None, 1) else f"{name}:{self.number}"


def parse_gpu(text: str) -> Gpu:
    """Return what a text such as ``A100-80GB:2`` says. Case does not matter, as in Modal's client.

    :raises ValueError: Modal has no such kind, or not so many of it; says what to write
    """
    name, colon, number = text.strip().partition(":")
    if colon and not re.fullmatch("[0-9]+", number):
        raise ValueError(f"{text!r}: behind the colon is the number of GPUs; write {name}:2, for example")
    count = int(number) if colon else None
    upper = name.strip().upper()
    if upper == ANY.upper():
        found = None
    elif (found := _BY_NAME.get(_KIND_OF_OTHERS.get(upper, upper))) is None:
        raise ValueError(_unknown(name))
    most = LARGEST_COUNT if found is None else found.largest_count
    if count is not None and not 1 <= count <= most:
        kind = "Modal" if found is None else f"a sandbox with {found.name}"
        raise ValueError(f"{text!r}: {kind} has 1 to {most} GPUs; write {name}:{most} or less")
    return Gpu(found, count)


def _unknown(name: str) -> str:
    kinds = ", ".join([*_BY_NAME, ANY])
    if not name.strip():
        return f"it is empty; leave gpu out for a sandbox without GPU, or write one of: {kinds}"
    same = [kind.name for kind in KINDS if kind.is_called(name)]
    guess = f"; write {same[0]!r}" if same else _guess(name)
    return f"Modal has no GPU {name!r}{guess} (valid: {kinds})"


def _guess(name: str) -> str:
    is_other = not _OTHERS.isdisjoint(re.split("[^A-Z0-9]+", name.upper()))
    return "" if is_other else did_you_mean(name.upper(), _BY_NAME)


class GpuSettings(Protocol):
    """What ``ModalSettings`` says about GPUs."""

    @property
    def gpus(self) -> tuple[str, ...]: ...


class Choice(NamedTuple):
    """The GPUs of a step.

    :param gpus: values of ``gpu`` for Modal, in the order in which they are tried; empty: no GPU
    :param message: what was chosen and why, for the log; empty if the step names its kind
    """

    gpus: tuple[str, ...] = ()
    message: str = ""


def choose(settings: GpuSettings, wants: ResourceSettings) -> Choice:
    """Return the GPUs of a step.

    The kinds that the settings name are checked against the resources. ``any``, and resources without a type,
    get the cheapest kind that fits.

    :param wants: the resources that the step asks for
    :raises UnsupportedError: no kind fits
    :raises StepConfigError: the settings contradict the resources; says what to write
    """
    named = [parse_gpu(text) for text in settings.gpus]
    if not named and not wants.gpu_count:
        return Choice()
    if not named or named[0].kind is None:
        return _cheapest(named[0] if named else None, wants)
    for gpu in named:
        _check(gpu, wants)
    return Choice(tuple(map(str, named)))


def _check(gpu: Gpu, wants: ResourceSettings) -> None:
    """Refuse GPUs that are less than the resources ask for, or others."""
    text = f"settings.gpu={str(gpu)!r} contradicts resource_settings:"
    if wants.gpu_count == 0:
        raise StepConfigError(f"{text} gpu_count=0; leave one of them out")
    if wants.gpu_count is not None and wants.gpu_count > gpu.how_many:
        fitting = Gpu(gpu.kind, wants.gpu_count)
        raise StepConfigError(
            f"{text} gpu_count={wants.gpu_count}; write gpu={str(fitting)!r}, or leave gpu_count out"
        )
    if wants.gpu_type is not None and gpu.kind is not None and not gpu.kind.is_called(wants.gpu_type):
        raise StepConfigError(f"{text} gpu_type={wants.gpu_type!r}; leave one of them out")


def _cheapest(named: Gpu | None, wants: ResourceSettings) -> Choice:
    """Return the cheapest kind that fits.

    :param named: ``any`` of the settings; ``None``: the settings name nothing
    """
    if named is not None and named.number is not None:
        _check(named, wants)
    asked = wants.gpu_count or 1
    if named is not None:
        if wants.gpu_count == 0:
            _check(named, wants)
        asked = named.number or asked
    kinds = fitting(asked, wants.gpu_type)
    first, *others = kinds
    why = f"gpu={str(named)!r}" if named is not None else f"gpu_count={asked}"
    if wants.gpu_type is not None:
        why += f", gpu_type={wants.gpu_type!r}"
    price = ""
    if first.price_per_s is not None:
        price = f", ${asked * first.price_per_s * 3600:.2f} an hour in {PRICES_OF}"
    also = f"; also possible: {', '.join(kind.name for kind in others)}" if others else ""
    message = f"chose {Gpu(first, asked)} for {why}: the cheapest kind that fits{price}{also}"
    return Choice((str(Gpu(first, asked)),), message)


def fitting(count: int, gpu_type: str | None = None) -> Sequence[Kind]:
    """Return the kinds that fit, the cheapest first. Kinds without a known price come last.

    :param count: GPUs of the sandbox
    :param gpu_type: name of the GPU, in Modal's spelling or that of another cloud; ``None``: any
    :raises UnsupportedError: there is none; says which kinds there are
    """
    found = [kind for kind in KINDS if gpu_type is None or kind.is_called(gpu_type)]
    if gpu_type is not None and (exact := _BY_NAME.get(gpu_type.upper())) is not None:
        found = [exact]
    if not found:
        raise UnsupportedError(
            f"gpu_type={gpu_type!r}: Modal has no such GPU{_guess(str(gpu_type))}; "
            f"kinds: {', '.join(map(str, KINDS))}"
        )
    enough = [kind for kind in found if kind.largest_count >= count]
    if not enough:
        most = max(kind.largest_count for kind in found)
        what = f"{found[0].name} GPUs" if gpu_type is not None else "GPUs"
        raise UnsupportedError(
            f"gpu_count={count}: a sandbox of Modal has at most {most} {what}; write gpu_count={most} or less"
        )
    return sorted(enough, key=lambda kind: (kind.price_per_s is None, kind.price_per_s or 0.0))
