"""Following jobs by a list: against a service whose list is late, out of order, and says less than a look."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from airflow_stepop.hooks.base import Listing

EPOCH = 1_000_000.0  # the service's clock; far from that of this host


@dataclass(frozen=True)
class View:
    """A job of the service; a list leaves ``reason`` out."""

    state: str
    reason: str = ""
    modified: float = field(default=0.0, compare=False)


class Service:
    """Jobs of a service. Changes show in its list after ``lag_s``, in any order, some of them twice."""

    def __init__(self, lag_s: float = 0.0, seed: int = 1) -> None:
        self.now = EPOCH
        self.lag_s = lag_s
        self.jobs: dict[str, View] = {}
        self.changes: list[tuple[float, float, str, View]] = []  # shows at, modified, id, view
        self.lists = 0
        self.asked: list[str] = []
        self.since: list[float | None] = []
        self.fails_after: int | None = None  # a list breaks off after so many entries
        self.random = random.Random(seed)

    def set(self, job: str, state: str, reason: str = "", modified: float | None = None) -> None:
        at = self.now if modified is None else modified
        self.jobs[job] = View(state, reason, at)
        self.changes.append((self.now + self.lag_s, at, job, View(state)))

    def list_since(self, since: float | None) -> Iterator[tuple[str, View, float]]:
        self.lists += 1
        self.since.append(since)
        last: dict[str, tuple[str, View, float]] = {}
        moved = []
        for shows_at, modified, job, view in self.changes:
            if shows_at <= self.now and job in self.jobs:
                if job in last and self.random.random() < 0.3:
                    moved.append(last[job])  # the job changed between two pages: it is on both
                last[job] = (job, view, modified)
        found = [entry for entry in [*last.values(), *moved] if since is None or entry[2] >= since]
        self.random.shuffle(found)
        for number, entry in enumerate(found):
            if number == self.fails_after:
                raise ConnectionError("Rate exceeded")
            yield entry

    def get(self, job: str) -> View | None:
        self.asked.append(job)
        return self.jobs.get(job)

    def listing(self, **options) -> Listing[View]:
        """Return a listing whose monotonic clock goes with that of the service."""
        is_over, changed_at = (lambda view: view.state == "failed"), (lambda view: view.modified)
        options = {"is_over": is_over, "changed_at": changed_at, **options}
        listing = Listing(self.list_since, self.get, **options)
        listing.clock = lambda: self.now - EPOCH
        return listing


def names(count: int) -> list[str]:
    return [f"job-{number}" for number in range(count)]


def test_many_jobs_are_one_list_and_one_request_for_each_end():
    service, jobs = Service(), names(300)
    for job in jobs:
        service.set(job, "running")
    listing = service.listing()
    assert listing.looks(jobs) == dict.fromkeys(jobs, View("running"))
    for job in jobs:
        service.now += 1
        service.set(job, "failed", reason=f"of {job}")
        assert listing.looks(jobs)[job] == View("failed", f"of {job}"), "the list does not say why"
    assert service.lists <= 301
    assert len(service.asked) <= len(jobs) + 6, "the last three are asked for without a list"


def test_few_jobs_are_asked_for_without_a_list():
    service = Service()
    for job in names(3):
        service.set(job, "running")
    assert service.listing().looks(names(3)) == dict.fromkeys(names(3), View("running"))
    assert (service.lists, len(service.asked)) == (0, 3)
    assert service.listing().looks([]) == {}


@pytest.mark.parametrize("seed", range(20))
def test_entries_that_come_late_and_out_of_order(seed):
    """No change is missed, and no job goes back to an older state."""
    service, jobs = Service(lag_s=20.0, seed=seed), names(30)
    listing, before = service.listing(), {}
    order = ["pending", "running", "failed"]
    for job in jobs:
        service.set(job, "pending")
    for _ in range(40):
        service.now += service.random.choice([1, 5, 15])
        for job in service.random.sample(jobs, 5):
            at = order.index(service.jobs[job].state)
            service.set(job, order[min(at + 1, 2)], reason="why" if at else "")
        found = listing.looks(jobs)
        for job in jobs:
            assert found[job] is not None
            if job in before:
                assert order.index(found[job].state) >= order.index(before[job].state)
        before = found
    for job in jobs:
        service.set(job, "failed", "why")
    service.now += 25
    assert listing.looks(jobs) == dict.fromkeys(jobs, View("failed", "why"))


def test_nothing_is_gone_before_it_was_asked_for_by_its_id():
    """A new job may be missing in the list for some time."""
    service, jobs = Service(lag_s=20.0), names(10)
    for job in jobs:
        service.set(job, "running")
    listing = service.listing()
    assert listing.looks(jobs) == dict.fromkeys(jobs, View("running"))
    del service.jobs["job-3"]
    assert listing.looks([*jobs, "job-x"])["job-x"] is None
    assert service.asked.count("job-x") == 1


def test_a_job_that_vanishes_is_noticed():
    """It shows in no list any more. So a job that was silent for long is asked for."""
    service, jobs = Service(), names(10)
    for job in jobs:
        service.set(job, "running")
    listing = service.listing()
    listing.looks(jobs)
    service.now += 100
    service.set("job-9", "running")
    listing.looks(jobs)
    del service.jobs["job-3"]
    service.now += 1700
    assert listing.looks(jobs)["job-3"] == View("running")
    for _ in jobs:
        service.now += 110
        found = listing.looks(jobs)
    assert found == {**dict.fromkeys(jobs, View("running")), "job-3": None}


def test_silent_jobs_are_not_all_asked_for_at_once():
    """One thousand requests at the same time would meet the service's limit."""
    service, jobs = Service(), names(1000)
    for job in jobs:
        service.set(job, "running")
    listing = service.listing()
    listing.looks(jobs)
    for _ in range(2):
        service.now += 50
        service.set("job-0", "running")
        listing.looks(jobs)
    service.now += 3000
    asked = []
    for _ in range(70):
        service.now += 10
        service.asked.clear()
        listing.looks(jobs)
        asked.append(len(service.asked))
    assert max(asked) <= 17
    assert sum(asked) >= 999, "job-0 is not silent"


