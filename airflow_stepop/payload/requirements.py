"""Reads and checks the argument ``requirements=``. The runner installs the lines that this module returns.

Called by ``lifecycle/request.py`` in the worker, and by ``arguments.py`` while Airflow parses the DAG file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from airflow_stepop.exceptions import StepConfigError

_COMMENT = re.compile(r"(^|\s)#.*$")


def read_requirements(value: Sequence[str] | str | None, folder: Path) -> list[str]:
    """Return one line for each requirement, sorted and without duplicates.

    :param value: the lines, or the path of a requirements file
    :param folder: the DAG file's folder; the path is relative to this folder
    :raises StepConfigError: the file cannot be read, or a line is not a requirement
    """
    if not value:
        return []
    lines = list(_lines_of(folder / value)) if isinstance(value, str) else [line.strip() for line in value]
    for line in lines:
        check_requirement(line)
    return sorted(set(lines))


def _lines_of(path: Path) -> Iterator[str]:
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise StepConfigError(
            f"requirements={path.name!r} cannot be read: {error}. A path is relative to the DAG file's folder"
        ) from None
    for line in text.replace("\\\r\n", " ").replace("\\\n", " ").splitlines():
        bare = _COMMENT.sub("", line).strip()
        if bare:
            yield " ".join(bare.split())


def check_requirement(line: object) -> None:
    """Check one requirement, such as ``scikit-learn==1.5``; it may end with ``--hash=...``.

    :raises StepConfigError: ``line`` is not a requirement
    """
    from packaging.requirements import InvalidRequirement, Requirement

    if not isinstance(line, str):
        raise StepConfigError(f"requirements must be a list of strings, and this is among them: {line!r}")
    if line.lstrip().startswith("-"):
        raise StepConfigError(
            f"requirements has the option {line!r}, and only requirements may be there. Settings of the "
            "index belong into the step's environment, so into env= or secrets=: PIP_INDEX_URL and the like"
        )
    try:
        Requirement(line.partition(" --hash")[0])
    except InvalidRequirement as error:
        advice = "Modules beside the DAG file are shipped anyway" if line.startswith((".", "/")) else ""
        why = str(error).partition("\n")[0]
        raise StepConfigError(
            f"requirements has {line!r}, which is no requirement such as 'scikit-learn==1.5': {why}. {advice}"
        ) from None
