"""The control interface for tests: ``POST /_control`` with ``{"do": NAME, ...}``; ``GET /_control`` reports.

A name that does not exist, or an argument that does not exist, is an error 400 with the reason.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from tests.emulators.sagemaker.faults import Fault, Faults
from tests.emulators.sagemaker.iam import ALL, Identity, Policy, Role, statements
from tests.emulators.sagemaker.jobs import Job
from tests.emulators.sagemaker.settings import Settings, change
from tests.emulators.sagemaker.world import World


class Control:
    """What tests can do to the service. The methods are the names for ``do``."""

    def __init__(self, world: World) -> None:
        self._world = world

    def run(self, order: dict[str, Any]) -> dict[str, Any]:
        name = str(order.pop("do", ""))
        method = None if name.startswith("_") or name == "run" else getattr(self, name, None)
        if method is None:
            known = [one for one in dir(self) if not one.startswith("_") and one != "run"]
            raise ValueError(f"no order {name!r}; there are {', '.join(known)}")
        method(**order)
        return self._world.report()

    def reset(self) -> None:
        """End every job, and make settings, identities and faults those of a new emulator."""
        world = self._world
        world.end_jobs()
        kept = world.settings
        with world.lock:
            world.settings = Settings(account=kept.account, shared=kept.shared)
            world.faults = Faults()
            world.released.clear()
            world.make_account()

    def settings(self, **changes: Any) -> None:
        """Change settings of the service; ``rates="real"`` are the documented rates."""
        change(self._world.settings, changes)
        self._wake("*")

    def plan(self, job: str, **changes: Any) -> None:
        """Say what happens to the jobs of a pattern: to those that are there, and to later ones."""
        change(self._world.settings.plan(job), changes)  # refuse names that do not exist
        self._world.settings.plans.append([job, changes])
        for one in self._jobs(job):
            with one.changed:
                change(one.plan, changes)
                one.changed.notify_all()

    def release(self, job: str, phase: str) -> None:
        """Let the jobs of a pattern leave a phase in which their plan holds them."""
        self._world.released.add((job, phase))
        self._wake(job)

    def interrupt(self, job: str) -> None:
        """Spot takes the instances of the jobs, now or as soon as they train."""
        if not all(one.is_spot for one in self._jobs(job)):
            raise ValueError(f"{job}: only a job with EnableManagedSpotTraining can be interrupted")
        self._mark(job, "interrupted", True)

    def vanish(self, job: str) -> None:
        """Somebody deleted the jobs: their containers end, and nobody knows their names any more."""
        for one in self._jobs(job):
            with self._world.lock:
                self._world.jobs.pop((one.region, one.name), None)
            with one.changed:
                one.vanished = True
                one.changed.notify_all()

    def fail(self, job: str, reason: str) -> None:
        """The jobs fail with a reason of the service, at once."""
        self._mark(job, "failing", reason)

    def fault(self, **fields: Any) -> None:
        """Let requests fail; see ``Fault``."""
        self._world.faults.add(Fault(**fields))

    def clear_faults(self) -> None:
        self._world.faults.clear()

    def key(self, key: str, arn: str, policies: list[Policy]) -> None:
        """Say who has an access key, and what that identity may do."""
        self._world.iam.keys[key] = Identity(arn, _checked(policies))

    def default_identity(self, arn: str | None, policies: list[Policy] | None = None) -> None:
        """Say who all other keys are; without an ARN they are refused."""
        self._world.iam.default = Identity(arn, _checked(policies)) if arn else None

    def expire(self, key: str = "*", expired: bool = True) -> None:
        """Let the token of a key expire, or be valid again."""
        change_set = self._world.iam.expired.add if expired else self._world.iam.expired.discard
        change_set(key)

    def expire_sessions(self) -> None:
        """Let all temporary credentials expire that STS has issued until now."""
        self._world.iam.sessions.expire()

    def role(self, arn: str, policies: list[Policy] | None = None, trusts: list[str] | None = None) -> None:
        """Make or replace a role. Without policies it may do everything."""
        services = ["sagemaker.amazonaws.com"] if trusts is None else trusts
        self._world.add_role(Role(arn, tuple(services), _checked(policies)))

    def remove_role(self, arn: str) -> None:
        self._world.iam.roles.pop(arn, None)

    def repository(self, name: str, tags: list[str] | None) -> None:
        """Make a repository ``HOST/NAME`` with these tags (``*``: every tag), or remove it."""
        if tags is None:
            self._world.repositories.pop(name, None)
        else:
            self._world.repositories[name] = tags

    def image(self, image: str, python: str) -> None:
        """Say which interpreter of this host runs an image."""
        self._world.images[image] = python

    def _jobs(self, pattern: str) -> list[Job]:
        return [job for job in self._world.all_jobs() if fnmatchcase(job.name, pattern)]

    def _mark(self, pattern: str, name: str, value: Any) -> None:
        for job in self._jobs(pattern):
            with job.changed:
                setattr(job, name, value)
        self._wake(pattern)

    def _wake(self, pattern: str) -> None:
        for job in self._jobs(pattern):
            with job.changed:
                job.changed.notify_all()


def _checked(policies: list[Policy] | None) -> tuple[Policy, ...]:
    """Return policies; a statement that cannot be evaluated is refused at once."""
    found = (ALL,) if policies is None else tuple(policies)
    for policy in found:
        statements(policy)
    return found
