"""The settings of the ``sagemaker`` backend: names, bounds, contradictions, and fields of the vendor."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest

from airflow_stepop.cli.backends import describe_settings
from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.hooks.sagemaker.limits import stopping_condition
from airflow_stepop.hooks.sagemaker.overrides import CARRIES_THE_STEP, with_overrides
from airflow_stepop.hooks.sagemaker.settings import FIELDS, SageMakerSettings
from airflow_stepop.hooks.settings import parse_settings

ROLE = "arn:aws:iam::123456789012:role/NAME"
# the settings of the documentation that the project was made from, each with the defaults of its connection
SEED: list[dict[str, Any]] = [
    {"role": ROLE, "instance_type": "ml.p3.2xlarge"},
    {"instance_type": "ml.p3.2xlarge", "max_runtime_in_seconds": 3600, "use_spot_instances": True},
    {
        "instance_type": "ml.p3.8xlarge",
        "max_runtime_in_seconds": 7200,
        "volume_size_in_gb": 100,
        "use_spot_instances": True,
        "max_wait_time_in_seconds": 86400,
    },
    {"instance_type": "ml.p3.2xlarge", "use_spot_instances": True, "max_wait_time_in_seconds": 3600},
    {"use_spot_instances": True, "max_wait_time_in_seconds": 3600},
    {"instance_type": "ml.m5.xlarge"},
    {"max_runtime_in_seconds": 3600},
]


def parsed(**given: Any) -> SageMakerSettings:
    found = parse_settings(SageMakerSettings, given, "sagemaker")
    assert isinstance(found, SageMakerSettings)
    return found


@pytest.fixture(scope="module")
def model() -> Any:
    """The service's own model, from botocore."""
    import botocore.session

    return botocore.session.get_session().get_service_model("sagemaker")


@pytest.mark.parametrize("given", SEED)
def test_the_seeds_settings_parse(given: dict[str, Any]) -> None:
    """Every name and value of the seed works as it stands, also when the task sets no timeout."""
    settings = parsed(**given)
    assert {name: getattr(settings, name) for name in given} == given
    limits = stopping_condition(settings, settings.timeout_or(86400.0))
    assert limits.get("MaxWaitTimeInSeconds", 10**9) >= limits["MaxRuntimeInSeconds"]


