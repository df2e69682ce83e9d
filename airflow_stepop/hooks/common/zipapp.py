"""Builds ``step.pyz``, the program that runs in the job: a zipapp of the runner and cloudpickle.

:func:`.input_files.input_files` calls :func:`runner_zipapp`. The build is reproducible: the same sources give
the same bytes in every process.
"""

from __future__ import annotations

import ast
import functools
import io
import itertools
import sys
import threading
import tokenize
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex

from airflow_stepop.hooks.common.bootstrap import PROLOGUE

PACKAGE = "stepop_runner"  # name of airflow_stepop.runner inside the zipapp

MAIN = f"""\
import os, sys
if sys.version_info < (3, 8):
    sys.stderr.write("stepop: the step needs Python 3.8 or newer; this is %s\\n" % sys.version.split()[0])
    sys.exit(64)
sys.path[0] = os.path.abspath(sys.path[0])  # the step changes the current directory
from {PACKAGE}.main import leave, main
if __name__ == "__main__":
    leave(main(sys.argv[1:]))
"""

# Appended to cloudpickle: it pickles what the step has of a DAG file by value, for the step's code, too
REGISTER = f"""
import sys
if "{PACKAGE}.dag_module" in sys.modules:
    cloudpickle._PICKLE_BY_VALUE_MODULES.update(sys.modules["{PACKAGE}.dag_module"].modules)
"""

# For _rebuilders. If a name is missing here, the runner imports cloudpickle itself
_REBUILDERS = (
    "_builtin_type",
    "_empty_cell_value",
    "_function_setstate",
    "_make_cell",
    "_make_empty_cell",
    "_make_function",
    "instance",
    "subimport",
)

# Feature -> modules that are left out unless the step needs the feature:
#   command                 the step is a command
#   function                the step is a function; with it comes cloudpickle
#   moments                 the step asks for times of Airflow's context
#   dag_module              a part of the DAG file is sent, or an earlier step's result may need one
#   secrets, secret_references, requirements   the manifest has a field of this name
#   aws_secrets             a secret lies in AWS Secrets Manager; each service of secrets is a feature
#   snapshots               the runner saves checkpoints to pre-signed addresses
#   owned                   the checkpoint is a folder that the job sees
#   frames                  the outcome comes back through the log
#   outcome                 the outcome comes back through the store; this needs no further module
#   failure                 the service takes the reason of a failure from a file: --failure
#   mounted                 the output folder is a mounted bucket: --mounted 1; with it comes "failure"
#   synced                  the output folder is a mount that must be committed: --sync DIR
#   once                    the step must not start twice: --started
#   kept                    results are kept for an attempt without the output folder: --kept
#   sealed                  files of the input folder are encrypted: --seal
#   network                 the runner uses pre-signed addresses
OPTIONAL = {
    "command": ("command.py", "readable.py"),
    "function": ("function.py", "pickling.py", "airflow_reads.py", "imports.py", "logs.py"),
    "moments": ("moments.py",),
    "dag_module": ("by_value.py", "code_names.py", "dag_module.py", "enums.py"),
    "secrets": ("secrets.py",),
    "secret_references": ("cloud_api.py", "secret_references.py", "secrets.py"),
    "aws_secrets": ("aws_secrets.py",),
    "requirements": ("ownership.py", "requirements.py"),
    "owned": ("ownership.py",),
    "snapshots": ("archive.py", "snapshots.py"),
    "frames": ("frames.py",),
    "outcome": (),
    "failure": ("reason.py",),
    "mounted": ("mounted.py", "reason.py"),
    "synced": ("synced.py",),
    "once": ("once.py",),
    "kept": ("kept.py",),
    "sealed": ("sealing.py",),
    "network": ("remote_parts.py", "threads.py", "uploads.py", "urls.py"),
}

TYPES = "wire.py"  # imported for type checkers only

KEPT_S = 30 * 86400.0  # age at which zipapps of other versions are removed from the cache
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest date that the ZIP format can hold
_building = threading.Lock()  # ast.parse() of Python 3.11.7 fails if two threads call it at once


