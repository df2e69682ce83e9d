"""Airflow connections of type ``google_cloud_platform``: project, scopes, endpoints and credentials.

Called by the store in Cloud Storage. The fields are those of the Google provider, which is not needed.
https://airflow.apache.org/docs/apache-airflow-providers-google/stable/connections/gcp.html

- A key in the connection is used as it is. Impersonation and every other kind of credentials need
  google-auth: ``pip install 'airflow-stepop[gcs]'`` or ``[vertex]``.
- Without a connection, the credentials come from the environment, as for every tool of Google (application
  default credentials): https://docs.cloud.google.com/docs/authentication/application-default-credentials
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_stepop.connections.defaults import read_defaults
from airflow_stepop.connections.extra import extra_of
from airflow_stepop.connections.google_auth import (
    CLOUD_SCOPE,
    check_installed,
    configured_credentials,
    default_credentials,
    impersonated_credentials,
)
from airflow_stepop.connections.google_identity import (
    AnonymousIdentity,
    AuthIdentity,
    GoogleKey,
    Identity,
    KeyIdentity,
    parse_key,
)
from airflow_stepop.connections.lookup import connection_of_type
from airflow_stepop.core.naming import did_you_mean
from airflow_stepop.exceptions import StepConfigError

if TYPE_CHECKING:
    from airflow.sdk import Connection

DEFAULT_CONN_ID = "google_cloud_default"
CONN_TYPE = "google_cloud_platform"
KEY_FILE = "GOOGLE_APPLICATION_CREDENTIALS"
# Names below "endpoints" in "stepop" of the extra
ENDPOINTS = ("storage", "iamcredentials", "aiplatform", "logging")
_PREFIX = "extra__google_cloud_platform__"  # old connections have it before each field
# At most one of these fields says who the caller is
_SOURCES = ("key_path", "keyfile_dict", "credential_config_file", "key_secret_name", "is_anonymous")
_REFUSED = {
    "key_secret_name": (
        "the key would have to be read from Secret Manager with other credentials, at every use. Let "
        "Airflow read the whole connection from Secret Manager (its secrets backend "
        "CloudSecretManagerBackend), or impersonate the service account with impersonation_chain"
    ),
    "idp_issuer_url": (
        "tokens of an identity provider by client credentials are not supported. Describe the provider in "
        "credential_config_file (workload identity federation)"
    ),
}


class GoogleConnection:
    """Reads an Airflow connection of type ``google_cloud_platform``, as the hooks of the Google provider do.

    :param conn_id: the connection; by default ``google_cloud_default``, if it exists
    :param owner: the owner of the connection, for error messages: ``the store``
    :param need: the feature that needs the connection, for error messages: ``a gs:// store``
    """

    def __init__(self, conn_id: str | None, *, owner: str, need: str) -> None:
        self.conn_id = conn_id
        self._owner = owner
        self._need = need

    @cached_property
    def connection(self) -> Connection | None:
        """The Airflow connection; ``None`` when none was named and ``google_cloud_default`` does not exist.

        :raises StepConfigError: the named connection does not exist, or has another type
        """
        return connection_of_type(
            self.conn_id, CONN_TYPE, DEFAULT_CONN_ID, owner=self._owner, need=self._need
        )

    @cached_property
    def extra(self) -> dict[str, Any]:
        return extra_of(self.connection) if self.connection is not None else {}

    @property
    def _name(self) -> str:
        return f"{self._owner}'s connection {self.conn_id or DEFAULT_CONN_ID!r}"

    def option(self, name: str) -> Any:
        """Return a field of the connection; ``None`` if it is missing or empty."""
        found = self.extra.get(name, self.extra.get(_PREFIX + name))
        return None if found == "" else found

    @cached_property
    def _endpoints(self) -> dict[str, str]:
        """The addresses in ``endpoints`` of the connection, without a slash at the end.

        :raises StepConfigError: an address or its name is wrong
        """
        if self.connection is None:
            return {}
        found = dict(read_defaults(self.connection).endpoints)
        for name, address in found.items():
            if name not in ENDPOINTS:
                raise StepConfigError(
                    f"{self._name}: endpoints has {name!r}{did_you_mean(name, ENDPOINTS)} "
                    f"(valid: {', '.join(ENDPOINTS)})"
                )
            parts = urlsplit(address)
            if (
                parts.scheme not in ("http", "https")
                or not parts.hostname
                or parts.path.strip("/")
                or parts.query
            ):
                raise StepConfigError(
                    f"{self._name}: endpoints.{name}={address!r} is no address of a service; "
                    f"write https://HOST or https://HOST:PORT"
                )
        return {name: address.rstrip("/") for name, address in found.items()}

    def endpoint(self, service: str) -> str:
        """Return the address of a service that the connection gives, else Google's own.

        :param service: one of ``ENDPOINTS``
        :raises StepConfigError: an address or its name is wrong
        """
        return self._endpoints.get(service) or f"https://{service}.googleapis.com"

    @property
    def scopes(self) -> list[str]:
        """The OAuth scopes; by default ``cloud-platform``, with which IAM alone decides."""
        given = self.option("scope") or ""
        return [one.strip() for one in str(given).split(",") if one.strip()] or [CLOUD_SCOPE]

    @property
    def quota_project(self) -> str:
        """The project that pays for requests; empty: that of the bucket or of the caller."""
        return str(self.option("quota_project_id") or os.environ.get("GOOGLE_CLOUD_QUOTA_PROJECT") or "")

    @property
    def project(self) -> str:
        """The id of the project of the caller; empty if nothing here tells it.

        As for the Google provider: that of the connection, else of the impersonated account, else of the key.
        Then ``GOOGLE_CLOUD_PROJECT`` counts.
        """
        named = self.option("project")
        if not named and self.chain:
            named = _project_of(self.chain[-1])
        if not named and (key := self.key()) is not None:
            named = key.project
        return str(named or os.environ.get("GOOGLE_CLOUD_PROJECT") or "")

    @property
    def chain(self) -> list[str]:
        """The accounts of the impersonation chain. The last one sends the requests."""
        given = self.option("impersonation_chain") or []
        names = given.split(",") if isinstance(given, str) else given
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise StepConfigError(f"{self._name}: impersonation_chain must be a text with commas, or a list")
        return [name.strip() for name in names if name.strip()]

    # -- credentials

    def key(self) -> GoogleKey | None:
        """Return the key of the connection, else that of ``GOOGLE_APPLICATION_CREDENTIALS``.

        :raises StepConfigError: the connection contradicts itself, or its key cannot be read
        """
        source = self._source()
        if source == "keyfile_dict":
            return parse_key(self._parsed(self.option(source), "keyfile_dict"), f"{self._name}: keyfile_dict")
        if source == "key_path":
            return parse_key(self._read(str(self.option(source))), f"{self._name}: key_path")
        if source is not None or not os.environ.get(KEY_FILE):
            return None
        info = self._read(os.environ[KEY_FILE])
        is_key = isinstance(info, dict) and info.get("type") == "service_account"
        return parse_key(info, KEY_FILE) if is_key else None

    def identity(self) -> Identity:
        """Return who sends the requests. No request is sent now, but for the metadata server's.

        :raises StepConfigError: the connection contradicts itself, there are no credentials, or google-auth
            is missing
        """
        key = self.key()
        if self._source() == "is_anonymous":
            return AnonymousIdentity()
        if key is not None and not self.chain:
            return KeyIdentity(key, self.scopes)
        endpoint, chain = self.endpoint("iamcredentials"), self.chain
        check_installed(f"{self._name} {'has an impersonation_chain' if chain else 'has no key'}")
        if not chain:
            return AuthIdentity(self._found(self.scopes), endpoint=endpoint)
        where = f"{self._name}: its key"
        cloud = [CLOUD_SCOPE]
        source = configured_credentials(key.info, cloud, where) if key is not None else self._found(cloud)
        target = impersonated_credentials(source, chain, self.scopes, endpoint)
        return AuthIdentity(target, endpoint=endpoint, signers=source, delegates=chain[:-1])

    def _source(self) -> str | None:
        """Return the field that says who the caller is; ``None``: the environment does."""
        given = [name for name in _SOURCES if _is_given(self.option(name))]
        if len(given) > 1:
            raise StepConfigError(f"{self._name} has {' and '.join(given)}; keep one of them")
        for name, why in _REFUSED.items():
            if _is_given(self.option(name)):
                raise StepConfigError(f"{self._name} has {name}, which {self._need} cannot use: {why}")
        return given[0] if given else None

    def _found(self, scopes: Sequence[str]) -> Any:
        """Return credentials of google-auth: of a configuration file, else the application default ones."""
        config, where = self.option("credential_config_file"), f"{self._name}: credential_config_file"
        if config is not None:
            is_json = not isinstance(config, str) or config.lstrip().startswith("{")
            info = self._parsed(config, "credential_config_file") if is_json else self._read(config)
            return configured_credentials(info, scopes, where)
        if os.environ.get(KEY_FILE):
            return configured_credentials(self._read(os.environ[KEY_FILE]), scopes, KEY_FILE)
        try:
            return default_credentials(scopes)
        except StepConfigError as error:
            raise StepConfigError(
                f"no credentials for {self._owner} were found: give the connection "
                f"{self.conn_id or DEFAULT_CONN_ID} a key (keyfile_dict or key_path); {error}"
            ) from error

    def _read(self, path: str) -> Any:
        try:
            with open(path, encoding="utf-8") as file:
                return self._parsed(file.read(), path)
        except (OSError, UnicodeError) as error:
            raise StepConfigError(f"{self._name}: the file {path} cannot be read: {error}") from None

    def _parsed(self, value: Any, where: str) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError:
            raise StepConfigError(f"{self._name}: {where} is not JSON") from None


def _is_given(value: Any) -> bool:
    return bool(value) and str(value).lower() not in ("false", "0")


def _project_of(email: str) -> str:
    """Return the project that the name of a service account tells; empty: it tells none."""
    name, _, domain = email.partition("@")
    project, _, rest = domain.partition(".")
    return project if name and rest == "iam.gserviceaccount.com" else ""
