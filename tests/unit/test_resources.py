"""ResourceSettings: what it reads, what it refuses, and how templates in it are rendered."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_stepop.core.units import format_size, parse_size
from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.resources import ResourceSettings

FACTORS = {"B": 1} | {f"{p}B": 1000**n for n, p in enumerate("KMGTP", 1)}
FACTORS |= {f"{p}iB": 1024**n for n, p in enumerate("KMGTP", 1)}


@pytest.mark.parametrize(
    ("text", "size_bytes", "stored"),
    [
        ("32GB", 32 * 10**9, "32GB"),
        ("16Gi", 16 * 2**30, "16GiB"),
        ("16GiB", 16 * 2**30, "16GiB"),
        ("1.5 GiB", 3 * 2**29, "1.5GiB"),
        (" 1.50 gib ", 3 * 2**29, "1.5GiB"),
        ("512MiB", 2**29, "512MiB"),
        ("512mi", 2**29, "512MiB"),
        ("010gb", 10**10, "10GB"),
        ("0.5TB", 5 * 10**11, "0.5TB"),
        ("100GB", 10**11, "100GB"),
        ("0.3KiB", 308, "0.3KiB"),
    ],
)
def test_sizes_that_people_write(text: str, size_bytes: int, stored: str) -> None:
    """A size is read exactly, and stored in one spelling with the unit that was written."""
    settings = ResourceSettings(memory=text, disk=text, shm=text)
    assert settings.memory_bytes == settings.disk_bytes == settings.shm_bytes == size_bytes
    assert settings.memory == stored


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        ("16", "16GB' or '16GiB'"),
        (16, "memory='16GB'"),
        (16.0, "memory='16GB'"),
        (True, "no unit"),
        ("0MB", "more than zero"),
        ("0.0GiB", "more than zero"),
        ("-1GB", "positive number"),
        ("+1GB", "positive number"),
        ("1.5.2GB", "not a size"),
        ("1e3GB", "not a size"),
        ("1,5GB", "not a size"),
        ("infGB", "not a size"),
        ("GB", "not a size"),
        ("", "not a size"),
        ("16\nGB", "not a size"),
        ("16GB\n", "not a size"),
        ("٣GB", "not a size"),
        ("16G", "'GB' (decimal) or 'GiB' (binary)"),
        ("16g", "'GB' (decimal) or 'GiB' (binary)"),
        ("512m", "'MB' (decimal) or 'MiB' (binary)"),
        ("16Gb", "reads as bits; write 'GB'"),
        ("8b", "reads as bits; write 'B'"),
        ("16XB", "unknown unit 'XB'"),
        ("5000PB", "more than 1 EiB"),
        (b"16GB", "no unit"),
    ],
)
def test_sizes_that_are_refused(value: Any, advice: str) -> None:
    """What is no size, or could mean two, is refused, and the message says what to write."""
    with pytest.raises(StepConfigError) as caught:
        ResourceSettings(memory=value)
    assert advice in str(caught.value)
    assert "memory=" in str(caught.value)


@given(size_bytes=st.integers(1, 2**60))
def test_format_and_parse_are_inverse(size_bytes: int) -> None:
    """Every number of bytes survives being written and read."""
    assert parse_size(format_size(size_bytes)) == size_bytes


@given(whole=st.integers(0, 10**6), thousandths=st.integers(0, 999), unit=st.sampled_from(sorted(FACTORS)))
def test_a_size_is_number_times_unit(whole: int, thousandths: int, unit: str) -> None:
    """The bytes are the written number times the unit, rounded up by less than one byte."""
    exact = (whole + Fraction(thousandths, 1000)) * FACTORS[unit]
    text = f"{whole}.{thousandths:03} {unit}"
    if not 0 < exact <= 2**60:
        with pytest.raises(StepConfigError):
            parse_size(text)
        return
    assert 0 <= parse_size(text) - exact < 1
    stored = ResourceSettings(memory=text)
    assert stored.memory is not None
    assert ResourceSettings(memory=stored.memory) == stored
    assert parse_size(stored.memory) == parse_size(text)


@given(text=st.text(alphabet=st.sampled_from("0123456789.+-eE kKmMgGtTpPiIbB\n\t_,"), max_size=12))
def test_what_is_accepted_is_a_number_and_a_unit(text: str) -> None:
    """No text is ever read as a size unless it is a plain number followed by a known unit."""
    try:
        size_bytes = parse_size(text)
    except StepConfigError:
        return
    number, unit = text.strip(" "), ""
    while number[-1:].isalpha():
        number, unit = number[:-1], number[-1] + unit
    number = number.removesuffix(" ")
    assert number.replace(".", "", 1).isdigit()
    assert unit.lower() in {name.lower() for name in FACTORS} | {
        name[:-1].lower() for name in FACTORS if "i" in name
    }
    assert size_bytes > 0


@given(
    value=st.one_of(
        st.none(), st.booleans(), st.floats(), st.integers(), st.binary(), st.text(), st.lists(st.text())
    )
)
def test_garbage_raises_only_our_error(value: Any) -> None:
    """Whatever is passed, a field either takes it or raises StepConfigError."""
    for name in ("cpu_count", "memory", "gpu_count", "nodes", "disk", "shm"):
        try:
            settings = ResourceSettings(**{name: value})
        except StepConfigError as error:
            assert name in str(error)  # noqa: PT017 - the other outcome is no error at all
        else:
            assert json.loads(json.dumps(settings.serialize())) == settings.serialize()
            assert ResourceSettings.from_dict(settings.serialize()) == settings


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cpu_count", 0),
        ("cpu_count", -1),
        ("cpu_count", True),
        ("cpu_count", float("nan")),
        ("cpu_count", float("inf")),
        ("cpu_count", "2"),
        ("gpu_count", -1),
        ("gpu_count", True),
        ("gpu_count", 1.5),
        ("gpu_count", 1.0),
        ("gpu_count", "1"),
        ("nodes", 0),
        ("nodes", True),
        ("nodes", 1.5),
        ("gpu_type", ""),
        ("gpu_type", 100),
    ],
)
def test_numbers_that_are_refused(field: str, value: Any) -> None:
    """A count of the wrong kind or below its least value is refused by name."""
    with pytest.raises(StepConfigError, match=f"^{field}="):
        ResourceSettings(**{field: value})


def test_numbers_that_are_taken() -> None:
    """Fractions of a core, no GPU and one machine are fine; numbers of numpy too."""
    numpy = pytest.importorskip("numpy")
    settings = ResourceSettings(cpu_count=numpy.float32(0.5), gpu_count=0, nodes=numpy.int64(1))
    assert (settings.cpu_count, settings.gpu_count, settings.nodes) == (0.5, 0, 1)
    assert type(settings.nodes) is int
    assert settings == ResourceSettings(cpu_count=0.5, gpu_count=0, nodes=1)


def test_gpu_type_needs_gpu_count() -> None:
    """A type without a number says nothing about how many; the task's connection may, so a step is asked."""
    with pytest.raises(StepConfigError, match="write gpu_count=1"):
        ResourceSettings(gpu_type="A100").check_complete()
    with pytest.raises(StepConfigError, match="needs gpu_count"):
        ResourceSettings(gpu_type="A100", gpu_count=0)


