"""Installs the step's requirements with uv or pip, once per host, each set into a folder of its own.

Called by :mod:`.step` in the child process. Imported only by steps that have ``requirements=``.

::

    <cache>/requirements                    for this user only; of several users, each other one has its own:
    <cache>/requirements-<user id>
    <cache>/requirements/<digest>           an installed set; it appears by an atomic rename and never changes
    <cache>/requirements/<digest>.lock      held by the step that installs the set; other steps wait
    <cache>/requirements/<digest>.<random>  a draft; the next holder of the lock removes leftover drafts

The folder contains all dependencies, including packages that the image already has.
"""

from __future__ import annotations

import os
import sys
import time

from . import protocol
from .failures import RefusedError
from .files import quietly, remove_tree
from .hashing import sha256
from .ownership import NotPrivateError, take_folder
from .phases import is_wanted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from subprocess import Popen
    from typing import Any

    from .meter import Meter

FOLDER = "requirements"
TAIL_LINES = 20
LINE_CHARS = 500
OUTPUT_BYTES = 1 << 20  # of the installer's output; more of it is not shown when it fails
NOTE_S = 60.0  # an installation that takes longer is noted in the log, so that nobody takes it for stuck

# pip reads these variables itself. uv takes the options as lines of a requirements file. They are never on a
# command line, which other users can read: a URL may contain a password.
_PIP_OPTIONS = {
    "PIP_INDEX_URL": "--index-url",
    "PIP_EXTRA_INDEX_URL": "--extra-index-url",
    "PIP_FIND_LINKS": "--find-links",
}
_UV_OPTIONS = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS")


def provide(lines: list[str], scratch: str, meter: Meter) -> None:
    """Make the requirements importable for this process and its child processes.

    :param scratch: the cache's folder when no other folder is writable
    :param meter: keeps the time of an installation apart from the step's own
    :raises RefusedError: the requirements cannot be installed
    """
    base = _cache(scratch)
    folder = os.path.join(base, _digest(lines))
    report = "requirements ready (cached)"
    if not _touch(folder):
        meter.begin_installing()
        report = _install(lines, folder) or report
        meter.end_installing()
    _use(folder)
    print(f"stepop: {report}", flush=True)


def _touch(folder: str) -> bool:
    """Record the time of the last use, by which old folders are deleted; return whether the folder exists."""
    try:
        os.utime(folder)
    except FileNotFoundError:
        return False
    except OSError:  # a cache that may only be read
        pass
    return os.path.isdir(folder)


def _digest(lines: list[str]) -> str:
    import sysconfig

    abi = str(sysconfig.get_config_var("SOABI"))
    key = "\n".join(
        [*sorted(lines), sys.version.split()[0].rpartition(".")[0], sysconfig.get_platform(), abi]
    )
    return sha256(len(key), key.encode()).hexdigest()[:32]


def _cache(scratch: str) -> str:
    """Return the cache folder: in ``STEPOP_CACHE``, ``XDG_CACHE_HOME``, ``~/.cache``, or the scratch folder.

    :raises RefusedError: ``STEPOP_CACHE`` cannot be used, or no folder can be written
    """
    chosen = os.environ.get(protocol.ENV_CACHE)
    problem: OSError | None = None
    for path in places() if chosen else [*places(), os.path.join(scratch, "stepop", FOLDER)]:
        problem = _make(path)
        if problem is None:
            return path
    if not chosen:
        raise RefusedError("infra", "No folder is writable for the requirements")
    hint = f"set {protocol.ENV_CACHE} to a folder that the step may write, or leave it out"
    raise RefusedError(
        "bad_config", f"The folder {chosen} of {protocol.ENV_CACHE} cannot be used: {problem}", hint
    )


def places() -> list[str]:
    """Return the folders that may be the cache in this environment, the preferred one first.

    Where users share a folder, the first one has ``requirements``, and each other one a folder with the user
    id in its name: a step imports what lies there, so no user takes the folder of another one.
    """
    chosen, home = os.environ.get(protocol.ENV_CACHE), os.environ.get("HOME") or ""
    if chosen:
        bases = [os.path.abspath(chosen)]
    else:
        found = os.environ.get("XDG_CACHE_HOME"), os.path.join(home, ".cache") if home else None
        bases = [os.path.join(base, "stepop") for base in found if base and os.path.isabs(base)]
    return [os.path.join(base, name) for base in bases for name in (FOLDER, f"{FOLDER}-{os.geteuid()}")]


def _make(path: str) -> OSError | None:
    try:
        take_folder(path)
        if os.stat(path).st_mode & 0o022:
            raise NotPrivateError(f"other users may write to {path}")
    except OSError as error:
        return error
    return None


def _install(lines: list[str], folder: str) -> str:
    """Install into ``folder``. Return a line for the log; it is empty if another step did it meanwhile."""
    lock = _lock(f"{folder}.lock")
    began, report = time.monotonic(), ""
    try:
        if os.path.isdir(folder):  # installed by the previous holder of the lock
            return ""
        _remove_drafts(folder)
        draft = f"{folder}.{os.urandom(4).hex()}"
        os.mkdir(draft, 0o700)
        try:
            installer = _run(lines, draft)
            os.rename(os.path.join(draft, "packages"), folder)
            report = _report(folder, time.monotonic() - began, f"with {installer}: {', '.join(lines)}")
        except OSError as error:
            if not os.path.isdir(folder):  # else another step installed it, where files cannot be locked
                text = f"The requirements could not be installed: {error}"
                raise RefusedError("infra", text, "give the step more disk") from None
        finally:
            remove_tree(draft)
    finally:
        if lock is not None:
            os.close(lock)
    return report


