"""One attempt of a job: its /opt/ml, its container, its log, its checkpoints and its outputs.

Folders and variables as documented, and as a container of 2019 showed them: HOSTNAME is
``ip-10-...ec2.internal`` (not ``algo-1``), AWS_EXECUTION_ENV ``AWS_ECS_EC2``, the working folder ``/``.
"""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

from tests.emulators.sagemaker.cloudwatch import LogStream
from tests.emulators.sagemaker.container import Container, Spec, unavailable
from tests.emulators.sagemaker.errors import OUT_OF_MEMORY
from tests.emulators.sagemaker.iam import Role
from tests.emulators.sagemaker.images import Image
from tests.emulators.sagemaker.jobs import LONGEST_REASON, Job
from tests.emulators.sagemaker.storage import (
    CheckpointSync,
    DeniedError,
    RoleS3,
    TransferError,
    download_channel,
    upload_folder,
)
from tests.emulators.sagemaker.world import World

NO_ENTRYPOINT = (
    "ClientError: Artifact upload failed:API error (400): OCI runtime create failed: "
    'container_linux.go:380: starting container process caused: exec: "{name}": '
    "executable file not found in $PATH: unknown"
)
NO_TAG = (
    "ClientError: Data download failed:API error (404): manifest for {image} not found: manifest unknown: "
    "Requested image not found"  # the beginning is inferred
)
NO_TRUST = (
    "ClientError: TrainingHostAgent Initialization failed:InvalidInputException: SageMaker is unable to "
    "perform: sts:AssumeRole on the role. Check if you have a trust relationship for "
    "'sagemaker.amazonaws.com' to assume the role."
)
NOT_THERE = 127
KILLED = 137


