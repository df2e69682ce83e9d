"""The smallest IAM policies for the caller (Airflow) and for the role of the jobs.

``airflow stepop check`` names the statement that is missing, and the documentation shows both policies.

Source: https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonsagemaker.html
"""

from __future__ import annotations

from typing import Any

Statement = dict[str, Any]

BUCKET, PREFIX, ROLE, ACCOUNT, REGION = "BUCKET", "PREFIX", "ROLE", "ACCOUNT", "REGION"  # to be replaced

_JOBS = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:training-job/*"
_LOGS = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/aws/sagemaker/TrainingJobs:*"
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
        "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"],
        "Resource": _OBJECTS,
    },
    "StoreList": {
        "Effect": "Allow",
        "Action": "s3:ListBucket",
        "Resource": _BUCKET,
        "Condition": {"StringLike": {"s3:prefix": [f"{PREFIX}/*"]}},
    },
}
JOB_ROLE: dict[str, Statement] = {
    "StoreObjects": {
        "Effect": "Allow",
        "Action": ["s3:GetObject", "s3:PutObject"],
        "Resource": _OBJECTS,
    },
    "StoreList": {
        "Effect": "Allow",
        "Action": "s3:ListBucket",
        "Resource": _BUCKET,
        "Condition": {"StringLike": {"s3:prefix": [f"{PREFIX}/*"]}},
    },
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
TRUST: Statement = {
    "Effect": "Allow",
    "Principal": {"Service": "sagemaker.amazonaws.com"},
    "Action": "sts:AssumeRole",
}


def policy(statements: dict[str, Statement]) -> dict[str, Any]:
    """Return the statements as a policy document."""
    return {
        "Version": "2012-10-17",
        "Statement": [{"Sid": name, **statement} for name, statement in statements.items()],
    }
