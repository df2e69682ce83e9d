"""The settings of the ``modal`` backend: names, bounds, contradictions, and arguments of the vendor's SDK."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest

from airflow_stepop.cli.backends import describe_settings
from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.hooks.modal import ModalSettings
from airflow_stepop.hooks.modal.buckets import BucketMount
from airflow_stepop.hooks.modal.not_settings import NOT_SETTINGS
from airflow_stepop.hooks.modal.resources import resources_of
from airflow_stepop.hooks.modal.settings import FIELDS
from airflow_stepop.hooks.settings import parse_settings
from airflow_stepop.resources import ResourceSettings


def parsed(**given: Any) -> ModalSettings:
    found = parse_settings(ModalSettings, given, "modal")
    assert isinstance(found, ModalSettings)
    return found


def test_the_seeds_settings_parse() -> None:
    """The values of the documentation that the project was made from work as they stand."""
    given = {"gpu": "any", "cpu": 4.0, "memory": 16384}
    settings = parsed(**given)
    assert {name: getattr(settings, name) for name in given} == given
    found = resources_of(settings, ResourceSettings())
    assert (found.cpu, found.memory, found.gpu.gpus) == (4.0, (16384, 16384), ("T4",))
    assert found.memory_limit_bytes == 16384 * 2**20


@pytest.mark.parametrize(
    "given",
    [
        {"gpu": "A100", "timeout": 3600},
        {"gpu": ["H100", "A100-80GB"]},
        {"cpu": [0.5, 4], "memory": [512, 2048]},
        {"region": ["ap", "us-east", "ap-melbourne"]},
        {"region": ["eu-west-1", "us-central1", "us-ashburn-1", "europe-west4"]},
        {
            "outbound_domain_allowlist": ["*.example.com", "pypi.org"],
            "outbound_cidr_allowlist": ["10.0.0.0/8"],
        },
        {"outbound_cidr_allowlist": []},
        {"volumes": {"/data": "my-data"}, "secrets": ["hf"], "proxy": "office", "app_name": "team.a"},
        {"registry_secret": "ghcr", "add_python": "3.12", "workdir": "/work", "verbose": True},
        {"blockNetwork": True, "appName": "a", "cloud": "oci", "environment": "dev_1"},
    ],
)
def test_valid_settings(given: dict[str, Any]) -> None:
    parsed(**given)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"gpus": "T4"}, "did you mean 'gpu'"),
        ({"regoin": "us"}, "did you mean 'region'"),
        ({"gpu": ""}, "leave gpu out for a sandbox without GPU"),
        ({"gpu": "H10"}, "did you mean 'H100'"),
        ({"gpu": "V100"}, r"Modal has no GPU 'V100' \(valid: T4, L4, A10, "),
        ({"gpu": "NVIDIA_TESLA_T4"}, "write 'T4'"),
        ({"gpu": "A100:two"}, "write A100:2, for example"),
        ({"gpu": "A100:0"}, "a sandbox with A100 has 1 to 8 GPUs; write A100:8 or less"),
        ({"gpu": "A10:8"}, "write A10:4 or less"),
        ({"gpu": "any:9"}, "Modal has 1 to 8 GPUs"),
        ({"gpu": []}, "one kind or more"),
        ({"gpu": ["T4", "t4"]}, "each once"),
        ({"gpu": ["any", "T4"]}, "'any' stands alone"),
        ({"cpu": 0.1}, "write at least 0.125"),
        ({"cpu": "4"}, "'4' is no number of cores"),
        ({"cpu": True}, "is no number of cores"),
        ({"cpu": (4, 2)}, r"the limit 2.0 is below the request 4.0; write \(request, limit\)"),
        ({"cpu": (1, 2, 3)}, "neither a number nor a pair"),
        ({"memory": 512.5}, "512.5 is no number of MiB; write a whole one"),
        ({"memory": 64}, "at least 128"),
        ({"memory": "16GB"}, "ResourceSettings"),
        ({"memory": (512, 256)}, "the limit 256 is below the request 512"),
        ({"timeout": 0}, "greater than or equal to 1"),
        ({"timeout": 86401}, "less than or equal to 86400"),
        ({"region": "us-est"}, "did you mean 'us-(east|west)'"),
        ({"region": "us_east"}, "did you mean 'us-east'"),
        ({"region": "us-esat-1"}, "'us-esat-1' is no region of Modal; did you mean 'us-(east|west)'"),
        ({"region": "Frankfurt"}, "is no region of Modal; write a part of the world"),
        ({"region": []}, "one region or more"),
        ({"cloud": "azure"}, "'aws', 'gcp', 'oci' or 'auto'"),
        ({"environment": "en-123"}, "is no environment"),
        ({"app_name": "my app"}, "is no name in Modal"),
        ({"app_name": "ap-0123456789abcdefghijkl"}, "and no id"),
        ({"volumes": {"data": "v"}}, "write '/data'"),
        ({"volumes": {"/data/": "v"}}, "write '/data'"),
        ({"volumes": {"/tmp": "v"}}, "Modal mounts nothing at '/tmp'"),
        ({"volumes": {"/stepop/x": "v"}}, "carries the step itself"),
        ({"volumes": {"/data": "airflow-stepop"}}, "carries the steps themselves"),
        ({"volumes": {"/a": "v", "/b": "v"}}, "mounts a Volume once, and 'v' is there twice"),
        ({"volumes": {"/a": "v"}, "cloud_bucket_mounts": {"/a": "b"}}, "both have /a"),
        ({"cloud_bucket_mounts": {"/a": {"bucket_name": "b", "key_prefix": "x"}}}, "key_prefix"),
        ({"cloud_bucket_mounts": {"/a": {"bucket_name": "b", "bucket": "x"}}},
         r"bucket: Extra inputs are not permitted \(fields: bucket_name, "),
        ({"cloud_bucket_mounts": {"a": "b"}}, "write '/a'"),
        ({"cloud_bucket_mounts": {"/a": {"bucket_name": "b", "requester_pays": True}}}, "needs secret"),
        ({"secrets": ["a b"]}, "is no name in Modal"),
        ({"block_network": True, "outbound_cidr_allowlist": []}, "leaves no network for outbound_cidr_allow"),
        ({"outbound_cidr_allowlist": ["10.0.0.1/8"]}, "has host bits set"),
        ({"outbound_cidr_allowlist": ["10.0.0.1"]}, "write it as a network: '10.0.0.1/32'"),
        ({"outbound_domain_allowlist": ["https://pypi.org/simple"]}, "without https:// and without a path"),
        ({"add_python": "3.12.1"}, "add_python"),
        ({"workdir": "work"}, "workdir"),
        ({"tags": {"team": "a b"}}, "is no tag"),
        ({"tags": {"stepop-nonce": "x"}}, "are reserved"),
        ({"python": "python3 -u"}, "pattern"),
    ],
)  # fmt: skip
def test_a_mistake_says_what_to_write(given: dict[str, Any], text: str) -> None:
    """Each is an error when the DAG file is parsed, and names a value that works."""
    with pytest.raises(StepConfigError, match=text):
        parsed(**given)


@pytest.mark.parametrize("name", NOT_SETTINGS)
def test_tempting_names_are_refused_with_the_reason(name: str) -> None:
    """Also in camel case, and where somebody makes the model directly."""
    camel = "".join(word.title() if index else word for index, word in enumerate(name.split("_")))
    for key in (name, camel):
        with pytest.raises(StepConfigError) as caught:
            parsed(**{key: 1})
        assert str(caught.value) == f"backend 'modal' has no setting {name!r}: {NOT_SETTINGS[name]}"
    with pytest.raises(ValueError, match=f"there is no setting '{name}': "):
        ModalSettings(**{name: 1})
    assert name not in ModalSettings.model_fields


def test_a_bucket_may_be_its_name() -> None:
    """The name, or its address in S3, stands for a public bucket."""
    mounts = parsed(cloud_bucket_mounts={"/a": "s3://open-data/", "/b": {"bucketName": "x"}} | {"/b": "x"})
    assert mounts.cloud_bucket_mounts["/a"] == BucketMount(bucket_name="open-data")
    assert mounts.cloud_bucket_mounts["/b"] == BucketMount(bucket_name="x")


def test_one_kind_in_a_list_is_this_kind() -> None:
    assert parsed(gpu=["a100:1"]).gpu == "A100"
    assert parsed(gpu=["h100!:2", "b200+"]).gpus == ("H100!:2", "B200+")
    assert parsed(gpu="ANY").gpus == ("any",)
    assert parsed(gpu="A10G").gpu == "A10"
    assert parsed().gpus == ()


def test_every_field_is_an_argument_of_the_sdk() -> None:
    """FIELDS is compared with the signature of the installed client, and what we refuse by name, too."""
    import modal

    known = set(inspect.signature(modal.Sandbox.create).parameters)
    assert set(FIELDS.values()) <= known
    carried = {"app", "args", "env", "image", "name"}
    new = {name for name in known if not name.startswith("_")} - set(FIELDS.values()) - carried
    # deprecated, for experts, or without a meaning for a step
    assert new - set(NOT_SETTINGS) == {
        "experimental_options",
        "include_oidc_identity_token",
        "pty_info",
        "runtime",
    }


def test_the_fields_of_a_bucket_are_those_of_the_sdk() -> None:
    import modal

    assert set(BucketMount.model_fields) == set(inspect.signature(modal.CloudBucketMount).parameters)


def test_describe_names_the_argument_of_each_setting() -> None:
    rows = {row["setting"]: row["description"] for row in describe_settings(ModalSettings)}
    assert set(FIELDS) | {"environment", "python"} == set(rows)
    for name, field in FIELDS.items():
        assert rows[name].endswith(f"[{field}]"), name
    assert all(rows.values())


def test_the_place_of_a_job_is_environment_and_app() -> None:
    assert ModalSettings.location_fields == ("environment", "app_name")


@pytest.mark.parametrize(
    ("given", "default_s", "expected_s"),
    [({}, 86400.0, 86400.0), ({}, 172800.0, 86400.0), ({}, 60.0, 60.0), ({"timeout": 600}, 86400.0, 600.0)],
)
def test_the_timeout_of_a_step_that_sets_none(
    given: dict[str, Any], default_s: float, expected_s: float
) -> None:
    """A default of Airflow that is longer than a sandbox may run is shortened."""
    assert parsed(**given).timeout_or(default_s) == expected_s


def test_the_settings_import_no_sdk() -> None:
    """A DAG file that uses them does not pay for the client."""
    script = (
        "import sys, airflow_stepop.hooks.modal as m\n"
        "from airflow_stepop.resources import ResourceSettings\n"
        "m.ModalSettings(gpu='any').check_with('python:3.12', ResourceSettings(gpu_count=1))\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not {name for name in loaded if name.partition(".")[0] in ("modal", "modal_proto", "grpclib")}
    assert "airflow.providers.modal" not in loaded
    assert "airflow_stepop.hooks.base" not in loaded
