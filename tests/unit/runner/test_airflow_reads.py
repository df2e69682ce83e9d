"""Airflow inside a step: importing it works, and what only Airflow has is refused with a message."""

from __future__ import annotations

import os
import textwrap

import pytest

VARIABLE = (
    "A step cannot use Airflow's Variable 'my_key', because the step runs outside of Airflow. "
    "Pass the value as an argument of the step, '{{ var.value.my_key }}', or as the environment variable "
    "AIRFLOW_VAR_MY_KEY with env= or secrets="
)
CONNECTION = (
    "A step cannot use Airflow's Connection 'my_db', because the step runs outside of Airflow. "
    "Give the step the environment variable AIRFLOW_CONN_MY_DB with secrets= or env=, such as "
    "secrets={'AIRFLOW_CONN_MY_DB': '{{ conn.my_db.get_uri() }}'}"
)
XCOM = (
    "A step cannot use Airflow's XCom, because the step runs outside of Airflow. Pass the other task's "
    "result as an argument of the step: the task's output, or '{{ ti.xcom_pull(\"task_id\") }}', also with "
    "env= or secrets="
)
CONTEXT = (
    "A step cannot use Airflow's context, because the step runs outside of Airflow. Give the function a "
    "parameter with the name of the value (ds, run_id, params), or pass '{{ run_id }}' as an argument, or "
    "with env= or secrets="
)
SDK, MODELS = "from airflow.sdk import", "from airflow.models import"


@pytest.fixture
def run(folder, tmp_path):
    """Return a function that runs a function with this body, in an environment that knows no Airflow."""

    def run(body, **env):
        own = {
            name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "_AIRFLOW"))
        }
        folder.reference("def f():\n" + textwrap.indent(textwrap.dedent(body), "    "), "f")
        return folder.run(env={**own, "HOME": str(tmp_path / "home"), **env})

    (tmp_path / "home").mkdir()
    return run


REFUSED = [
    (f"{SDK} Variable\nVariable.get('my_key')", VARIABLE),
    (f"{SDK} Variable\nVariable.get('my_key', default='x')", VARIABLE),
    (f"{SDK} Variable\nVariable.get(key='my_key', deserialize_json=True, default=None)", VARIABLE),
    (f"{SDK} Variable\nVariable.set('my_key', 'x')", VARIABLE),
    (f"{SDK} Variable\nVariable.delete('my_key')", VARIABLE),
    (f"{SDK} Variable\nlist(Variable.keys(prefix='my_key'))", VARIABLE),
    (f"{MODELS} Variable\nVariable.get('my_key')", VARIABLE),
    (f"{MODELS} Variable\nVariable.get('my_key', default_var='x')", VARIABLE),
    (f"{MODELS} Variable\nVariable.setdefault('my_key', 'x')", VARIABLE),
    (f"{SDK} Connection\nConnection.get('my_db')", CONNECTION),
    (f"{SDK} BaseHook\nBaseHook.get_connection('my_db')", CONNECTION),
    (f"{SDK} BaseHook\nimport asyncio\nasyncio.run(BaseHook.aget_connection('my_db'))", CONNECTION),
    ("from airflow.hooks.base import BaseHook\nBaseHook.get_connection('my_db')", CONNECTION),
    (f"{MODELS} Connection\nConnection.get_connection_from_secrets('my_db')", CONNECTION),
    (
        "from airflow.providers.amazon.aws.hooks.s3 import S3Hook\n"
        "S3Hook(aws_conn_id='my_db').get_bucket('x')",
        CONNECTION,
    ),
    (f"{MODELS} XCom\nXCom.get_one(key='k', task_id='t', dag_id='d', run_id='r')", XCOM),
    (f"{MODELS} XCom\nXCom.get_all(key='k', task_id='t', dag_id='d', run_id='r')", XCOM),
    (f"{MODELS} XCom\nXCom.set(key='k', value=1, task_id='t', dag_id='d', run_id='r')", XCOM),
    (f"{SDK} get_current_context\nget_current_context()", CONTEXT),
    (
        "from airflow.sdk.definitions.context import get_current_context as g\ng()['ti'].xcom_pull('t')",
        CONTEXT,
    ),
]


