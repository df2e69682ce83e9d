"""The life of one job, in a thread of its own.

Starting, perhaps Pending, Downloading, Training, Uploading, and an end. MaxRuntimeExceeded and
MaxWaitTimeExceeded are ``Stopped``. A Spot job that is interrupted begins anew: a new attempt with a fresh
/opt/ml, a new log stream, and the checkpoints from S3. Status messages are those of recordings; those
marked "inferred" were never seen.
"""

from __future__ import annotations

import shutil
import sys
import time
import traceback
from fnmatch import fnmatchcase

from tests.emulators.sagemaker.errors import INTERNAL, NO_CAPACITY
from tests.emulators.sagemaker.jobs import Job
from tests.emulators.sagemaker.training import Attempt
from tests.emulators.sagemaker.world import World

STOPPED = ("Stopped", "Training job stopped")  # inferred
RUNTIME = ("MaxRuntimeExceeded", "Training job runtime exceeded MaxRuntimeInSeconds provided")
WAIT = ("MaxWaitTimeExceeded", "Training job wait time exceeded MaxWaitTimeInSeconds provided")
INTERRUPTED = "Training job interrupted"  # inferred
RESTARTING = "Restarting the training job"  # inferred
TICK_S = 60.0  # whoever changes something notifies; this is for what was forgotten


class StoppedError(Exception):
    """The job ends as ``Stopped``; the argument is the secondary status with its message."""


class FailedError(Exception):
    """The job ends as ``Failed``; the argument is the FailureReason."""


class ReclaimedError(Exception):
    """Spot took the instance."""


class VanishedError(Exception):
    """The job was deleted, or the emulator ends."""


