"""``airflow stepop check`` for SageMaker: each finding, its text, and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airflow_stepop.hooks.sagemaker.hook import SageMakerStepHook
from airflow_stepop.hooks.sagemaker.policies import CALLER, CHECKS, JOB_ROLE, TRUST, policy
from airflow_stepop.hooks.sagemaker.settings import SageMakerSettings
from airflow_stepop.job import Finding
from airflow_stepop.stores.configured import open_store
from tests.support.s3 import S3Server
from tests.support.s3_gate import S3Gate
from tests.support.sagemaker import SageMaker

USER = "arn:aws:iam::123456789012:user/airflow"
ROLE = "arn:aws:iam::123456789012:role/stepop-job"
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/steps:1"
CONN_ID = "stepop_checks"
Found = dict[str, list[Finding]]


class Checked:
    """A connection to the emulator, and the findings for it."""

    def __init__(self, service: SageMaker, gate: S3Gate, address: str, monkeypatch: pytest.MonkeyPatch):
        self.service, self.gate, self.address = service, gate, address
        self.bucket, _, self.prefix = address.partition("@")[2].partition("/")
        self._setenv = monkeypatch.setenv
        self.connect()

    def connect(self, image: str = IMAGE, **extra: Any) -> None:
        stepop = {"image": image, "settings": {"role": ROLE}}
        value = json.loads(self.service.connection(stepop=stepop, **extra))
        value["extra"]["service_config"]["s3"]["endpoint_url"] = self.gate.url
        self._setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", json.dumps(value))

    def may(self, *statements: dict[str, Any]) -> None:
        """Allow the caller these statements only; in S3 everything stays allowed."""
        given = policy({f"S{index}": one for index, one in enumerate(statements)})
        self.service.do("key", key=self.service.s3.key, arn=USER, policies=[given])

    def findings(self, **settings: Any) -> Found:
        given = SageMakerSettings(**{"role": ROLE, **settings})
        found: Found = {}
        for one in SageMakerStepHook(CONN_ID).check_for(given):
            found.setdefault(one.subject, []).append(one)
        return found


@pytest.fixture
def checked(service: SageMaker, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Checked]:
    gate = S3Gate(s3_server.endpoint, USER)
    address = s3_server.new_address().replace(f"{s3_server.conn_id}@", f"{CONN_ID}@")
    monkeypatch.setenv("AIRFLOW__STEPOP__STORE", address)
    service.do("key", key=s3_server.key, arn=USER, policies=[policy({"All": everything()})])
    yield Checked(service, gate, address, monkeypatch)
    gate.close()


def everything() -> dict[str, Any]:
    return {"Effect": "Allow", "Action": "*", "Resource": "*"}


def here(*names: str, **more: str) -> list[dict[str, Any]]:
    """Return statements of the documented policies with the names of the emulator's account."""
    known = {"ACCOUNT": "123456789012", "REGION": "us-east-1", "ROLE": "stepop-job", **more}
    found = []
    for name in names:
        text = json.dumps({**CALLER, **CHECKS}[name])
        for word, value in known.items():
            text = text.replace(word, value)
        found.append(json.loads(text))
    return found


def shown(*names: str, **more: str) -> str:
    return "give the caller " + " and ".join(json.dumps(one) for one in here(*names, **more))


def test_everything_works(checked: Checked) -> None:
    found = checked.findings(instance_type="ml.m5.large")
    store = f"s3://{checked.bucket}/{checked.prefix}"
    assert [finding for some in found.values() for finding in some] == [
        Finding(True, "identity", f"{USER} in us-east-1"),
        Finding(True, "training jobs", "Airflow may list and describe them"),
        Finding(True, "role", f"{ROLE} exists and trusts SageMaker"),
        Finding(True, "role", f"Airflow may pass {ROLE} to SageMaker"),
        Finding(True, "store", f"{store} is in us-east-1, where the jobs run"),
        Finding(True, "store", f"{store} can be written, listed, read and deleted from"),
        Finding(True, "image", f"{IMAGE} exists"),
        Finding(True, "logs", "Airflow may read the names of the logs"),
        Finding(True, "logs", "Airflow may read the lines of the logs"),
        Finding(True, "quota", "ml.m5.large for training job usage: 1000"),
    ]
    assert list(open_store(checked.address).list("")) == []


def test_wrong_keys_end_the_check(checked: Checked) -> None:
    checked.service.do("expire", key=checked.service.s3.key)
    assert checked.findings() == {
        "identity": [
            Finding(
                False,
                "identity",
                "The security token included in the request is expired",
                "correct the keys or the role of the connection",
            )
        ]
    }


