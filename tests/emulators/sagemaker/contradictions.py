"""Contradictions in a CreateTrainingJob request that the vendor's model cannot express.

Two texts were seen in public reports. The others are "inferred": the rule stands in the model's
documentation, and nobody has quoted the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from tests.emulators.sagemaker.errors import invalid, not_emulated
from tests.emulators.sagemaker.validation import failure

Json = dict[str, Any]
WAIT_WITHOUT_SPOT = (
    "Invalid MaxWaitTimeInSeconds. It is only supported when EnableManagedSpotTraining is set to true"
)
WAIT_TOO_SHORT = (
    "Invalid MaxWaitTimeInSeconds. It must be present and be greater than or equal to MaxRuntimeInSeconds"
)
LONGEST_RUNTIME_S = 28 * 86_400
DEFAULT_RUNTIME_S = 86_400
# Families with local NVMe storage: VolumeKmsKeyId is refused, and VolumeSizeInGB need not be given
NVME = re.compile(r"ml\.(p3dn|p4d|p4de|p5\w*|p6\S*|g4dn|g5|g6e?|g7e|trn\w+|r5d)\.")


def check(request: Json) -> None:
    """Raise ``ValidationException`` for the first contradiction."""
    for rule in RULES:
        for text in rule(request):
            raise invalid(text)
    for what in ("ServerlessJobConfig", "ModelPackageConfig", "MlflowConfig"):
        if what in request:
            raise not_emulated(what)


def _presence(request: Json) -> Iterator[str]:
    for name in ("AlgorithmSpecification", "ResourceConfig", "StoppingCondition"):
        if name not in request:
            yield f"{name} is required unless ServerlessJobConfig is given."  # inferred


def _algorithm(request: Json) -> Iterator[str]:
    algorithm = request["AlgorithmSpecification"]
    named = [name for name in ("TrainingImage", "AlgorithmName") if algorithm.get(name)]
    if len(named) != 1:
        yield "You must specify exactly one of TrainingImage and AlgorithmName."  # inferred
    if named == ["AlgorithmName"]:
        raise not_emulated("AlgorithmName")
    if algorithm["TrainingInputMode"] == "Pipe":
        raise not_emulated("the input mode Pipe")


def _times(request: Json) -> Iterator[str]:
    stops = request["StoppingCondition"]
    runtime, wait = stops.get("MaxRuntimeInSeconds", DEFAULT_RUNTIME_S), stops.get("MaxWaitTimeInSeconds")
    spot = request.get("EnableManagedSpotTraining")
    if wait is not None and not spot:
        yield WAIT_WITHOUT_SPOT
    if spot and (wait is None or wait < runtime):
        yield WAIT_TOO_SHORT
    if runtime > LONGEST_RUNTIME_S:
        limit = f"Member must have value less than or equal to {LONGEST_RUNTIME_S}"
        told = failure(str(runtime), "stoppingCondition.maxRuntimeInSeconds", limit)
        yield f"1 validation error detected: {told}"


def _machines(request: Json) -> Iterator[str]:
    config = request["ResourceConfig"]
    ways = [name for name in ("InstanceType", "InstanceGroups", "InstancePreferences") if config.get(name)]
    if len(ways) != 1:
        yield f"ResourceConfig needs exactly one of InstanceType and the like, and has {ways}."  # inferred
    read_only = [name for name in config if name.startswith("Selected")]
    if read_only:
        yield f"{read_only[0]} is read-only and isn't accepted in CreateTrainingJob requests."  # inferred
    groups = config.get("InstanceGroups") or config.get("InstancePreferences") or [config]
    if not config.get("InstanceCount") and not all(one.get("InstanceCount") for one in groups):
        yield "InstanceCount must be greater than or equal to 1."  # inferred


def _preferences(request: Json) -> Iterator[str]:
    config = request["ResourceConfig"]
    types = [one.get("InstanceType") for one in config.get("InstancePreferences") or []]
    if not types:
        return
    if request.get("EnableManagedSpotTraining"):
        yield "InstancePreferences is not supported when EnableManagedSpotTraining is true."  # inferred
    if "InstancePlacementConfig" in config:
        yield "InstancePreferences and InstancePlacementConfig are mutually exclusive."  # inferred
    if len(set(types)) < len(types) or None in types:
        yield "An instance type can appear only once in InstancePreferences."  # inferred


def _volume(request: Json) -> Iterator[str]:
    config = request["ResourceConfig"]
    kind = config.get("InstanceType")
    nvme = bool(kind and NVME.match(kind))
    if config.get("VolumeKmsKeyId") and nvme:
        yield f"VolumeKmsKeyId is not supported for {kind}, which has local storage."  # inferred
    if kind and not nvme and not config.get("VolumeSizeInGB"):
        yield f"VolumeSizeInGB must be at least 1 for {kind}, which has no local storage."  # inferred


def _warm_pool(request: Json) -> Iterator[str]:
    if request["ResourceConfig"].get("KeepAlivePeriodInSeconds") and request.get("EnableManagedSpotTraining"):
        yield "KeepAlivePeriodInSeconds is not supported when EnableManagedSpotTraining is true."  # inferred


def _channels(request: Json) -> Iterator[str]:
    channels = request.get("InputDataConfig", [])
    names = [channel["ChannelName"] for channel in channels]
    if len(set(names)) < len(names):
        yield f"Channel names must be unique: {names}"  # inferred
    for channel in channels:
        if len(channel["DataSource"]) != 1:
            yield f"Channel {channel['ChannelName']} needs exactly one data source."  # inferred
        if "S3DataSource" not in channel["DataSource"]:
            raise not_emulated("data sources other than S3")
        if channel["DataSource"]["S3DataSource"]["S3DataType"] not in ("S3Prefix", "ManifestFile"):
            raise not_emulated("this S3DataType")


def _checkpoints(request: Json) -> Iterator[str]:
    path = request.get("CheckpointConfig", {}).get("LocalPath", "/opt/ml/checkpoints")
    if path.startswith(("/opt/ml/input", "/opt/ml/model", "/opt/ml/output")):
        yield f"The checkpoint path {path} lies in a reserved folder."  # inferred
    if not path.startswith(("/opt/", "/tmp/")):
        raise not_emulated("checkpoints outside /opt and /tmp")


def _urls(request: Json) -> Iterator[str]:
    urls = {"OutputDataConfig.S3OutputPath": request["OutputDataConfig"]["S3OutputPath"]}
    if "CheckpointConfig" in request:
        urls["CheckpointConfig.S3Uri"] = request["CheckpointConfig"]["S3Uri"]
    for channel in request.get("InputDataConfig", []):
        urls[f"the channel {channel['ChannelName']}"] = channel["DataSource"]["S3DataSource"]["S3Uri"]
    for where, url in urls.items():
        if not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?", url):
            yield f"Invalid S3 URL {url} in {where}."  # inferred


def check_tags(tags: list[Json]) -> None:
    """Raise ``ValidationException`` for tags that the service refuses."""
    keys = [tag["Key"] for tag in tags]
    if len(set(keys)) < len(keys):
        raise invalid("Duplicate tag keys found. Please note that tag keys are case insensitive.")  # inferred
    if any(key.lower().startswith("aws:") for key in keys):
        raise invalid("Tag keys beginning with aws: are reserved.")  # inferred


RULES: list[Callable[[Json], Iterator[str]]] = [
    _presence,
    _algorithm,
    _times,
    _machines,
    _preferences,
    _volume,
    _warm_pool,
    _channels,
    _checkpoints,
    _urls,
]
