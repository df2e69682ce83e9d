"""A small evaluation of IAM policies: who calls, what a policy allows, and how AWS words a denial.

Statements have ``Effect``, ``Action`` or ``NotAction``, ``Resource`` or ``NotResource``, and ``Condition``.
A request is denied by one ``Deny`` that matches, and allowed by one ``Allow``. Signatures are not verified;
the access key id is read from ``Authorization``. An action without a resource type (ListTrainingJobs) is
evaluated for the resource ``*``, so a policy that names an ARN for it denies, as at AWS.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from tests.emulators.sagemaker.errors import ApiError
from tests.emulators.sagemaker.sessions import Sessions

Policy = dict[str, Any]
Context = Mapping[str, str | list[str]]

ALL: Policy = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}],
}
STATEMENT_KEYS = {"Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition"}


@dataclass(frozen=True)
class Identity:
    """Who sends a request, and the policies that are attached."""

    arn: str
    policies: tuple[Policy, ...] = (ALL,)


@dataclass(frozen=True)
class Role:
    """An IAM role: who may assume it, and what it may do."""

    arn: str
    trusts: tuple[str, ...] = ("sagemaker.amazonaws.com",)
    policies: tuple[Policy, ...] = (ALL,)

    @property
    def name(self) -> str:
        return self.arn.rpartition("/")[2]

    @property
    def trust_policy(self) -> Policy:
        allow = {"Effect": "Allow", "Action": "sts:AssumeRole"}
        statements = [{**allow, "Principal": {"Service": service}} for service in self.trusts]
        return {"Version": "2012-10-17", "Statement": statements}

    def may(self, action: str, resource: str, context: Context | None = None) -> bool:
        return decision(self.policies, action, resource, context) == "allowed"


@dataclass
class Iam:
    """The identities and roles of the account. Without ``default`` an unknown access key is refused."""

    default: Identity | None
    keys: dict[str, Identity] = field(default_factory=dict)
    expired: set[str] = field(default_factory=set)
    roles: dict[str, Role] = field(default_factory=dict)
    sessions: Sessions = field(default_factory=Sessions)

    def caller(self, authorization: str | None, token: str | None = None) -> Identity:
        """Return who signed a request, or raise what AWS answers to a missing, unknown or expired key."""
        if not authorization:
            raise ApiError("MissingAuthenticationTokenException", "Missing Authentication Token")
        key = credential(authorization)[0]
        if key in self.expired or "*" in self.expired:
            raise ApiError("ExpiredTokenException", "The security token included in the request is expired")
        self.sessions.check(key, token)
        found = self.keys.get(key, self.default)
        if found is None:
            text = "The security token included in the request is invalid."
            raise ApiError("UnrecognizedClientException", text)
        return found


def credential(authorization: str) -> list[str]:
    """Return key id, date, region and service of a Signature V4 header."""
    found = re.search(r"Credential=([^,\s]+)", authorization)
    parts = found.group(1).split("/") if found else []
    if len(parts) != 5:
        text = "Authorization header requires 'Credential' parameter."
        raise ApiError("IncompleteSignatureException", text)
    return parts[:4]


def require(caller: Identity, action: str, resource: str, context: Context | None = None) -> None:
    """Raise ``AccessDeniedException`` unless the caller's policies allow the action."""
    found = decision(caller.policies, action, resource, context)
    if found == "allowed":
        return
    why = f"because no identity-based policy allows the {action} action"
    if found == "explicitDeny":
        why = "with an explicit deny in an identity-based policy"
    text = f"User: {caller.arn} is not authorized to perform: {action} on resource: {resource} {why}"
    raise ApiError("AccessDeniedException", text)


def decision(policies: Iterable[Policy], action: str, resource: str, context: Context | None = None) -> str:
    """Return ``allowed``, ``implicitDeny`` or ``explicitDeny``: the words of SimulatePrincipalPolicy."""
    effects = {
        statement["Effect"]
        for policy in policies
        for statement in statements(policy)
        if _applies(statement, action, resource, context or {})
    }
    if "Deny" in effects:
        return "explicitDeny"
    return "allowed" if "Allow" in effects else "implicitDeny"


def statements(policy: Policy) -> list[dict[str, Any]]:
    """Return the statements of a policy. A key that is not evaluated here is an error, never ignored."""
    found = policy["Statement"]
    found = [found] if isinstance(found, dict) else found
    for statement in found:
        unknown = set(statement) - STATEMENT_KEYS
        if unknown or statement["Effect"] not in ("Allow", "Deny"):
            raise ValueError(f"the emulator cannot evaluate the statement {statement}: {sorted(unknown)}")
    return list(found)


def _applies(statement: dict[str, Any], action: str, resource: str, context: Context) -> bool:
    if "NotAction" in statement:
        acts = not _any_like(statement["NotAction"], action, ignore_case=True)
    else:
        acts = _any_like(statement["Action"], action, ignore_case=True)
    if "NotResource" in statement:
        lies = not _any_like(statement["NotResource"], resource)
    else:
        lies = _any_like(statement["Resource"], resource)
    return acts and lies and _conditions_hold(statement.get("Condition", {}), context)


def _listed(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


@cache
def _wildcard(pattern: str, ignore_case: bool) -> re.Pattern[str]:
    text = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.compile(text, re.DOTALL | (re.IGNORECASE if ignore_case else 0))


def _any_like(patterns: Any, value: str, *, ignore_case: bool = False) -> bool:
    return any(_wildcard(pattern, ignore_case).fullmatch(value) for pattern in _listed(patterns))


def _conditions_hold(conditions: dict[str, dict[str, Any]], context: Context) -> bool:
    return all(
        _holds(operator, _listed(wanted), context.get(key))
        for operator, pairs in conditions.items()
        for key, wanted in pairs.items()
    )


def _holds(operator: str, wanted: list[str], present: str | list[str] | None) -> bool:
    """Evaluate one key of a condition. AWS ignores the case of keys; policies here use the usual one."""
    quantifier, _, name = operator.rpartition(":")
    if_exists = name.endswith("IfExists")
    name = name.removesuffix("IfExists")
    if name == "Null":
        return (present is None) == (wanted[0].lower() == "true")
    negated = "Not" in name
    if present is None:
        return if_exists or negated or quantifier == "ForAllValues"
    values = _listed(present)
    tests = [_equal(name.replace("Not", ""), wanted, value) != negated for value in values]
    return any(tests) if quantifier == "ForAnyValue" else all(tests)


def _equal(name: str, wanted: list[str], value: str) -> bool:
    if name in ("StringLike", "ArnLike", "ArnEquals"):
        return any(fnmatch.fnmatchcase(value, pattern.replace("[", "[[]")) for pattern in wanted)
    if name == "StringEquals":
        return value in wanted
    if name in ("StringEqualsIgnoreCase", "Bool"):
        return value.lower() in [one.lower() for one in wanted]
    raise ValueError(f"the emulator cannot evaluate the condition {name}")
