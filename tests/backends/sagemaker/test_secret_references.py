"""Secrets that lie in AWS Secrets Manager: the job reads them with the rights of its role."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.failure import Category
from airflow_stepop.hooks.sagemaker.hook import SageMakerStepHook
from airflow_stepop.hooks.sagemaker.policies import JOB_ROLE, SECRETS, filled, policy
from airflow_stepop.job import JobHandle
from airflow_stepop.payload.outcome import read_outcome
from airflow_stepop.runner.aws_secrets import parse, statement
from airflow_stepop.testing import Step
from tests.support.sagemaker import SageMaker

ENDPOINT = "AWS_ENDPOINT_URL_SECRETS_MANAGER"
VALUE = "pa55w0rd-in-the-cloud"


class Secrets:
    """A secret in the account, and steps that read it."""

    def __init__(self, service: SageMaker, hook: SageMakerStepHook, make: Callable[..., Step]) -> None:
        self.service, self._hook, self._make = service, hook, make
        text = json.dumps({"user": "someone", "password": VALUE})
        self._client = service.client("secretsmanager")
        self.arn: str = self._client.create_secret(Name="team/hf", SecretString=text)["ARN"]

    def delete(self) -> None:
        self._client.delete_secret(SecretId=self.arn, ForceDeleteWithoutRecovery=True)

    def step(self, call: Any, reference: str, **options: Any) -> Step:
        return self._make(
            call,
            secret_references={"TOKEN": reference},
            env={ENDPOINT: self.service.url},
            **options,
        )

    def run(self, call: Any, reference: str, **options: Any) -> tuple[JobHandle, Any]:
        """Run a step to its end; return its handle and its outcome."""
        step = self.step(call, reference, **options)
        handle = self._hook.submit(step.spec, step.payload)
        self.service.wait_for(handle.name, "Completed", "Failed")
        return handle, read_outcome(self._hook.outcome(handle), step.spec.name, step.spec.nonce)

    def refused(self, reference: str) -> Any:
        """Run a step that does not start; return its failure."""
        handle, outcome = self.run(["echo", "started"], reference)
        assert "started" not in self.service.log(handle.name)
        return outcome["failure"]


@pytest.fixture
def secrets(
    service: SageMaker, hook: SageMakerStepHook, step: Callable[..., Step], containers: None
) -> Iterator[Secrets]:
    found = Secrets(service, hook, step)
    yield found
    found.delete()


def test_the_step_gets_a_key_of_a_secret_and_nothing_shows_it(
    secrets: Secrets, store: Any, service: SageMaker
) -> None:
    digest = hashlib.sha256(VALUE.encode()).hexdigest()
    script = f'echo "<$TOKEN>"; printf %s "$TOKEN" | sha256sum | grep -q {digest}'
    handle, outcome = secrets.run(["sh", "-c", script], f"{secrets.arn}:password::")
    assert "failure" not in outcome, outcome
    assert service.log(handle.name)[0] == "<***>"
    described = service.client("sagemaker").describe_training_job(TrainingJobName=handle.name)
    assert VALUE not in json.dumps(described, default=str)
    for name in store.list(""):
        assert VALUE.encode() not in bytes(store.read(name, store.size_of(name))), name


def test_the_documented_statement_lets_the_role_read_it(secrets: Secrets) -> None:
    names = {"REGION": "us-east-1", "ACCOUNT": "123456789012", "SECRET": "team/hf"}
    own = {"BUCKET": "steps", "PREFIX": "*"}
    given = {name: filled(one, {**names, **own}) for name, one in {**JOB_ROLE, **SECRETS}.items()}
    secrets.service.do("role", arn=secrets.service.role, policies=[policy(given)])
    _, outcome = secrets.run(["sh", "-c", 'test -n "$TOKEN"'], secrets.arn)
    assert "failure" not in outcome, outcome


def test_a_role_that_may_not_read_it(secrets: Secrets, capsys: pytest.CaptureFixture[str]) -> None:
    """A warning of the submit and the failure name the statement that is missing."""
    rest = {"Effect": "Allow", "NotAction": "secretsmanager:*", "Resource": "*"}
    secrets.service.do("role", arn=secrets.service.role, policies=[policy({"Rest": rest})])
    failure = secrets.refused(secrets.arn)
    (warning,) = warnings_of(capsys)
    role = secrets.service.role
    assert f"the policies of {role} do not let the job read a secret of its step" in warning
    assert f"give the role {statement(parse(secrets.arn))}" in warning
    assert failure["category"] == Category.DENIED
    session = "arn:aws:sts::123456789012:assumed-role/stepop-job/SageMaker"
    action = f"is not authorized to perform: secretsmanager:GetSecretValue on resource: {secrets.arn}"
    assert f"the secret 'TOKEN' cannot be read: User: {session} {action}" in failure["summary"]
    assert f"give the role of the job {statement(parse(secrets.arn))}" in failure["hint"]


@pytest.mark.parametrize("may_ask", [True, False])
def test_no_warning_without_a_denial(
    secrets: Secrets, capsys: pytest.CaptureFixture[str], may_ask: bool
) -> None:
    """An account may keep its policies from Airflow. A submit does not depend on the answer."""
    action = "none:none" if may_ask else "iam:SimulatePrincipalPolicy"
    policies = [policy({"Rest": {"Effect": "Allow", "NotAction": action, "Resource": "*"}})]
    secrets.service.do("default_identity", arn="arn:aws:iam::123456789012:user/u", policies=policies)
    _, outcome = secrets.run(["true"], secrets.arn)
    assert "failure" not in outcome, outcome
    assert warnings_of(capsys) == []


def warnings_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if "[warning" in line]


def test_a_secret_that_is_not_there(secrets: Secrets) -> None:
    gone = f"{secrets.arn[:-6]}ZZZZZZ"
    failure = secrets.refused(gone.replace("team/hf", "team/no"))
    assert failure["category"] == Category.BAD_CONFIG
    assert (
        "does not exist in us-east-1: Secrets Manager can't find the specified secret." in failure["summary"]
    )


def test_a_step_without_network_is_refused_before_anything_is_written(
    secrets: Secrets, hook: SageMakerStepHook, store: Any
) -> None:
    step = secrets.step(["true"], secrets.arn, settings={"enable_network_isolation": True})
    with pytest.raises(StepConfigError, match="no network, but the step reads secrets from AWS"):
        hook.submit(step.spec, step.payload)
    assert list(store.list("")) == []
