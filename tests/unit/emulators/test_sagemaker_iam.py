"""Permissions in the SageMaker emulator: of the caller, of the role, and what a check can ask."""

from __future__ import annotations

import pytest

from airflow_stepop.runner.aws_secrets import Reader
from airflow_stepop.runner.failures import RefusedError
from tests.emulators.sagemaker.iam import decision
from tests.unit.emulators.requests import Jobs, refusal

USER = "arn:aws:iam::123456789012:user/someone"
JOB_ARNS = "arn:aws:sagemaker:*:123456789012:training-job/*"


def policy(*statements):
    return {"Version": "2012-10-17", "Statement": list(statements)}


def allow(actions, resources="*", **more):
    return {"Effect": "Allow", "Action": actions, "Resource": resources, **more}


def deny(actions, resources="*"):
    return {"Effect": "Deny", "Action": actions, "Resource": resources}


PASSES = allow(
    "iam:PassRole",
    "arn:aws:iam::123456789012:role/stepop-*",
    Condition={"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}},
)
CREATES = allow("sagemaker:CreateTrainingJob", JOB_ARNS)


@pytest.fixture
def someone(jobs):
    """A client whose policies the test sets with the first argument of ``may``."""

    class Someone(Jobs):
        client = property(lambda self: self.service.client("sagemaker", key="SOMEONE"))

        def may(self, *statements):
            self.service.do("key", key="SOMEONE", arn=USER, policies=[policy(*statements)])

    jobs.service.do("plan", job="*", run=False)
    return Someone(jobs.service, jobs.prefix)


def denied(client, operation, **arguments):
    """Return the text of a denial."""
    code, text = refusal(client, operation, **arguments)
    assert code in ("AccessDeniedException", "AccessDenied")
    return text


def denied_job(jobs, **changes):
    return denied(jobs.client, "create_training_job", **jobs.request(**changes))


@pytest.mark.parametrize(
    ("statement", "action", "resource", "context", "expected"),
    [
        (allow("s3:Get*", "arn:aws:s3:::b/*"), "s3:GetObject", "arn:aws:s3:::b/x/y", {}, "allowed"),
        (allow("s3:Get*", "arn:aws:s3:::b/*"), "s3:GetObject", "arn:aws:s3:::bb/x", {}, "implicitDeny"),
        (allow("S3:getobject"), "s3:GetObject", "*", {}, "allowed"),
        (allow("s3:GetObject"), "s3:GetObjectAcl", "*", {}, "implicitDeny"),
        (allow(["a:b", "c:?d"]), "c:xd", "*", {}, "allowed"),
        (
            allow("sagemaker:ListTrainingJobs", JOB_ARNS),
            "sagemaker:ListTrainingJobs",
            "*",
            {},
            "implicitDeny",
        ),
        ({"Effect": "Allow", "NotAction": "iam:*", "Resource": "*"}, "iam:PassRole", "*", {}, "implicitDeny"),
        (PASSES, "iam:PassRole", "arn:aws:iam::123456789012:role/stepop-job", {}, "implicitDeny"),
        (
            PASSES,
            "iam:PassRole",
            "arn:aws:iam::123456789012:role/stepop-job",
            {"iam:PassedToService": "sagemaker.amazonaws.com"},
            "allowed",
        ),
        (
            allow("a:b", Condition={"StringLike": {"s3:prefix": ["x/*"]}}),
            "a:b",
            "*",
            {"s3:prefix": "y/z"},
            "implicitDeny",
        ),
        (
            allow("a:b", Condition={"ForAllValues:StringEquals": {"aws:TagKeys": ["x", "y"]}}),
            "a:b",
            "*",
            {"aws:TagKeys": ["x"]},
            "allowed",
        ),
        (allow("a:b", Condition={"StringEqualsIfExists": {"k": "v"}}), "a:b", "*", {}, "allowed"),
    ],
)
def test_a_policy_decides(statement, action, resource, context, expected):
    assert decision([policy(statement)], action, resource, context) == expected


def test_a_deny_wins_and_what_cannot_be_evaluated_is_an_error():
    assert decision([policy(allow("*"), deny("a:*"))], "a:b", "*") == "explicitDeny"
    with pytest.raises(ValueError, match="NumericEquals"):
        decision([policy(allow("*", Condition={"NumericEquals": {"a": "1"}}))], "a:b", "*", {"a": "1"})


def test_each_missing_statement_denies_as_aws_denies(someone):
    """Create needs its own action, PassRole on the role, and AddTags if there are tags."""
    someone.may(PASSES)
    text = denied_job(someone, TrainingJobName="mine")
    assert text == (
        f"User: {USER} is not authorized to perform: sagemaker:CreateTrainingJob on resource: "
        "arn:aws:sagemaker:us-east-1:123456789012:training-job/mine because no identity-based policy allows "
        "the sagemaker:CreateTrainingJob action"
    )
    someone.may(CREATES)
    assert f"iam:PassRole on resource: {someone.service.role} because no identity" in denied_job(someone)
    someone.may(CREATES, PASSES)
    name = someone.create()
    assert "perform: sagemaker:AddTags on" in denied_job(someone, Tags=[{"Key": "a", "Value": "b"}])
    for operation in ("describe_training_job", "stop_training_job", "delete_training_job"):
        assert f"training-job/{name} because" in denied(someone.client, operation, TrainingJobName=name)
    assert "sagemaker:ListTrainingJobs on resource: *" in denied(someone.client, "list_training_jobs")


def test_an_explicit_deny_has_its_own_words(someone):
    someone.may(allow("*"), deny("sagemaker:ListTrainingJobs"))
    assert denied(someone.client, "list_training_jobs").endswith("explicit deny in an identity-based policy")


def test_only_some_roles_may_be_passed(someone):
    someone.may(CREATES, PASSES)
    someone.service.do("role", arn="arn:aws:iam::123456789012:role/other")
    denied_job(someone, RoleArn="arn:aws:iam::123456789012:role/other")


def test_an_expired_an_unknown_and_a_missing_key(jobs):
    client = jobs.service.client("sagemaker", key="SOON")
    assert client.list_training_jobs()["TrainingJobSummaries"] == []
    jobs.service.do("expire", key="SOON")
    expected = ("ExpiredTokenException", "The security token included in the request is expired")
    assert refusal(client, "list_training_jobs") == expected
    jobs.service.do("expire", key="SOON", expired=False)
    jobs.service.do("default_identity", arn=None)
    assert refusal(client, "list_training_jobs")[0] == "UnrecognizedClientException"


ROLE_PULLS = allow(["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"])
ROLE_LISTS, ROLE_READS = allow("s3:ListBucket"), allow("s3:GetObject")
ROLE_WRITES, ROLE_LOGS = allow("s3:PutObject"), allow("logs:*")


def refused_with(jobs, *statements, **changes):
    jobs.service.do("role", arn=jobs.service.role, policies=[policy(*statements)])
    return jobs.refused(**changes)[1]


def test_what_the_role_may_not_do_is_found_at_create(jobs):
    jobs.put("in/x", "1")
    channel = {"InputDataConfig": [jobs.channel("train", "in/")]}
    assert "Cannot find repository: steps in" in refused_with(jobs, ROLE_LISTS, ROLE_WRITES, **channel)
    assert "Unauthorized to List objects under" in refused_with(jobs, ROLE_PULLS, ROLE_WRITES, **channel)
    text = refused_with(jobs, ROLE_PULLS, ROLE_LISTS, **channel)
    assert text == f"Access denied to OutputDataConfig S3 bucket: {jobs.bucket}"


def test_what_the_role_may_not_read_fails_the_job(jobs):
    jobs.put("in/x", "1")
    jobs.put("twice/y", "1")
    role = [policy(ROLE_PULLS, ROLE_WRITES, ROLE_LISTS)]
    jobs.service.do("role", arn=jobs.service.role, policies=role)
    for prefix, text in (
        ("in/", f"Unable to download object {jobs.url}/in/x (AccessDenied: Access Denied)"),
        (
            "twice//",
            f"Failed to download data. S3 key: {jobs.url}/twice// has an illegal char sub-sequence '//'",
        ),
    ):
        name = jobs.create(InputDataConfig=[jobs.channel("train", prefix)])
        reason = jobs.service.wait_for(name, "Failed")["FailureReason"]
        assert reason.startswith(f"ClientError: Data download failed:{text}")


def test_a_role_without_logs_leaves_no_log(running):
    role = [policy(ROLE_PULLS, ROLE_WRITES, ROLE_LISTS, ROLE_READS)]
    running.service.do("role", arn=running.service.role, policies=role)
    name = running.create_script("print('nobody reads this')")
    assert running.service.wait_for(name, "Completed", "Failed")["TrainingJobStatus"] == "Completed"
    assert running.service.log(name) == []


def test_a_role_that_lost_its_trust_fails_the_job(jobs):
    jobs.service.do("plan", job="*", run=False, hold=["Starting"])
    name = jobs.create()
    # The attempt reads the role when it downloads
    jobs.service.do("role", arn=jobs.service.role, trusts=["ec2.amazonaws.com"])
    jobs.service.do("release", job=name, phase="Starting")
    assert "unable to perform: sts:AssumeRole" in jobs.service.wait_for(name, "Failed")["FailureReason"]


def test_the_caller_and_the_role_can_be_asked_for(someone):
    """STS and IAM: who am I, and what may the role do."""
    service = someone.service
    iam = service.client("iam", key="SOMEONE")
    someone.may()
    assert service.client("sts", key="SOMEONE").get_caller_identity()["Arn"] == USER
    assert "iam:GetRole" in denied(iam, "get_role", RoleName="stepop-job")
    someone.may(allow("iam:*"))
    role = iam.get_role(RoleName="stepop-job")["Role"]
    assert role["Arn"] == service.role
    trusted = role["AssumeRolePolicyDocument"]["Statement"][0]["Principal"]
    assert trusted == {"Service": "sagemaker.amazonaws.com"}
    assert refusal(iam, "get_role", RoleName="nobody")[0] == "NoSuchEntity"
    service.do("role", arn=service.role, policies=[policy(allow("s3:GetObject", "arn:aws:s3:::b/*"))])
    results = iam.simulate_principal_policy(
        PolicySourceArn=service.role,
        ActionNames=["s3:GetObject", "s3:PutObject"],
        ResourceArns=["arn:aws:s3:::b/x"],
    )["EvaluationResults"]
    decisions = {one["EvalActionName"]: one["EvalDecision"] for one in results}
    assert decisions == {"s3:GetObject": "allowed", "s3:PutObject": "implicitDeny"}


def test_a_condition_is_simulated_with_its_context(someone):
    someone.service.do("role", arn=someone.service.role, policies=[policy(PASSES)])
    someone.may(allow("iam:*"))
    entry = {
        "ContextKeyName": "iam:PassedToService",
        "ContextKeyType": "string",
        "ContextKeyValues": ["sagemaker.amazonaws.com"],
    }
    query = {"PolicySourceArn": someone.service.role, "ActionNames": ["iam:PassRole"]}
    query["ResourceArns"] = [someone.service.role]
    iam = someone.service.client("iam", key="SOMEONE")
    for context, expected in (([entry], "allowed"), ([], "implicitDeny")):
        (result,) = iam.simulate_principal_policy(**query, ContextEntries=context)["EvaluationResults"]
        assert result["EvalDecision"] == expected


def test_images_can_be_asked_for(someone):
    ecr = someone.service.client("ecr", key="SOMEONE")
    someone.may()
    assert "ecr:DescribeImages" in denied(ecr, "describe_images", repositoryName="steps")
    someone.may(allow("ecr:*"))
    one, none = {"imageTag": "1"}, {"imageTag": "none"}
    (image,) = ecr.describe_images(repositoryName="steps", imageIds=[one])["imageDetails"]
    assert image["imageTags"] == ["1"]
    code = refusal(ecr, "describe_images", repositoryName="steps", imageIds=[none])[0]
    assert code == "ImageNotFoundException"
    code = refusal(ecr, "batch_get_image", repositoryName="none", imageIds=[one])[0]
    assert code == "RepositoryNotFoundException"
    answer = ecr.batch_get_image(repositoryName="steps", imageIds=[one, none])
    assert (len(answer["images"]), answer["failures"][0]["failureCode"]) == (1, "ImageNotFound")


def test_quotas_can_be_asked_for(someone):
    service = someone.service
    quotas = service.client("service-quotas", key="SOMEONE")
    someone.may()
    assert "servicequotas:List" in denied(quotas, "list_service_quotas", ServiceCode="sagemaker")
    someone.may(allow("servicequotas:*"))
    service.do("settings", quotas={"ml.m5.large": 3, "ml.m5.large for spot training job usage": 0})
    pages = quotas.get_paginator("list_service_quotas").paginate(ServiceCode="sagemaker")
    found = {one["QuotaName"]: one for page in pages for one in page["Quotas"]}
    assert found["ml.m5.large for training job usage"]["Value"] == 3
    code = found["ml.m5.large for spot training job usage"]["QuotaCode"]
    assert quotas.get_service_quota(ServiceCode="sagemaker", QuotaCode=code)["Quota"]["Value"] == 0


def test_logs_are_read_with_a_permission_of_their_own(someone):
    logs = someone.service.client("logs", key="SOMEONE")
    query = {"logGroupName": someone.service.group, "logStreamNamePrefix": "x"}
    someone.may(allow("sagemaker:*"))
    text = denied(logs, "describe_log_streams", **query)
    group = "arn:aws:logs:us-east-1:123456789012:log-group:/aws/sagemaker/TrainingJobs"
    assert f"logs:DescribeLogStreams on resource: {group}:log-stream: because no identity" in text
    someone.may(allow(["logs:DescribeLogStreams", "logs:FilterLogEvents"], f"{group}:*"))
    assert refusal(logs, "describe_log_streams", **query)[0] in ("200", "ResourceNotFoundException")
    assert "logs:GetLogEvents on" in denied(
        logs, "get_log_events", logGroupName=someone.service.group, logStreamName="x"
    )


def test_a_role_can_be_assumed_in_the_server_behind(service):
    sts = service.client("sts")
    answer = sts.assume_role(RoleArn=service.role, RoleSessionName="tests")
    assert answer["Credentials"]["AccessKeyId"].startswith("ASIA")


def test_a_tag_can_be_a_condition(someone):
    condition = {"StringEquals": {"aws:ResourceTag/team": "blue"}}
    someone.may(CREATES, PASSES, allow("sagemaker:AddTags"))
    names = [someone.create(Tags=[{"Key": "team", "Value": team}]) for team in ("blue", "red")]
    someone.may(allow("sagemaker:DescribeTrainingJob", Condition=condition))
    assert someone.client.describe_training_job(TrainingJobName=names[0])
    assert names[1] in denied(someone.client, "describe_training_job", TrainingJobName=names[1])


def test_a_secret_is_read_with_the_signature_and_the_rights_of_the_role(service):
    client, role = service.client("secretsmanager"), service.role.rpartition("/")[2]
    arn = client.create_secret(Name="mine", SecretString="value")["ARN"]
    keys = {"AWS_ACCESS_KEY_ID": service.s3.key, "AWS_SESSION_TOKEN": f"session-of-{role}"}
    environment = {"AWS_ENDPOINT_URL": service.url, **keys, "AWS_SECRET_ACCESS_KEY": service.s3.secret}
    try:
        assert Reader(environment).read(arn) == "value"
        with pytest.raises(RefusedError, match="The request signature we calculated does not match"):
            Reader({**environment, "AWS_SECRET_ACCESS_KEY": "wrong"}).read(arn)
        with pytest.raises(RefusedError, match="The security token included in the request is invalid"):
            Reader({**environment, "AWS_SESSION_TOKEN": "session-of-nobody"}).read(arn)
        service.do("role", arn=service.role, policies=[policy(deny("secretsmanager:*"))])
        with pytest.raises(
            RefusedError, match=f"{role}/SageMaker is not authorized to perform: secretsmanager:"
        ):
            Reader(environment).read(arn)
    finally:
        client.delete_secret(SecretId=arn, ForceDeleteWithoutRecovery=True)
