"""Mistakes in a DAG file, a connection or the configuration, in addition to ``test_arguments.py``."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path

import pytest
from airflow.sdk import DAG

from airflow_stepop.connections.extra import extra_of
from airflow_stepop.exceptions import PayloadError, StepConfigError, StepopError
from airflow_stepop.operators import RemoteStepOperator
from airflow_stepop.payload.build import build_payload
from airflow_stepop.payload.call import CommandCall, FunctionCall, call_key
from airflow_stepop.payload.code_archive import Project, project_modules
from airflow_stepop.payload.outcome import read_outcome, to_xcom
from airflow_stepop.stores.configured import open_store
from airflow_stepop.stores.paths import result_path
from tests.support.damage import report_of

pytestmark = pytest.mark.corpus

ARGUMENTS = {
    "env of nothing": ({"env": {"A": None}}, "env['A']=None cannot be an environment variable"),
    "env of bytes": ({"env": {"A": b"x"}}, "env['A']=b'x' cannot be an environment variable"),
    "env of a list": ({"env": {"A": ["x"]}}, "env['A']=['x'] cannot be an environment variable"),
    "env of a dict": ({"env": {"A": {}}}, "env['A']={} cannot be an environment variable"),
    "env with NUL": ({"env": {"A": "x\0y"}}, "env['A']='x\\x00y' cannot be an environment variable"),
    "env with half a character": ({"env": {"A": "\ud800"}}, "env['A']='\\ud800' cannot be"),
    "env name with NUL": ({"env": {"A\0B": "x"}}, "env has the name 'A\\x00B'"),
    "env name with half a character": ({"env": {"\ud800": "x"}}, "env has the name '\\ud800'"),
    "env name of ours": ({"env": {"STEPOP_NONCE": "x"}}, "'STEPOP_NONCE', which is set for every step"),
    "env name as a number": ({"env": {1: "x"}}, "env has the name 1"),
    "timeout of 10**9 days": ({"timeout": timedelta.max}, "timeout must be at most 100 years"),
    "timeout of a googol": ({"timeout": 10**100}, "timeout must be at most 100 years"),
    "timeout beyond floats": ({"timeout": 10**400}, "timeout must be at most 100 years"),
    "infinite timeout": ({"timeout": float("inf")}, "timeout must be positive, and this is inf"),
    "start_timeout beyond floats": ({"start_timeout": 10**400}, "start_timeout must be at most 100 years"),
    "poll_interval of 10**9 days": ({"poll_interval": timedelta.max}, "poll_interval must be at most 100"),
}
COMMANDS = {
    "empty program": ({"command": ["", "x"]}, "command begins with an empty word"),
    "nothing among words": ({"command": ["true", None]}, "command has None, which is neither a word"),
    "bytes among words": ({"command": [b"true"]}, "command has b'true', which is neither a word"),
    "list among words": ({"command": ["true", ["x"]]}, "command has ['x'], which is neither a word"),
    "NUL in a word": ({"command": ["true", "a\0b"]}, "command has 'a\\x00b', which is neither a word"),
    "half a character": ({"command": ["true", "\ud800"]}, "command has '\\ud800', which is neither a word"),
    "empty output": ({"command": ["true"], "outputs": [""]}, "outputs has '', which is neither a word"),
    "output of nothing": ({"command": ["true"], "outputs": [None]}, "outputs has None, which is neither"),
    "NUL in an output": ({"command": ["true"], "outputs": ["a\0b"]}, "outputs has 'a\\x00b', which is"),
    "empty input": ({"command": ["true"], "inputs": {"": 1}}, "inputs has '', which is neither a word"),
    "input of a number's name": ({"command": ["true"], "inputs": {None: 1}}, "inputs has None, which is"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments(case):
    arguments, text = ARGUMENTS[case]
    with DAG("bad", schedule=None), pytest.raises(StepConfigError, match=re.escape(text)):
        RemoteStepOperator(task_id="t", **{"command": ["true"], **arguments})


@pytest.mark.parametrize("case", COMMANDS)
def test_commands(case):
    arguments, text = COMMANDS[case]
    with DAG("bad", schedule=None), pytest.raises(StepConfigError, match=re.escape(text)):
        RemoteStepOperator(task_id="t", **arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"command": ["true", "", "x\ny", 1, 1.5, Path("x"), "{{ x }}"]},
        {"command": ["true"], "env": {"A": "x\ny", "B": "", "C": 1, "D": True, "E": "{{ x }}"}},
        {"command": ["true"], "timeout": timedelta(microseconds=1), "execution_timeout": timedelta.max},
    ],
)
def test_strange_but_valid_arguments(arguments):
    with DAG("good", schedule=None):
        RemoteStepOperator(task_id="t", **arguments)


# -- source files

SOURCES = {
    "latin-1": "# -*- coding: latin-1 -*-\nfrom beside import größe\nfläche = größe\n".encode("latin-1"),
    "cp1252 in a comment": b"# coding: cp1252\n# \x80\nimport beside\n",
    "with a byte order mark": b"\xef\xbb\xbfimport beside\n",
    "with Windows line ends": b"import os\r\nimport beside\r\n",
    "with old Mac line ends": b"import os\rimport beside\r",
    "with a form feed": b"\x0cimport beside\n",
    "in koi8-r": "# coding: koi8-r\nимя = 1\nimport beside\n".encode("koi8-r"),
}


@pytest.mark.parametrize("case", SOURCES)
def test_the_source_is_read_in_its_own_encoding(tmp_path, case):
    """Otherwise the modules that the source imports would not be shipped."""
    dag_file = tmp_path / "dag.py"
    dag_file.write_bytes(SOURCES[case])
    (tmp_path / "beside.py").write_text("größe = 1\n", "utf-8")
    assert list(project_modules(Project.of(dag_file, None), [dag_file])) == ["beside.py"]


@pytest.mark.parametrize(
    "source",
    [
        b"import",
        b"\0",
        b"# coding: no-such\nimport beside\n",
        b"\xff\xfei\0m\0",
        b"(" * 10_000,
        b"-" * 200_000 + b"1",
    ],
    ids=["half", "nul", "unknown encoding", "utf-16", "brackets", "deeper than any stack"],
)
def test_a_source_that_python_cannot_read_is_left_to_python(tmp_path, source):
    dag_file = tmp_path / "dag.py"
    dag_file.write_bytes(source)
    assert project_modules(Project.of(dag_file, None), [dag_file]) == {}


# -- connections


class Connection:
    """Stands for Airflow's connection; ``extra`` is the text as the user wrote it."""

    conn_id = "gpu"

    def __init__(self, extra):
        self.extra = extra


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        ("{backend: local}", "is not JSON (Expecting property name"),
        ("backend=local", "is not JSON (Expecting value"),
        ("[" * 100_000, "is not JSON (maximum recursion depth"),
        ('["backend"]', "is JSON and not an object"),
        ('"local"', "is JSON and not an object"),
        ("1", "is JSON and not an object"),
        ("null", "is JSON and not an object"),
    ],
    ids=lambda value: value[:12],
)
def test_an_extra_that_is_not_json(extra, text):
    """Airflow takes it for an empty extra: the step would run on another backend than the user asked for."""
    with pytest.raises(StepConfigError, match=re.escape(text)) as caught:
        extra_of(Connection(extra))
    assert "'gpu'" in str(caught.value)
    assert "write" in str(caught.value)


