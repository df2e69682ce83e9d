"""The request of a step: golden files, the limits of the service, and no secret in it.

After a wanted change of the request, set ``STEPOP_GOLDEN=write``, run this file, and look at what changed.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airflow_stepop.exceptions import StepConfigError, UnsupportedError
from airflow_stepop.hooks.sagemaker.hook import SageMakerStepHook
from airflow_stepop.hooks.sagemaker.machines import choose
from airflow_stepop.hooks.sagemaker.model import refused_values
from airflow_stepop.hooks.sagemaker.places import places_of
from airflow_stepop.hooks.sagemaker.request import Submitted, may_restart, training_job
from airflow_stepop.job import ObjectRange, Part, StepSpec
from airflow_stepop.resources import ResourceSettings
from airflow_stepop.stores.configured import open_store
from tests.emulators.sagemaker.model import knows_member

GOLDEN = Path(__file__).parent / "golden"
ROLE = "arn:aws:iam::123456789012:role/stepop-job"
LABELS = {
    "deployment": "team-a",
    "dag_id": "train",
    "run_id": "manual__2026-01-01T00:00:00+00:00",
    "task_id": "fit",
    "map_index": "-1",
    "nonce": "0" * 32,
}
CASES: dict[str, dict[str, Any]] = {
    "small": {},
    "everything": {
        "settings": {
            "instance_type": "ml.m5.xlarge",
            "max_runtime_in_seconds": 86400,
            "volume_size_in_gb": 50,
            "keep_alive_period_in_seconds": 600,
            "subnets": ["subnet-0a1b2c3d"],
            "security_group_ids": ["sg-0a1b2c3d"],
            "enable_network_isolation": True,
            "encrypt_inter_container_traffic": True,
            "volume_kms_key": "1234abcd-12ab-34cd-56ef-1234567890ab",
            "output_kms_key": "alias/results",
            "tags": {"team": "ml"},
            "input_data_s3_uri": {"training": "s3://data/train/"},
            "input_mode": "FastFile",
            "environment": {"MODE": "fast"},
            "metric_definitions": {"loss": "loss=([0-9.]+)"},
            "enable_remote_debug": True,
            "max_retry_attempts": 2,
            "experiment_name": "first",
            "overrides": {
                "Tags": [{"Key": "cost", "Value": "1"}],
                "ProfilerConfig": {"DisableProfiler": True},
            },
        },
        "env": {"SEED": "1"},
    },
    "spot": {
        "settings": {"use_spot_instances": True, "max_wait_time_in_seconds": 172800},
        "checkpoint_uri": "s3://bucket/stepop/checkpoints/team-a/train/1/fit/-1/abc",
        "resources": ResourceSettings(cpu_count=4, memory="16GB", gpu_count=1),
    },
    "preferences": {
        "settings": {"instance_type": ["ml.g5.xlarge", "ml.g6.xlarge"]},
        "start_timeout_s": 3600.0,
    },
}


def a_spec(**options: Any) -> StepSpec:
    given = {
        "name": "s-train-fit-0123456789ab",
        "nonce": "0" * 32,
        "labels": LABELS,
        "digest": "1" * 64,
        "image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/steps:1",
        "result_uri": "s3://bucket/stepop/results/team-a/train/1/fit/-1/s-train-fit-0123456789ab",
        "resources": ResourceSettings(),
        **options,
        "settings": {"role": ROLE, **options.get("settings", {})},
    }
    return StepSpec(**given)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> SageMakerStepHook:
    """A hook whose connection leads nowhere: ``render`` sends no request."""
    extra = {
        "region_name": "us-east-1",
        "service_config": {"sagemaker": {"endpoint_url": "http://127.0.0.1:9"}},
    }
    fields = {"conn_type": "aws", "login": "a", "password": "b", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(fields))
    monkeypatch.setenv("AIRFLOW__STEPOP__STORE", "s3://bucket/stepop")
    monkeypatch.setenv("AIRFLOW__STEPOP__EXTRA_STORES", "s3://bucket/a//b")
    return SageMakerStepHook()


@pytest.fixture(scope="module")
def shape() -> Any:
    import botocore.session

    model = botocore.session.get_session().get_service_model("sagemaker")
    return model.operation_model("CreateTrainingJob").input_shape


@pytest.mark.parametrize("name", CASES)
def test_golden(offline: SageMakerStepHook, shape: Any, name: str) -> None:
    """Exactly this request, and the vendor's model has no objection."""
    if name == "preferences" and not knows_member("ResourceConfig", "InstancePreferences"):
        pytest.skip("this botocore has no InstancePreferences")
    request = offline.render(a_spec(**CASES[name]))
    assert_golden(request, name)
    refused_values(shape, request)


