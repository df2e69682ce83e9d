"""The page of the backend agrees with the code: policies, settings, failures."""

from __future__ import annotations

import json
import re

from airflow_stepop.hooks.sagemaker.failures import classified
from airflow_stepop.hooks.sagemaker.machines import machines
from airflow_stepop.hooks.sagemaker.policies import CALLER, CHECKS, JOB_ROLE, SECRETS, TRUST, policy
from airflow_stepop.hooks.sagemaker.settings import FIELDS, SageMakerSettings
from tests.support.paths import DOCS

PAGE = (DOCS / "backends" / "sagemaker.md").read_text()


def section(heading: str) -> str:
    found = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    assert found, heading
    return found


def documents(heading: str) -> list[object]:
    """Return the JSON in a section."""
    return [json.loads(text) for text in re.findall(r"```json\n(.*?)```", section(heading), re.DOTALL)]


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the rows whose first cell is code."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section(heading).splitlines()
        if line.startswith("| `")
    ]


def test_the_policies_are_those_of_the_code() -> None:
    assert documents("What Airflow must be allowed to do") == [policy(CALLER), policy(CHECKS)]
    assert documents("The role of the jobs") == [
        policy({"Trust": TRUST}),
        policy(JOB_ROLE),
        policy(SECRETS),
    ]


def test_every_setting_is_explained_with_its_field() -> None:
    table = {name.strip("`"): field.strip("`") for name, field, _ in rows("Settings")}
    assert list(table) == list(SageMakerSettings.model_fields)
    assert {name: table[name] for name in FIELDS} == dict(FIELDS)


def test_the_category_of_each_text_is_right() -> None:
    texts = [row for row in rows("How it ends") if not row[0].startswith("`Stopped`")]
    assert len(texts) >= 15
    for text, category, _ in texts:
        found = classified(text.strip("`"))
        assert found is not None, text
        assert category == f"`{found.category}`", text


def test_the_number_of_machines_is_right() -> None:
    (count,) = re.findall(r"a table of (\d+) types", PAGE)
    assert int(count) == len(list(machines()))
