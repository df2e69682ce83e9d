"""The documentation's example for Modal, in real Airflow, against the emulator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.emulators.modal.container import unavailable
from tests.support.modal import Modal, modal
from tests.support.needs import needs
from tests.support.paths import EXAMPLES


@pytest.fixture(scope="module")
def service() -> Iterator[Modal]:
    needs(not unavailable(), f"namespaces for sandboxes: {unavailable()}")
    with modal() as found:
        yield found


@pytest.fixture(scope="module")
def run(service: Modal, tmp_path_factory: pytest.TempPathFactory, start_airflow: Callable[..., Any]) -> Any:
    store: Path = tmp_path_factory.mktemp("store")
    airflow = start_airflow(
        AIRFLOW_CONN_MODAL_DEFAULT=service.connection(),
        AIRFLOW__STEPOP__STORE=f"file://{store}",
        **service.environment,
    )
    place = airflow.place("modal", f"file://{store}")
    return airflow.run(EXAMPLES / "train_on_modal.py", place=place)


def test_values_go_out_and_come_back(run: Any) -> None:
    """Without a bucket: the large value passes through the Volume into the folder of this host."""
    for task in ("preprocess", "train", "report"):
        run.assert_state(task)
    assert run.value("report") == "10000 weights, the last one is 9994000.5"
    assert run.results("train")


def test_the_task_log_has_the_line_of_the_step_once(run: Any) -> None:
    assert run.log("train").count("training in the container ta-") == 1


def test_the_sandbox_had_a_gpu_and_its_folder_is_gone(run: Any, service: Modal) -> None:
    report = service.report()
    (sandbox,) = report["sandboxes"].values()
    assert sandbox["version"] == 1
    assert [list(volume["files"]) for volume in report["volumes"].values()] == [[]]