class Lifecycle:
    """Takes one job through its phases."""

    def __init__(self, world: World, job: Job) -> None:
        self._world, self._job = world, job
        self._created = time.monotonic()
        self._retries = job.request.get("RetryStrategy", {}).get("MaximumRetryAttempts", 0)
        self._trained_before = 0.0

    def run(self) -> None:
        """The body of the thread. An error of the emulator itself fails the job and is printed."""
        try:
            self._attempts()
        except VanishedError:
            return
        except Exception:
            traceback.print_exc(file=sys.stderr)
            self._fail(INTERNAL, None)

    def _attempts(self) -> None:
        while True:
            folder = self._world.new_folder(self._job)
            attempt = Attempt(self._world, self._job, folder)
            try:
                self._one(attempt)
            except ReclaimedError:
                attempt.reclaim()
                self._job.move("Interrupted", INTERRUPTED)
            except StoppedError as end:
                self._stop(attempt, *end.args)
                return
            except FailedError as end:
                attempt.end_container(upload=True)
                if not self._restarts(str(end)):
                    self._fail(str(end), attempt)
                    return
            else:
                return
            finally:
                attempt.reclaim()
                shutil.rmtree(folder, ignore_errors=True)

    def _restarts(self, reason: str) -> bool:
        """RetryStrategy: the service retries an InternalServerError, and nothing else."""
        if not reason.startswith("InternalServerError") or not self._retries:
            return False
        self._retries -= 1
        self._job.move("Restarting", RESTARTING)
        return True

    def _one(self, attempt: Attempt) -> None:
        self._find_instances()
        self._job.move("Downloading", "Downloading input data")
        self._job.begin()
        self._pause("Downloading")
        if reason := attempt.download() or self._job.plan.fail:
            raise FailedError(reason)
        self._job.say("Downloading the training image")
        if reason := attempt.find_image():
            raise FailedError(reason)
        self._job.attempts += 1
        self._job.move("Training", "Training image download completed. Training in progress.")
        code = self._train(attempt)
        self._pause("Training")
        if self._job.attempts <= self._job.plan.internal_errors:
            raise FailedError(INTERNAL)
        attempt.end_container(upload=True)
        if code:
            raise FailedError(attempt.failure_reason(code))
        self._job.move("Uploading", "Uploading generated training model")
        self._pause("Uploading")
        if reason := attempt.upload():
            raise FailedError(reason)
        self._job.end()
        self._job.move("Completed", "Training job completed", "Completed")

    def _find_instances(self) -> None:
        job = self._job
        if job.attempts:
            self._pause(job.secondary)  # Interrupted or Restarting
            job.move("Starting", "Starting the training job")
        self._pause("Starting")
        job.say("Launching requested ML instances")
        self._world.take_warm_pool(job)
        if job.plan.pending:
            job.move("Pending", "Training job waiting for capacity")
            self._pause("Pending")
            job.move("Starting", "Preparing the instances for training")
        job.say("Preparing the instances for training")
        if job.plan.capacity_error or not self._select():
            raise FailedError(NO_CAPACITY)

    def _select(self) -> bool:
        """InstancePreferences: the first type with capacity. Return whether there is capacity at all."""
        missing = self._job.settings.no_capacity
        preferences = self._job.request["ResourceConfig"].get("InstancePreferences")
        if not preferences:
            return self._job.instance_type not in missing
        found = [one for one in preferences if one["InstanceType"] not in missing]
        self._job.selected = found[0] if found else None
        return bool(found)

    def _train(self, attempt: Attempt) -> int:
        """Run the container to its end and return the exit code."""
        job = self._job
        started = time.monotonic()
        attempt.start()
        limit = job.request["StoppingCondition"]["MaxRuntimeInSeconds"] * job.settings.second_s
        left = limit * job.settings.max_runtime_late - self._trained_before
        reclaims = job.plan.interrupt_after_s if job.is_spot else []
        reclaim = reclaims[job.attempts - 1] if job.attempts <= len(reclaims) else float("inf")
        try:
            while (code := attempt.exit_code()) is None:
                trained = time.monotonic() - started
                if trained >= left:
                    raise StoppedError(*RUNTIME)
                if job.interrupted or trained >= reclaim:
                    job.interrupted = False
                    raise ReclaimedError
                self._look()
                with job.changed:
                    if job.plan.run:
                        job.changed.wait(0.03)
                    else:
                        job.changed.wait(min(self._left(), left - trained, reclaim - trained))
            return code
        finally:
            self._trained_before += time.monotonic() - started

    def _pause(self, phase: str) -> None:
        """Stay in a phase for its time, and as long as the test holds the job there.

        Spot may take the instance after the container has ended, too.
        """
        job = self._job
        until = time.monotonic() + job.settings.seconds_of(phase, job.plan)
        while True:
            self._look()
            if job.interrupted and phase in ("Training", "Uploading"):
                job.interrupted = False
                raise ReclaimedError
            left = until - time.monotonic()
            held = phase in job.plan.hold and not self._is_released(phase)
            if left <= 0 and not held:
                return
            with job.changed:
                job.changed.wait(self._left() if held else min(left, self._left()))

    def _is_released(self, phase: str) -> bool:
        names = list(self._world.released)
        return any(fnmatchcase(self._job.name, pattern) and phase == which for pattern, which in names)

    def _look(self) -> None:
        """Raise if the job must end now."""
        job = self._job
        if job.vanished:
            raise VanishedError
        if job.stop_asked:
            raise StoppedError(*STOPPED)
        if job.failing:
            reason, job.failing = job.failing, ""
            raise FailedError(reason)
        waits = job.request["StoppingCondition"]
        waited = time.monotonic() - self._created
        if waited >= waits.get("MaxWaitTimeInSeconds", float("inf")) * job.settings.second_s:
            raise StoppedError(*WAIT)
        pending = waits.get("MaxPendingTimeInSeconds", float("inf")) * job.settings.second_s
        if job.secondary == "Pending" and waited >= pending:
            raise FailedError(NO_CAPACITY)  # inferred

    def _left(self) -> float:
        """Return how long the job may sleep before a time of its request is over."""
        waits, waited = self._job.request["StoppingCondition"], time.monotonic() - self._created
        ends = [waits[name] for name in ("MaxWaitTimeInSeconds", "MaxPendingTimeInSeconds") if name in waits]
        left = [end * self._job.settings.second_s - waited for end in ends]
        plan = self._job.plan
        simulated = [plan.train_s] if not plan.run and plan.train_s > 0 else []
        return max(0.01, min([TICK_S, *simulated, *(one for one in left if one > 0)]))

    def _stop(self, attempt: Attempt, secondary: str, message: str) -> None:
        """SIGTERM, a while, SIGKILL; outputs are uploaded; the end is ``Stopped``."""
        job = self._job
        self._linger("Stop")  # StopTrainingJob was answered, and SecondaryStatus is still what it was
        job.move("Stopping", "Stopping the training job", "Stopping")  # inferred
        attempt.terminate()
        self._linger("Stopping")
        if attempt.started:
            job.move("Uploading", "Uploading generated training model")
            attempt.upload()
        if job.began:
            job.end()
        job.move(secondary, message, "Stopped")

    def _linger(self, phase: str) -> None:
        """Pause in the phases of a stop, where another stop changes nothing."""
        job = self._job
        until = time.monotonic() + job.settings.seconds_of(phase, job.plan)
        while time.monotonic() < until or (phase in job.plan.hold and not self._is_released(phase)):
            if job.vanished:
                raise VanishedError
            with job.changed:
                job.changed.wait(0.02)

    def _fail(self, reason: str, attempt: Attempt | None) -> None:
        """The end is when the failure is detected; the objects may come after the status."""
        job = self._job
        job.fail_with(reason)
        if job.began:
            job.end()
        uploads = attempt is not None and attempt.started
        if uploads:
            job.move("Uploading", "Uploading generated training model")
        late = job.settings.late_objects_hold
        if uploads and not late and attempt:
            attempt.upload()
        job.move("Failed", "Training job failed", "Failed")
        if uploads and late and attempt:
            while job.settings.late_objects_hold:
                if job.vanished:
                    raise VanishedError
                time.sleep(0.02)
            attempt.upload()
