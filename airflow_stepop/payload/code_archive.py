"""Builds the code archive: a zip of the project's own modules that a step needs.

**Which modules.** For a function: its own module, and the modules that this module and the DAG file import.
For a command: the files that the command line names, and the modules that its scripts import. In both cases
also the modules that these modules import in turn. All of them must lie in the project (the DAG bundle, or
the DAG file's folder). ``include=`` adds files.

**How they are found.** In the source, not in ``sys.modules``, so every process builds the same archive.

**Not shipped.** Installed packages: the step's image must have them.

Called by ``lifecycle/request.py`` in the worker.
"""

from __future__ import annotations

import ast
import io
import os
import site
import sys
import sysconfig
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from airflow_stepop.exceptions import PayloadError, StepConfigError
from airflow_stepop.runner.failures import PREFIX
from airflow_stepop.runner.protocol import CODE_BYTES

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest date that a zip can hold; a fixed date keeps the bytes the same


@dataclass(frozen=True)
class Project:
    """The folders of the DAG's own code.

    :param dag_file: the DAG file. It is not shipped: its functions and classes are pickled by value
    :param roots: folders that modules are imported from, the DAG bundle first
    """

    dag_file: Path
    roots: tuple[Path, ...]

    @classmethod
    def of(cls, dag_file: str | Path, bundle: str | Path | None) -> Project:
        file = Path(dag_file).resolve()
        folders = [Path(bundle).resolve()] if bundle else []
        return cls(file, tuple(dict.fromkeys([*folders, file.parent])))

    def contains(self, file: Path) -> bool:
        """Return whether ``file`` is the project's own code: below a root, and not installed with Python."""
        return any(file.is_relative_to(root) for root in self.roots) and not any(
            file.is_relative_to(folder) for folder in _installed()
        )

    def path_of(self, value: str | Path, what: str) -> Path:
        """Return the path of a file that an argument names, relative to the DAG file's folder.

        A template may have made the argument. So the path stays inside the project. Links are followed,
        because the author of the project has made them.

        :param what: the argument, as in ``requirements=``, for the error
        :raises StepConfigError: the path leads out of the project
        """
        path = Path(os.path.normpath(self.dag_file.parent / value))
        if not any(path.is_relative_to(root) for root in self.roots):
            raise StepConfigError(
                f"{what}{str(value)!r} is outside the DAG's project ({self.roots[0]}). Put the file beside "
                "the DAG file, or below the folder of the DAG bundle"
            )
        return path

    def find(self, module: str) -> Iterator[tuple[str, Path]]:
        """Yield (path in the archive, file) for ``module`` and its parent packages, if the project has them.

        All of them come from the first root that has at least one of them.
        """
        for root in self.roots:
            found = list(self._find_below(root, module.split(".")))
            if found:
                yield from found
                return

    def _find_below(self, root: Path, names: Sequence[str]) -> Iterator[tuple[str, Path]]:
        for depth in range(1, len(names) + 1):
            base = root.joinpath(*names[:depth])
            candidates = (base / "__init__.py", base.with_suffix(".py"))
            file = next((file for file in candidates if self._is_shipped(file)), None)
            if file is not None:
                yield file.relative_to(root).as_posix(), file

    def _is_shipped(self, file: Path) -> bool:
        return os.path.isfile(file) and file.resolve() != self.dag_file and self.contains(file.resolve())

    def package_of(self, file: Path) -> str:
        """Return the package of a module's file. Relative imports of the module start from this package."""
        root = next((root for root in self.roots if file.is_relative_to(root)), file.parent)
        return ".".join(file.relative_to(root).parent.parts)


