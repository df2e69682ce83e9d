"""The two documented policies are enough, and each of their statements is needed.

The emulator evaluates what the caller and the role may do, and :class:`S3Gate` what the caller may do in S3.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from airflow_stepop.exceptions import OutcomeNotReadyError, StepConfigError, StoreError
from airflow_stepop.failure import Category
from airflow_stepop.hooks.sagemaker import policies
from airflow_stepop.hooks.sagemaker.hook import SageMakerStepHook
from airflow_stepop.hooks.sagemaker.policies import CALLER, JOB_ROLE, policy
from airflow_stepop.job import JobHandle, JobState
from airflow_stepop.payload.outcome import read_outcome
from airflow_stepop.payload.standalone import Step, make_step
from airflow_stepop.stores.bucket import BucketStore
from airflow_stepop.stores.configured import open_store
from tests.support.s3 import S3Server
from tests.support.s3_gate import S3Gate
from tests.support.sagemaker import SageMaker
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("containers")

USER = "arn:aws:iam::123456789012:user/airflow"
CONN = "AIRFLOW_CONN_STEPOP_LEAST"


class Account:
    """An account whose caller and role have the documented policies, as far as nothing is removed.

    A new hook, with new clients, asks for each operation, as the processes of Airflow do.
    """

    def __init__(self, service: SageMaker, gate: S3Gate, store: str) -> None:
        self.service, self.gate, self.store = service, gate, store
        _, _, address = store.partition("@")
        bucket, _, prefix = address.partition("/")
        self.names = {
            policies.BUCKET: bucket,
            policies.PREFIX: prefix,
            policies.ROLE: service.role.rpartition("/")[2],
            policies.ACCOUNT: "123456789012",
            policies.REGION: "us-east-1",
        }
        self.give()

    def give(self, without: str = "", role_without: str = "") -> None:
        """Give the policies, without one statement (its name) or one action."""
        caller, role = self.filled(CALLER, without), self.filled(JOB_ROLE, role_without)
        self.service.do("key", key=self.service.s3.key, arn=USER, policies=[caller])
        self.service.do("role", arn=self.service.role, policies=[role])
        self.gate.policies = [caller]

    def filled(self, statements: dict[str, Any], without: str) -> Any:
        kept = {name: dict(one) for name, one in statements.items() if name != without}
        for one in kept.values():
            actions = one["Action"]
            if isinstance(actions, list):
                one["Action"] = [action for action in actions if action != without]
        text = json.dumps(policy(kept))
        for placeholder, value in self.names.items():
            text = text.replace(placeholder, value)
        return json.loads(text)

    @property
    def hook(self) -> SageMakerStepHook:
        return SageMakerStepHook("stepop_least")

    def step(self, call: Any = ("echo", "hello"), **options: Any) -> Step:
        return make_step(
            call,
            result_uri=open_store(self.store).uri("results"),
            image=self.service.image,
            settings={"role": self.service.role},
            **options,
        )

    def ended(self, handle: JobHandle) -> JobState:
        self.service.wait_for(handle.name, "Completed", "Failed", "Stopped")
        return self.hook.fresh_status(handle).state

    def ran(self, step: Step) -> JobHandle:
        handle = self.hook.submit(step.spec, step.payload)
        assert self.ended(handle) is JobState.SUCCEEDED
        return handle

    def lines(self, handle: JobHandle) -> list[str]:
        return [line.text for chunk in self.hook.chunks(handle, None) for line in chunk.lines]


@pytest.fixture
def account(service: SageMaker, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    gate = S3Gate(s3_server.endpoint, USER)
    value = json.loads(service.connection())
    value["extra"]["service_config"]["s3"]["endpoint_url"] = gate.url
    monkeypatch.setenv(CONN, json.dumps(value))
    address = s3_server.new_address().replace(f"{s3_server.conn_id}@", "stepop_least@")
    monkeypatch.setenv("AIRFLOW__STEPOP__STORE", address)
    found = Account(service, gate, address)
    yield found
    gate.policies = [found.filled(CALLER, "")]
    open_store(address).delete_folder("")
    gate.close()


def test_the_two_policies_are_enough(account: Account, capsys: pytest.CaptureFixture[str]) -> None:
    step, long = account.step(), account.step(("sh", "-c", "echo running; sleep 600"))
    handle = account.ran(step)
    assert account.hook.lookup(step.spec) == handle
    assert account.lines(handle) == ["hello"]
    assert [line.text for line in account.hook.tail(handle, 5).lines] == ["hello"]
    report = account.hook.outcome(handle)
    assert report.digest is not None
    assert "failure" not in read_outcome(report, step.spec.name, step.spec.nonce)
    other = account.hook.submit(long.spec, long.payload)
    account.service.wait_for(other.name, "Training")
    nonces = {step.spec.nonce, long.spec.nonce}
    assert {job.labels["nonce"] for job in account.hook.find({"dag_id": "dag"})} == nonces
    assert set(account.hook.status([handle, other])) == {handle, other}
    account.hook.cancel(other)
    assert account.ended(other) is JobState.CANCELLED
    for one in (handle, other):
        account.hook.delete(one)
        assert account.hook.fresh_status(one).state is JobState.GONE
    assert account.hook.lookup(step.spec) is None
    assert list(account.hook.find({"nonce": step.spec.nonce})) == []
    assert warnings_of(capsys) == ""


def test_large_values_and_checkpoints_need_no_more(
    account: Account, capsys: pytest.CaptureFixture[str]
) -> None:
    step = account.step(lambda: "x" * 200_000, checkpoint_uri=open_store(account.store).uri("checkpoint"))
    handle = account.ran(step)
    found = read_outcome(account.hook.outcome(handle), step.spec.name, step.spec.nonce)
    assert "failure" not in found
    assert warnings_of(capsys) == ""


def test_s3_needs_the_actions_of_the_policy_and_no_others(account: Account) -> None:
    handle = account.ran(account.step())
    account.hook.outcome(handle)
    account.hook.delete(handle)
    named = {
        action
        for statement in CALLER.values()
        for action in (
            statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        )
        if action.startswith("s3:")
    }
    # A multipart upload is aborted only after an error
    assert account.gate.asked == named - {"s3:AbortMultipartUpload"}


def test_a_condition_on_the_prefix_would_hide_that_an_object_is_missing(account: Account) -> None:
    """A read has no prefix, so S3 says that access is denied, and not that there is no object."""
    store = cast(BucketStore, open_store(account.store))
    assert store.find_size("nothing") is None
    prefix = account.names[policies.PREFIX]
    condition = {"StringLike": {"s3:prefix": [f"{prefix}/*"]}}
    stricter = {**CALLER, "StoreList": {**CALLER["StoreList"], "Condition": condition}}
    account.gate.policies = [account.filled(stricter, "")]
    list(store.list("jobs"))
    with pytest.raises(StoreError):
        store.find_size("nothing")


Operation = Callable[[Account, Step, JobHandle], object]
REFUSED: dict[str, tuple[type[Exception], Operation]] = {
    "sagemaker:CreateTrainingJob": (StepConfigError, lambda a, s, h: a.hook.submit(*parts(a.step()))),
    "iam:PassRole": (StepConfigError, lambda a, s, h: a.hook.submit(*parts(a.step()))),
    "s3:PutObject": (StoreError, lambda a, s, h: a.hook.submit(*parts(a.step()))),
    "sagemaker:DescribeTrainingJob": (Exception, lambda a, s, h: a.hook.fresh_status(h)),
    "sagemaker:ListTrainingJobs": (Exception, lambda a, s, h: list(a.hook.find({"dag_id": "dag"}))),
    "sagemaker:StopTrainingJob": (Exception, lambda a, s, h: a.hook.cancel(h)),
    "sagemaker:AddTags": (StepConfigError, lambda a, s, h: a.hook.delete(h)),
    "logs:DescribeLogStreams": (Exception, lambda a, s, h: a.lines(h)),
    "logs:FilterLogEvents": (Exception, lambda a, s, h: a.lines(h)),
    "s3:GetObject": (StoreError, lambda a, s, h: a.hook.outcome(h)),
    "s3:ListBucket": (StoreError, lambda a, s, h: a.hook.outcome(h)),
    "s3:DeleteObject": (StoreError, lambda a, s, h: a.hook.delete(h)),
}
SAID = {"s3:GetObject": "the connection stepop_least may read and write it"}
ALONE = {"iam:PassRole": "PassRole", "sagemaker:ListTrainingJobs": "ListJobs", "s3:ListBucket": "StoreList"}


def parts(step: Step) -> tuple[Any, Any]:
    return step.spec, step.payload


@pytest.fixture
def done(account: Account) -> tuple[Account, Step, JobHandle]:
    step = account.step()
    return account, step, account.ran(step)


@pytest.mark.parametrize("action", REFUSED)
def test_without_a_permission_of_the_caller_its_operation_names_it(
    done: tuple[Account, Step, JobHandle], action: str
) -> None:
    account, step, handle = done
    error, operation = REFUSED[action]
    account.give(without=ALONE.get(action, action))
    with pytest.raises(error) as caught:
        operation(account, step, handle)
    # The answer to a HEAD request has no text, so that obstore cannot say more
    assert SAID.get(action, action) in str(caught.value)
    assert not account.hook.is_transient(caught.value)
    account.give()
    operation(account, step, handle)


def test_each_permission_of_the_caller_has_a_test() -> None:
    listed = {action for one in CALLER.values() for action in actions_of(one)}
    assert listed == {*REFUSED, "sagemaker:ListTags", "s3:AbortMultipartUpload"}


def actions_of(statement: dict[str, Any]) -> list[str]:
    found = statement["Action"]
    return found if isinstance(found, list) else [found]


# -- what a step can do without


def warnings_of(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the warnings that the hooks have logged: Airflow's loggers write to the standard output."""
    return "\n".join(line for line in capsys.readouterr().out.splitlines() if "[warning" in line)


