"""From an Airflow connection to an account and a client: tokens, environment, server, forks, the end."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import Connection

from airflow_stepop.connections.modal import (
    ModalAccount,
    account_of,
    client_of,
    close_clients,
    environment_of,
)
from airflow_stepop.exceptions import StepConfigError
from tests.support.modal import TOKEN_ID, TOKEN_SECRET, Modal

Run = Callable[..., Any]
ACCOUNT = "import json, airflow_stepop.connections.modal as m\na = m.account_of(None)\n"
SHOW = f"{ACCOUNT}print(json.dumps([a.token_id, a.token_secret, a.server_url, a.environment, a.source]))"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a function that runs code in a new process, without the user's own settings of Modal.

    Every warning is an error there, and nothing may be printed to standard error. The function returns the
    JSON that the code prints, or the message of the ``StepConfigError`` that it raised.
    """

    def start(code: str, toml: str | None = None, **env: str) -> Any:
        config = tmp_path / "modal.toml"
        if toml is not None:
            config.write_text(toml)
        own = {name: value for name, value in os.environ.items() if not name.startswith("MODAL_")}
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            env={**own, "MODAL_CONFIG_PATH": str(config), **env},
            capture_output=True,
            text=True,
        )
        if done.returncode and "StepConfigError: " in done.stderr:
            return done.stderr.rpartition("StepConfigError: ")[2].strip()
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    return start


# -- the connection