def test_the_seeds_wait_without_spot_is_refused() -> None:
    """The service refuses it, too; the message names the setting that is missing."""
    with pytest.raises(StepConfigError, match="write use_spot_instances=True beside it") as caught:
        parsed(max_runtime_in_seconds=3600, max_wait_time_in_seconds=7200)
    assert "max_wait_time_in_seconds=7200 is the wait for Spot capacity" in str(caught.value)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"instance_typ": "ml.m5.large"}, "did you mean 'instance_type'"),
        ({"use_spot_instances": True, "max_wait_time_in_seconds": 60, "max_runtime_in_seconds": 61},
         "write max_wait_time_in_seconds=61 or more"),
        ({"use_spot_instances": True, "instance_type": ["ml.m5.large", "ml.m5.xlarge"]},
         "instance_type='ml.m5.large'"),
        ({"use_spot_instances": True, "keep_alive_period_in_seconds": 60}, "no warm pool of Spot machines"),
        ({"instance_type": "p3.2xlarge"}, "write 'ml.p3.2xlarge'"),
        ({"instance_type": "big"}, "'big' is no instance type of SageMaker; write 'ml.m5.xlarge'"),
        ({"instance_type": []}, "1 to 5 instance types"),
        ({"instance_type": ["ml.m5.large", "ml.m5.large"]}, "each once"),
        ({"instance_type": [f"ml.m5.{n}xlarge" for n in (1, 2, 4, 8, 12, 24)]}, "1 to 5 instance types"),
        ({"role": "arn:aws:iam::12:role/x"}, "arn:aws:iam::111122223333:role/NAME"),
        ({"role": ""}, "is no role"),
        ({"region_name": "Frankfurt"}, "eu-west-1"),
        ({"max_runtime_in_seconds": 0}, "greater than or equal to 1"),
        ({"max_runtime_in_seconds": 28 * 86400 + 1}, "less than or equal to 2419200"),
        ({"use_spot_instances": True, "max_wait_time_in_seconds": 30 * 86400 + 1}, "equal to 2592000"),
        ({"volume_size_in_gb": 16385}, "16384"),
        ({"keep_alive_period_in_seconds": 21601}, "21600"),
        ({"subnets": ["subnet-1"]}, "security_group_ids is missing"),
        ({"security_group_ids": ["sg-1"]}, "subnets is missing"),
        ({"subnets": [f"subnet-{n}" for n in range(17)], "security_group_ids": ["sg-1"]}, "at most 16"),
        ({"subnets": ["subnet-1"], "security_group_ids": [f"sg-{n}" for n in range(6)]}, "at most 5"),
        ({"subnets": ["my subnet"], "security_group_ids": ["sg-1"]}, "'my subnet' is not valid"),
        ({"volume_kms_key": "my key"}, "'my key' is not valid at the service"),
        ({"tags": {"a#": "b"}}, "is no tag"),
        ({"tags": {"a": "b\n"}}, "is no tag"),
        ({"tags": {"a\tb": ""}}, "is no tag"),
        ({"tags": {"aws:x": "b"}}, "names with aws: are reserved"),
        ({"tags": {"stepop-nonce": "b"}}, "names with stepop are reserved"),
        ({"tags": [{"Key": "a", "Value": "1"}, {"Key": "a", "Value": "2"}]}, "'a' is there twice"),
        ({"tags": [{"key": "a"}]}, "'Key'.*'Value'"),
        ({"tags": {f"k{n}": "" for n in range(41)}}, "at most 40"),
        ({"input_data_s3_uri": "bucket/data"}, "write s3://bucket/folder/"),
        ({"input_data_s3_uri": "s3://b/a//c"}, "write 's3://b/a/c'"),
        ({"input_data_s3_uri": {"a/b": "s3://b/c"}}, "no name of a channel"),
        ({"input_data_s3_uri": {"stepop": "s3://b/c"}}, "reserved"),
        ({"input_mode": "Pipe"}, "write 'FastFile'"),
        ({"environment": {"1A": "x"}}, "no name of a variable"),
        ({"environment": {"STEPOP_NONCE": "x"}}, "reserved"),
        ({"environment": {"A": "x" * 513}}, "A has 513 characters, and the service takes at most 512"),
        ({"metric_definitions": {"loss": "x" * 501}}, "an expression 1 to 500"),
        ({"max_retry_attempts": 31}, "less than or equal to 30"),
        ({"max_retry_attempts": 0}, "greater than or equal to 1"),
        ({"training_plan_arn": "arn:aws:sagemaker:us-east-1:111122223333:other-thing-altogether/x"},
         "training-plan"),
        ({"experiment_name": "my_experiment"}, "my-experiment"),
        ({"python": "python3 -u"}, "pattern"),
    ],
)  # fmt: skip
def test_a_mistake_says_what_to_write(given: dict[str, Any], text: str) -> None:
    """Each is an error when the DAG file is parsed, and names a value that works."""
    with pytest.raises(StepConfigError, match=text):
        parsed(**given)


def test_a_list_of_one_machine_is_this_machine() -> None:
    assert parsed(instance_type=["ml.m5.large"]).instance_type == "ml.m5.large"
    assert parsed(instance_type=["ml.m5.large", "ml.m5.xlarge"]).instance_types == (
        "ml.m5.large",
        "ml.m5.xlarge",
    )
    assert parsed().instance_types == ()


def test_one_address_is_the_channel_of_the_vendors_sdk() -> None:
    assert parsed(input_data_s3_uri="s3://b/data/").input_data_s3_uri == {"training": "s3://b/data/"}


def test_the_vendors_lists_are_read_as_mappings() -> None:
    """People copy them from the vendor's documentation."""
    assert parsed(tags=[{"Key": "team", "Value": "a b"}]).tags == {"team": "a b"}
    metrics = [{"Name": "loss", "Regex": "loss=(.*)"}]
    assert parsed(metric_definitions=metrics).metric_definitions == {"loss": "loss=(.*)"}
    assert parsed(instanceType="ml.m5.large", useSpotInstances=True).use_spot_instances is True


