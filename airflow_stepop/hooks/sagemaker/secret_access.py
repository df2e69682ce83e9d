"""Whether the job's role may read the secrets of its step. Called by the hook before it submits a job.

Without the permission the step does not start, and a user should know that before a machine was started.

Source: https://docs.aws.amazon.com/IAM/latest/APIReference/API_SimulatePrincipalPolicy.html
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from airflow_stepop.hooks.sagemaker.request import role_arn
from airflow_stepop.runner.aws_secrets import parse, statement

if TYPE_CHECKING:
    from airflow_stepop.connections.aws_clients import AwsClients
    from airflow_stepop.job import Payload

ACTION = "secretsmanager:GetSecretValue"
log = logging.getLogger(__name__)


def unreadable_secrets(clients: AwsClients, role: str, payload: Payload) -> str:
    """Return a warning if no policy of the role lets it read a secret of the step; else an empty text.

    IAM tells it if the caller may call ``iam:SimulatePrincipalPolicy``. An error is no answer. The policy of
    the secret itself is not looked at, so a denial is no error: the secret may still be readable.

    :param role: ``settings.role``
    """
    if "secret_references" not in payload.features:
        return ""
    references = {parse(text) for text in json.loads(payload.manifest)["secret_references"].values()}
    by_arn = {reference.arn: reference for reference in references}
    arn = role if role.startswith("arn:") else role_arn(role, clients.region, clients.account)
    try:
        answer = clients.client("iam", is_sent_once=True).simulate_principal_policy(
            PolicySourceArn=arn, ActionNames=[ACTION], ResourceArns=sorted(by_arn)
        )
        found = {one["EvalResourceName"]: one["EvalDecision"] for one in answer["EvaluationResults"]}
    except Exception as error:  # noqa: BLE001, RUF100 - the submit does not depend on the answer
        log.debug("IAM does not say whether %s may read the secrets: %s", arn, error)
        return ""
    denied = [statement(by_arn[name]) for name in sorted(by_arn) if found.get(name, "allowed") != "allowed"]
    if not denied:
        return ""
    return (
        f"the policies of {arn} do not let the job read a secret of its step. Unless the policy of the "
        f"secret does, the step will not start. What to do: give the role {' and '.join(denied)}"
    )