def test_the_documented_policies_pass(checked: Checked) -> None:
    names = {"BUCKET": checked.bucket, "PREFIX": checked.prefix}
    checked.may(*here(*CALLER, **names))
    found = checked.findings(instance_type="ml.m5.large")
    assert all(finding.is_ok for some in found.values() for finding in some)
    assert [finding.message for finding in found["role"]] == [
        f"{ROLE}: not looked at, since the caller must not call iam:GetRole",
        f"{ROLE}: whether Airflow may pass it is not known, since it must not call "
        "iam:SimulatePrincipalPolicy",
    ]
    assert found["image"][0].message.endswith("since the caller must not call ecr:DescribeImages")
    assert found["quota"][0].message == "ml.m5.large for training job usage: not known"
    checked.may(*here(*CALLER, *CHECKS, **names))
    found = checked.findings(instance_type="ml.m5.large")
    assert not [
        f for some in found.values() for f in some if "not known" in f.message or "must not" in f.message
    ]


@pytest.mark.parametrize(
    ("subject", "action", "names"),
    [
        ("training jobs", "sagemaker:ListTrainingJobs", ["RunJobs", "ListJobs"]),
        ("training jobs", "sagemaker:DescribeTrainingJob", ["RunJobs", "ListJobs"]),
        ("logs", "logs:DescribeLogStreams", ["ReadLogs"]),
        ("logs", "logs:FilterLogEvents", ["ReadLogs"]),
    ],
)
def test_a_missing_permission_is_shown_with_its_statement(
    checked: Checked, subject: str, action: str, names: list[str]
) -> None:
    checked.may({"Effect": "Allow", "NotAction": action, "Resource": "*"})
    (found,) = checked.findings()[subject]
    assert not found.is_ok
    assert found.message.startswith(f"User: {USER} is not authorized to perform: {action} on resource: ")
    assert found.fix == shown(*names)


@pytest.mark.parametrize("action", ["s3:PutObject", "s3:GetObject", "s3:ListBucket", "s3:DeleteObject"])
def test_a_store_that_cannot_be_used(checked: Checked, action: str) -> None:
    checked.gate.policies = [policy({"Rest": {"Effect": "Allow", "NotAction": action, "Resource": "*"}})]
    found = checked.findings()["store"][-1]
    assert not found.is_ok
    assert action in found.message
    assert found.fix == shown("StoreObjects", "StoreList", BUCKET=checked.bucket, PREFIX=checked.prefix)


def test_no_role(checked: Checked) -> None:
    (found,) = checked.findings(role=None)["role"]
    assert (found.is_ok, found.fix) == (False, "name the role of the jobs")
    assert found.message.startswith("a training job needs a role, with which it reads its input")


def test_a_role_that_is_not_there(checked: Checked) -> None:
    gone = f"{ROLE}-x"
    found = checked.findings(role=gone)["role"]
    assert found[0] == Finding(
        False, "role", f"there is no role {gone}", "create the role, or correct its name"
    )


def test_a_role_that_does_not_trust_sagemaker(checked: Checked) -> None:
    checked.service.do("role", arn=ROLE, trusts=["ec2.amazonaws.com"])
    assert checked.findings()["role"][0] == Finding(
        False,
        "role",
        f"{ROLE} does not trust SageMaker, so no job can use it",
        f"add to the role's trust policy {json.dumps(TRUST)}",
    )


def test_a_role_that_cannot_be_passed(checked: Checked) -> None:
    checked.may({"Effect": "Allow", "NotAction": "iam:PassRole", "Resource": "*"})
    statement = {**CALLER["PassRole"], "Resource": ROLE}
    assert checked.findings()["role"][1] == Finding(
        False, "role", f"Airflow must not pass {ROLE}", f"give the caller {json.dumps(statement)}"
    )


def test_a_bucket_of_another_region(checked: Checked) -> None:
    store = f"s3://{checked.bucket}/{checked.prefix}"
    assert checked.findings(region_name="eu-west-1")["store"][0] == Finding(
        False,
        "store",
        f"{store} is in us-east-1, and the jobs run in eu-west-1: SageMaker reads buckets of its own region "
        "only",
        "name a bucket in eu-west-1, or set region_name to us-east-1",
    )