def test_what_only_airflow_has(run, tmp_path):
    """It is refused, also where the step gives a default. Nothing is written to the user's home."""
    body = f"""
        found = []
        for body in {[body for body, _ in REFUSED]!r}:
            try:
                exec(body, {{}})
            except Exception as error:
                found.append(f"{{type(error).__name__}}: {{error}}")
            else:
                found.append("was not refused")
        return found
    """
    found = run(body).value()
    for (case, message), error in zip(REFUSED, found, strict=True):
        assert error == f"RuntimeError: {message}", case
    assert os.listdir(tmp_path / "home") == []


def test_a_refusal_is_an_error_of_the_user(run):
    """No retry would help."""
    done = run("from airflow.sdk import Variable\nVariable.get('my_key')")
    assert done.failure["summary"] == f"The step raised RuntimeError: {VARIABLE}"
    assert done.failure["category"] == "user_error"


def test_what_is_in_the_environment(run):
    """Variables and connections that the step was given can be read in every way."""
    body = """
        import asyncio
        from airflow.models import Connection as OldConnection, Variable as OldVariable
        from airflow.sdk import BaseHook, Connection, Variable
        return [
            Variable.get("given"),
            Variable.get("given", default="x"),
            Variable.get("document", deserialize_json=True),
            OldVariable.get("given"),
            Connection.get("db").password,
            BaseHook.get_connection("db").host,
            asyncio.run(BaseHook.aget_connection("db")).login,
            OldConnection.get_connection_from_secrets("db").schema,
        ]
    """
    env = {"AIRFLOW_VAR_GIVEN": "value", "AIRFLOW_VAR_DOCUMENT": '{"a": [1]}'}
    done = run(body, **env, AIRFLOW_CONN_DB="postgres://login:password@host/schema")
    assert done.value() == [
        "value",
        "value",
        {"a": [1]},
        "value",
        "password",
        "host",
        "login",
        "schema",
    ]


def test_a_value_that_is_no_json_is_not_called_missing(run):
    """An error in a value that the step was given is shown as it is."""
    body = "from airflow.sdk import Variable\nVariable.get('given', deserialize_json=True)"
    done = run(body, AIRFLOW_VAR_GIVEN="{")
    assert "AIRFLOW_VAR_GIVEN: wrong format" in done.failure["summary"]


def test_a_secrets_backend_of_the_step(run, tmp_path):
    """A step that may ask a secrets backend by itself does so."""
    (tmp_path / "vault.py").write_text(
        "from airflow.secrets import BaseSecretsBackend\n"
        "class Vault(BaseSecretsBackend):\n"
        "    def get_variable(self, key, team_name=None):\n"
        "        return 'from the vault' if key == 'kept' else None\n"
    )
    env = {"AIRFLOW__SECRETS__BACKEND": "vault.Vault", "PYTHONPATH": str(tmp_path)}
    assert (
        run("from airflow.sdk import Variable\nreturn Variable.get('kept')", **env).value()
        == "from the vault"
    )
    done = run("from airflow.sdk import Variable\nreturn Variable.get('my_key', default=1)", **env)
    assert done.failure["summary"] == f"The step raised RuntimeError: {VARIABLE}"


def test_where_airflow_writes(run):
    """Airflow's home is in the step's temporary folder, which is removed with the step."""
    body = """
        import os
        from airflow.configuration import AIRFLOW_HOME
        return [AIRFLOW_HOME, os.environ["STEPOP_WORK"], sorted(os.listdir())]
    """
    home, work, files = run(body).value()
    assert home == f"{work}/.airflow"
    assert "airflow" not in files, "a folder of this name would be a part of the package airflow"
    assert not os.path.exists(home)


def test_a_home_that_the_user_gives(run, tmp_path):
    body = "from airflow.configuration import AIRFLOW_HOME\nreturn AIRFLOW_HOME"
    assert run(body, AIRFLOW_HOME=str(tmp_path / "given")).value() == str(tmp_path / "given")