@pytest.mark.parametrize("field", [*CARRIES_THE_STEP])
def test_overrides_leave_alone_what_carries_the_step(field: str) -> None:
    """Each field is refused, with its name and what to use instead."""
    fragment: Any = "x"
    for key in reversed(field.split(".")):
        fragment = {key: fragment}
    with pytest.raises(StepConfigError) as caught:
        parsed(overrides=fragment)
    assert f"leave out {field} ({CARRIES_THE_STEP[field]})" in str(caught.value)


def test_overrides_name_the_setting_and_every_refused_field() -> None:
    with pytest.raises(StepConfigError) as caught:
        parsed(
            overrides={
                "RoleArn": ROLE,
                "ResourceConfig": {"InstanceType": "ml.m5.large"},
                "Tags": [{"Key": "stepop-nonce", "Value": "x"}],
                "InputDataConfig": [{"ChannelName": "stepop"}, {"ChannelName": "mine"}],
                "Environment": {"STEPOP_JOB": "x", "OK": "y"},
                "InfraCheckConfig": {"EnableInfraCheck": True},
            }
        )
    assert re.findall(r"(\S+) \(use settings\.(\w+)\)", str(caught.value)) == [
        ("RoleArn", "role"),
        ("ResourceConfig.InstanceType", "instance_type"),
    ]
    for name in ("InputDataConfig 'stepop'", "Tags 'stepop-nonce'", "Environment.STEPOP_JOB"):
        assert f"{name} (its name is the step's)" in str(caught.value)
    assert "InfraCheckConfig" not in str(caught.value)


