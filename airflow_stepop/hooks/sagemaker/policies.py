"""The smallest IAM policies for the caller (Airflow) and for the role of the jobs.

``airflow stepop check`` names the statement that is missing, and the documentation shows both policies.

- ``s3:ListBucket`` has no condition on ``s3:prefix``. A read of an object has no prefix, so with the
  condition S3 answers 403 instead of 404 to the read of an object that is not there:
  https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html
- CloudWatch Logs names a group with and without ``:*`` at its end, depending on the operation:
  https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazoncloudwatchlogs.html

Source of the actions: https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonsagemaker.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Statement = dict[str, Any]

# Words to be replaced
BUCKET, PREFIX, ROLE, ACCOUNT, REGION, SECRET = "BUCKET", "PREFIX", "ROLE", "ACCOUNT", "REGION", "SECRET"

_JOBS = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:training-job/*"
_GROUP = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/aws/sagemaker/TrainingJobs"
_LOGS = [_GROUP, f"{_GROUP}:*"]
_OBJECTS, _BUCKET = f"arn:aws:s3:::{BUCKET}/{PREFIX}/*", f"arn:aws:s3:::{BUCKET}"

# Statement id -> statement
CALLER: dict[str, Statement] = {
    "RunJobs": {
        "Effect": "Allow",
        "Action": [
            "sagemaker:CreateTrainingJob",
            "sagemaker:DescribeTrainingJob",
            "sagemaker:StopTrainingJob",
            "sagemaker:AddTags",
            "sagemaker:ListTags",
        ],
        "Resource": _JOBS,
    },
    "ListJobs": {"Effect": "Allow", "Action": "sagemaker:ListTrainingJobs", "Resource": "*"},
    "PassRole": {
        "Effect": "Allow",
        "Action": "iam:PassRole",
        "Resource": f"arn:aws:iam::{ACCOUNT}:role/{ROLE}",
        "Condition": {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}},
    },
    "ReadLogs": {
        "Effect": "Allow",
        "Action": ["logs:DescribeLogStreams", "logs:FilterLogEvents"],
        "Resource": _LOGS,
    },
    "StoreObjects": {
        "Effect": "Allow",
        "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"],
        "Resource": _OBJECTS,
    },
    "StoreList": {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": _BUCKET},
}
JOB_ROLE: dict[str, Statement] = {
    "StoreObjects": {
        "Effect": "Allow",
        "Action": ["s3:GetObject", "s3:PutObject"],
        "Resource": _OBJECTS,
    },
    "StoreList": {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": _BUCKET},
    "WriteLogs": {
        "Effect": "Allow",
        "Action": [
            "logs:CreateLogGroup",
            "logs:CreateLogStream",
            "logs:DescribeLogStreams",
            "logs:PutLogEvents",
        ],
        "Resource": _LOGS,
    },
    "ReadImage": {
        "Effect": "Allow",
        "Action": [
            "ecr:GetAuthorizationToken",
            "ecr:BatchCheckLayerAvailability",
            "ecr:GetDownloadUrlForLayer",
            "ecr:BatchGetImage",
        ],
        "Resource": "*",
    },
    "Metrics": {"Effect": "Allow", "Action": "cloudwatch:PutMetricData", "Resource": "*"},
}
# Of the role, for steps whose secrets lie in AWS Secrets Manager. Its ARNs end with six random characters
SECRETS: dict[str, Statement] = {
    "ReadSecrets": {
        "Effect": "Allow",
        "Action": "secretsmanager:GetSecretValue",
        "Resource": f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:{SECRET}-??????",
    },
}
# Optional: ``airflow stepop check`` looks at the role, the bucket's region, the image and the quotas
CHECKS: dict[str, Statement] = {
    "CheckRole": {
        "Effect": "Allow",
        "Action": "iam:GetRole",
        "Resource": f"arn:aws:iam::{ACCOUNT}:role/{ROLE}",
    },
    "Check": {
        "Effect": "Allow",
        "Action": [
            "iam:SimulatePrincipalPolicy",
            "s3:GetBucketLocation",
            "ecr:DescribeImages",
            "servicequotas:ListServiceQuotas",
        ],
        "Resource": "*",
    },
}
TRUST: Statement = {
    "Effect": "Allow",
    "Principal": {"Service": "sagemaker.amazonaws.com"},
    "Action": "sts:AssumeRole",
}


def policy(statements: Mapping[str, Statement]) -> dict[str, Any]:
    """Return the statements as a policy document."""
    return {
        "Version": "2012-10-17",
        "Statement": [{"Sid": name, **statement} for name, statement in statements.items()],
    }


def filled(statement: Statement, names: Mapping[str, str]) -> Statement:
    """Return a statement with words in capitals replaced.

    :param names: word in capitals, such as :data:`BUCKET` -> the name itself
    """
    words = re.compile("|".join(rf"\b{word}\b" for word in names) or r"(?!)")

    def replaced(value: Any) -> Any:
        if isinstance(value, str):
            return words.sub(lambda found: names[found[0]], value)
        if isinstance(value, list):
            return [replaced(one) for one in value]
        return {key: replaced(one) for key, one in value.items()} if isinstance(value, dict) else value

    return {key: replaced(value) for key, value in statement.items()}
