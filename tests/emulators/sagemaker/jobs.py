"""The record of a training job, and its answers to Describe and List.

Copied from recordings of the real service: defaults are echoed; TrainingStartTime, TrainingEndTime,
TrainingTimeInSeconds and BillableTimeInSeconds are absent when nothing began; messages change in place
within one transition; StopTrainingJob leaves SecondaryStatus as it was; LastModifiedTime can move after the
end.
"""

from __future__ import annotations

import contextlib
import copy
import math
import re
import threading
import time
from typing import Any

from tests.emulators.sagemaker.model import service
from tests.emulators.sagemaker.settings import Plan, Settings

Json = dict[str, Any]
TERMINAL = ("Completed", "Failed", "Stopped")
LONGEST_REASON = 1024  # with its prefix; a recorded one has 1,021 characters and ends in the middle of a word


class Job:
    """A training job. Its lock guards all of it; ``changed`` tells the threads that wait for it."""

    def __init__(self, region: str, request: Json, settings: Settings) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.settings, self.region = settings, region
        self.name: str = request["TrainingJobName"]
        self.arn = f"arn:aws:sagemaker:{region}:{settings.account}:training-job/{self.name}"
        self.tags: dict[str, str] = {tag["Key"]: tag["Value"] for tag in request.get("Tags", [])}
        self.request = with_defaults(request)
        self.plan: Plan = settings.plan(self.name)
        self.status, self.secondary = "InProgress", "Starting"
        self.reason: str | None = None
        self.misses = settings.describe_misses
        self.created = self.modified = self.now()
        self.began: float | None = None
        self.ended: float | None = None
        self.trained_s = 0.0
        self.attempts = 0
        self.pid: int | None = None
        self.thread: threading.Thread | None = None
        self.streams: list[str] = []
        self.selected: Json | None = None  # of InstancePreferences
        self.transitions: list[Json] = []
        self.history: list[tuple[float, Json]] = []
        self.stop_asked = self.vanished = self.interrupted = False
        self.metrics: dict[str, Json] = {}
        self.reused_at: float | None = None
        self.reused_by: str | None = None  # the job that took the warm pool over
        self.failing = ""  # a FailureReason of the service, from now on
        self.move("Starting", "Starting the training job")

    def now(self) -> float:
        """Return the time of the service's clock."""
        return time.time() + self.settings.clock_skew_s

    @property
    def is_terminal(self) -> bool:
        return self.status in TERMINAL

    @property
    def is_spot(self) -> bool:
        return bool(self.request.get("EnableManagedSpotTraining"))

    @property
    def instance_type(self) -> str:
        return str(self._instances().get("InstanceType", ""))

    @property
    def instance_count(self) -> int:
        return int(self._instances().get("InstanceCount", 1))

    def _instances(self) -> Json:
        config: Json = self.request["ResourceConfig"]
        chosen = self.selected or next(iter(config.get("InstancePreferences") or [{}]))
        group = next(iter(config.get("InstanceGroups") or [{}]))
        return {**group, **config, **chosen}

    def move(self, secondary: str, message: str, status: str | None = None) -> None:
        """Go on to a secondary status. The last one ends its own transition at once."""
        with self.changed:
            now = self.now()
            if self.transitions:
                self.transitions[-1]["EndTime"] = now
            entry = {"Status": secondary, "StartTime": now, "StatusMessage": message}
            self.secondary, self.status = secondary, status or self.status
            if self.is_terminal:
                entry["EndTime"] = now
            self.transitions.append(entry)
            self._touch(now)

    def say(self, message: str) -> None:
        """Change the message of the transition in place."""
        with self.changed:
            self.transitions[-1]["StatusMessage"] = message
            self._touch(self.now())

    def ask_to_stop(self) -> None:
        with self.changed:
            self.stop_asked, self.status = True, "Stopping"
            self._touch(self.now())

    def _touch(self, now: float) -> None:
        self.modified = now
        self.history.append((time.monotonic(), self._summary()))
        self.changed.notify_all()

    def begin(self) -> None:
        """Instances were found: from here on time is billed."""
        with self.changed:
            self.began = self.began or self.now()

    def end(self) -> None:
        with self.changed:
            self.ended = self.ended or self.now()

    def fail_with(self, reason: str) -> None:
        with self.changed:
            self.reason = reason[:LONGEST_REASON]

    def describe(self) -> Json:
        """Return the answer to DescribeTrainingJob."""
        with self.changed:
            known = service("sagemaker").shape_for("DescribeTrainingJobResponse").members
            answer = {key: value for key, value in copy.deepcopy(self.request).items() if key in known}
            answer |= {
                "TrainingJobName": self.name,
                "TrainingJobArn": self.arn,
                "TrainingJobStatus": self.status,
                "SecondaryStatus": self.secondary,
                "SecondaryStatusTransitions": copy.deepcopy(self.transitions),
                "CreationTime": self.created,
                "LastModifiedTime": self._modified(),
                "ProfilingStatus": "Disabled",
            }
            answer |= self._times()
            if self.reason:
                answer["FailureReason"] = self.reason
            if self.status in ("Completed", "Stopped") and self.began:
                answer["ModelArtifacts"] = {"S3ModelArtifacts": self.model_url()}
            if self.selected:
                answer["ResourceConfig"]["SelectedInstanceType"] = self.instance_type
                answer["ResourceConfig"]["SelectedInstanceCount"] = self.instance_count
            if pool := self.warm_pool():
                answer["WarmPoolStatus"] = pool
            if self.metrics:
                answer["FinalMetricDataList"] = list(self.metrics.values())
            return rounded(answer)

    def note_metrics(self, line: str, at: float) -> None:
        """Keep the last value of each metric that a line of the log has: the first group of its pattern."""
        for metric in self.request["AlgorithmSpecification"].get("MetricDefinitions", []):
            with contextlib.suppress(ValueError, IndexError, re.error):
                if found := re.search(metric["Regex"], line):
                    value = float(found.group(1))
                    name = metric["Name"]
                    self.metrics[name] = {"MetricName": name, "Value": value, "Timestamp": at}

    def _times(self) -> Json:
        times: Json = {}
        if self.began:
            times["TrainingStartTime"] = self.began
        if self.began and self.ended:
            seconds = (self.ended - self.began) / self.settings.second_s
            billed = seconds * (self.settings.spot_billed if self.is_spot else 1)
            times["TrainingEndTime"] = self.ended
            times["TrainingTimeInSeconds"] = max(1, math.ceil(seconds))
            times["BillableTimeInSeconds"] = max(1, math.ceil(billed))
        return times

    def _modified(self) -> float:
        late = self.modified + self.settings.touch_after_end_s
        return late if self.is_terminal and self.now() >= late else self.modified

    def output_url(self) -> str:
        """Return where outputs go, without a slash at the end."""
        return f"{self.request['OutputDataConfig']['S3OutputPath'].rstrip('/')}/{self.name}/output"

    def model_url(self) -> str:
        plain = (
            self.request["OutputDataConfig"]["CompressionType"] == "NONE" and self.settings.layout != "tar"
        )
        return f"{self.output_url()}/model{'/' if plain else '.tar.gz'}"

    def _summary(self) -> Json:
        answer: Json = {
            "TrainingJobName": self.name,
            "TrainingJobArn": self.arn,
            "CreationTime": self.created,
            "LastModifiedTime": self.modified,
            "TrainingJobStatus": self.status,
            "SecondaryStatus": self.secondary,
        }
        if self.began and self.ended:
            answer["TrainingEndTime"] = self.ended
        return answer

    def summary(self) -> Json | None:
        """Return the entry of ListTrainingJobs, as old as the list's lag; None while it is not there yet."""
        with self.changed:
            until = time.monotonic() - self.settings.list_lag_s
            seen = [summary for at, summary in self.history if at <= until]
            if not seen:
                return None
            answer = dict(seen[-1])
            if seen[-1] is self.history[-1][1]:
                answer["LastModifiedTime"] = self._modified()
            if pool := self.warm_pool():
                answer["WarmPoolStatus"] = pool
            return rounded(answer)

    def warm_pool(self) -> Json | None:
        """Return the state of the warm pool that the job keeps, if it asked for one."""
        keep = self.request["ResourceConfig"].get("KeepAlivePeriodInSeconds", 0) * self.settings.second_s
        if not keep:
            return None
        if not self.is_terminal:
            return {"Status": "InUse"}
        if self.status != "Completed" or self.ended is None:
            return {"Status": "Terminated", "ResourceRetainedBillableTimeInSeconds": 0}
        kept = min((self.reused_at or self.now()) - self.ended, keep)
        seconds = int(kept / self.settings.second_s)
        pool = {"Status": "Terminated", "ResourceRetainedBillableTimeInSeconds": seconds}
        if self.reused_by:
            return {**pool, "Status": "Reused", "ReusedByJob": self.reused_by}
        return {**pool, "Status": "Available"} if kept < keep else pool

    def fits_pool_of(self, other: Job) -> bool:
        """Return whether the job may take over the warm pool of another one that has ended."""
        if (other.warm_pool() or {}).get("Status") != "Available":
            return False
        mine, theirs = (
            [
                one.request["RoleArn"],
                one.request["AlgorithmSpecification"]["TrainingImage"],
                {
                    key: value
                    for key, value in one.request["ResourceConfig"].items()
                    if "KeepAlive" not in key
                },
                one.request.get("VpcConfig"),
                one.request["EnableNetworkIsolation"],
            ]
            for one in (self, other)
        )
        return mine == theirs