def test_without_add_tags_a_job_has_no_tags(account: Account, capsys: pytest.CaptureFixture[str]) -> None:
    account.give(without="sagemaker:AddTags")
    handle = account.ran(account.step())
    warning = warnings_of(capsys)
    assert "The job has no tags" in warning
    assert "sagemaker:AddTags" in warning
    client = account.service.client("sagemaker")
    arn = client.describe_training_job(TrainingJobName=handle.name)["TrainingJobArn"]
    assert client.list_tags(ResourceArn=arn)["Tags"] == []


def test_without_list_tags_a_deleted_job_is_still_found(account: Account) -> None:
    account.give(without="sagemaker:ListTags")
    step = account.step()
    handle = account.ran(step)
    account.hook.delete(handle)
    assert account.hook.lookup(step.spec) == handle
    assert [job.handle for job in account.hook.find({"nonce": step.spec.nonce})] == [handle]


@pytest.mark.parametrize("action", ["ReadLogs", "logs:DescribeLogStreams", "logs:FilterLogEvents"])
def test_without_the_logs_a_step_runs_and_only_data_comes_back(
    account: Account, capsys: pytest.CaptureFixture[str], action: str
) -> None:
    """The receipt of a success is a line of the log. Without it nobody vouches for a pickle."""
    account.give(without=action)
    step = account.step(lambda: {"loss": 0.5})
    handle = account.ran(step)
    named = action if action.startswith("logs:") else "logs:DescribeLogStreams and logs:FilterLogEvents"
    warning = warnings_of(capsys)
    assert f"Airflow must not read the logs of the jobs ({named})" in warning
    names = {policies.ACCOUNT: "123456789012", policies.REGION: "us-east-1"}
    assert json.dumps(policies.filled(CALLER["ReadLogs"], names)) in warning
    report = account.hook.outcome(handle)
    assert report.digest is None
    assert "plain" in read_outcome(report, step.spec.name, step.spec.nonce)["result"]["value"]


