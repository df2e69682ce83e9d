"""Credentials of google-auth, which ``pip install 'airflow-stepop[gcs]'`` installs. Called by ``google.py``.

No function sends a request, but for :func:`default_credentials`, which may ask the metadata server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from airflow_stepop.exceptions import StepConfigError

CLOUD_SCOPE = "https://www.googleapis.com/auth/cloud-platform"


def check_installed(who: str) -> None:
    """Check that google-auth is installed.

    :param who: what needs it, for the error message
    :raises StepConfigError: it is not installed
    """
    try:
        import google.auth.transport.requests  # noqa: F401 - is it installed?
    except ImportError:
        raise StepConfigError(f"{who}, which needs google-auth: pip install 'airflow-stepop[gcs]'") from None


def default_credentials(scopes: Sequence[str]) -> Any:
    """Return the application default credentials of this host.

    :raises StepConfigError: there are none
    """
    import google.auth
    from google.auth.exceptions import GoogleAuthError

    try:
        return google.auth.default(scopes=scopes)[0]
    except GoogleAuthError as error:
        raise StepConfigError(f"this host has no application default credentials: {error}") from error


def configured_credentials(info: Any, scopes: Sequence[str], where: str) -> Any:
    """Return the credentials that a file of Google's tools describes.

    google-auth has a function for this, which asks for the project as well: a request that may fail.

    :param info: the content of the file
    :param where: what has the content, for error messages
    :raises StepConfigError: the content is wrong
    """
    from google.auth.exceptions import GoogleAuthError

    kind = info.get("type") if isinstance(info, dict) else None
    make = _KINDS.get(str(kind))
    if make is None:
        raise StepConfigError(f"{where}: its type is {kind!r} and none of {', '.join(_KINDS)}")
    try:
        return make(info, scopes)
    except (GoogleAuthError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StepConfigError(
            f"{where}: the credentials of type {kind!r} are not complete: {error}"
        ) from error


def impersonated_credentials(source: Any, chain: Sequence[str], scopes: Sequence[str], endpoint: str) -> Any:
    """Return credentials of the last account of a chain.

    :param source: credentials that may impersonate the first account
    :param endpoint: address of the IAM Service Account Credentials API
    """
    from google.auth.impersonated_credentials import Credentials

    url = f"{endpoint}/v1/projects/-/serviceAccounts/{chain[-1]}:generateAccessToken"
    names = [f"projects/-/serviceAccounts/{name}" for name in chain[:-1]]
    return Credentials(source, chain[-1], list(scopes), delegates=names, iam_endpoint_override=url)


def _service_account(info: Any, scopes: Sequence[str]) -> Any:
    from google.oauth2.service_account import Credentials

    return Credentials.from_service_account_info(info, scopes=scopes)


def _user(info: Any, scopes: Sequence[str]) -> Any:
    from google.oauth2.credentials import Credentials

    return Credentials.from_authorized_user_info(info, scopes)


def _external(info: Any, scopes: Sequence[str]) -> Any:
    """Workload identity federation: https://docs.cloud.google.com/iam/docs/workload-identity-federation."""
    from google.auth import aws, identity_pool, pluggable

    module: Any = identity_pool
    if info.get("subject_token_type") == "urn:ietf:params:aws:token-type:aws4_request":
        module = aws
    elif "executable" in info["credential_source"]:
        module = pluggable
    return module.Credentials.from_info(info, scopes=scopes)


def _impersonating(info: Any, scopes: Sequence[str]) -> Any:
    from google.auth.impersonated_credentials import Credentials

    return Credentials.from_impersonated_service_account_info(info, scopes=scopes)


_KINDS: Mapping[str, Callable[[Any, Sequence[str]], Any]] = {
    "service_account": _service_account,
    "authorized_user": _user,
    "external_account": _external,
    "impersonated_service_account": _impersonating,
}