def test_no_bucket(checked: Checked, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("AIRFLOW__STEPOP__STORE", f"file://{tmp_path}")
    assert checked.findings()["store"] == [
        Finding(
            False,
            "store",
            "steps on SageMaker need a store in S3",
            "set [stepop] store to s3://bucket/prefix",
        )
    ]


def test_an_image_that_is_missing(checked: Checked) -> None:
    checked.service.do("repository", name=IMAGE.partition(":")[0], tags=["2"])
    (found,) = checked.findings()["image"]
    assert not found.is_ok
    assert found.message.startswith(f"{IMAGE}: The image with imageId ")
    assert found.fix == f"push the image; the role of the jobs needs {json.dumps(JOB_ROLE['ReadImage'])}"


def test_an_image_of_docker_hub(checked: Checked) -> None:
    checked.connect(image="python:3.12-slim")
    (found,) = checked.findings()["image"]
    assert (found.is_ok, found.fix) == (False, "write another image=, or push this one to ECR")
    assert "is a name of Docker Hub, and SageMaker pulls from Amazon ECR" in found.message


@pytest.mark.parametrize(
    ("image", "text"),
    [
        ("", "each task names its own"),
        ("pytorch:2.5", "belongs to another account or region, and is not looked at"),
    ],
)
def test_an_image_that_is_not_looked_at(checked: Checked, image: str, text: str) -> None:
    checked.connect(image=image or None)  # type: ignore[arg-type]
    (found,) = checked.findings()["image"]
    assert found.is_ok
    assert found.message.endswith(text)


@pytest.mark.parametrize(
    ("is_spot", "name"),
    [(False, "ml.m5.large for training job usage"), (True, "ml.m5.large for spot training job usage")],
)
def test_a_quota_of_zero(checked: Checked, is_spot: bool, name: str) -> None:
    checked.service.do("settings", quotas={name: 0})
    assert checked.findings(instance_type="ml.m5.large", use_spot_instances=is_spot)["quota"] == [
        Finding(False, "quota", f"{name}: 0, so every job is refused", f"ask for {name} in Service Quotas")
    ]


def test_no_machine_is_named(checked: Checked) -> None:
    (found,) = checked.findings()["quota"]
    assert found == Finding(True, "quota", "not looked at: no instance_type is named; try check --settings")


# -- the command


@pytest.fixture
def command(checked: Checked, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, list[Any]]]:
    """Run ``airflow stepop check`` on the connection; return its exit code and its rows."""
    from airflow.cli.cli_parser import get_parser

    def run(*arguments: str) -> tuple[int, list[Any]]:
        capsys.readouterr()
        parsed = get_parser().parse_args(["stepop", "check", CONN_ID, *arguments, "-o", "json"])
        try:
            parsed.func(parsed)
            code = 0
        except SystemExit as error:
            code = int(error.code or 0)
        return code, json.loads(capsys.readouterr().out)

    return run


def test_the_command(checked: Checked, command: Callable[..., tuple[int, list[Any]]]) -> None:
    code, rows = command()
    assert code == 0, json.dumps([row for row in rows if not row["ok"]])
    assert {row["where"] for row in rows} == {f"sagemaker ({CONN_ID})"}
    subjects = [row["what"] for row in rows]
    assert subjects[:3] == ["identity", "training jobs", "role"]
    checked.service.do("settings", quotas={"ml.g5.xlarge": 0})
    code, rows = command("--settings", '{"instance_type": "ml.g5.xlarge"}')
    assert code == 1
    (broken,) = [row for row in rows if not row["ok"]]
    assert broken["found"] == "ml.g5.xlarge for training job usage: 0, so every job is refused"
    assert broken["what_to_do"] == "ask for ml.g5.xlarge for training job usage in Service Quotas"


def test_a_connection_without_an_image_is_right(
    checked: Checked, command: Callable[..., tuple[int, list[Any]]]
) -> None:
    """A task names its own image."""
    checked.connect(image=None)  # type: ignore[arg-type]
    code, rows = command()
    assert code == 0, json.dumps([row for row in rows if not row["ok"]])
    assert rows[-1]["found"] == "steps with this connection get settings.role from it"


def test_the_command_refuses_wrong_settings(command: Callable[..., tuple[int, list[Any]]]) -> None:
    code, rows = command("--settings", '{"instance_typ": "ml.g5.xlarge"}')
    assert code == 1
    assert "instance_type" in rows[0]["found"]


@pytest.mark.usefixtures("containers")
def test_the_command_runs_a_step(
    checked: Checked, command: Callable[..., tuple[int, list[Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__STEPOP__DEPLOYMENT", "tests")
    code, rows = command("--run")
    assert code == 0, json.dumps([row for row in rows if not row["ok"]])
    assert "a step ran, with Python 3." in {row["what"]: row["found"] for row in rows}["run"]
    assert list(open_store(checked.address).list("jobs")) == []
