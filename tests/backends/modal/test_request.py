"""The request of a step: golden files, the limits of the service, and no secret in it.

After a wanted change of the request, set ``STEPOP_GOLDEN=write``, run this file, and look at what changed.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from airflow_stepop.exceptions import StepConfigError, UnsupportedError
from airflow_stepop.hooks.modal import ModalSettings
from airflow_stepop.hooks.modal.request import Submitted, sandbox_request
from airflow_stepop.hooks.modal.tags import labels_of, selector, to_tags
from airflow_stepop.resources import ResourceSettings
from airflow_stepop.runner.main import _options
from tests.support.modal_steps import CASES, LABELS, a_spec

GOLDEN = Path(__file__).parent / "golden"


def rendered(submitted: Submitted | None = None, **options: Any) -> dict[str, Any]:
    settings = ModalSettings(**options.pop("settings", {}))
    spec = a_spec(**options)
    return sandbox_request(spec, settings, submitted or Submitted(spec.digest))


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly this request, whichever Python writes it."""
    found = rendered(**CASES[name])
    if found["image"]["constructor"] == "debian_slim":
        found["image"]["python_version"] = "3.12"
    path = GOLDEN / f"{name}.json"
    if os.environ.get("STEPOP_GOLDEN") == "write":
        path.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
    assert json.loads(json.dumps(found)) == found == json.loads(path.read_text())


def test_the_runner_understands_the_command() -> None:
    """The bootstrap checks step.pyz; large values go into the Volume, whatever the store is."""
    args = rendered(result_uri="s3://bucket/results/x")["args"]
    options = _options(args[6:])
    assert args[:3] == ["python3", "-u", "-c"]
    assert (options["in"], options["out"], options["segments"]) == (
        "/stepop/in/<digest of the input>",
        "/stepop/out",
        "/stepop/out",
    )
    assert (options["started"], options["job-id"]) == ("/stepop", "env:MODAL_TASK_ID")
    assert "seal" not in options


def test_what_only_a_submit_knows() -> None:
    """The key of the sealed files is a word of the command; the values of secrets are nowhere."""
    known = Submitted("1" * 64, "2" * 64, "dev", seal="3" * 64, secret_names=["B", "A"], secret_bytes=100)
    request = rendered(known)
    assert request["environment"] == "dev"
    assert request["own_secret"] == ["A", "B"]
    assert _options(request["args"][6:])["seal"] == "3" * 64
    assert request["args"][5] == "2" * 64
    assert rendered(known, settings={"environment": "prod"})["environment"] == "prod"
    assert rendered()["environment"] is None


def test_kinds_of_gpus_are_tried_in_order() -> None:
    """The worker asks for the next alternative; after the last one it stays with the last."""
    settings = ModalSettings(gpu=["H100", "A100-80GB:2"])
    assert settings.alternatives == ("H100", "A100-80GB:2")
    tried = [
        sandbox_request(a_spec(), settings.at_alternative(index), Submitted("1" * 64))["gpu"]
        for index in (0, 1, 2)
    ]
    assert tried == ["H100", "A100-80GB:2", "A100-80GB:2"]
    for other in (ModalSettings(gpu="H100"), ModalSettings()):
        assert (other.alternatives, other.at_alternative(1)) == ((), other)