def with_defaults(request: Json) -> Json:
    """Return a request with the defaults that Describe echoes, as in the recordings."""
    full = copy.deepcopy(request)
    full.pop("Tags", None)
    full.setdefault("InputDataConfig", [])
    for channel in full["InputDataConfig"]:
        channel.setdefault("CompressionType", "None")
        channel.setdefault("RecordWrapperType", "None")
        if source := channel["DataSource"].get("S3DataSource"):
            source.setdefault("S3DataDistributionType", "FullyReplicated")
    full["OutputDataConfig"] = {"KmsKeyId": "", "CompressionType": "GZIP"} | full["OutputDataConfig"]
    full["StoppingCondition"] = {"MaxRuntimeInSeconds": 86400} | full["StoppingCondition"]
    full["AlgorithmSpecification"].setdefault("EnableSageMakerMetricsTimeSeries", False)
    for flag in ("NetworkIsolation", "InterContainerTrafficEncryption", "ManagedSpotTraining"):
        full.setdefault(f"Enable{flag}", False)
    if checkpoint := full.get("CheckpointConfig"):
        checkpoint.setdefault("LocalPath", "/opt/ml/checkpoints")
    return full


def rounded(value: Any) -> Any:
    """Return JSON with times in milliseconds, as the service sends them."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 3) if isinstance(value, float) else value