@pytest.mark.parametrize(
    ("name", "guess"),
    [("gpus", "gpu_count"), ("cpu", "cpu_count"), ("memroy", "memory"), ("gpu_typ", "gpu_type")],
)
def test_unknown_field_names_the_closest(name: str, guess: str) -> None:
    """A misspelt field is an error that names the right one."""
    for build in (lambda: ResourceSettings(**{name: 1}), lambda: ResourceSettings.from_dict({name: 1})):
        with pytest.raises(StepConfigError, match=rf"did you mean {guess}\?"):
            build()


def test_unknown_field_without_a_close_one_lists_all() -> None:
    """A field that resembles nothing is answered with the list."""
    with pytest.raises(StepConfigError, match="cpu_count, memory, gpu_count, gpu_type, disk, shm, nodes"):
        ResourceSettings.from_dict({"zzz": 1})
    with pytest.raises(StepConfigError, match="neither a ResourceSettings nor a dict"):
        ResourceSettings.from_dict("32GB")  # type: ignore[arg-type]


def test_is_a_frozen_value() -> None:
    """Settings are never changed, compare by value, and copy."""
    settings = ResourceSettings(memory="16Gi", cpu_count=2)
    with pytest.raises(AttributeError):
        settings.memory = "1GB"  # type: ignore[misc]
    assert settings == copy.deepcopy(settings) == ResourceSettings(memory="16GiB", cpu_count=2)
    assert len({settings, ResourceSettings(memory="16 GiB", cpu_count=2.0)}) == 1
    assert repr(settings) == "ResourceSettings(cpu_count=2.0, memory='16GiB')"
    assert settings.serialize() == {"cpu_count": 2.0, "memory": "16GiB"}
    assert settings.is_literal
    assert ResourceSettings().serialize() == {}
    assert ResourceSettings().memory_bytes is None


