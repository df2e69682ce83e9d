"""Keeps the results of a step that has ended, for the next attempt of its job: ``--kept FOLDERS``.

Some services copy a job's output folders only after the runner has ended. If such a service takes the machine
away before that, it starts the job again with empty folders. The runner therefore keeps a copy in the folder
of the start-once guard, which the service copies all the time, and brings back to each attempt::

    kept-RUN.0, kept-RUN.1, ...   the files of FOLDERS: the segments, and what the step itself wrote there
    kept-RUN                      the record, written last:
                                  HMAC-SHA256 in hex digits | line end | JSON | line end | outcome.json

RUN is a random id of one attempt, so files of two attempts never form one set. The JSON of the record has
the SHA-256 of each file, and the key of the HMAC is that of ``--seal``. A set with a missing, torn or changed
file is no set: the step then runs again. Results above :data:`KEPT_BYTES` are not kept, and the record says
so.

Whoever reads the folder reads the results, as in the output folders. Whoever knows the key of ``--seal`` and
can write to the folder can forge a record. The next attempt therefore prints no receipt: that of the attempt
that ran the step was written before the record, and stays the only proof of the outcome.

Imported only by jobs with ``--kept``. Used by :mod:`.main` and :mod:`.once`.
"""

from __future__ import annotations

import hmac
import json
import os

from . import protocol
from .files import inside, quietly, report, write_atomic
from .hashing import sha256
from .sizes import shown_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .hashing import Buffer

KEPT_BYTES = 64 << 20  # of all files together. They travel to the bucket while the service may end the job
KEPT_FILES = 1000
PREFIX = "kept-"
AGAIN = "If the service starts the job again before it has copied the results, the step runs again"


def keep(options: dict[str, str], nonce: str, outcome: bytes, code: int) -> None:
    """Keep the outcome and the files of the folders. Called after the receipt was written.

    An attempt that a signal stopped is no end, so nothing is kept of it. An error costs only the copy.

    :param outcome: the bytes of ``outcome.json``
    :param code: the exit code of the runner
    """
    if (json.loads(outcome)["failure"] or {}).get("category") == "cancelled":
        return
    path = os.path.join(options["started"], f"{PREFIX}{os.urandom(8).hex()}")
    found: dict[str, Any] = {"nonce": nonce, "code": code, "attempt": _attempt(), "files": [], "why": ""}
    try:
        names = list(_files(options))
        size = len(outcome) + sum(size for _, _, _, size in names)
        if size > KEPT_BYTES or len(names) > KEPT_FILES:
            limit = f"{shown_size(KEPT_BYTES)} or {KEPT_FILES} files"
            found["why"] = f"{len(names)} files of {shown_size(size)} are more than {limit}"
            report(f"the results are not kept for another attempt: {found['why']}. {AGAIN}")
            outcome, names = b"", []
        for index, (place, name, source, size) in enumerate(names):
            found["files"].append([place, name, _copy(source, f"{path}.{index}", size), size])
        write_atomic(path, [_signed(options, json.dumps(found).encode() + b"\n" + outcome)])
    except (OSError, ValueError) as error:
        report(f"the results are not kept for another attempt: {error}. {AGAIN}")


def restore(options: dict[str, str], nonce: str) -> int | None:
    """Write what an earlier attempt has kept into the output folders; return the exit code of that attempt.

    ``outcome.json`` is written last. ``None``: no earlier attempt has ended, or its files are not all there.
    """
    for path, found, outcome in _records(options, nonce):
        if found["why"]:
            report(f"an earlier attempt has ended, and its results were not kept: {found['why']}")
            continue
        written: list[str] = []
        try:
            for index, (place, name, digest, size) in enumerate(found["files"]):
                target = inside(_folders(options)[place], name, "kept file")
                written.append(target)
                _copy(f"{path}.{index}", target, size, digest)
            _say(options, json.loads(outcome))
            write_atomic(os.path.join(options["out"], protocol.OUTCOME), [outcome], is_synced=True)
        except Exception as error:  # whoever knows the key can write any JSON
            for target in written:
                quietly(os.unlink, target)
            report(f"the results of an earlier attempt cannot be used: {error}")
            continue
        report("the results are those of the earlier attempt; this attempt ran nothing")
        return int(found["code"])
    return None