def test_an_expired_token_is_no_missing_permission(done: tuple[Account, Step, JobHandle]) -> None:
    """A result is not read without its digest while the token is being renewed."""
    account, _, handle = done
    fault = {"kind": "expired", "operation": "FilterLogEvents"}
    account.service.do("fault", **fault)
    with pytest.raises(Exception, match="expired"):
        account.hook.outcome(handle)
    account.service.do("clear_faults")
    assert account.hook.outcome(handle).digest is not None


# -- the role


def submitted(account: Account) -> str:
    """Return what a submit answers that fails."""
    with pytest.raises(StepConfigError) as caught:
        account.hook.submit(*parts(account.step()))
    return str(caught.value)


@pytest.mark.parametrize(
    ("without", "texts"),
    [
        ("s3:PutObject", ["Access denied to OutputDataConfig S3 bucket", "s3:PutObject"]),
        ("StoreList", ["Unauthorized to List objects", "s3:ListBucket"]),
        ("ecr:BatchGetImage", ["Cannot find repository", "ecr:BatchGetImage"]),
        ("ReadImage", ["Cannot find repository", "ecr:BatchGetImage"]),
    ],
)
def test_without_a_permission_of_the_role_a_submit_says_what_to_do(
    account: Account, without: str, texts: list[str]
) -> None:
    account.give(role_without=without)
    found = submitted(account)
    assert all(text in found for text in texts), found


def test_a_role_that_may_not_read_the_input(account: Account) -> None:
    account.give(role_without="s3:GetObject")
    handle = account.hook.submit(*parts(account.step()))
    assert account.ended(handle) is JobState.FAILED
    failure = account.hook.fresh_status(handle).failure
    assert failure is not None
    assert failure.category is Category.DENIED
    assert "s3:GetObject" in failure.hint


def test_a_role_that_does_not_trust_sagemaker(account: Account) -> None:
    account.service.do("role", arn=account.service.role, trusts=["ec2.amazonaws.com"])
    found = submitted(account)
    assert json.dumps(policies.TRUST) in found


def test_a_role_that_may_not_write_logs(account: Account) -> None:
    """The receipt is waited for: lines may still come."""
    account.give(role_without="WriteLogs")
    handle = account.ran(account.step())
    assert account.lines(handle) == []
    with pytest.raises(OutcomeNotReadyError):
        account.hook.outcome(handle)


def test_a_role_without_metrics_loses_only_those(account: Account) -> None:
    account.give(role_without="Metrics")
    handle = account.ran(account.step())
    wait_until(lambda: account.lines(handle), "the line of the step", holds=lambda seen: seen == ["hello"])
