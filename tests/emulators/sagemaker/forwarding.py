"""Other services of the account: they are answered by a server behind the emulator (moto), after our checks.

CloudWatch Logs: the caller's permission, the rates and the faults are ours; a denial names the resource as
AWS does, with an empty stream for the operations on a group. Secrets: see ``secrets_manager.py``. All else
(AssumeRole) is forwarded as it is.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.emulators.sagemaker.errors import ApiError
from tests.emulators.sagemaker.iam import credential, require
from tests.emulators.sagemaker.world import World

LOGS = "Logs_20140328"
TOKEN = "X-Amz-Security-Token"
SENT = ("Authorization", "Content-Type", "X-Amz-Date", TOKEN, "X-Amz-Target")


@dataclass(frozen=True)
class Answer:
    """An answer as it came."""

    status: int
    body: str
    content_type: str


def forwarded(world: World, headers: Mapping[str, Any], body: bytes) -> Answer:
    """Send a request on, and return its answer."""
    if world.logs is None:
        raise ApiError("UnknownOperationException", "")
    sent = {name: headers[name] for name in SENT if name in headers}
    request = urllib.request.Request(world.logs.endpoint, data=body, headers=sent)
    try:
        with urllib.request.urlopen(request) as answer:
            return Answer(answer.status, answer.read().decode(), answer.headers["Content-Type"])
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.read().decode(), error.headers["Content-Type"])


def log_answer(world: World, operation: str, headers: Mapping[str, Any], body: bytes) -> Answer:
    """Check a request to CloudWatch Logs as the service does, and send it on."""
    world.faults.strike(operation, after=False)
    caller = world.iam.caller(headers.get("Authorization"), headers.get(TOKEN))
    world.faults.limit(operation, world.settings.rates)
    query = json.loads(body or b"{}")
    region = credential(headers["Authorization"])[2]
    group = f"arn:aws:logs:{region}:{world.settings.account}:log-group:{query.get('logGroupName', '')}"
    require(caller, f"logs:{operation}", f"{group}:log-stream:{query.get('logStreamName', '')}")
    if operation == "FilterLogEvents":
        answer = _paged(world, headers, query)
    else:
        answer = forwarded(world, headers, body)
    world.faults.strike(operation, after=True)
    return answer


def _paged(world: World, headers: Mapping[str, Any], query: dict[str, Any]) -> Answer:
    """Answer FilterLogEvents in pages as small as the settings say, with empty ones before each.

    An answer may have no events, and a token that leads to more:
    https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_FilterLogEvents.html
    """
    empty = world.settings.empty_log_pages
    left, token = json.loads(query.pop("nextToken", json.dumps([empty, None])))
    if left:
        page = {"events": [], "searchedLogStreams": [], "nextToken": json.dumps([left - 1, token])}
        return Answer(200, json.dumps(page), "application/x-amz-json-1.1")
    query["limit"] = min(query.get("limit", world.settings.log_page), world.settings.log_page)
    query |= {"nextToken": token} if token else {}
    answer = forwarded(world, headers, json.dumps(query).encode())
    page = json.loads(answer.body)
    if not page.get("nextToken"):
        return answer
    page["nextToken"] = json.dumps([empty, page["nextToken"]])
    return Answer(answer.status, json.dumps(page), answer.content_type)