def test_overrides_are_merged_last() -> None:
    """Objects key by key; channels and tags are added; the arguments do not change."""
    request = {
        "TrainingJobName": "j",
        "ResourceConfig": {"InstanceType": "ml.m5.large"},
        "InputDataConfig": [{"ChannelName": "stepop"}],
        "Tags": [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "1"}],
    }
    before = repr(request)
    fragment = {
        "ResourceConfig": {"InstancePlacementConfig": {"EnableMultipleJobs": True}},
        "InputDataConfig": [{"ChannelName": "mine"}],
        "Tags": [{"Key": "b", "Value": "2"}],
        "InfraCheckConfig": {"EnableInfraCheck": True},
    }
    assert with_overrides(request, fragment) == {
        "TrainingJobName": "j",
        "ResourceConfig": {
            "InstanceType": "ml.m5.large",
            "InstancePlacementConfig": {"EnableMultipleJobs": True},
        },
        "InputDataConfig": [{"ChannelName": "stepop"}, {"ChannelName": "mine"}],
        "Tags": [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2"}],
        "InfraCheckConfig": {"EnableInfraCheck": True},
    }
    assert repr(request) == before


def test_every_field_is_one_of_the_service(model: Any) -> None:
    """FIELDS and CARRIES_THE_STEP are compared with the model of the installed botocore."""
    for field in (*FIELDS.values(), *CARRIES_THE_STEP):
        shape = model.shape_for("CreateTrainingJobRequest")
        for key in field.split("."):
            assert key in shape.members, field
            shape = shape.members[key]


def test_describe_names_the_vendors_field_of_each_setting() -> None:
    rows = {row["setting"]: row["description"] for row in describe_settings(SageMakerSettings)}
    assert set(FIELDS) | {"region_name", "overrides", "python"} == set(rows)
    for name, field in FIELDS.items():
        assert f"[{field}" in rows[name], name
    assert all(rows.values())


def test_the_settings_import_no_sdk() -> None:
    """A DAG file that uses them does not pay for boto3."""
    script = "import sys, airflow_stepop.hooks.sagemaker as s; s.SageMakerSettings(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"boto3", "botocore", "airflow.providers.amazon"}


# -- limits


@pytest.mark.parametrize(
    ("given", "expected_s"),
    [
        ({}, 86400.0),
        ({"max_runtime_in_seconds": 60}, 60.0),
        ({"use_spot_instances": True}, 86400.0),
        ({"use_spot_instances": True, "max_wait_time_in_seconds": 3600}, 3600.0),
        ({"use_spot_instances": True, "max_wait_time_in_seconds": 200000}, 86400.0),
        (
            {"use_spot_instances": True, "max_wait_time_in_seconds": 3600, "max_runtime_in_seconds": 60},
            60.0,
        ),
    ],
)
def test_the_timeout_of_a_step_that_sets_none(given: dict[str, Any], expected_s: float) -> None:
    """What the worker waits for is what the service gets."""
    settings = parsed(**given)
    assert settings.timeout_or(86400.0) == expected_s
    limits = stopping_condition(settings, settings.timeout_or(86400.0))
    assert limits["MaxRuntimeInSeconds"] == expected_s


@pytest.mark.parametrize(
    ("given", "timeout_s", "has_timeout", "expected"),
    [
        ({}, 86400.0, False, {"MaxRuntimeInSeconds": 86400}),
        ({}, 90.5, True, {"MaxRuntimeInSeconds": 91}),
        ({"max_runtime_in_seconds": 60}, 86400.0, False, {"MaxRuntimeInSeconds": 60}),
        ({"max_runtime_in_seconds": 60}, 60.0, True, {"MaxRuntimeInSeconds": 60}),
        ({"use_spot_instances": True}, 86400.0, False,
         {"MaxRuntimeInSeconds": 86400, "MaxWaitTimeInSeconds": 172800}),
        ({"use_spot_instances": True, "max_wait_time_in_seconds": 3600}, 86400.0, False,
         {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 3600}),
        ({"use_spot_instances": True, "max_wait_time_in_seconds": 200000}, 86400.0, False,
         {"MaxRuntimeInSeconds": 86400, "MaxWaitTimeInSeconds": 200000}),
        ({"use_spot_instances": True, "max_wait_time_in_seconds": 3600}, 600.0, True,
         {"MaxRuntimeInSeconds": 600, "MaxWaitTimeInSeconds": 3600}),
        ({"use_spot_instances": True, "max_runtime_in_seconds": 28 * 86400}, 86400.0, False,
         {"MaxRuntimeInSeconds": 28 * 86400, "MaxWaitTimeInSeconds": 29 * 86400}),
    ],
)  # fmt: skip
def test_the_limits_of_a_job(
    given: dict[str, Any], timeout_s: float, has_timeout: bool, expected: dict[str, int]
) -> None:
    settings = parsed(**given)
    timeout_s = timeout_s if has_timeout else settings.timeout_or(timeout_s)
    assert stopping_condition(settings, timeout_s) == expected


@pytest.mark.parametrize(
    ("given", "timeout_s", "text"),
    [
        ({"max_runtime_in_seconds": 60}, 61.0, "max_runtime_in_seconds=60 contradicts timeout=61"),
        ({"use_spot_instances": True, "max_wait_time_in_seconds": 60}, 61.0,
         "write max_wait_time_in_seconds=61 or more"),
        ({}, 28 * 86400 + 1, "at most 28 days; write timeout=2419200 or less"),
    ],
)  # fmt: skip
def test_limits_that_contradict_each_other(given: dict[str, Any], timeout_s: float, text: str) -> None:
    with pytest.raises(StepConfigError, match=text):
        stopping_condition(parsed(**given), timeout_s)


def test_the_service_ends_the_wait_for_accelerators() -> None:
    """``MaxPendingTimeInSeconds`` has a minimum, and no effect on machines without accelerators."""

    def pending(start_timeout_s: float | None, is_accelerated: bool = True, **given: Any) -> int | None:
        found = stopping_condition(
            parsed(**given), 60.0, start_timeout_s=start_timeout_s, is_accelerated=is_accelerated
        )
        return found.get("MaxPendingTimeInSeconds")

    assert pending(1800.0) == 1800
    assert pending(1799.0) is None
    assert pending(None) is None
    assert pending(1800.0, is_accelerated=False) is None
    assert pending(1e9) == 28 * 86400
    assert pending(1800.0, use_spot_instances=True) is None
