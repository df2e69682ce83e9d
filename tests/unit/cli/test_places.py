"""``airflow stepop jobs`` and ``sweep`` ask in the connection's place and in those that records name."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from airflow_stepop.failure import Category, Failure
from airflow_stepop.hooks.settings import BackendSettings
from airflow_stepop.job import FoundJob, JobState
from tests.support.memory_backend import MemoryHook, Registered
from tests.support.third_party import install_backend

pytestmark = [pytest.mark.timeout(900)]

DEPLOYMENT = "places"
FAILURE = {"failure": Failure(Category.USER_ERROR, "no").to_json()}


class Settings(BackendSettings):
    """A job runs on a planet."""

    location_fields = ("planet",)
    planet: str | None = None
    size: int = 1


class PlanetHook(MemoryHook):
    """Lists the jobs of one planet at a time."""

    backend = "memory"
    settings_model = Settings
    labels: ClassVar[dict[str, Mapping[str, str]]] = {}
    planets: ClassVar[dict[str, str]] = {}
    asked: ClassVar[list[str]] = []
    closed: ClassVar[set[str]] = set()

    def handle(self, name: str) -> Any:
        return replace(super().handle(name), scope=self.planets.get(name, "earth"))

    def _on(self, planet: str, labels: Mapping[str, str]) -> list[FoundJob]:
        self.asked.append(planet)
        if planet in self.closed:
            raise ConnectionError(f"{planet} is closed")
        names = [name for name in self.jobs if self.planets[name] == planet]
        found = [FoundJob(self.handle(name), self.labels[name], time.time() - 60) for name in names]
        return [job for job in found if labels.items() <= job.labels.items()]

    def find(self, labels: Mapping[str, str]) -> list[FoundJob]:
        return self._on("earth", labels)

    def find_for(self, settings: Any, labels: Mapping[str, str]) -> list[FoundJob]:
        return self._on(settings.planet, labels) if settings.planet != "earth" else []

    def location_of(self, handle: Any) -> dict[str, object]:
        return {"planet": handle.scope}


@pytest.fixture
def hook(tmp_path, monkeypatch):
    hook = PlanetHook()
    for name in ("labels", "planets"):
        monkeypatch.setattr(PlanetHook, name, {})
    monkeypatch.setattr(PlanetHook, "asked", [])
    monkeypatch.setattr(PlanetHook, "closed", set())
    monkeypatch.setattr(Registered, "hook", hook, raising=False)
    install_backend(monkeypatch, tmp_path / "site", "memory", f"{Registered.__module__}:Registered")
    monkeypatch.setenv("AIRFLOW__STEPOP__DEFAULT_BACKEND", "memory")
    monkeypatch.setenv("AIRFLOW__STEPOP__DEPLOYMENT", DEPLOYMENT)
    return hook


@pytest.fixture
def add(hook, instance):
    """Return a function that adds a job on a planet; the record of its task leads there."""

    def make(planet, task_id="quiet", *, has_handle=True, task_state="running", **changes):
        one = instance(task_id, task_state)
        record = replace(one.new_record(**changes), backend="memory")
        hook.planets[record.name] = planet
        hook.labels[record.name] = {**record.labels, "deployment": DEPLOYMENT}
        handle = hook.add(record.name)
        one.set_record((record.with_handle(handle) if has_handle else record).to_json())
        return record.name

    return make


def jobs_of(output):
    return [row["job"] for row in output.data]


def test_a_job_in_a_place_that_its_handle_names(stepop, hook, add):
    """Its connection may have led there when the job was submitted, and lead elsewhere now."""
    name = add("mars")
    assert jobs_of(stepop("jobs", "-o", "json")) == [name]
    assert hook.asked == ["earth", "mars"]


def test_a_job_whose_submit_was_interrupted(stepop, hook, add):
    """The record has no handle yet, and the settings that say where."""
    name = add("mars", has_handle=False, location={"planet": "mars"})
    assert jobs_of(stepop("jobs", "-o", "json")) == [name]


def test_a_place_that_somebody_wrote_into_a_record_is_not_asked(stepop, hook, add, instance):
    """No connection is looked up that a record without a valid signature names."""
    add("mars")
    record = replace(instance("quiet").new_record(), backend="memory", conn_id="theirs")
    instance("quiet").set_record(record.with_handle(hook.add(record.name)).to_json(), is_signed=False)
    stepop("jobs", "-o", "json")
    assert hook.asked == ["earth"]


@pytest.mark.parametrize("forged", ["deep", "collected is a number", "handle is a list"])
def test_a_record_that_somebody_has_damaged_hides_no_other(stepop, hook, add, instance, forged):
    """Whoever may edit the state of one task stops no command about the others."""
    record = replace(instance("large").new_record(), backend="memory").to_json()
    deep: object = []
    for _ in range(200):
        deep = [deep]
    values = {"deep": deep, "collected is a number": {**record, "collected": 5}}
    instance("large").set_record(values.get(forged, {**record, "handle": [1]}), is_signed=False)
    names = {add("mars", "quiet"), add("venus", "fails")}
    assert set(jobs_of(stepop("jobs", "-o", "json"))) == names
    assert set(hook.asked) == {"earth", "mars", "venus"}


def test_each_place_is_asked_once(stepop, hook, add):
    names = [add("mars", "quiet"), add("mars", "large"), add("earth", "fails")]
    assert sorted(jobs_of(stepop("jobs", "-o", "json"))) == sorted(names)
    assert hook.asked == ["earth", "mars"]


@pytest.mark.parametrize(
    ("collected", "keep", "is_asked"),
    [({"result": {}}, "failed", False), ({"result": {}}, "always", True), (FAILURE, "failed", True)],
)
def test_a_place_whose_jobs_are_gone_is_not_asked(stepop, hook, add, collected, keep, is_asked):
    add("mars", collected=collected, keep=keep)
    stepop("jobs", "-o", "json")
    assert ("mars" in hook.asked) == is_asked


def test_a_place_that_fails_does_not_hide_the_others(stepop, hook, add):
    add("mars", "large")
    name = add("venus", "quiet")
    hook.closed.add("mars")
    output = stepop("jobs", "-o", "json")
    assert (output.code, jobs_of(output)) == (1, [name])
    assert "the jobs of memory (planet=mars) cannot be listed: mars is closed" in output.err


def test_a_record_with_another_connection(stepop, hook, add):
    """One that does not exist any more leads to no job, and is no trouble."""
    add("mars", conn_id="gone", has_handle=False, location={"planet": "mars"})
    output = stepop("jobs", "-o", "json")
    assert (output.code, output.data) == (0, [])


def test_an_orphan_elsewhere_is_swept(stepop, hook, add):
    name = add("mars", task_state="failed")
    output = stepop("sweep", "-o", "json", "--min-age", "0", "--yes")
    assert [(row["job"], row["backend"]) for row in output.data] == [(name, "memory (planet=mars)")]
    assert hook.jobs[name].state is JobState.CANCELLED


def test_without_a_database(stepop, hook, tmp_path, monkeypatch):
    """The trouble is told once, and what the connections of the environment lead to is searched."""
    from airflow.utils import session

    engine = create_engine(f"sqlite:///{tmp_path}/empty.db")

    @contextmanager
    def empty(**_):
        with Session(engine) as found:
            yield found

    monkeypatch.setattr(session, "create_session", empty)
    output = stepop("jobs", "-o", "json")
    engine.dispose()
    assert (output.code, output.data) == (1, [])
    assert output.err.count("Airflow's database cannot be read: no such table") == 1
    assert hook.asked == ["earth"]


def test_a_damaged_record_hides_no_place(stepop, hook, add, instance):
    name = add("mars")
    instance("large").set_record({"backend": "memory", "location": 5})
    assert jobs_of(stepop("jobs", "-o", "json")) == [name]
