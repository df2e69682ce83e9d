"""Writes ``docs/configuration.md`` from ``airflow_stepop/provider_info.py``; a test compares the two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow_stepop.provider_info import get_provider_info

PAGE = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"

HEAD = """\
# Configuration

<!-- Made by scripts/configuration_page.py from airflow_stepop/provider_info.py: change it there. -->

Options of the section `[stepop]` in `airflow.cfg`. Each option can also be set in the environment:
`AIRFLOW__STEPOP__DEFAULT_BACKEND=local`. An argument of a task, or a [default in the
task's connection](connections.md), wins over these options, but not over `backend_override`.

All hosts of a deployment need the same values, as for the rest of Airflow's configuration.
"""


def page() -> str:
    """Return the whole page."""
    options = get_provider_info()["config"]["stepop"]["options"]
    return "\n".join([HEAD, *(_section(name, option) for name, option in sorted(options.items()))])


def _section(name: str, option: dict[str, Any]) -> str:
    facts = [f"Type: {option['type']}", f"default: {_code(option['default'])}"]
    if option["example"]:
        facts.append(f"example: {_code(option['example'])}")
    if option.get("sensitive"):
        facts.append("secret")
    return f"## `{name}`\n\n{option['description']}\n\n{'; '.join(facts)}. Since {option['version_added']}.\n"


def _code(text: str) -> str:
    return f"`{text}`" if text else "empty"


if __name__ == "__main__":
    PAGE.write_text(page())