@functools.cache
def runner_zipapp(features: frozenset[str] = frozenset(OPTIONAL), cache: Path | None = None) -> bytes:
    """Return the bytes of ``step.pyz``.

    :param features: keys of :data:`OPTIONAL` that the step needs; by default all of them. Another name, such
        as that of a field of the manifest, needs no further module
    :param cache: folder that keeps built zipapps. Every worker is a new process, and a build takes a quarter
        of a second
    """
    if cache is None:
        with _building:
            return _build(features)
    path = cache / f"{_version(features)}.pyz"
    try:
        digest, data = _parted(path.read_bytes())
    except OSError:
        digest, data = b"", b""
    if not data or sha256(data).digest() != digest:
        with _building:
            data = _build(features)
        with suppress(OSError):  # without a writable cache every process builds again, which only costs time
            _keep(path, data)
    return data


def _parted(kept: bytes) -> tuple[bytes, bytes]:
    return kept[:32], kept[32:]


def _keep(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{token_hex(4)}")
    draft.write_bytes(sha256(data).digest() + data)
    draft.rename(path)
    for other in path.parent.iterdir():  # zipapps of old versions
        if other.stat().st_mtime < path.stat().st_mtime - KEPT_S:
            other.unlink()


def _version(features: frozenset[str]) -> str:
    """Return a key for the cache, which changes whenever a build would give other bytes."""
    found = sha256(repr((sorted(features), sys.version_info, PROLOGUE)).encode())
    for path in sorted([Path(__file__), *_runner_folder().glob("*.py"), *_cloudpickle_folder().glob("*.py")]):
        about = path.stat()
        found.update(f"{path}\0{about.st_size}\0{about.st_mtime_ns}\n".encode())
    return found.hexdigest()[:32]


def _build(features: frozenset[str]) -> bytes:
    members = {"__main__.py": MAIN}
    needed = {file for name in features for file in OPTIONAL.get(name, ())}
    left_out = {TYPES, *(file for files in OPTIONAL.values() for file in files)} - needed
    for path in _runner_folder().glob("*.py"):
        if path.name in left_out:
            continue
        members[f"{PACKAGE}/{path.name}"] = _stripped(
            path.read_text("utf-8"), keep_head=path.name == "main.py"
        )
    if "function" in features:
        members |= _cloudpickle_members()
    stream = io.BytesIO(_stripped(PROLOGUE, keep_head=False).encode())
    stream.seek(0, io.SEEK_END)
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, source in sorted(members.items()):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, source)
    return stream.getvalue()


def _runner_folder() -> Path:
    return Path(__file__).parents[2] / "runner"


def _cloudpickle_members() -> dict[str, str]:
    cloudpickle = _cloudpickle_folder()
    members = {f"{PACKAGE}/rebuild.py": _rebuilders((cloudpickle / "cloudpickle.py").read_text("utf-8"))}
    for path in cloudpickle.glob("*.py"):
        # keep_head: the module docstring of cloudpickle holds its licence
        members[f"cloudpickle/{path.name}"] = _stripped(path.read_text("utf-8"), keep_head=True)
    members["cloudpickle/__init__.py"] += REGISTER
    return members


def _cloudpickle_folder() -> Path:
    # found without an import, which takes time: a command does not need cloudpickle
    found = find_spec("cloudpickle")
    assert found is not None and found.origin is not None  # noqa: S101, PT018 - cloudpickle is a dependency
    return Path(found.origin).parent


def _rebuilders(source: str) -> str:
    """Return the source of the few functions of cloudpickle that unpickling a plain function calls.

    To compile and import all of cloudpickle takes 30 to 40 ms of CPU, more than the rest of a small step.
    """
    lines = ["# Taken from cloudpickle; its licence is in cloudpickle/cloudpickle.py", "import sys, types"]
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in _REBUILDERS:
            first = min(part.lineno for part in [node, *node.decorator_list])
            lines += source.splitlines()[first - 1 : node.end_lineno]
    return _stripped("\n".join(lines), keep_head=False)