def assert_golden(request: dict[str, Any], name: str) -> None:
    path = GOLDEN / f"{name}.json"
    if os.environ.get("STEPOP_GOLDEN") == "write":
        path.write_text(json.dumps(request, indent=2, sort_keys=True) + "\n")
    assert json.loads(json.dumps(request)) == json.loads(path.read_text())


@pytest.mark.parametrize("name", ["small", "spot", "preferences"])
def test_the_service_takes_the_golden_request(hook, service, step, store, name):  # type: ignore[no-untyped-def]
    if name == "preferences" and not knows_member("ResourceConfig", "InstancePreferences"):
        pytest.skip("this botocore has no InstancePreferences")
    service.do("plan", job="*", run=False)
    options = dict(CASES[name])
    if "checkpoint_uri" in options:
        options["checkpoint_uri"] = store.uri("checkpoints/x/abc")
    made = step(**options)
    handle = hook.submit(made.spec, made.payload)
    service.wait_for(handle.name, "Completed")
    usage = hook.fresh_status(handle).usage
    assert usage["instance_type"].startswith("ml."), usage
    assert usage["instance_count"] == 1


def test_hostile_labels(offline: SageMakerStepHook, shape: Any) -> None:
    """Labels of any text; those that no tag can hold are cut and cleaned, and are found whole."""
    from airflow_stepop.hooks.sagemaker.request import about

    labels = {**LABELS, "dag_id": "d\n\t\x00\N{NO-BREAK SPACE}'\"<é\N{PILE OF POO}" * 20, "run_id": "x" * 900}
    request = offline.render(a_spec(labels=labels))
    assert about(request["Environment"])["labels"] == labels  # type: ignore[index]
    tags = {tag["Key"]: tag["Value"] for tag in request["Tags"]}
    assert len(tags["stepop:run-id"]) == 256
    assert tags["stepop:dag-id"].startswith("d_____")
    refused_values(shape, request)


def test_as_many_variables_as_the_service_takes(offline: SageMakerStepHook, shape: Any) -> None:
    own = len(offline.render(a_spec())["Environment"])
    full = {f"V{index}": "v" * 512 for index in range(100 - own)}
    refused_values(shape, offline.render(a_spec(env=full)))
    with pytest.raises(UnsupportedError, match="at most 100 variables, and this step has 101"):
        offline.render(a_spec(env={**full, "ONE": "more"}))
    with pytest.raises(UnsupportedError, match="V has 513 characters"):
        offline.render(a_spec(env={"V": "v" * 513}))
    with pytest.raises(UnsupportedError, match="'A-B' is no name"):
        offline.render(a_spec(env={"A-B": "v"}))


def test_long_addresses(hook, service, step, s3_server, monkeypatch, store):  # type: ignore[no-untyped-def]
    """The longest prefix that fits works; a longer one is refused before anything is written."""
    service.do("plan", job="*", run=False)
    labels = {name: name[0] * 200 for name in ("deployment", "dag_id", "run_id", "task_id")}
    made = step(labels=labels)
    hook.submit(made.spec, made.payload)
    address = f"{store.url}/" + "/".join(["p" * 200] * 4)
    long = open_store(address)
    spec = replace(
        made.spec, name=f"{made.spec.name[:-1]}x", result_uri=f"{long.url}/results/a/b/{made.spec.name}"
    )
    with pytest.raises(StepConfigError, match=r"characters, and at most 1024 are allowed"):
        hook.submit(
            replace(spec, result_uri=spec.result_uri.replace("/results/", f"/results/{'q' * 200}/")),
            made.payload,
        )
    assert not list(long.list(""))


def test_a_store_with_two_slashes_is_refused(offline: SageMakerStepHook) -> None:
    """The service reads no key with ``//``, and the store would write one."""
    with pytest.raises(StepConfigError, match="'//'"):
        offline.render(a_spec(result_uri="s3://bucket/a//b/results/s-train-fit-0123456789ab"))


def test_no_secret_is_shown(hook, service, step):  # type: ignore[no-untyped-def]
    """``render`` knows neither secrets nor the key that opens them; the real request has only the key."""
    service.do("plan", job="*", run=False, hold=["Starting"])
    made = step(secrets={"TOKEN": "hush-hush"})
    shown = json.dumps(hook.render(made.spec))
    assert "hush" not in shown
    assert "<key of the sealed files>" in shown
    handle = hook.submit(made.spec, made.payload)
    described = service.client("sagemaker").describe_training_job(TrainingJobName=handle.name)
    assert "hush" not in json.dumps(described, default=str)
    arguments = described["AlgorithmSpecification"]["ContainerArguments"]
    key = arguments[arguments.index("--seal") + 1]
    assert key not in shown
    assert key not in json.dumps(described["Environment"])
    prefix = described["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3Uri"].partition("//")[2]
    s3 = service.client("s3")
    bucket, _, below = prefix.partition("/")
    for entry in s3.list_objects_v2(Bucket=bucket, Prefix=below)["Contents"]:
        data = s3.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
        assert b"hush" not in data
        assert key.encode() not in data


