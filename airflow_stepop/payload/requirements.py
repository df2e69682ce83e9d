"""Reads and checks the argument ``requirements=``. The runner installs the lines that this module returns.

Called by ``lifecycle/request.py`` in the worker, and by ``arguments.py`` while Airflow parses the DAG file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_stepop.exceptions import StepConfigError

if TYPE_CHECKING:
    from airflow_stepop.payload.code_archive import Project

_COMMENT = re.compile(r"(^|\s)#.*$")
_HASHES = re.compile(r"(?: --hash[= ][a-z0-9_]+:[0-9a-fA-F]+)*")
_OTHER_INDEX = (
    "Set another package index in the step's environment, with env= or secrets=: PIP_INDEX_URL replaces the "
    "usual index, and env={'PIP_EXTRA_INDEX_URL': 'https://download.pytorch.org/whl/cu124'} adds one"
)


def read_requirements(value: Sequence[str] | str | None, project: Project) -> list[str]:
    """Return one line for each requirement, sorted and without duplicates.

    :param value: the lines, or the path of a requirements file
    :param project: the path is relative to the DAG file's folder, and leads to a file of the project
    :raises StepConfigError: the file cannot be read, or a line is not a requirement
    """
    if not value:
        return []
    if isinstance(value, str):
        lines = list(_lines_of(_path_of(value, project)))
    else:
        lines = [line.strip() for line in value]
    for line in lines:
        check_requirement(line)
    return sorted(set(lines))


def _path_of(value: str, project: Project) -> Path:
    """Return the path of a requirements file.

    A file of another kind is not read: an error shows the line that is no requirement.
    """
    check_path(value)
    return project.path_of(value, "requirements=")


def check_path(value: str) -> None:
    """Check the path of a requirements file.

    :raises StepConfigError: the name does not end with .txt
    """
    if not value.endswith(".txt") or not value.isprintable():
        raise StepConfigError(
            f"requirements={value!r} is not the path of a requirements file (.txt); for one package "
            f"write [{value!r}]"
        )


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
        raise StepConfigError(f"requirements must be a list of strings, but contains {line!r}")
    if not line.isprintable():
        raise StepConfigError(
            f"requirements contains {line!r}, which has a line end or another control character. Write one "
            "requirement in each line"
        )
    requirement, hashes = _parted(line)
    if line.lstrip().startswith("-") or not _HASHES.fullmatch(hashes):
        raise StepConfigError(
            f"requirements contains {line!r}, which has an option. Only --hash=ALGORITHM:DIGEST is allowed, "
            f"behind a requirement. {_OTHER_INDEX}"
        )
    try:
        Requirement(requirement)
    except InvalidRequirement as error:
        advice = "Modules beside the DAG file are shipped anyway" if line.startswith((".", "/")) else ""
        why = str(error).partition("\n")[0]
        raise StepConfigError(
            f"requirements contains {line!r}, which is not a requirement such as 'scikit-learn==1.5': {why}. "
            f"{advice}"
        ) from None


def _parted(line: str) -> tuple[str, str]:
    """Return a line's requirement, and the options behind it."""
    at = line.find(" -")
    return (line, "") if at < 0 else (line[:at].rstrip(), line[at:].rstrip())