def _say(options: dict[str, str], outcome: Any) -> None:
    status, failure = outcome["status"], outcome["failure"]
    report(f"an earlier attempt of this job has ended with {status}")
    if failure and "failure" in options:
        from .reason import write_reason

        write_reason(options["failure"], failure)  # without a receipt


# -- the record


def _records(options: dict[str, str], nonce: str) -> list[tuple[str, dict[str, Any], bytes]]:
    """Return path, JSON and outcome of each whole record of this submit, the newest first."""
    found = []
    for name in _names(options["started"]):
        path = os.path.join(options["started"], name)
        if not name.startswith(PREFIX) or "." in name:
            continue
        try:
            with open(path, "rb") as stream:
                head, outcome = _checked(options, stream.read()).split(b"\n", 1)
            about = json.loads(head)
            if about["nonce"] == nonce and (about["why"] or json.loads(outcome)["nonce"] == nonce):
                about["attempt"], about["code"] = int(about["attempt"]), int(about["code"])
                found.append((path, about, outcome))
        except Exception as error:  # OSError, ValueError; whoever knows the key can write any JSON
            report(f"{name} of an earlier attempt is not used: {error}")
    return sorted(found, key=lambda one: -one[1]["attempt"])


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _signed(options: dict[str, str], data: bytes) -> bytes:
    return _mac(options, data).encode() + b"\n" + data


def _checked(options: dict[str, str], blob: bytes) -> bytes:
    mac, _, data = blob.partition(b"\n")
    if not hmac.compare_digest(mac, _mac(options, data).encode()):
        raise ValueError("it was changed, or it was not copied to its end")
    return data


def _mac(options: dict[str, str], data: bytes) -> str:
    return hmac.new(bytes.fromhex(options["seal"]), b"kept\0" + data, "sha256").hexdigest()


def _attempt() -> int:
    return int(os.environ.get(protocol.ENV_ATTEMPT) or 1)


# -- the files


def _folders(options: dict[str, str]) -> list[str]:
    return options["kept"].split(os.pathsep)


def _files(options: dict[str, str]) -> Iterator[tuple[int, str, str, int]]:
    """Yield the number of the folder, the name below it, the path and the size of each file.

    :raises ValueError: there is something else than files and folders
    """
    own = os.path.realpath(os.path.join(options["out"], protocol.OUTCOME))
    for place, folder in enumerate(_folders(options)):
        for parent, folders, names in os.walk(folder):
            for name in sorted(folders + names):
                path = os.path.join(parent, name)
                entry = os.lstat(path)
                if os.path.isdir(path) and not os.path.islink(path):
                    continue
                if not os.path.isfile(path) or os.path.islink(path):
                    raise ValueError(f"{path} is neither a file nor a folder")
                if os.path.realpath(path) != own:
                    yield place, os.path.relpath(path, folder), path, entry.st_size


def _copy(source: str, target: str, size: int, digest: str = "") -> str:
    """Copy a file and return its SHA-256. The target appears only if size and digest are right.

    :param digest: the expected SHA-256; empty: not known yet
    :raises ValueError: the file is not the expected one
    """
    found, rest = sha256(size), size
    chunk = memoryview(bytearray(1 << 20))

    def chunks(stream: Any) -> Iterator[Buffer]:
        nonlocal rest
        while True:
            count = stream.readinto(chunk)
            rest -= count
            if not count or rest < 0:
                break
            found.update(chunk[:count])
            yield chunk[:count]
        if rest or digest not in ("", found.hexdigest()):
            raise ValueError(f"{source} was changed, or it was not copied to its end")

    with open(source, "rb", buffering=0) as stream:
        write_atomic(target, chunks(stream))
    return found.hexdigest()