class Attempt:
    """One attempt. A job without Spot and without retries has one."""

    def __init__(self, world: World, job: Job, folder: Path) -> None:
        self._world, self._job = world, job
        self._role = Role(job.request["RoleArn"], trusts=(), policies=())
        self._s3: RoleS3 | None = None
        self._spec = Spec(
            folder=folder,
            argv=command(job),
            env={},
            python=world.image_python(job.request["AlgorithmSpecification"]["TrainingImage"]),
            private_tmp=job.settings.private_tmp,
            shared=job.settings.shared,
            network=not job.request["EnableNetworkIsolation"],
        )
        self._container: Container | None = None
        self._log: LogStream | None = None
        self._sync: CheckpointSync | None = None
        self._simulated_since: float | None = None
        self.started = False

    def download(self) -> str:
        """Make /opt/ml with the input channels. Return a FailureReason, or an empty text."""
        self._role = self._world.iam.roles.get(self._role.arn, self._role)
        self._s3 = self._world.s3.of(self._role) if self._world.s3 else None
        if "sagemaker.amazonaws.com" not in self._role.trusts:
            return NO_TRUST
        ml = self._spec.ml
        for name in ("input/config", "input/data", "model", "output/data"):
            (ml / name).mkdir(parents=True)
        for name, content in self._configuration().items():
            (ml / "input" / "config" / f"{name}.json").write_text(json.dumps(content))
        try:
            for channel in self._job.request["InputDataConfig"]:
                if self._s3 and "S3DataSource" in channel["DataSource"]:
                    download_channel(self._s3, channel, ml / "input" / "data" / channel["ChannelName"])
            self._restore()
        except TransferError as error:
            return str(error)
        except DeniedError as error:
            return f"ClientError: Data download failed:AccessDenied: {error}"  # inferred
        return ""

    def _configuration(self) -> dict[str, Any]:
        job = self._job
        host = {
            "current_host": "algo-1",
            "current_instance_type": job.instance_type,
            "current_group_name": "homogeneousCluster",
            "hosts": ["algo-1"],
            "instance_groups": [
                {
                    "instance_group_name": "homogeneousCluster",
                    "instance_type": job.instance_type,
                    "hosts": ["algo-1"],
                }
            ],
            "network_interface_name": "eth0",
        }
        mode = job.request["AlgorithmSpecification"]["TrainingInputMode"]
        channels = {
            channel["ChannelName"]: {
                "TrainingInputMode": channel.get("InputMode", mode),
                "S3DistributionType": channel["DataSource"]
                .get("S3DataSource", {})
                .get("S3DataDistributionType", "FullyReplicated"),
                "RecordWrapperType": channel["RecordWrapperType"],
            }
            for channel in job.request["InputDataConfig"]
        }
        parameters = job.request.get("HyperParameters", {})
        return {"hyperparameters": parameters, "resourceconfig": host, "inputdataconfig": channels}

    def _restore(self) -> None:
        config = self._job.request.get("CheckpointConfig")
        if not config or not self._s3:
            return
        path = config["LocalPath"].rstrip("/")
        inside = path.removeprefix("/opt/ml/")
        folder = self._spec.folder / "checkpoints" if inside == path else self._spec.ml / inside
        folder.mkdir(parents=True, exist_ok=True)
        if inside == path:
            self._spec.mounts.append((str(folder), path))
        pause_s = self._job.settings.checkpoint_sync_s
        self._sync = CheckpointSync(self._s3, folder, config["S3Uri"], pause_s)
        self._sync.restore()

    def find_image(self) -> str:
        """Return a FailureReason if the tag of the image is not there."""
        name = self._job.request["AlgorithmSpecification"]["TrainingImage"]
        image = Image.parse(name)
        if self._job.plan.run and unavailable():
            return f"EmulatorError: containers cannot run here: {unavailable()}"
        if self._job.plan.run and self._job.instance_count > 1:
            return "EmulatorError: a job runs on one instance here"
        return "" if image and image.has_tag(self._world.repositories) else NO_TAG.format(image=name)

    def start(self) -> None:
        """Start the container, the copying of checkpoints, and the log."""
        self.started = True
        job = self._job
        if not job.plan.run:
            self._simulated_since = time.monotonic()
            return
        self._spec.env |= self._environment()
        self._container = Container(self._spec)
        self._log = LogStream(self._world.logs, job, self._role, self._container.output)
        self._log.start()
        if self._sync:
            self._sync.start()
        job.pid = self._container.pid

    def _environment(self) -> dict[str, str]:
        job, spec = self._job, self._spec
        url = f"{self._world.address}/_credentials/{self._role.name}"
        # https://docs.aws.amazon.com/sagemaker/latest/dg/mkt-algo-model-internet-free.html
        own = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": url} if spec.network else {}
        return {
            "HOSTNAME": spec.hostname,
            "AWS_EXECUTION_ENV": "AWS_ECS_EC2",
            "AWS_REGION": job.region,
            "PWD": "/",
            **own,
            "TRAINING_JOB_NAME": job.name,
            "TRAINING_JOB_ARN": job.arn,
            **job.settings.container_env,
            **job.request.get("Environment", {}),
        }

    def exit_code(self) -> int | None:
        if self._simulated_since is not None:
            plan = self._job.plan
            return plan.exit_code if time.monotonic() >= self._simulated_since + plan.train_s else None
        assert self._container
        self._job.pid = self._job.pid or self._container.pid
        return self._container.exit_code()

    def terminate(self) -> None:
        """SIGTERM, and SIGKILL after the time that stands for 120 s."""
        self._ask_to_end()
        self.end_container(upload=True)

    def _ask_to_end(self) -> None:
        if self._container:
            self._container.signal(signal.SIGTERM)
            until = time.monotonic() + self._job.settings.kill_after_s
            while self._container.exit_code() is None and time.monotonic() < until:
                time.sleep(0.02)

    def reclaim(self) -> None:
        """Spot takes the instance: nothing is saved that was not copied before."""
        if self._job.settings.spot_sigterm and not self._job.vanished:
            self._ask_to_end()
        self.end_container(upload=False)

    def end_container(self, *, upload: bool) -> None:
        """End all processes; send the rest of the log, and the checkpoints unless the instance is gone."""
        if self._container:
            self._container.kill()
            self._container = None
        if self._log:
            self._log.finish()
            self._log = None
        if self._sync:
            self._sync.finish(upload=upload and self.started)
            self._sync = None
        self._job.pid = None

    def failure_reason(self, code: int) -> str:
        """Return the reason of a container that failed: at most 1,024 characters with the prefix."""
        if code == KILLED and self._job.settings.oom_text:
            return OUT_OF_MEMORY
        entrypoint = self._spec.argv[0]
        oci = self._job.settings.bad_entrypoint == "oci" or entrypoint == "train"
        if code == NOT_THERE and oci:
            return NO_ENTRYPOINT.format(name=entrypoint)
        file = self._spec.ml / "output" / "failure"
        text = file.read_text("utf-8", "replace")[:LONGEST_REASON] if file.is_file() else ""
        text = text if self._job.settings.failure_text else ""
        if not text and code > 128:
            return f"AlgorithmError: Exit Code: {code}"
        return f"AlgorithmError: {text}, exit code: {code}"

    def upload(self) -> str:
        """Upload /opt/ml/model and /opt/ml/output/data. Return a FailureReason, or an empty text."""
        if not self._s3:
            return ""
        plain = self._job.request["OutputDataConfig"]["CompressionType"] == "NONE"
        layout = self._job.settings.layout
        url, ml = self._job.output_url(), self._spec.ml
        try:
            upload_folder(self._s3, ml / "model", f"{url}/model", plain=plain and layout != "tar")
            upload_folder(
                self._s3, ml / "output" / "data", f"{url}/output", plain=plain and layout == "plain"
            )
        except TransferError as error:
            return str(error)
        return ""


def command(job: Job) -> list[str]:
    """Return what runs: ``train`` if the request names neither an entrypoint nor arguments.

    With arguments alone the image's own ENTRYPOINT gets them; the images here have none, so the first one
    runs.
    """
    algorithm = job.request["AlgorithmSpecification"]
    entrypoint, arguments = algorithm.get("ContainerEntrypoint", []), algorithm.get("ContainerArguments", [])
    return [*entrypoint, *arguments] or ["train"]