def test_airflow_leaves_logging_alone(run):
    """Importing Airflow changes neither the handlers nor the level nor how warnings are shown."""
    body = """
        import logging, warnings
        logging.getLogger().setLevel(logging.DEBUG)
        from airflow.sdk import BaseHook
        logging.debug("mine")
        logging.getLogger("airflow.task").info("of a task")
        warnings.warn("careful")
    """
    done = run(body)
    assert done.code == 0, done.stderr
    found = [
        line
        for line in done.stdout.splitlines()
        if "mine" in line or "of a task" in line or "careful" in line
    ]
    assert found[:2] == ["\x1fDEBUG:root: mine", "\x1fINFO:airflow.task: of a task"]
    assert found[2].startswith("\x1fWARNING:py.warnings: ")


def test_a_command_has_the_same_home(folder, tmp_path):
    """A command may be a program that imports Airflow."""
    folder.command("sh", "-c", 'echo "$AIRFLOW_HOME" > home.txt; pwd >> home.txt', outputs=("home.txt",))
    env = {name: value for name, value in os.environ.items() if name != "AIRFLOW_HOME"}
    done = folder.run(env=env)
    home, work = done.decode(done.outcome["outputs"]["home.txt"]).decode().split()
    assert home == f"{work}/.airflow"


def test_a_package_named_like_airflow(folder):
    """A step's own module whose name begins with airflow is an ordinary module."""
    folder.code(
        {
            "airflow_of_mine/__init__.py": "x = 1\n",
            "helpers.py": "import airflow_of_mine as m\nf = lambda: m.x\n",
        }
    )
    folder.manifest["function"] = {"by": "reference", "module": "helpers", "qualname": "f"}
    assert folder.arguments().run().value() == 1


AIRFLOW_2 = {  # as in Airflow 2.10, where these functions ask a database that a step does not have
    "airflow/__init__.py": "",
    "airflow/exceptions.py": """
        class AirflowException(Exception): pass
        class AirflowNotFoundException(AirflowException): pass
        class OperationalError(Exception): pass
    """,
    "airflow/models/__init__.py": "",
    "airflow/models/variable.py": """
        import os
        class Variable:
            @classmethod
            def get(cls, key, default_var=None, deserialize_json=False):
                found = Variable.get_variable_from_secrets(key=key)
                return default_var if found is None else found
            @staticmethod
            def get_variable_from_secrets(key):
                return os.environ.get("AIRFLOW_VAR_" + key.upper())
    """,
    "airflow/models/connection.py": """
        from airflow.exceptions import AirflowNotFoundException
        class Connection:
            @classmethod
            def get_connection_from_secrets(cls, conn_id):
                raise AirflowNotFoundException(f"The conn_id `{conn_id}` isn't defined")
    """,
    "airflow/models/xcom.py": """
        from airflow.exceptions import OperationalError
        class BaseXCom:
            @classmethod
            def get_one(cls, **kwargs):
                raise OperationalError("no such table: xcom")
        class XCom(BaseXCom): pass
    """,
    "airflow/operators/__init__.py": "",
    "airflow/operators/python.py": """
        from airflow.exceptions import AirflowException
        def get_current_context():
            raise AirflowException("Current context was requested but no context was found!")
    """,
    "helpers.py": """
        from airflow.models.connection import Connection
        from airflow.models.variable import Variable
        from airflow.models.xcom import XCom
        from airflow.operators.python import get_current_context
        def f():
            found = [Variable.get("given")]
            for read in (
                lambda: Variable.get("my_key", default_var=1),
                lambda: Connection.get_connection_from_secrets("my_db"),
                lambda: XCom.get_one(key="k", task_id="t"),
                get_current_context,
            ):
                try:
                    found.append(read())
                except RuntimeError as error:
                    found.append(str(error))
            return found
    """,
}


def test_airflow_2(folder, edge_python):
    """An image may have Airflow 2, which has the same functions at other places."""
    folder.code({name: textwrap.dedent(text) for name, text in AIRFLOW_2.items()})
    folder.manifest["function"] = {"by": "reference", "module": "helpers", "qualname": "f"}
    done = folder.arguments().run(edge_python, env={**os.environ, "AIRFLOW_VAR_GIVEN": "value"})
    assert done.value() == ["value", VARIABLE, CONNECTION, XCOM, CONTEXT]
