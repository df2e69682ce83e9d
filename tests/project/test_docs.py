"""The documentation agrees with the code: links have targets, and tables are complete."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from airflow_stepop.failure import Category
from airflow_stepop.provider_info import get_provider_info
from airflow_stepop.registry import BUILTINS
from tests.support import journal
from tests.support.paths import DOCS, EXAMPLES, ROOT, SCRIPTS

PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])
PROGRAMS = sorted([*EXAMPLES.glob("*.py"), DOCS / "snippets" / "pipeline.py"])
DAG_FILES = [path for path in PROGRAMS if "@dag" in path.read_text()]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)", re.DOTALL)
COPY = re.compile(r"^<!-- (\S+\.\w+) -->\n```\w+\n(.*?)```$", re.DOTALL | re.MULTILINE)


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"stepop_docs_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MkDocs build them."""
    heads = re.findall(r"^#+ +(.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", head.lower()).strip()) for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_has_a_target(page: Path) -> None:
    """Every relative link and every linked heading exists."""
    text = page.read_text()
    outside_code = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for link in LINK.findall(outside_code):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", ["docs/index.md", "docs/backends/index.md", "README.md"])
def test_a_page_says_which_backends_work(page: str) -> None:
    """Each backend of this release has a link to its page, and a planned one is said to be planned."""
    text = (ROOT / page).read_text()
    planned = re.findall(r"^.*(?:not yet|planned|not built).*$", text, re.MULTILINE)
    folder = {"docs/index.md": "backends/", "docs/backends/index.md": "", "README.md": "docs/backends/"}[page]
    for name, backend in BUILTINS.items():
        if backend.is_released:
            assert f"[`{name}`]({folder}{name}.md)" in text
        elif page != "README.md":
            assert any(f"`{name}`" in line for line in planned), f"{name} is not built yet"
        assert not (backend.is_released and any(f"`{name}`" in line for line in planned)), name


def test_every_example_in_a_page_is_the_file_itself() -> None:
    """A page has the code itself rather than an include, so that it can be read on GitHub, too."""
    copies = [(page, *found) for page in PAGES for found in COPY.findall(page.read_text())]
    assert len(copies) == 6
    for page, name, code in copies:
        assert (ROOT / name).read_text() == code, f"copy {name} into {page.relative_to(ROOT)}"
    assert not [page for page in PAGES if re.search(r"^--8<--|^!!! ", page.read_text(), re.MULTILINE)]


@pytest.mark.parametrize("name", ["quickstart.md", "index.md"])
def test_the_first_example_is_in_the_page(name: str) -> None:
    """The two pages that are read first, also on GitHub, contain the code itself rather than an include."""
    code = (DOCS / "snippets" / "pipeline.py").read_text()
    assert f"```python\n{code}```\n" in (DOCS / name).read_text(), "copy docs/snippets/pipeline.py into it"


def test_every_page_is_in_the_navigation() -> None:
    """Every page can be found through the navigation."""
    navigation = (ROOT / "mkdocs.yml").read_text()
    missing = [page for page in DOCS.rglob("*.md") if str(page.relative_to(DOCS)) not in navigation]
    assert missing == []


def first_cells(page: str, heading: str) -> list[str]:
    """Return the code words in the first column of the table below a heading."""
    text = (DOCS / page).read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return [word for cell in cells for word in re.findall(r"`(\w+)`", cell)]


def test_every_category_is_explained() -> None:
    """The table of failures lists the enumeration in its order."""
    assert first_cells("failures.md", "Categories") == [category.value for category in Category]


