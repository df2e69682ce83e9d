"""Says which ``include=`` ships a file that a step did not find and that the project has.

Called by :class:`WorkerSession` for a step that failed. The step runs in a scratch folder, into which the
shipped modules are unpacked. A data file beside such a module is there only if ``include=`` names it. So
is a module that no import statement names.
"""

from __future__ import annotations

import ast
import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from airflow_stepop.exceptions import PayloadError
from airflow_stepop.failure import Category, Failure
from airflow_stepop.lifecycle.remote_exception import decoded_attributes
from airflow_stepop.payload.code_archive import Project, included_files

# The scratch folder of a step: runner/files.py makes its name
_SCRATCH = re.compile(r".*?/stepop-[0-9a-f]{16}/")
# How programs say that a file is missing: Python, its command line, and the tools of a shell
_SAID = (
    re.compile(r"No such file or directory: (?P<literal>'.*?'|\".*?\")\s*$"),
    re.compile(r"'(?P<path>[^']+)': \[Errno 2\] No such file or directory"),
    re.compile(r"(?P<path>[^\s:'\"\u2018\u2019]+)['\"\u2019]?: No such file or directory"),
)
_MOST = 64  # exceptions of a chain or of a group


def with_include(failure: Failure, project: Project, include: Sequence[str]) -> Failure:
    """Return the failure with a hint if the step missed a file of the project, which it could have had.

    :param include: the patterns of the task
    """
    if failure.hint or failure.category is not Category.USER_ERROR:
        return failure
    try:
        hint = _hint(failure, project, include)
    except Exception:  # noqa: BLE001, RUF100 - the step wrote the failure; nothing may hide it
        return failure
    return replace(failure, hint=hint)


def _hint(failure: Failure, project: Project, include: Sequence[str]) -> str:
    for path in _missing(failure):
        name, is_of_host = _name_in_project(path, project)
        pattern = _pattern(name, project, include) if name else ""
        if pattern:
            given = ", ".join(f'"{one}"' for one in (*include, pattern))
            hint = f"the project has {name}, and it was not shipped with the step: add include=[{given}]"
            if is_of_host:
                hint += f'. The step finds it as "{name}": it runs in the folder with the shipped files'
            return hint
    return ""


def _missing(failure: Failure) -> Iterator[str]:
    """Yield the paths of missing files, as the step named them."""
    if failure.exception is None:  # a command: there is only what it printed
        for line in failure.log_tail:
            yield from _said(line)
        return
    for raised in _chain(failure.exception):
        attributes, kinds = decoded_attributes(raised.get("attributes")), raised.get("mro", ())
        filename, module = attributes.get("filename"), attributes.get("name")
        if "builtins.ModuleNotFoundError" in kinds and isinstance(module, str):
            path = module.replace(".", "/")
            yield from (f"{path}.py", path)
        elif "builtins.FileNotFoundError" not in kinds:
            continue
        elif isinstance(filename, (str, bytes, os.PathLike)):
            yield os.fsdecode(filename)
        else:  # raised by a library with a text of its own
            yield from re.findall(r"[^\s'\":,;()]+", str(raised.get("message", "")))


def _chain(exception: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    todo: list[Any] = [exception]
    for _ in range(_MOST):
        one = todo.pop(0) if todo else None
        if isinstance(one, Mapping):
            yield one
            todo += [one.get("cause"), one.get("context"), *(one.get("exceptions") or ())]


def _said(line: str) -> Iterator[str]:
    for pattern in _SAID:
        found = pattern.search(line)
        if found is not None:
            groups = found.groupdict()
            with suppress(ValueError, SyntaxError):
                yield groups.get("path") or str(ast.literal_eval(groups["literal"]))
            return


def _name_in_project(path: str, project: Project) -> tuple[str, bool]:
    """Return the path below the folder with the shipped files; empty if it lies somewhere else.

    The second value tells whether the step looked in the folder that the project has on this host: the
    ``__file__`` of a DAG file is still that of Airflow.
    """
    if os.path.isabs(path):
        inside = _SCRATCH.match(path)
        if inside is not None:
            return _normal(path[inside.end() :]), False
        for root in reversed(project.roots):
            if Path(os.path.normpath(path)).is_relative_to(root):
                return _normal(os.path.relpath(path, root)), True
        return "", False
    return _normal(path), False


def _normal(path: str) -> str:
    name = PurePosixPath(os.path.normpath(path)) if path and "\0" not in path else PurePosixPath()
    return "" if name.is_absolute() or ".." in name.parts or not name.parts else str(name)


def _pattern(name: str, project: Project, include: Sequence[str]) -> str:
    """Return the pattern that ships a file or folder; empty: there is none, or it is shipped already."""
    pattern = glob.escape(name)
    try:
        found = included_files(project, [pattern])
    except (PayloadError, OSError, ValueError):
        return ""
    with suppress(PayloadError):
        if found.items() <= included_files(project, include).items():
            return ""
    return pattern
