"""Airflow connections of type ``modal``: tokens, environment, and clients. Called by the hook of Modal.

The connection type is that of Modal's own Airflow provider, and a connection means here what it means there
(``ModalHook``). That hook looks the connection up itself, which a thread of a triggerer must not do. So this
module is given the connection, and makes the client.

Source: https://airflow.apache.org/docs/apache-airflow-providers-modal/ and
https://modal.com/docs/sdk/py/latest/config
"""

from __future__ import annotations

import asyncio
import atexit
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_stepop.connections.defaults import read_defaults
from airflow_stepop.connections.extra import extra_of
from airflow_stepop.exceptions import StepConfigError

if TYPE_CHECKING:
    import modal
    from airflow.sdk import Connection

DEFAULT_CONN_ID = "modal_default"
THROTTLE = "MODAL_MAX_THROTTLE_WAIT"
_TRIGGERER = "airflow.jobs.triggerer_job_runner"  # loaded in triggerers, and not where a task runs
_CONFIGURATION = ("AuthError", "InvalidError")  # before any request: the configuration is wrong
OPEN_LIMIT_S = 20.0  # the client itself tries a server that does not answer for almost a minute
_ADVICE = (
    "run `modal token new` as Airflow's user, set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, or add a connection "
    "of type modal with the token's id (ak-...) as login and its secret (as-...) as password"
)


@dataclass(frozen=True)
class ModalAccount:
    """Whom Airflow is at Modal, and where.

    :param token_id: ``None``: the environment has OAuth credentials instead of a token
    :param server_url: address of Modal, as the ``modal`` package takes it from the process: two addresses
        with a comma, if the second one is used when the first does not answer
    :param environment: name of the environment; empty: the workspace's default
    :param source: where the credentials come from, for the log and for ``check``
    """

    token_id: str | None
    token_secret: str | None = field(repr=False)
    server_url: str
    environment: str
    source: str


def account_of(connection: Connection | None) -> ModalAccount:
    """Return the account of a connection. This function sends no request and looks nothing up.

    The tokens of the connection are used alone. A connection without tokens, and no connection, mean the
    credentials of Airflow's user: MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, else ``~/.modal.toml``.

    :param connection: of type ``modal``; ``None`` if there is no ``modal_default``
    :raises StepConfigError: the connection has another type or one token only, or there are no credentials
    """
    environment = environment_of(connection)
    token_id = token_secret = None
    if connection is not None:
        token_id, token_secret = _tokens(connection)
    with _explained():
        from modal.config import config

        server_url = str(config["server_url"])
    if connection is not None and token_id:
        source = f"the token of the connection {connection.conn_id!r}"
        return ModalAccount(token_id, token_secret, server_url, environment, source)
    if connection is None:
        why = f"there is no connection {DEFAULT_CONN_ID!r}"
    else:
        why = f"the connection {connection.conn_id!r} has no token"
    with _explained():
        token_id, token_secret, where = _ambient(why)
    return ModalAccount(token_id, token_secret, server_url, environment, f"{where}, because {why}")


def environment_of(connection: Connection | None) -> str:
    """Return the environment of a connection, else of Airflow's user; empty: the workspace's default.

    Credentials are not needed, so that a request can be rendered without them.

    :raises StepConfigError: the connection has another type, addresses, or an environment that is no text
    """
    if connection is not None and (named := _named_environment(connection)):
        return named
    with _explained():
        from modal.config import config

        return str(config["environment"] or "")


def _named_environment(connection: Connection) -> str | None:
    conn_id = connection.conn_id
    if connection.conn_type not in ("modal", ""):
        raise StepConfigError(
            f"the connection {conn_id!r} is of type {connection.conn_type!r}; backend 'modal' needs one of "
            "type modal"
        )
    if read_defaults(connection).endpoints:
        raise StepConfigError(
            f'the connection {conn_id!r}: "endpoints" below "stepop" is not for type modal, because the '
            "modal package takes its address from the process: set MODAL_SERVER_URL for Airflow's workers "
            "and triggerers, or server_url in ~/.modal.toml"
        )
    named = extra_of(connection).get("environment")
    if named is not None and not isinstance(named, str):
        raise StepConfigError(
            f'the connection {conn_id!r}: "environment" in its extra is {named!r}; write the name of an '
            'environment of Modal: {"environment": "dev"}'
        )
    return named


def _tokens(connection: Connection) -> tuple[str | None, str | None]:
    token_id, token_secret = connection.login or None, connection.password or None
    if (token_id is None) != (token_secret is None):
        missing = "password (the token's secret, as-...)" if token_id else "login (the token's id, ak-...)"
        raise StepConfigError(
            f"the connection {connection.conn_id!r} has one half of a token: its {missing} is empty. Fill it "
            "in, or empty both: then the credentials of Airflow's user are used"
        )
    for name, text in (("login", token_id), ("password", token_secret)):
        if re.search(r"[^!-~]", text or ""):
            raise StepConfigError(
                f"the connection {connection.conn_id!r} has a blank, a line end or the like in its {name}; a "
                "token of Modal has none: write it anew"
            )
    if (token_id or "").startswith("as-") and (token_secret or "").startswith("ak-"):
        raise StepConfigError(
            f"the connection {connection.conn_id!r} has the token's secret as login and its id as "
            "password; exchange them"
        )
    return token_id, token_secret