def test_import_is_standard_library_only() -> None:
    """Reading a DAG file that names resources loads no package but ours."""
    code = (
        "import sys; before = set(sys.modules); import airflow_stepop.resources; "
        "loaded = {m.split('.')[0] for m in set(sys.modules) - before}; "
        "print(sorted(loaded - set(sys.stdlib_module_names)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "['airflow_stepop']"


class TestTemplates:
    """Fields that are known only when the task runs."""

    def test_checked_when_rendered(self) -> None:
        """A template is kept as written, and what it renders to is checked like a literal."""
        settings = ResourceSettings(
            cpu_count="{{ params.cpu }}",
            memory="{{ params.mem }}",
            gpu_count="{{ params.gpus }}",
            gpu_type="{{ params.kind }}",
            disk="1.50 GB",
        )
        assert not settings.is_literal
        assert settings.serialize()["memory"] == "{{ params.mem }}"
        with pytest.raises(StepConfigError, match="known only when the task runs"):
            _ = settings.memory_bytes
        before = repr(settings)
        rendered = settings.resolve(context(cpu=2, mem="16Gi", gpus=1, kind="A100"))
        assert rendered == ResourceSettings(
            cpu_count=2, memory="16GiB", gpu_count=1, gpu_type="A100", disk="1.5GB"
        )
        assert repr(settings) == before
        assert rendered.is_literal

    @pytest.mark.parametrize("value", ["16", "", "-1GB", "{{ 1 }}GB"])
    def test_bad_rendering_is_refused(self, value: str) -> None:
        """A template that renders to nothing, or to garbage, is an error and not an unset field."""
        settings = ResourceSettings(memory="{{ params.mem }}")
        with pytest.raises(StepConfigError, match="memory="):
            settings.resolve(context(mem=value))

    def test_none_unsets(self) -> None:
        """A parameter that is None leaves the field to the backend."""
        settings = ResourceSettings(memory="{{ params.mem }}", nodes="{{ params.nodes }}")
        assert settings.resolve(context(mem=None, nodes=None)) == ResourceSettings()

    def test_native_rendering(self) -> None:
        """With native rendering a number stays a number."""
        settings = ResourceSettings(gpu_count="{{ params.gpus }}")
        assert settings.resolve(context(native=True, gpus=2)).gpu_count == 2

    def test_another_tasks_output(self) -> None:
        """An output in a field makes its task an upstream one, also through partial()."""
        from airflow.sdk import DAG, BaseOperator

        class Operator(BaseOperator):
            template_fields = ("resource_settings", "x")

            def __init__(self, *, resource_settings: Any = None, x: Any = None, **kwargs: Any) -> None:
                super().__init__(**kwargs)
                self.resource_settings = resource_settings
                self.x = x

        with DAG("d", schedule=None):
            up = BaseOperator(task_id="up")
            settings = ResourceSettings(memory=up.output, cpu_count=1)
            plain = Operator(task_id="plain", resource_settings=settings)
            mapped = Operator.partial(task_id="mapped", resource_settings=settings).expand(x=[1, 2])
        assert plain.upstream_task_ids == {"up"}
        assert mapped.upstream_task_ids == {"up"}
        assert list(settings.iter_references()) == [(up, "return_value")]
        assert not settings.is_literal
        assert isinstance(copy.deepcopy(settings), ResourceSettings)
        assert json.dumps(settings.serialize()) == json.dumps(copy.copy(settings).serialize())
        assert "0x" not in repr(settings)

    def test_output_is_resolved(self) -> None:
        """The loaded output takes the field's place in a plain ResourceSettings."""

        class Output:
            def iter_references(self) -> list[Any]:
                return []

            def resolve(self, context: Any) -> str:
                return "16Gi"

        rendered = ResourceSettings(memory=Output()).resolve(context())
        assert rendered == ResourceSettings(memory="16GiB")
        assert type(rendered) is ResourceSettings


def context(native: bool = False, **params: Any) -> Any:
    """Return what rendering needs of a task's context."""
    from airflow.sdk import DAG, BaseOperator

    with DAG("d", schedule=None, render_template_as_native_obj=native):
        task = BaseOperator(task_id="t")
    return {"task": task, "params": params}