# -- stores


@pytest.mark.parametrize(
    "folder",
    [
        "with space",
        "größe/\U0001f980",
        "100%",
        "%41",
        "a#b",
        "a?b",
        "a&b=c",
        "a'b\"c",
        "a\nb",
        "a;b",
        "\udce9",
    ],
)
def test_a_store_in_a_folder_of_any_name(tmp_path, folder, monkeypatch):
    store = open_store(str(tmp_path / folder))
    assert open_store(store.url).folder == store.folder == tmp_path / folder
    store.url.encode("ascii")
    store.put_new("results/x y/größe%.bin", b"data")
    assert bytes(store.read("results/x y/größe%.bin", 4)) == b"data"
    assert store.path_of(store.uri("results/x y/größe%.bin")) == "results/x y/größe%.bin"


@pytest.mark.parametrize(
    "url", ["file:///srv/a#b", "file:///srv/a?b", "file:///srv/a\nb", "file:///srv/a\tb"]
)
def test_a_store_whose_address_means_another_folder(url):
    """Without the error, the store would silently be the folder whose name ends before the character."""
    with pytest.raises(
        StepConfigError, match="has a character with a special meaning in an address"
    ) as caught:
        open_store(url)
    assert open_store(str(caught.value).rpartition(" ")[2]).folder == Path("/srv") / url.rpartition("/")[2]


@pytest.mark.parametrize(
    ("one", "other"),
    [("a_b", "a-b"), ("A", "a"), ("größe", "grosse"), ("x" * 100 + "1", "x" * 100 + "2"), (".", "_")],
)
def test_tasks_with_names_that_become_the_same_word_share_nothing(one, other):
    places = {
        result_path({"dag_id": "d", "run_id": "r", "task_id": name, "map_index": "-1"}, "s-job")
        for name in (one, other)
    }
    assert len(places) == 2


# -- arguments of a step


def _payload(*args, **kwargs):
    def f(*args, **kwargs): ...

    call = FunctionCall(function=f, args=args, kwargs=kwargs, reference=None)
    call_key(call, None, [])
    return build_payload(call, job="s-job", nonce="n", split="no", is_result_wanted=True)


def _recursive():
    value = []
    value.append({"again": value})
    return value


def _shared(depth):
    value = ()
    for _ in range(depth):
        value = (value, value)
    return value


def _deep(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10_000,
        "x" * 10**7,
        {"k" * 10**6: 1},
        float("nan"),
        "\ud800",
        _recursive(),
        _shared(100),
        _deep(400),
    ],
    ids=["10,000 characters", "10 MB", "huge key", "nan", "surrogate", "recursive", "shared", "deep"],
)
def test_strange_arguments_are_sent(value):
    assert _payload(value, named=value).inline_bytes < 30_000_000