def _ambient(why: str) -> tuple[str | None, str | None, str]:
    """Return the token of Airflow's user, and where it was found. Without a token: OAuth credentials.

    :param why: why the connection gives none, for the message
    :raises StepConfigError: there are none
    """
    from modal.config import config, config_profiles, user_config_path

    token_id, token_secret = config["token_id"], config["token_secret"]
    if token_id and token_secret:
        is_in_env = "MODAL_TOKEN_ID" in os.environ and "MODAL_TOKEN_SECRET" in os.environ
        named = os.environ.get("MODAL_PROFILE")
        in_file = f"the {f'profile {named!r}' if named else 'active profile'} in {user_config_path}"
        where = "MODAL_TOKEN_ID and MODAL_TOKEN_SECRET" if is_in_env else in_file
        return token_id, token_secret, where
    if token_id or token_secret:
        missing = "MODAL_TOKEN_SECRET" if token_id else "MODAL_TOKEN_ID"
        raise StepConfigError(
            f"no credentials for Modal: {why}, and the process has one half of a token; set {missing}, too"
        )
    if config["oauth_refresh_token"]:
        return None, None, "the OAuth credentials of the process (MODAL_OAUTH_REFRESH_TOKEN)"
    profiles = ", ".join(config_profiles())  # type: ignore[no-untyped-call]  # the package's function
    unused = ""
    if profiles:
        unused = (
            f" {user_config_path} has the profiles {profiles}, and none that is active has a token: run "
            "`modal profile activate NAME`, or set MODAL_PROFILE."
        )
    raise StepConfigError(f"no credentials for Modal: {why}.{unused} Otherwise {_ADVICE}")


@contextmanager
def _explained() -> Iterator[None]:
    """Turn errors of the ``modal`` package about its own configuration into errors that say what to do."""
    try:
        yield
    except StepConfigError:
        raise
    except Exception as error:
        # named by its class, as the import of the package may be what fails
        if type(error).__module__ != "modal.exception" or type(error).__name__ not in _CONFIGURATION:
            raise
        text = " ".join(str(error).split())
        raise StepConfigError(
            f"the modal package refuses its configuration (MODAL_... of the process, ~/.modal.toml): {text}"
        ) from error


# -- clients

_clients: dict[ModalAccount, modal.Client] = {}
_openings: dict[ModalAccount, threading.Lock] = {}
_looking = threading.Lock()


def client_of(account: ModalAccount, limit_s: float = OPEN_LIMIT_S) -> modal.Client:
    """Return the process's client of an account; it is open, and several threads may use it.

    The first call connects to the server, without a request. A forked process gets clients of its own. They
    are closed when the process ends, or by :func:`close_clients`. Call this function outside of an event
    loop's own thread; the client works beside any event loop, because the ``modal`` package has one of its
    own.

    Where tasks run, the function also sets MODAL_MAX_THROTTLE_WAIT to 0, unless the user has set a limit: a
    request beyond a rate limit then fails at once, and Airflow tries again, instead of waiting in the client
    without end. A triggerer is shared with other users of Modal, so nothing is set there.

    :param limit_s: longest time for the connection, in seconds
    :raises StepConfigError: the profiles of ``~/.modal.toml`` contradict each other
    :raises modal.exception.ConnectionError: the server does not answer
    """
    with _looking:
        opening = _openings.setdefault(account, threading.Lock())
    with opening:
        client = _clients.get(account)
        if client is None or client.is_closed():
            # asyncio.run() would take the thread's own event loop away
            with _explained(), asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
                client = runner.run(_open(account, limit_s))
            _clients[account] = client
        return client


async def _open(account: ModalAccount, limit_s: float) -> modal.Client:
    import modal

    _limit_throttle_wait()
    atexit.unregister(close_clients)
    atexit.register(close_clients)  # behind the exit handlers of the modal package, so it runs before them
    try:
        async with asyncio.timeout(limit_s):
            if account.token_id and account.token_secret:
                return await modal.Client.from_credentials.aio(account.token_id, account.token_secret)
            from modal.config import config

            return await modal.Client.from_oauth_credentials.aio(
                config["oauth_refresh_token"],
                oauth_client_id=config["oauth_client_id"],
                oauth_client_secret=config["oauth_client_secret"],
                oauth_jwt_key=config["oauth_jwt_key"],
            )
    except TimeoutError:
        raise modal.exception.ConnectionError(
            f"Modal did not answer within {limit_s:g} s at {account.server_url}"
        ) from None


def _limit_throttle_wait() -> None:
    from modal.config import config

    if _TRIGGERER not in sys.modules and config["max_throttle_wait"] is None:
        os.environ[THROTTLE] = "0"


def close_clients() -> None:
    """Close the clients of this process. A later :func:`client_of` opens a new one."""
    clients = list(_clients.values())
    _clients.clear()
    for client in clients:
        client.close()


def _forget() -> None:
    """Leave the parent's clients alone: they are bound to its threads and connections."""
    global _clients, _openings, _looking  # a lock that another thread of the parent held is never freed
    _clients, _openings, _looking = {}, {}, threading.Lock()


os.register_at_fork(after_in_child=_forget)