def test_an_ended_job_that_comes_back_in_a_list():
    """A service may touch a job after its end. The job stays what it was, and costs no further request."""
    service, jobs = Service(), names(5)
    for job in jobs:
        service.set(job, "running")
    listing = service.listing()
    listing.looks(jobs)
    service.now += 5
    service.set("job-1", "failed", "why")
    assert listing.looks(jobs)["job-1"] == View("failed", "why")
    for state in ("failed", "running"):
        service.now += 30
        service.changes.append((service.now, service.now, "job-1", View(state)))
        assert listing.looks(jobs)["job-1"] == View("failed", "why")
    assert service.asked == ["job-1"]


def test_an_end_and_another_change_at_the_same_moment():
    """Times of a list have whole seconds."""
    service, jobs = Service(), names(5)
    for job in jobs:
        service.set(job, "running")
    for entries in (["running", "failed"], ["failed", "running"]):
        seen = [("job-1", View(state), EPOCH + 5) for state in entries]
        service.jobs["job-1"] = View("failed", "why")
        first = [(job, View("running"), EPOCH) for job in jobs]
        answers = [first, seen]
        listing = Listing(
            lambda since, answers=answers: answers.pop(0),
            service.get,
            is_over=lambda view: view.state == "failed",
        )
        listing.looks(jobs)
        assert listing.looks(jobs)["job-1"] == View("failed", "why")


def test_an_error_is_raised_and_nothing_is_missed():
    """A throttled list must not move the window on."""
    service, jobs = Service(), names(50)
    for job in jobs:
        service.set(job, "running")
    listing = service.listing()
    listing.looks(jobs)
    for job in jobs:
        service.now += 3
        service.set(job, "failed", "why")
    service.fails_after = 10
    with pytest.raises(ConnectionError):
        listing.looks(jobs)
    service.fails_after = None
    assert listing.looks(jobs) == dict.fromkeys(jobs, View("failed", "why"))


def test_an_error_of_one_request_keeps_what_was_answered():
    service, jobs = Service(), names(10)
    for job in jobs:
        service.set(job, "failed", "why")
    listing, get, broken = service.listing(), service.get, ["job-4"]

    def sometimes(job):
        if job in broken:
            raise ConnectionError
        return get(job)

    listing = Listing(service.list_since, sometimes, is_over=lambda view: view.state == "failed")
    with pytest.raises(ConnectionError):
        listing.looks(jobs)
    broken.clear()
    assert listing.looks(jobs) == dict.fromkeys(jobs, View("failed", "why"))
    assert len(service.asked) == 10


def test_the_window_goes_by_the_clock_of_the_service():
    """A host whose clock is wrong, or jumps, sees every change."""
    service, jobs = Service(), names(10)
    for job in jobs:
        service.set(job, "running")
    listing = service.listing(overlap_s=30.0)
    listing.looks(jobs, begin=EPOCH - 100)
    service.now += 500
    listing.looks(jobs)
    service.set("job-1", "running")
    listing.looks(jobs)
    listing.looks(jobs)
    service.now += 10
    listing.looks(jobs)
    listing.looks(jobs)
    assert service.since[:4] == [EPOCH - 100, EPOCH - 30, EPOCH, EPOCH + 500 - 30]
    assert service.since[4:] == [EPOCH + 500 - 30, EPOCH + 500 - 20], "after a quiet time less can be late"


def test_a_change_that_the_service_stamps_in_the_future():
    """The other jobs do not show in the list until then. They are asked for when they were silent."""
    service, jobs = Service(), names(5)
    for job in jobs:
        service.set(job, "running")
    listing = service.listing()
    listing.looks(jobs)
    service.set("job-1", "running", modified=service.now + 86400)
    listing.looks(jobs)
    service.now += 5
    service.set("job-2", "failed", "why")
    for _ in jobs:
        service.now += 1801
        found = listing.looks(jobs)
    assert found["job-2"] == View("failed", "why")


def test_many_new_jobs_begin_the_list_again():
    """Jobs of another triggerer that stopped come here: one list is cheaper than a request for each."""
    service = Service()
    for job in names(200):
        service.set(job, "running")
    service.now += 1000
    for job in names(210)[200:]:
        service.set(job, "running")
    listing = service.listing()
    listing.looks(names(210)[200:], begin=service.now)
    service.asked.clear()
    assert listing.looks(names(210), begin=EPOCH) == dict.fromkeys(names(210), View("running"))
    assert service.asked == []
    assert service.since[-1] == EPOCH


def test_a_job_that_nobody_asks_for_is_forgotten():
    service = Service()
    for job in names(100):
        service.set(job, "running")
    listing = service.listing()
    listing.looks(names(100))
    service.now += 3601
    listing.looks(names(5))
    assert len(listing._known) == 5


def test_a_view_may_be_anything():
    listing = Listing(lambda since: [], lambda job: 0, is_over=bool)
    assert listing.looks(["x"]) == {"x": 0}