def bundle_root(dag_file: str, relative_file: str | None) -> Path | None:
    """Return the folder of the DAG bundle where the task has no bundle: under ``dag.test()``, on the command
    line (``airflow dags test``) and in a script.

    :param relative_file: path of the DAG file below the bundle, if Airflow has read the file in a bundle.
        Else the bundle is the configured one that contains the file
    """
    file, inner = Path(dag_file), Path(relative_file or "")
    if inner.parts and not inner.is_absolute() and file.parts[-len(inner.parts) :] == inner.parts:
        return file.parents[len(inner.parts) - 1]
    from airflow.dag_processing.bundles.manager import DagBundlesManager

    roots: list[Path] = []
    with suppress(Exception):  # another bundle may be out of reach; the file's own folder is a root anyway
        roots += (Path(bundle.path).resolve() for bundle in DagBundlesManager().get_all_dag_bundles())
    around = [root for root in roots if file.resolve().is_relative_to(root)]
    return max(around, key=lambda root: len(root.parts), default=None)


def _installed() -> tuple[Path, ...]:
    """Return the folders of installed packages and of Python's standard library."""
    folders = [*site.getsitepackages(), site.getusersitepackages(), *sysconfig.get_paths().values()]
    inside = {
        Path(folder).resolve() for folder in folders if folder.endswith(("site-packages", "dist-packages"))
    }
    standard = Path(sysconfig.get_paths()["stdlib"]).resolve()
    return (*inside, standard)


def is_installed(module: str) -> bool:
    """Return whether a module is of Python or of an installed package, and not of the DAG's own code."""
    file = module_file(module)
    if file is None:
        return module != "__main__" and not module.startswith(PREFIX)
    return any(file.is_relative_to(folder) for folder in _installed())


