"""Everything that the emulator knows: settings, identities, repositories, jobs."""

from __future__ import annotations

import itertools
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.emulators.sagemaker.cloudwatch import CloudWatch
from tests.emulators.sagemaker.errors import NOT_FOUND, ApiError, invalid
from tests.emulators.sagemaker.faults import Faults
from tests.emulators.sagemaker.iam import Iam, Identity, Role
from tests.emulators.sagemaker.jobs import Job
from tests.emulators.sagemaker.settings import Settings
from tests.emulators.sagemaker.storage import S3


@dataclass
class World:
    """The state that all requests and all jobs share."""

    folder: Path  # for the files of the jobs; removed at the end
    settings: Settings = field(default_factory=Settings)
    s3: S3 | None = None
    logs: CloudWatch | None = None
    python: str = "python3"  # runs every image that ``images`` does not name
    iam: Iam = field(default_factory=lambda: Iam(default=None))
    faults: Faults = field(default_factory=Faults)
    # "REGISTRY/NAME" -> tags, for example "123456789012.dkr.ecr.us-east-1.amazonaws.com/steps": ["1"]
    repositories: dict[str, list[str]] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)  # image -> interpreter of this host
    jobs: dict[tuple[str, str], Job] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)
    address: str = ""
    released: set[tuple[str, str]] = field(default_factory=set)  # (pattern of jobs, phase)
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.make_account()

    def make_account(self) -> None:
        """Make an account with one user, one role and one repository; all others are forgotten."""
        account = self.settings.account
        self.iam = Iam(default=Identity(f"arn:aws:iam::{account}:user/tests"))
        self.add_role(Role(f"arn:aws:iam::{account}:role/stepop-job"))
        self.images = {}
        self.repositories = {f"{account}.dkr.ecr.us-east-1.amazonaws.com/steps": ["latest", "1"]}

    def add_role(self, role: Role) -> None:
        self.iam.roles[role.arn] = role

    def job(self, region: str, name: str) -> Job:
        """Return a job, or raise what the service answers to an unknown name."""
        with self.lock:
            found = self.jobs.get((region, name))
        if found is None:
            raise invalid(NOT_FOUND)
        return found

    def job_of_arn(self, arn: str) -> Job:
        for job in self.all_jobs():
            if job.arn == arn:
                return job
        raise invalid(NOT_FOUND)

    def all_jobs(self) -> list[Job]:
        with self.lock:
            return list(self.jobs.values())

    def add(self, job: Job) -> None:
        """Keep a new job, or raise ``ResourceInUse``: of two requests at the same time one wins."""
        with self.lock:
            self.refuse_taken_name(job.region, job.name)
            self.jobs[(job.region, job.name)] = job

    def take_warm_pool(self, job: Job) -> None:
        """Let a job that keeps a warm pool begin in that of an earlier one, if one fits."""
        if not job.warm_pool():
            return
        with self.lock:
            fitting = next((one for one in self.all_jobs() if job.fits_pool_of(one)), None)
            if fitting:
                fitting.reused_at, fitting.reused_by = fitting.now(), job.name

    def refuse_taken_name(self, region: str, name: str) -> None:
        with self.lock:
            taken = self.jobs.get((region, name))
        if taken:
            text = (
                "Training job names must be unique within an AWS account and region, and a training job with"
            )
            raise ApiError("ResourceInUse", f"{text} this name already exists ({taken.arn})")

    def new_folder(self, job: Job) -> Path:
        folder = self.folder / f"{job.name}-{next(self.numbers)}"
        folder.mkdir()
        return folder

    def image_python(self, image: str) -> str:
        return self.images.get(image, self.python)

    def report(self) -> dict[str, Any]:
        """Return what a test may look at."""
        jobs = {
            job.name: {
                "region": job.region,
                "status": job.status,
                "secondary": job.secondary,
                "attempts": job.attempts,
                "pid": job.pid,
                "streams": job.streams,
            }
            for job in self.all_jobs()
        }
        tokens = self.iam.sessions.valid()
        return {"jobs": jobs, "answers": dict(self.faults.answers), "sessions": tokens}

    def end_jobs(self) -> None:
        """Forget every job, and wait until nothing runs for it."""
        jobs = self.all_jobs()
        with self.lock:
            self.jobs.clear()
        for job in jobs:
            with job.changed:
                job.vanished = True
                job.changed.notify_all()
        for job in jobs:
            if job.thread:
                job.thread.join(30)

    def close(self) -> None:
        """End every job, and remove the folders."""
        self.end_jobs()
        shutil.rmtree(self.folder, ignore_errors=True)