def test_an_argument_deeper_than_any_stack_is_refused():
    with pytest.raises(
        PayloadError, match=r"positional argument 1 \(a list\) cannot be sent to the step: .*recursion"
    ):
        _payload(_deep(100_000))


def test_an_input_deeper_than_any_stack_is_refused():
    call = CommandCall(argv=["true"], inputs={"x.json": _deep(100_000)}, outputs=())
    with pytest.raises(PayloadError, match=r"x.json \(a list\) cannot be sent to the step"):
        build_payload(call, job="s-job", nonce="n", split="no", is_result_wanted=True)


def test_a_function_whose_source_is_gone():
    """The function's code is pickled, so the source is not needed."""
    names = {}
    exec(compile("def f(): return 42", "/gone/dag.py", "exec"), {"__name__": "gone"}, names)
    call = FunctionCall(function=names["f"], args=(), kwargs={}, reference=None)
    assert call_key(call, None, []) == call_key(call, None, [])
    assert build_payload(call, job="s", nonce="n", split="no", is_result_wanted=True).digest


# -- outcomes of other versions, of other jobs, and damaged ones

OUTCOME = {"protocol": 1, "job": "s-job", "nonce": "n", "status": "success", "value": None}
OUTCOMES = {
    "of an older version": ({**OUTCOME, "protocol": 0}, "it has protocol 0 and this airflow-stepop has 1"),
    "of a newer version": (
        {"protocol": 2, "job": "s-job", "nonce": "n", "status": "success", "values": 1},
        "it has protocol 2 and this airflow-stepop has 1: another version started the step; ",
    ),
    "of another job": (
        {**OUTCOME, "job": "s-other"},
        "it belongs to job 's-other' (nonce 'n') and not to 's-job'",
    ),
    "of an older generation": ({**OUTCOME, "nonce": "o"}, "it belongs to job 's-job' (nonce 'o') and not to"),
    "cut in the middle": (json.dumps(OUTCOME).encode()[:-4], "outcome.json is damaged: it is no JSON"),
    "deeper than any stack": (b"[" * 100_000, "it is no JSON (maximum recursion depth"),
    "of nothing": (b"", "outcome.json is damaged: it is no JSON (Expecting value"),
    "of a failure that is none": ({**OUTCOME, "status": "failure"}, "a failure is None and not an object"),
    "of a failure of a newer version": (
        {**OUTCOME, "status": "failure", "failure": {"category": "moon", "summary": ""}},
        "a failure has category='moon', which is not one of user_error, oom, ",
    ),
}


@pytest.mark.parametrize("case", OUTCOMES)
@pytest.mark.parametrize("is_authenticated", [True, False])
def test_outcomes(case, is_authenticated):
    outcome, text = OUTCOMES[case]
    report = report_of(outcome) if is_authenticated else report_of(outcome, digest=None)
    with pytest.raises(StepopError, match=re.escape(text)):
        read_outcome(report, "s-job", "n")


@pytest.mark.parametrize("damage", ["flipped", "truncated", "extended", "replayed"])
def test_an_outcome_that_does_not_match_its_receipt(damage):
    report = report_of(OUTCOME)
    data = {
        "flipped": bytes([report.data[0] ^ 1]) + report.data[1:],
        "truncated": report.data[:-1],
        "extended": report.data + b" ",
        "replayed": json.dumps({**OUTCOME, "value": {"codec": "json"}}).encode(),
    }[damage]
    with pytest.raises(StepopError, match="its bytes changed after the step wrote it"):
        read_outcome(report_of(data, digest=report.digest), "s-job", "n")


@pytest.mark.parametrize("damage", ["flipped", "truncated", "extended", "swapped", "removed"])
def test_a_collected_result_that_changed_in_the_store(folder_store, damage):
    entry = {"codec": "json", "segments": [{"sha256": "0" * 64, "size": 9, "name": "s-job.0.bin"}]}
    outcome = {**OUTCOME, "value": None, "split": "list", "values": [entry] * 1000}
    result = read_outcome(report_of(outcome, base_uri=folder_store.uri("results/x")), "s-job", "n")["result"]
    path = next((folder_store.folder / "results").rglob("*.collected-*.json"))
    data = path.read_bytes()
    damaged = {
        "flipped": data[:9] + bytes([data[9] ^ 1]) + data[10:],
        "truncated": data[:-1],
        "extended": data + b" ",
        "swapped": b"[" + b" " * (len(data) - 2) + b"]",
    }
    assert len(to_xcom(result)) == 1000
    path.unlink() if damage == "removed" else path.write_bytes(damaged[damage])
    text = {"removed": "No such file", "truncated": "is not the", "extended": "is not the"}
    with pytest.raises(StepopError, match=text.get(damage, "changed after it was written")):
        to_xcom(result)