def _imports(source: bytes, package: str) -> Iterator[str]:
    """Yield the absolute name of every module that ``source`` may import, also inside functions.

    For ``from a import b``, both ``a`` and ``a.b`` are yielded, since ``b`` may be a module.

    :param source: bytes, so that the parser uses the encoding that the file declares
    :param package: the package of the source, where its relative imports start
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return  # importing the module raises the error, with a better message
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _imported_from(node, package)
            if base:
                yield base
            yield from (f"{base}.{alias.name}" if base else alias.name for alias in node.names)


def _imported_from(node: ast.ImportFrom, package: str) -> str:
    """Return the absolute name of the module after ``from``; empty for ``from .`` outside a package."""
    parents: list[str] = []
    if node.level:  # the dots: one dot means `package` itself, each further dot one package above
        names = package.split(".")
        parents = names[: len(names) - (node.level - 1)]
    return ".".join(name for name in (*parents, node.module) if name)


def project_modules(project: Project, start: Iterable[Path]) -> dict[str, Path]:
    """Return (path in the archive -> file) of all modules that ``start`` imports, also indirectly.

    :param start: Python files; they are not in the result unless one of the modules imports them
    """
    found: dict[str, Path] = {}
    todo = [(file, project.package_of(file)) for file in start]
    seen: set[Path] = set()
    while todo:
        file, package = todo.pop()
        if file in seen:
            continue
        seen.add(file)
        for module in _imports(file.read_bytes(), package):
            for name, path in project.find(module):
                found[name] = path
                todo.append((path, ".".join(Path(name).parent.parts)))
    return found


def included_files(project: Project, patterns: Sequence[str]) -> dict[str, Path]:
    """Return (path in the archive -> file) for the files that the ``include`` patterns match.

    A pattern is relative to the DAG file's folder. If it matches no file there, it is relative to the bundle.
    A pattern that matches a folder means all files below the folder.

    :raises PayloadError: a pattern matches nothing, or leads out of the project
    """
    if isinstance(patterns, str):
        raise PayloadError(f"include must be a list; write [{patterns!r}]")
    found: dict[str, Path] = {}
    for pattern in patterns:
        if not pattern or pattern.startswith("/") or ".." in Path(pattern).parts:
            raise PayloadError(
                f"include={pattern!r} leads out of the project; name files below {project.roots[-1]}"
            )
        found |= _matches(project, pattern)
    for file in found.values():
        if not any(file.resolve().is_relative_to(root) for root in project.roots):
            raise PayloadError(
                f"include: {file} is a link that leads out of the project, to {file.resolve()}"
            )
    return found


def _matches(project: Project, pattern: str) -> dict[str, Path]:
    for root in reversed(project.roots):  # the DAG file's folder first
        files = [file for match in sorted(root.glob(pattern)) for file in _files_of(match)]
        if files:
            return {file.relative_to(root).as_posix(): file for file in files}
    places = " or ".join(str(root) for root in reversed(project.roots))
    raise PayloadError(f"include={pattern!r} matches no file below {places}")


def _files_of(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return [path]


def function_files(project: Project, module: str) -> dict[str, Path]:
    """Return (path in the archive -> file) for the modules that a function needs.

    These are the function's own module, unless it is the DAG file, and the modules that this module and the
    DAG file import.

    :param module: name of the function's own module
    """
    start = [project.dag_file]
    found: dict[str, Path] = {}
    file = module_file(module)
    if file is not None and project.contains(file) and file != project.dag_file:
        found |= dict(project.find(module))
        start.append(file)
    return found | project_modules(project, [path for path in start if path.is_file()])


def command_files(project: Project, argv: Sequence[str]) -> dict[str, Path]:
    """Return (path in the archive -> file) for the project files that a command line names.

    A file is named by its path, or by its module after ``-m``. The modules that a Python file imports are
    also returned. All these files are shipped without ``include=``.
    """
    found: dict[str, Path] = {}
    for before, word in zip(["", *argv], argv, strict=False):
        if not word or word.startswith(("/", "-")) or ".." in Path(word).parts:
            continue
        if before == "-m":
            module_files = dict(project.find(word))
            found |= module_files
            found |= project_modules(project, list(module_files.values()))
        for root in reversed(project.roots):
            if os.path.isfile(root / word):  # unlike Path.is_file, no error for a name that is too long
                found[Path(word).as_posix()] = root / word
                found |= _modules_of_script(root / word, Path(word).parent)
                break
    return found


def _modules_of_script(script: Path, folder: Path) -> dict[str, Path]:
    """Return the modules that a Python script imports from its own folder: Python looks there first.

    :param folder: the script's folder, as a path in the archive
    """
    if script.suffix != ".py":
        return {}
    siblings = project_modules(Project(script, (script.parent,)), [script])
    return {(folder / name).as_posix(): file for name, file in siblings.items()}


def step_files(
    project: Project, include: Sequence[str], *, module: str | None = None, argv: Sequence[str] | None = None
) -> dict[str, Path]:
    """Return (path in the archive -> file) of all files that are shipped with a step.

    :param include: the patterns of the task
    :param module: of a function: the name of its module
    :param argv: of a command: its words
    """
    found = function_files(project, module or "") if argv is None else command_files(project, argv)
    return found | included_files(project, include)


def build_archive(files: dict[str, Path]) -> bytes | None:
    """Return the zip of ``files``; ``None`` when there are no files. The same contents give the same bytes.

    :raises PayloadError: the files are larger than ``CODE_BYTES`` (64 MiB) in all
    """
    if not files:
        return None
    buffer, total = io.BytesIO(), 0
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(files):
            data = files[name].read_bytes()
            total += len(data)
            if total > CODE_BYTES:
                raise PayloadError(
                    f"the code of this step is larger than {CODE_BYTES >> 20} MiB (at {name}); "
                    "pass large data as an argument or keep it in the store"
                )
            info = zipfile.ZipInfo(name, _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            # the upper 16 bits are the file's mode: an executable file stays executable
            info.external_attr = (0o755 if files[name].stat().st_mode & 0o100 else 0o644) << 16
            archive.writestr(info, data)
    return buffer.getvalue()


def module_file(module: str) -> Path | None:
    """Return the source file of a loaded module; ``None`` if the module is not loaded or has no file."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return Path(file).resolve() if file else None