@pytest.mark.parametrize(
    ("region", "partition", "page"),
    [
        ("us-east-1", "aws", "https://us-east-1.console.aws.amazon.com/"),
        ("cn-north-1", "aws-cn", "https://cn-north-1.console.amazonaws.cn/"),
        ("us-gov-west-1", "aws-us-gov", "https://console.amazonaws-us-gov.com/"),
        ("us-isob-east-1", "aws-iso-b", "https://us-isob-east-1.console."),
        ("eusc-de-east-1", "aws-eusc", "https://eusc-de-east-1.console."),
    ],
)
def test_partitions(offline: SageMakerStepHook, region: str, partition: str, page: str) -> None:
    settings = {"role": "stepop-job", "region_name": region}
    request = offline.render(
        a_spec(settings=settings, image=f"123456789012.dkr.ecr.{region}.amazonaws.com/a:1")
    )
    assert request["RoleArn"] == f"arn:{partition}:iam::<account>:role/stepop-job"
    handle = offline._handle(
        f"arn:{partition}:sagemaker:{region}:123456789012:training-job/s-a",
        "s-a",
        "s3://b/r",
        "s3://b/i",
        0.0,
    )
    assert (offline.link(handle) or "").startswith(page)


def test_large_parts_come_by_a_channel(hook, service, step, store):  # type: ignore[no-untyped-def]
    """Of the same bucket, without an address, so that a step of 28 days needs no signature that lasts."""
    service.do("plan", job="*", run=False, hold=["Starting"])
    made = step(timeout_s=28 * 86400.0, settings={"enable_network_isolation": True})
    store.put("parts/2026-01-05/abc", b"large")
    part = Part(
        hashlib.sha256(b"large").hexdigest(), 5, ranges=[ObjectRange(store.uri("parts/2026-01-05/abc"), 5)]
    )
    payload = replace(made.payload, parts={**made.payload.parts, "extra": part})
    handle = hook.submit(made.spec, payload)
    described = service.client("sagemaker").describe_training_job(TrainingJobName=handle.name)
    channels = {one["ChannelName"]: one["DataSource"]["S3DataSource"] for one in described["InputDataConfig"]}
    assert channels["stepop-parts"]["S3DataType"] == "ManifestFile"
    bucket, _, key = channels["stepop-parts"]["S3Uri"].removeprefix("s3://").partition("/")
    listed = json.loads(service.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read())
    assert listed[0]["prefix"].endswith("/")
    assert listed[1:] == ["parts/2026-01-05/abc"]
    sent = " ".join(store.list("jobs"))
    assert "manifest.json" in sent
    assert "locations.json.sealed" not in sent
    channel = next(one for one in described["InputDataConfig"] if one["ChannelName"] == "stepop-parts")
    address = channel["DataSource"]["S3DataSource"]["S3Uri"]
    folder, _, name = address.rpartition("/")
    assert name == f"{hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:32]}.manifest"
    assert channels["stepop"]["S3Uri"].startswith(f"{folder}/"), "both lie in the job's folder"


def test_golden_of_a_large_part(offline: SageMakerStepHook, shape: Any) -> None:
    """The request of a submit, with all that is known then: ``render`` does not know the parts."""
    spec = a_spec(settings={"instance_type": "ml.m5.large"})
    settings = offline.settings_of(spec)
    places = places_of(spec, may_restart(settings))
    folder = f"{places.native(places.folder)}/{'2' * 32}"
    submitted = Submitted(spec.digest, folder, f"{folder}.manifest", "3" * 64, "4" * 64, "123456789012")
    request = training_job(spec, settings, places, submitted, choose(settings, spec.resources), "us-east-1")
    assert_golden(request, "large_part")
    refused_values(shape, request)


def test_parts_of_another_store(hook, service, step, store, s3_server, monkeypatch):  # type: ignore[no-untyped-def]
    """The job reads them by signed address, for which it needs a network."""
    service.do("plan", job="*", run=False, hold=["Starting"])
    address = s3_server.new_address()
    monkeypatch.setenv("AIRFLOW__STEPOP__EXTRA_STORES", address)
    other = open_store(address)
    other.put("parts/2026-01-05/abc", b"large")
    whole = ObjectRange(other.uri("parts/2026-01-05/abc"), 5)
    part = Part(hashlib.sha256(b"large").hexdigest(), 5, ranges=[whole])
    for is_isolated in (True, False):
        made = step(settings={"enable_network_isolation": is_isolated})
        payload = replace(made.payload, parts={**made.payload.parts, "extra": part})
        if is_isolated:
            with pytest.raises(StepConfigError, match="values of the step lie in another store"):
                hook.submit(made.spec, payload)
            assert not list(store.list(""))
        else:
            hook.submit(made.spec, payload)
            assert "locations.json.sealed" in " ".join(store.list("jobs"))
    other.delete_folder("")