def test_the_tokens_of_the_connection_are_used_alone(
    connect: Callable[..., Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the environment says. The secret is not shown with the account."""
    monkeypatch.setenv("MODAL_TOKEN_ID", "ak-other")
    monkeypatch.setenv("MODAL_TOKEN_SECRET", "as-other")
    monkeypatch.setenv("MODAL_SERVER_URL", "https://modal.example.com")
    monkeypatch.setenv("MODAL_ENVIRONMENT", "ambient")
    found = account_of(connect("ak-1", "as-1", environment="dev", conn_id="gpu"))
    assert found == ModalAccount(
        "ak-1", "as-1", "https://modal.example.com", "dev", "the token of the connection 'gpu'"
    )
    assert "as-1" not in repr(found)
    assert account_of(connect("ak-1", "as-1")).environment == "ambient"


def test_the_environment_is_known_without_credentials(connect: Callable[..., Connection], run: Run) -> None:
    """So a request can be rendered where nobody has a token."""
    assert environment_of(connect(None, None, environment="dev")) == "dev"
    code = "import json, airflow_stepop.connections.modal as m\nprint(json.dumps(m.environment_of(None)))"
    assert run(code) == ""
    assert run(code, MODAL_ENVIRONMENT="dev") == "dev"


@pytest.mark.parametrize("has_connection", [True, False])
def test_a_connection_without_tokens_means_those_of_the_environment(
    connect: Callable[..., Connection], monkeypatch: pytest.MonkeyPatch, has_connection: bool
) -> None:
    """The account says so, for the log and for ``check``."""
    monkeypatch.setenv("MODAL_TOKEN_ID", "ak-2")
    monkeypatch.setenv("MODAL_TOKEN_SECRET", "as-2")
    connection = connect(None, None, environment="dev") if has_connection else None
    found = account_of(connection)
    assert (found.token_id, found.token_secret) == ("ak-2", "as-2")
    assert found.environment == ("dev" if has_connection else "")
    why = "the connection 'modal_default' has no token" if has_connection else "there is no connection"
    assert found.source.startswith(f"MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, because {why}")


@pytest.mark.parametrize(
    ("token", "extra", "text"),
    [
        (("ak-1", None), {}, "has one half of a token: its password .* is empty"),
        ((None, "as-1"), {}, "has one half of a token: its login .* is empty"),
        (("as-1", "ak-1"), {}, "exchange them"),
        (("ak-1", "as-1\n"), {}, "a blank, a line end or the like in its password"),
        (("ak 1", "as-1"), {}, "a blank, a line end or the like in its login"),
        (("ak-1", "as-1"), {"environment": 3}, 'write the name of an environment of Modal: {"environment": '),
        (("ak-1", "as-1"), {"stepop": {"endpoints": {"modal": "http://x"}}}, "set MODAL_SERVER_URL"),
    ],
)
def test_mistakes_in_a_connection(
    connect: Callable[..., Connection], token: tuple[Any, Any], extra: dict[str, Any], text: str
) -> None:
    with pytest.raises(StepConfigError, match=text):
        account_of(connect(*token, **extra))


def test_a_connection_of_another_type_is_refused() -> None:
    with pytest.raises(StepConfigError, match="is of type 'aws'; backend 'modal' needs one of type modal"):
        account_of(Connection(conn_id="x", conn_type="aws"))


@pytest.mark.parametrize("token", [("ak-1", "as-1"), (None, None), ("ak-1", None), (None, "as-1"), ("", "")])
def test_the_rules_are_those_of_modals_own_provider(
    connect: Callable[..., Connection], monkeypatch: pytest.MonkeyPatch, token: tuple[Any, Any]
) -> None:
    """``ModalHook`` of the installed provider takes the same tokens, and refuses the same connections."""
    from airflow.providers.modal.hooks.modal import ModalHook

    monkeypatch.setenv("MODAL_TOKEN_ID", "ak-2")
    monkeypatch.setenv("MODAL_TOKEN_SECRET", "as-2")
    connection = connect(*token, environment="dev")
    monkeypatch.setenv("AIRFLOW_CONN_MODAL_DEFAULT", connection.as_json())
    hook = ModalHook()
    if bool(token[0]) != bool(token[1]):
        with pytest.raises(Exception, match="sets one Modal token field but not the other"):
            _ = hook.credentials
        with pytest.raises(StepConfigError, match="one half of a token"):
            account_of(connection)
        return
    found = account_of(connection)
    assert (found.token_id, found.token_secret) == (hook.credentials or ("ak-2", "as-2"))
    assert found.environment == hook.environment_name


# -- what Airflow's user has


def test_the_profile_of_the_user(run: Run) -> None:
    """As ``modal token new`` writes it; with its environment and its server."""
    toml = '[work]\nactive = true\ntoken_id = "ak-3"\ntoken_secret = "as-3"\nenvironment = "dev"\n'
    token_id, secret, server_url, environment, source = run(SHOW, toml)
    assert (token_id, secret, environment) == ("ak-3", "as-3", "dev")
    assert server_url.startswith("https://api.modal.com")
    assert source.startswith("the active profile in ")
    assert source.endswith("modal.toml, because there is no connection 'modal_default'")
    other = toml.replace("active = true\n", "") + '[x]\ntoken_id = "ak-4"\ntoken_secret = "as-4"\n'
    assert run(SHOW, other, MODAL_PROFILE="x")[0] == "ak-4"
    assert run(SHOW, other, MODAL_PROFILE="x")[4].startswith("the profile 'x' in ")


@pytest.mark.parametrize(
    ("toml", "env", "texts"),
    [
        (None, {}, ["there is no connection 'modal_default'. Otherwise run `modal token new`"]),
        (None, {"MODAL_TOKEN_ID": "ak-1"}, ["one half of a token; set MODAL_TOKEN_SECRET, too"]),
        (
            '[a]\ntoken_id = "ak-1"\ntoken_secret = "as-1"\n[b]\ntoken_id = "ak-2"\n',
            {},
            ["has the profiles a, b, and none that is active has a token", "modal profile activate NAME"],
        ),
        ('[a]\ntoken_id = "ak-1"\n', {"MODAL_PROFILE": "c"}, ["has the profiles a, and none that is active"]),
        ("token_id", {}, ["the modal package refuses its configuration", "Error when reading"]),
    ],
)
def test_without_credentials_the_error_says_what_to_do(
    run: Run, toml: str | None, env: dict[str, str], texts: list[str]
) -> None:
    message = run(SHOW, toml, **env)
    assert isinstance(message, str)
    for text in texts:
        assert text in message


def test_profiles_that_contradict_each_other(run: Run) -> None:
    """The server's address is the profile's, so Modal's client wants to know which one counts."""
    toml = '[a]\ntoken_id = "ak-1"\n[b]\ntoken_id = "ak-2"\n'
    code = (
        "from airflow_stepop.connections.modal import ModalAccount, client_of\n"
        "client_of(ModalAccount('ak-1', 'as-1', '', '', ''))"
    )
    assert "No Modal profile is active" in run(code, toml)


def test_oauth_credentials_of_the_process(modal_server: Modal, run: Run) -> None:
    names = ("MODAL_OAUTH_REFRESH_TOKEN", "MODAL_OAUTH_CLIENT_ID", "MODAL_OAUTH_CLIENT_SECRET")
    env = dict.fromkeys(names, "x")
    code = f"{ACCOUNT}c = m.client_of(a)\nprint(json.dumps([a.token_id, a.source, c.is_closed()]))"
    token_id, source, is_closed = run(code, **env, MODAL_SERVER_URL=modal_server.url)
    assert (token_id, is_closed) == (None, False)
    assert source.startswith("the OAuth credentials of the process")


# -- clients


def test_a_client_says_hello_and_is_shared(modal_server: Modal, account: ModalAccount) -> None:
    """One for each account of the process, which is opened anew after it was closed."""
    client = client_of(account)
    client.hello()
    assert modal_server.calls("ClientHello") == 1
    assert client_of(account_of(Connection.from_json(modal_server.connection(), "modal_default"))) is client
    close_clients()
    assert client.is_closed()
    client_of(account).hello()


def test_a_wrong_token_is_modals_error(
    modal_server: Modal, connect: Callable[..., Connection], account: ModalAccount
) -> None:
    import modal

    client_of(account).hello()
    with pytest.raises(modal.exception.AuthError):
        client_of(account_of(connect("ak-wrong", "as-wrong"))).hello()


def test_threads_and_event_loops_share_a_client(modal_server: Modal, account: ModalAccount) -> None:
    """As in a triggerer: its loop goes on, threads make the calls, and a second loop may follow.

    Nothing is looked up in Airflow there, which would raise in such a thread.
    """

    async def ask() -> None:
        await asyncio.gather(*(asyncio.to_thread(lambda: client_of(account).hello()) for _ in range(4)))

    asyncio.run(ask())
    other = threading.Thread(target=lambda: asyncio.run(ask()))
    other.start()
    other.join()
    assert modal_server.calls("ClientHello", "OK") == 8


def test_the_event_loop_of_the_callers_thread_stays(account: ModalAccount) -> None:
    """Code of the same worker may have set one, and use it later."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        client_of(account)
        assert asyncio.get_event_loop_policy().get_event_loop() is loop
    finally:
        asyncio.set_event_loop(None)
        loop.close()


CLIENT = f"""
import os, sys
from airflow_stepop.connections.modal import ModalAccount, client_of
account = ModalAccount({TOKEN_ID!r}, {TOKEN_SECRET!r}, "", "", "")
client_of(account).hello()
"""
FORK = """
pid = os.fork()
if pid == 0:
    client_of(account).hello()
    os._exit(0 if client_of(account) is not first else 1)
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
client_of(account).hello()
print(code)
"""


def test_a_forked_process_has_clients_of_its_own(modal_server: Modal, run: Run) -> None:
    """The parent's client works on, too."""
    code = CLIENT + "first = client_of(account)\n" + FORK
    assert run(code, MODAL_SERVER_URL=modal_server.url) == 0
    assert modal_server.calls("ClientHello", "OK") == 3


def test_a_process_ends_without_a_word(modal_server: Modal, run: Run) -> None:
    """The client is closed at the end: no warning, and nothing on standard error."""
    assert run(f"{CLIENT}print(1)", MODAL_SERVER_URL=modal_server.url) == 1


def test_a_server_that_does_not_answer(run: Run) -> None:
    """The error comes within the limit, and not after a minute; the half-open client leaves no warning."""
    code = (
        "import modal, airflow_stepop.connections.modal as m\n"
        "account = m.ModalAccount('ak-1', 'as-1', 'http://127.0.0.1:9', '', '')\n"
        "try:\n    m.client_of(account, 0.1)\nexcept modal.exception.ConnectionError as error:\n"
        "    print(__import__('json').dumps(str(error)))"
    )
    message = run(code, MODAL_SERVER_URL="http://127.0.0.1:9")
    assert message == "Modal did not answer within 0.1 s at http://127.0.0.1:9"


THROTTLE = "print(__import__('json').dumps(os.environ.get('MODAL_MAX_THROTTLE_WAIT')))"


@pytest.mark.parametrize(
    ("before", "env", "toml", "expected"),
    [
        ("", {}, None, "0"),
        ("", {"MODAL_MAX_THROTTLE_WAIT": "30"}, None, "30"),
        ("", {}, "[default]\nmax_throttle_wait = 60\n", None),
        ("import sys; sys.modules['airflow.jobs.triggerer_job_runner'] = sys\n", {}, None, None),
    ],
)
def test_a_task_does_not_wait_in_the_client_for_a_rate_limit(
    modal_server: Modal, run: Run, before: str, env: dict[str, str], toml: str | None, expected: str | None
) -> None:
    """A limit of the user stays, and a triggerer, which others use as well, is left alone."""
    code = f"{before}{CLIENT}{THROTTLE}"
    assert run(code, toml, MODAL_SERVER_URL=modal_server.url, **env) == expected


def test_the_module_of_triggerers_is_where_this_airflow_has_it() -> None:
    """Without it, a triggerer would be taken for a process of a task."""
    from importlib.util import find_spec

    from airflow_stepop.connections import modal

    assert find_spec(modal._TRIGGERER) is not None