def _stripped(source: str, keep_head: bool) -> str:
    """Return the source without docstrings, comments and types. Every line keeps its number, for tracebacks.

    :param keep_head: keep the module's own docstring
    """
    tree = ast.parse(source)
    lines = _without_types(source.splitlines(), tree)
    for token in tokenize.generate_tokens(io.StringIO("\n".join(lines) + "\n").readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column].rstrip()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module) and keep_head:
            continue
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is None:
                continue
            text = node.body[0]
            end = text.end_lineno or text.lineno
            lines[text.lineno - 1 : end] = [""] * (end - text.lineno + 1)
            if len(node.body) == 1 and not isinstance(node, ast.Module):
                lines[text.lineno - 1] = " " * text.col_offset + "pass"
    return _flattened("\n".join(lines) + "\n")


def _flattened(source: str) -> str:
    """Return the source without the blanks and the ``__future__`` that it does not need: a tenth less."""
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    lines = _tight(source.splitlines(), tokens)
    texts = {  # numbers of lines that begin inside a text
        row
        for token in tokens
        if token.type == tokenize.STRING
        for row in range(token.start[0] + 1, token.end[0] + 1)
    }
    for row, line in enumerate(lines, start=1):
        rest = line.lstrip(" ")
        if row not in texts:
            lines[row - 1] = " " * ((len(line) - len(rest)) // 4) + rest
        if line == "from __future__ import annotations" and not _has_annotations(source):
            lines[row - 1] = ""
    return "\n".join(lines) + "\n"


def _tight(lines: list[str], tokens: list[tokenize.TokenInfo]) -> list[str]:
    """Return the lines without the blanks around operators."""
    for last, token in reversed(list(itertools.pairwise(tokens))):
        (row, begin), end = last.end, token.start[1]
        if token.start[0] == row and tokenize.OP in (last.type, token.type):
            line = lines[row - 1]
            if line[begin:end].isspace() and line[:begin].strip():
                lines[row - 1] = line[:begin] + line[end:]
    return lines


def _has_annotations(source: str) -> bool:
    return any(
        getattr(node, "annotation", None) or getattr(node, "returns", None)
        for node in ast.walk(ast.parse(source))
    )


def _without_types(lines: list[str], tree: ast.Module) -> list[str]:
    """Return the lines without annotations and imports for type checkers, a twentieth of the zipapp."""
    cuts = sorted(_types(lines, tree), reverse=True)  # from the end, so that the earlier positions stay valid
    for row, begin, end in cuts:
        data = lines[row - 1].encode()
        lines[row - 1] = (data[:begin] + data[end:]).decode()
    for node in tree.body:
        is_flag = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "TYPE_CHECKING"
        if is_flag or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            end = node.end_lineno or node.lineno
            lines[node.lineno - 1 : end] = [""] * (end - node.lineno + 1)
    return lines


def _types(lines: list[str], tree: ast.Module) -> Iterator[tuple[int, int, int]]:
    """Yield (line, first column, last column) of each annotation that is on one line and can be left out.

    Lines count from 1, columns from 0 and in bytes, as in :mod:`ast`.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.annotation and node.annotation.end_lineno == node.lineno:
            begin = node.col_offset + len(node.arg.encode())
            yield node.lineno, begin, node.annotation.end_col_offset or begin
        elif isinstance(node, ast.AnnAssign) and node.value and node.annotation.end_lineno == node.lineno:
            begin = node.target.end_col_offset or 0
            yield node.lineno, begin, node.annotation.end_col_offset or begin
        elif isinstance(node, ast.FunctionDef) and node.returns and lines[node.returns.lineno - 1].isascii():
            line, kind = lines[node.returns.lineno - 1], node.returns
            begin = kind.col_offset - len(" -> ")
            if kind.end_lineno == kind.lineno and line[begin : kind.col_offset] == " -> ":
                yield kind.lineno, begin, kind.end_col_offset or begin