def test_every_metric_is_explained() -> None:
    """The table of metrics lists the metrics that the package sends."""
    from airflow_stepop.waiting import observer

    told = {
        value for value in vars(observer).values() if isinstance(value, str) and value.startswith("stepop.")
    }
    listed = re.findall(r"^\| `(stepop\.[\w.]+)` \|", (DOCS / "observability.md").read_text(), re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == told


def test_every_error_is_explained() -> None:
    """The table of errors lists the package's errors, except the step's own failure."""
    from airflow_stepop import exceptions

    errors = {name for name, value in vars(exceptions).items() if isinstance(value, type)}
    named = set(first_cells("failures.md", "Errors before the step runs"))
    assert named == errors - {"StepopError", "StepFailedError"}


def test_every_argument_is_explained() -> None:
    """The table of arguments lists the operator's parameters."""
    from airflow_stepop import RemoteStepOperator

    parameters = inspect.signature(RemoteStepOperator.__init__).parameters
    own = {name for name, value in parameters.items() if value.kind is value.KEYWORD_ONLY}
    assert set(first_cells("steps.md", "All arguments")) == own - {"retries", "retry_policy", "retry_delay"}


def test_every_resource_is_explained() -> None:
    """Both tables of resources list every field."""
    from airflow_stepop.resources import ResourceSettings

    fields = set(ResourceSettings.__dataclass_fields__)
    assert set(first_cells("steps.md", "Resources")) == fields
    assert set(first_cells("backends/local.md", "Resources")) == fields | {"image"}


def test_every_setting_of_local_is_explained() -> None:
    """The table of settings lists the fields of the local backend's model."""
    from airflow_stepop.registry import hook_class

    assert set(first_cells("backends/local.md", "Settings")) == set(
        hook_class("local").settings_model.model_fields
    )


def test_every_verb_is_explained() -> None:
    """The table for backend authors lists the methods of the contract."""
    from airflow_stepop.hooks.base import StepHook

    page = (DOCS / "backends" / "writing.md").read_text()
    promises = page.partition("## The promises")[2].partition("\n## ")[0]
    inherited = {
        *("api_error", "changed_jobs", "delete_secrets", "find_for", "fresh_status", "leftovers", "link"),
        *("location_of", "machines", "preserve_outcome", "tail"),
    }
    assert (
        set(re.findall(r"^\| `(\w+)\(", promises, re.MULTILINE)) == StepHook.__abstractmethods__ | inherited
    )


def test_every_piece_for_authors_is_explained() -> None:
    from airflow_stepop.hooks import base

    page = (DOCS / "backends" / "writing.md").read_text()
    assert [name for name in base.__all__ if name not in page] == []


def test_the_configuration_page_is_current() -> None:
    """The page is the output of scripts/configuration_page.py."""
    script = load(SCRIPTS / "configuration_page.py")
    assert (DOCS / "configuration.md").read_text() == script.page(), (
        "run: python scripts/configuration_page.py"
    )


def test_options_in_the_text_exist() -> None:
    """Every ``[stepop] option`` that a page mentions exists."""
    options = set(get_provider_info()["config"]["stepop"]["options"])
    for page in PAGES:
        assert set(re.findall(r"\[stepop\] (\w+)", page.read_text())) <= options, page


LOAD = """
import json, os, sys
from multiprocessing import get_context
from airflow.dag_processing.dagbag import DagBag

def load(path):
    os.chdir(os.path.dirname(path))
    sys.path.insert(0, os.getcwd())
    bag = DagBag(path)
    if bag.import_errors:
        return str(bag.import_errors)
    return [[dag_id, [getattr(task.operator_class, "takes_step_results", False) for task in dag.tasks]]
            for dag_id, dag in bag.dags.items()]

with get_context("fork").Pool(2, maxtasksperchild=1) as pool:
    found = pool.map(load, sys.argv[2:], chunksize=1)
open(sys.argv[1], "w").write(json.dumps(dict(zip(sys.argv[2:], found))))
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what each example loads as.

    Each loads in a process of its own, but Airflow is imported only once.
    """
    report = tmp_path_factory.mktemp("loaded") / "found.json"
    command = [sys.executable, "-c", LOAD, str(report), *map(str, DAG_FILES)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment())
    assert done.returncode == 0, done.stderr[-1500:]
    return dict(json.loads(report.read_text()))


@pytest.mark.parametrize("path", DAG_FILES, ids=lambda path: path.stem)
def test_every_example_is_a_dag(path: Path, loaded: dict[str, Any]) -> None:
    """Airflow loads each example as one DAG. All but one have a remote step."""
    found = loaded[str(path)]
    assert isinstance(found, list), found
    ((dag_id, is_step),) = found
    assert any(is_step) is (dag_id != "maintenance"), found


def environment() -> dict[str, str]:
    """Return an environment whose only settings of Airflow are those here. The home is that of the tests."""
    home = os.environ["AIRFLOW_HOME"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    override = {"AIRFLOW__STEPOP__BACKEND_OVERRIDE": "local"}  # as the documentation recommends for CI
    return {**clean, **override, "AIRFLOW_HOME": home, "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}


RUN = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
done = {}
for path in sys.argv[2:]:
    (dag,) = DagBag(path).dags.values()
    run = dag.test()
    last = max(run.get_task_instances(), key=lambda ti: ti.end_date)
    names = {ti.rendered_map_index for ti in run.get_task_instances()} - {None}
    done[dag.dag_id] = [str(run.state), last.xcom_pull(task_ids=last.task_id), sorted(names)]
open(sys.argv[1], "w").write(json.dumps(done))
"""


@pytest.mark.timeout(900)
def test_every_example_runs(tmp_path: Path) -> None:
    """Airflow runs each example to its end on this host, and its last task returns the documented value."""
    folder = EXAMPLES
    env = environment() | {"AIRFLOW_HOME": str(tmp_path), "PYTHONWARNINGS": "ignore"}
    env["PYTHONPATH"] = str(folder)
    env["AIRFLOW__CORE__DAGS_FOLDER"] = str(folder)
    env["AIRFLOW__STEPOP__DEPLOYMENT"] = "examples"
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"  # maintenance.py calls airflow
    migrate = [sys.executable, "-m", "airflow", "db", "migrate"]
    subprocess.run(migrate, env=env, check=True, capture_output=True)
    paths = [str(path) for path in DAG_FILES if path.parent == folder]
    report = tmp_path / "done.json"
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(report), *paths], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(report.read_text())
    assert {name: state for name, (state, *_) in results.items()} == dict.fromkeys(results, "success"), (
        done.stdout[-5000:]
    )
    assert results["quickstart"][1]["line"].startswith("y = 2.99")
    assert results["mapped"][1:] == [{"rate": 0.5, "loss": 0.0}, ["0.01", "0.1", "0.5", "1.1"]]
    assert results["command_step"][1].startswith("largest error 0")
    assert results["mixed_pipeline"][1]["is_good"] is True
    assert results["checkpoint"][1].startswith("w = 3.976 after 10 epochs, 0 of them before")
    # backend_override ignores the connection's defaults
    assert results["connection_defaults"][1] == {"usual": 40, "longer": 200}
    assert "maintenance" in results


def test_every_key_of_a_connection_is_explained() -> None:
    """The table lists the keys that the code reads from a connection."""
    from airflow_stepop.connections.defaults import VALID

    assert set(first_cells("connections.md", "What a connection may say")) == set(VALID)


def test_every_example_is_in_the_readme() -> None:
    """The README links every example."""
    readme = (ROOT / "README.md").read_text()
    assert [
        path.name for path in DAG_FILES if path.parent.name == "dags_examples" and path.name not in readme
    ] == []


def test_help_lists_every_target() -> None:
    """``make help`` lists the targets of the Makefile."""
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    shown = set(re.findall(r"make ([\w-]+)", "\n".join(re.findall(r"@echo.*", makefile))))
    assert set(phony.split()) - {"help"} <= shown


PHASES = {
    "unit": "-n 3 --dist loadfile --no-loadscope-reorder --ignore=tests/airflow_deployed "
    "--ignore=tests/chaos/crashes --ignore=tests/chaos/faults",
    "deployed": "--maxfail 6 tests/airflow_deployed",
    "crashes": "--maxfail 6 tests/chaos/crashes",
    "faults": "--maxfail 6 tests/chaos/faults",
}
PARTS = list(PHASES.values())
# stands for Python: logs its arguments, and fails where it is told to
PYTHON = """#!/bin/sh
echo "$*" >> "$CALLS"
case "$*" in *"$FAILS"*) exit "$CODE" ;; esac
"""


@pytest.fixture
def make_test(tmp_path: Path):
    """Return a function that runs ``make test`` and returns its exit code and its calls of pytest."""
    for name in ("base", "test"):
        stamp = tmp_path / "stamps" / name
        stamp.parent.mkdir(exist_ok=True)
        stamp.touch()
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)

    def call(args: str, fails: str, *variables: str, code: int = 1) -> tuple[int, list[str]]:
        calls = tmp_path / "calls"
        command = ["make", "test", f"BIN={tmp_path}", f"STAMPS={tmp_path / 'stamps'}", f"ARGS={args}"]
        env = {**os.environ, "CALLS": str(calls), "FAILS": fails, "CODE": str(code)}
        for name in ("MAKEFLAGS", "JOURNAL", "PHASES"):  # set by a make around this one
            env.pop(name, None)
        done = subprocess.run([*command, *variables], cwd=ROOT, env=env, capture_output=True)
        return done.returncode, [line.removeprefix("-m pytest ") for line in calls.read_text().splitlines()]

    return call


@pytest.mark.parametrize(
    ("args", "calls"),
    [
        ("", PARTS),
        ("-k docs", [f"{part} -k docs" for part in PARTS]),
        ("tests/conftest.py -q", ["tests/conftest.py -q"]),
        ("-x tests/conftest.py::test_one", ["-x tests/conftest.py::test_one"]),
    ],
)
def test_a_path_replaces_the_phases(make_test, args: str, calls: list[str]) -> None:
    """``make test ARGS=tests/...`` runs only that path. Other arguments go to every phase."""
    assert make_test(args, fails="nothing") == (0, calls)


@pytest.mark.parametrize("fails", PARTS)
def test_every_phase_of_the_tests_runs_whatever_has_failed(make_test, fails: str) -> None:
    code, calls = make_test("", fails)
    assert code != 0
    assert calls == PARTS


def test_one_phase_runs_alone(make_test) -> None:
    assert make_test("", "nothing", "PHASES=deployed") == (0, [PHASES["deployed"]])


@pytest.mark.parametrize(("args", "code"), [("", 2), ("-k docs", 0)])
def test_a_phase_without_tests_fails_unless_the_arguments_have_chosen(make_test, args, code) -> None:
    assert make_test(args, PHASES["crashes"], code=5)[0] == code


def test_the_journal_knows_how_each_phase_has_ended(make_test, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    code, calls = make_test("", PHASES["deployed"], f"JOURNAL={path}", code=137)
    assert code != 0
    assert all(f"--journal={path}" in call for call in calls)
    found = journal.read(path)
    assert [session.exit_code for session in found.sessions] == [0, 137, 0, 0]
    assert found.is_complete