@pytest.mark.parametrize(
    ("timeout_s", "settings", "step_s", "sandbox_s"),
    [
        (60.0, {}, "60", 180),
        (90.5, {}, "90.5", 211),
        (3600.0, {"timeout": 3600}, "3600", 3720),
        (86280.0, {}, "86280", 86400),
        (86400.0, {}, "86280", 86400),
    ],
)
def test_the_sandbox_outlives_the_step(
    timeout_s: float, settings: dict[str, Any], step_s: str, sandbox_s: int
) -> None:
    """By 120 seconds, in which the outcome returns; of 24 hours, the last two minutes belong to it."""
    request = rendered(timeout_s=timeout_s, settings=settings)
    assert request["timeout"] == sandbox_s
    options = _options(request["args"][6:])
    assert options["timeout"] == step_s
    assert float(step_s) + float(options["grace"]) < sandbox_s


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"timeout_s": 86401.0}, "at most 24 hours; write timeout=86400 or less"),
        ({"timeout_s": 60.0, "settings": {"timeout": 61}}, "settings.timeout=61 contradicts timeout=60"),
        ({"env": {"MODAL_REGION": "x"}}, "Modal sets MODAL_REGION itself"),
        ({"env": {"A-B": "x"}}, "'A-B' is no name"),
        ({"env": {"A": "x" * 65536}}, "a sandbox of Modal takes 65536"),
        ({"resources": ResourceSettings(shm="1GiB")}, "leave shm out"),
        ({"image": "Python"}, "is no name of a container image"),
        ({"settings": {"add_python": "3.12"}}, "without image= the step runs in Modal's own image"),
        ({"settings": {"gpu": "A100"}, "resources": ResourceSettings(gpu_count=2)}, "write gpu='A100:2'"),
    ],
)
def test_what_a_sandbox_cannot_have(options: dict[str, Any], text: str) -> None:
    with pytest.raises(StepConfigError, match=text):
        rendered(**options)


def test_sizes_that_modal_bounds() -> None:
    own = sum(len(name) + len(value) for name, value in rendered()["env"].items())
    full = {"A": "x" * (65536 - own - 1)}
    assert rendered(env=full)["env"]["A"] == full["A"]
    with pytest.raises(UnsupportedError, match="have 65537 bytes together"):
        rendered(Submitted("1" * 64, secret_names=["B"], secret_bytes=1), env=full)
    long = f"/{'p' * 65_536}"
    with pytest.raises(UnsupportedError, match=r"command line has \d+ bytes"):
        sandbox_request(a_spec(digest=long), ModalSettings(), Submitted(long))


def test_each_volume_is_mounted_once_below_the_jobs_own_folder() -> None:
    """Checkpoints of all tries with the same arguments share a folder, whatever the store is."""
    volumes = rendered(**CASES["everything"])["volumes"]
    assert [one["volume"] for one in volumes.values()] == [
        "airflow-stepop",
        "airflow-stepop-checkpoints",
        "my-data",
    ]
    assert volumes["/stepop"]["sub_path"].rpartition("/")[0].endswith("/s-train-fit-0123456789ab")
    other = rendered(
        name="s-train-fit-ba9876543210", checkpoint_uri="file:///srv/checkpoints/team-a/train/1/fit/-1/abc123"
    )
    assert other["volumes"]["/stepop-checkpoints"] == volumes["/stepop-checkpoints"]
    assert other["volumes"]["/stepop"] != volumes["/stepop"]
    assert "/stepop-checkpoints" not in rendered()["volumes"]


@pytest.mark.parametrize(
    "labels",
    [
        LABELS,
        {"nonce": "n", "deployment": "", "map_index": "7"},
        {
            **LABELS,
            "dag_id": "d\n\t\x00\N{NO-BREAK SPACE}'\"<é\N{PILE OF POO}" * 20,
            "run_id": "x" * 900,
        },
    ],
)
def test_labels_are_found_whole_in_the_tags(labels: dict[str, str]) -> None:
    """Labels of any text; every tag keeps to Modal's rules, and the tags to select by are among them."""
    tags = to_tags(labels)
    for key, value in tags.items():
        assert re.fullmatch("[a-zA-Z0-9._-]{1,63}", key)
        assert re.fullmatch("[a-zA-Z0-9._-]{1,63}", value)
    assert labels_of({**tags, "team": "ml"}) == labels
    assert selector(labels).items() <= tags.items()
    assert selector({"nonce": labels["nonce"]}).items() <= tags.items()


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"team": "ml"},
        {"stepop-dag-id": "train"},
        {"stepop-nonce": "x", "stepop.text-0": "!"},
        {"stepop-nonce": "x", "stepop.text-0": "W10"},
        {"stepop-nonce": "x", "stepop.text-0": "eyJhIjoxfQ"},
        {"stepop-nonce": "x", "stepop.text-0": "gA"},
    ],
)
def test_tags_that_others_have_written(tags: dict[str, str]) -> None:
    assert labels_of(tags) is None
