"""The stored forms of each version: what Airflow's database, folders, buckets and services hold of a step.

``tests/fixtures/stored_forms/<version>`` has the forms as that version wrote them.
``scripts/stored_forms.py`` makes the folder of a new version.

A form must not depend on a host. So ``@JOBS@`` is in the place of the folder of local jobs, ``@STORE@`` of
the store's folder, ``@HOST@`` of the host's id, ``@BOOT@`` of the id of its last boot, ``@PYTHON@`` of the
interpreter and ``@SERVER@`` of the address of an API server. The forms are signed with these words in them,
and the signatures are checked so. :func:`placed` then puts real values in their places, and signs again what
was signed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_stepop.record import OWNER, STATE_KEY, signed
from airflow_stepop.results import StepResult, _opened
from tests.support.paths import ROOT

FORMS = ROOT / "tests" / "fixtures" / "stored_forms"
# For tests alone: every stored form is signed with this key
KEY = "the-key-of-the-stored-forms"
DEPLOYMENT = "stored-forms"
ENVIRONMENT = {"AIRFLOW__STEPOP__SIGNING_KEY": KEY, "AIRFLOW__STEPOP__DEPLOYMENT": DEPLOYMENT}
# A bucket that nobody asks for anything: the key of a checkpoint is made of its address
BUCKET = "s3://stored_forms@bucket/airflow"
BUCKET_ENVIRONMENT = {
    "AIRFLOW__STEPOP__STORE": BUCKET,
    "AIRFLOW_CONN_STORED_FORMS": '{"conn_type": "aws", "login": "k", "password": "s", '
    '"extra": {"region_name": "us-east-1"}}',
}
RESULT = "airflow_stepop.results.StepResult"  # what an XCom says of a reference: never changes
_REFERENCE = {"entry", "base_uri", "host", "mac", "job", "step"}

Places = Mapping[str, str]


@dataclass(frozen=True)
class Forms:
    """The forms of one version."""

    folder: Path

    @property
    def version(self) -> str:
        return self.folder.name

    def read(self, name: str) -> Any:
        return json.loads((self.folder / f"{name}.json").read_text())

    def records(self) -> dict[str, Any]:
        """Return records as they are in Airflow's database, by what they are."""
        return {path.stem: json.loads(path.read_text()) for path in self.folder.glob("records/*.json")}

    def xcoms(self) -> dict[str, Any]:
        return {path.stem: json.loads(path.read_text()) for path in self.folder.glob("xcoms/*.json")}


def versions() -> list[Forms]:
    return [Forms(path) for path in sorted(FORMS.iterdir()) if path.is_dir()]


def part_of(now: Any, stored: Any) -> Any:
    """Return the part of a form that a stored one has, too: a later version may add fields."""
    if isinstance(now, dict) and isinstance(stored, dict):
        return {name: part_of(now[name], one) for name, one in stored.items() if name in now}
    return now


def owner_of(record: Mapping[str, Any]) -> dict[str, str]:
    return {name: record["labels"][name] for name in OWNER}


def placed(form: Any, places: Places) -> Any:
    """Return a form with other texts in the places of some, signed again.

    :param places: text -> the text in its place
    """
    if isinstance(form, str):
        for text, other in places.items():
            form = form.replace(text, other)
    elif isinstance(form, list):
        form = [placed(one, places) for one in form]
    elif isinstance(form, dict) and form.get("__classname__") == RESULT:
        opened = placed(_opened(form["__data__"]), places)
        form = {**form, "__data__": StepResult.from_json(opened).serialize()}
    elif isinstance(form, dict):
        form = _signed_again({name: placed(one, places) for name, one in form.items()})
    return form


def _signed_again(form: dict[str, Any]) -> dict[str, Any]:
    if form.keys() >= _REFERENCE:
        result = StepResult.from_json(form)
        result.sign()
        return result.to_json()
    if "mac" in form and "labels" in form:
        return signed({name: one for name, one in form.items() if name != "mac"}, owner_of(form))
    return form


class StoredState:
    """Airflow's ``task_state_store`` with one record in it, as a newer process finds it."""

    def __init__(self, record: Any) -> None:
        self.data = {STATE_KEY: record}

    def get(self, key: str) -> Any:
        return json.loads(json.dumps(self.data.get(key)))

    def set(self, key: str, value: Any) -> None:
        self.data[key] = json.loads(json.dumps(value))
