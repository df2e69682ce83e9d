"""Builds the code archive: a zip of the project's own modules that a step needs.

**Which modules.** The modules that the DAG file and the step's function import, and the modules that those
import in turn, if they lie in the project (the DAG bundle, or the DAG file's folder). ``include=`` adds
files.

**How they are found.** In the source, not in ``sys.modules``, so every process builds the same archive.

**Not shipped.** Installed packages: the step's image must have them.

Called by ``lifecycle/request.py`` in the worker.
"""

from __future__ import annotations

import ast
import io
import site
import sys
import sysconfig
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from airflow_stepop.exceptions import PayloadError
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
        """Return whether ``file`` is the project's own code: below a root, and not in ``site-packages``."""
        return any(file.is_relative_to(root) for root in self.roots) and not any(
            file.is_relative_to(folder) for folder in _installed()
        )

    def find(self, module: str) -> Iterator[tuple[str, Path]]:
        """Yield (path in the archive, file) for ``module`` and its packages, if the project has them."""
        names = module.split(".")
        for root in self.roots:
            found: list[tuple[str, Path]] = []
            for depth in range(1, len(names) + 1):
                base = root.joinpath(*names[:depth])
                for file in (base / "__init__.py", base.with_suffix(".py")):
                    if file.is_file() and file.resolve() != self.dag_file and self.contains(file.resolve()):
                        found.append((file.relative_to(root).as_posix(), file))
                        break
            if found:
                yield from found
                return

    def package_of(self, file: Path) -> str:
        """Return the package of a module's file. Relative imports of the module start from this package."""
        root = next((root for root in self.roots if file.is_relative_to(root)), file.parent)
        return ".".join(file.relative_to(root).parent.parts)


def _installed() -> tuple[Path, ...]:
    folders = [*site.getsitepackages(), site.getusersitepackages(), *sysconfig.get_paths().values()]
    inside = {
        Path(folder).resolve() for folder in folders if folder.endswith(("site-packages", "dist-packages"))
    }
    standard = Path(sysconfig.get_paths()["stdlib"]).resolve()
    return (*inside, standard)


def _imports(source: bytes, package: str) -> Iterator[str]:
    """Yield the absolute name of every module that ``source`` may import, also inside functions.

    :param source: bytes, so that the parser uses the encoding that the file declares
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return  # importing the module raises the error, with a better message
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - (node.level - 1)] if node.level else []
            base = ".".join([*(name for name in above if name), *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" if base else alias.name for alias in node.names)


def project_modules(project: Project, start: Iterable[Path]) -> dict[str, Path]:
    """Return (path in the archive -> file) of all modules that the files of ``start`` need."""
    found: dict[str, Path] = {}
    todo = [(file, project.package_of(file)) for file in start]
    seen: set[Path] = set()
    while todo:
        file, package = todo.pop()
        if file in seen:
            continue
        seen.add(file)
        for module in _imports(file.read_bytes(), package):
            for name, path in project.find(module) if module else ():
                found[name] = path
                todo.append((path, ".".join(Path(name).parent.parts)))
    return found


def included_files(project: Project, patterns: Sequence[str]) -> dict[str, Path]:
    """Return (path in the archive -> file) for the files that the ``include`` patterns match.

    A pattern is relative to the DAG file's folder; if no file matches there, to the bundle. A folder means
    all files below it.

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
        for root in reversed(project.roots):
            files = [file for match in sorted(root.glob(pattern)) for file in _files_of(match)]
            found |= {file.relative_to(root).as_posix(): file for file in files}
            if files:
                break
        else:
            places = " or ".join(str(root) for root in reversed(project.roots))
            raise PayloadError(f"include={pattern!r} matches no file below {places}")
    for file in found.values():
        if not any(file.resolve().is_relative_to(root) for root in project.roots):
            raise PayloadError(
                f"include: {file} is a link that leads out of the project, to {file.resolve()}"
            )
    return found


def _files_of(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return [path]


def command_files(project: Project, argv: Sequence[str]) -> dict[str, Path]:
    """Return the project files that the command line names, and the modules that these scripts import.

    They are shipped without ``include=``. The keys are paths in the archive.
    """
    found: dict[str, Path] = {}
    for before, word in zip(["", *argv], argv, strict=False):
        if not word or word.startswith(("/", "-")) or ".." in Path(word).parts or len(word) > 255:
            continue
        if before == "-m":
            found |= dict(project.find(word))
            found |= project_modules(project, list(dict(project.find(word)).values()))
        for root in reversed(project.roots):
            if (root / word).is_file():
                found[Path(word).as_posix()] = root / word
                found |= _modules_of_script(root / word, Path(word).parent)
                break
    return found


def _modules_of_script(script: Path, folder: Path) -> dict[str, Path]:
    """Return the modules that a Python script imports from its own folder, where Python looks first."""
    if script.suffix != ".py":
        return {}
    siblings = project_modules(Project(script, (script.parent,)), [script])
    return {(folder / name).as_posix(): file for name, file in siblings.items()}


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
            info.external_attr = (0o755 if files[name].stat().st_mode & 0o100 else 0o644) << 16
            archive.writestr(info, data)
    return buffer.getvalue()


def module_file(module: str) -> Path | None:
    """Return the source file of a loaded module."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return Path(file).resolve() if file else None