def _report(folder: str, seconds: float, how: str) -> str:
    count = sum(name.endswith(".dist-info") for name in os.listdir(folder))
    return f"installed {count} package{'' if count == 1 else 's'} in {_seconds(seconds)} {how}"


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 9.95 else f"{value:.0f} s"


def _lock(path: str) -> int | None:
    """Wait for the lock; return a descriptor that holds it, or ``None`` where files cannot be locked."""
    try:
        import fcntl

        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except (ImportError, OSError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("stepop: waiting for another step that installs the same requirements", flush=True)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_drafts(folder: str) -> None:
    """Remove the drafts of installs that were killed. This step holds the lock, so no draft is in use."""
    parent, name = os.path.split(folder)
    for entry in os.listdir(parent):
        if entry.startswith(f"{name}.") and not entry.endswith(".lock"):
            remove_tree(os.path.join(parent, entry))


def _run(lines: list[str], draft: str) -> str:
    """Install into ``draft/packages``; return the name of the installer.

    Its output is shown if it fails, or if every phase of the step is logged.
    """
    import subprocess
    from collections import deque

    installer, argv = _installer()
    target, tmp, listed = (os.path.join(draft, name) for name in ("packages", "tmp", "requirements.txt"))
    for path in (target, tmp):
        os.mkdir(path)
    with open(listed, "w", encoding="utf-8") as stream:
        stream.write("\n".join([*(_index_options() if installer == "uv" else ()), *lines, ""]))
    env = {**os.environ, "TMPDIR": tmp, "PYTHONUNBUFFERED": "1"}
    env.update(PIP_USER="0", PIP_REQUIRE_VIRTUALENV="0")  # settings of the image that do not fit --target
    default = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.environ.get("HOME") or "/", ".cache")
    if installer == "uv" and _make(os.path.join(default, "uv")):
        env.setdefault("UV_CACHE_DIR", tmp)
    output: deque[bytes] = deque()
    with subprocess.Popen(  # noqa: S603 - our own command line
        [*argv, "--target", target, "-r", listed],
        cwd=draft,  # away from files of the user that could configure the installer
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        _read(process, output, f"{', '.join(lines)} with {installer}")
    if process.returncode:
        for line in () if is_wanted else output:
            quietly(os.write, 1, line)
        tail = [line.decode("utf-8", "replace").rstrip()[:LINE_CHARS] for line in list(output)[-TAIL_LINES:]]
        raise _failed(installer, process.returncode, [line for line in tail if line])
    return installer


def _read(process: Popen[bytes], output: deque[bytes], what: str) -> None:
    """Read the installer's output until its end, and note from time to time that it is still at work."""
    import threading

    is_over, began, size = threading.Event(), time.monotonic(), 0

    def note() -> None:
        while not is_over.wait(NOTE_S):
            last = output[-1].decode("utf-8", "replace").strip()[:LINE_CHARS] if output else "none so far"
            time_s = _seconds(time.monotonic() - began)
            print(f"stepop: installing {what} for {time_s} now; its last line: {last}", flush=True)

    noting = threading.Thread(target=note, daemon=True)
    noting.start()
    for line in process.stdout or ():
        if is_wanted:
            quietly(os.write, 1, line)
        output.append(line)
        size += len(line)
        while size > OUTPUT_BYTES and len(output) > 1:
            size -= len(output.popleft())
    is_over.set()
    noting.join()


def _installer() -> tuple[str, list[str]]:
    """Return the name of the installer, uv or pip, and its command line.

    :raises RefusedError: the image has neither
    """
    from importlib.util import find_spec
    from shutil import which

    uv = which("uv")
    if uv and _runs(uv):
        return "uv", [uv, "pip", "install", "--no-progress", "--python", sys.executable]
    if find_spec("pip"):
        quiet = [
            "--disable-pip-version-check",
            "--no-input",
            "--no-warn-script-location",
            "--progress-bar",
            "off",
        ]
        return "pip", [sys.executable, "-m", "pip", "install", *quiet]
    raise RefusedError(
        "requirements",
        f"The requirements cannot be installed: no uv in PATH works, and {sys.executable} has no pip",
        "use an image that has uv or pip, or one that has the packages and no requirements=",
    )


def _runs(program: str) -> bool:
    """Return whether ``program --version`` works: a pyenv shim in PATH may have no program behind it."""
    import subprocess

    try:
        done = subprocess.run([program, "--version"], capture_output=True, check=False)  # noqa: S603 - uv
    except OSError:
        return False
    return done.returncode == 0


def _index_options() -> list[str]:
    if any(os.environ.get(name) for name in _UV_OPTIONS):
        return []
    no_index = os.environ.get("PIP_NO_INDEX", "").lower() in ("1", "true", "yes", "on")
    options = ["--no-index"] if no_index else []
    for name, option in _PIP_OPTIONS.items():
        options += [f"{option} {value}" for value in os.environ.get(name, "").split()]
    return options


def _failed(installer: str, code: int, tail: list[str]) -> RefusedError:
    errors = [line for line in tail if "error" in line.lower()] or tail
    why = f": {errors[-1].strip()}" if errors else ""
    failed = RefusedError(
        "requirements",
        f"The requirements could not be installed; {installer} ended with exit code {code}{why}",
        "look at its last lines; set PIP_INDEX_URL or UV_DEFAULT_INDEX in env= or secrets= for another index",
        exit_code=code if code > 0 else None,
    )
    failed.log_tail = tail
    return failed


def _use(folder: str) -> None:
    import site

    sys.path.insert(1, folder)
    site.addsitedir(folder, {*sys.path})  # reads the .pth files in it
    for name, path in (("PYTHONPATH", folder), ("PATH", os.path.join(folder, "bin"))):
        others: Any = os.environ.get(name)
        os.environ[name] = f"{path}{os.pathsep}{others}" if others else path
