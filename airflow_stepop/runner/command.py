"""Runs a command: writes the inputs as files, starts the program, collects the output files.

Called by :mod:`.child` for a ``RemoteStepOperator`` with ``command=``.
"""

from __future__ import annotations

import os

from . import protocol
from .entries import Encoded, SegmentError
from .failures import RefusedError, StepError, ended
from .files import inside
from .phases import phase
from .step import FULL, guard_disk
from .values import check_entry, decode, encode_json, plain_json, read_segments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from subprocess import Popen

    from .hashing import Buffer
    from .step import Step
    from .wire import Entry

# most files listed in the message about a missing output
FILES_SHOWN = 20


def run_command(step: Step) -> dict[str, Entry]:
    """Run the command and return the outcome's ``outputs``: output name -> value entry.

    :raises StepError: the command failed, or did not write an output
    :raises RefusedError: an input cannot be written, or a path leaves the step's folder
    """
    spec = step.manifest["command"]
    folder = _workdir(step.scratch, spec["workdir"])
    outputs = {name: inside(folder, name, "output") for name in spec["outputs"]}
    _write_inputs(step, folder, spec["inputs"])
    phase("inputs written")
    _run(spec["argv"], folder)
    phase("command ran")
    missing = [name for name, path in outputs.items() if not os.path.exists(path)]
    if missing:
        raise _missing(missing, folder, set(spec["inputs"]))
    return {name: _collect(step, name, path) for name, path in outputs.items()}


def _write_inputs(step: Step, folder: str, inputs: dict[str, Entry]) -> None:
    written: dict[str, str] = {}
    for name, entry in inputs.items():
        path = inside(folder, name, "input")
        if path in written:
            raise RefusedError(
                "bad_config", f"The inputs {written[path]!r} and {name!r} are the same file", _NAMES
            )
        written[path] = name
        data = _file_bytes(step, entry, name)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as stream:
                stream.writelines(data)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            summary = (
                f"The input {name!r} needs a folder where a file is, or a file where a folder is: {error}"
            )
            raise RefusedError("bad_config", summary, _NAMES) from None
        except (OSError, ValueError) as error:
            category = "infra" if getattr(error, "errno", None) in FULL else "bad_config"
            raise RefusedError(category, f"The input {name!r} cannot be written: {error}", _NAMES) from None


_NAMES = "give every input its own file name, and check that the step has free disk space"


def _workdir(scratch: str, workdir: str | None) -> str:
    """Return the folder in which the command runs: absolute (of the image), or below the scratch folder."""
    if workdir and os.path.isabs(workdir):
        return workdir
    if not workdir or os.path.normpath(workdir) == os.curdir:
        return scratch
    folder = inside(scratch, workdir, "workdir")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        hint = "name a folder; the files shipped with the step are there already"
        raise RefusedError("bad_config", f"The workdir {workdir!r} is not a folder: {error}", hint) from None
    return folder


def _file_bytes(step: Step, entry: Entry, name: str) -> list[Buffer]:
    try:
        check_entry(entry)
        codec, segments = entry["codec"], read_segments(entry, step.read_segment)
        value = decode(codec, segments) if codec == "json" else None
    except SegmentError as error:
        raise RefusedError(
            "infra", f"The step was not started: the input {name!r} is damaged: {error}"
        ) from None
    if codec == "json":
        return [_json_bytes(value, segments[0], name)]
    if codec != "pickle":
        return segments
    if len(segments) == 1:
        return segments
    import pickle

    try:
        return [pickle.dumps(pickle.loads(segments[0], buffers=segments[1:]), protocol=4)]
    except Exception as error:  # unpickling runs foreign code
        summary = f"The input {name!r} cannot be unpickled here: {type(error).__name__}: {error}"
        hint = "use an image that has the packages of the value, or pass bytes, an array or a table"
        raise RefusedError("requirements", summary, hint) from error


def _json_bytes(value: object, data: Buffer, name: str) -> bytes:
    """Return a text itself, or JSON. A value with types that JSON lacks is JSON only in a ``.json`` file."""
    import json

    if b'{"(' in bytes(data):
        from .readable import has_types, readable

        plain = plain_json(data)
        if has_types(plain) and not name.endswith(".json"):
            import pickle

            return pickle.dumps(value, protocol=4)
        value = readable(plain)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass")


def _run(argv: list[str], folder: str) -> None:
    import signal

    process: Popen[bytes] | None = None
    forwarded: list[int] = []

    def forward(signum: int, frame: object) -> None:
        forwarded.append(signum)
        if process is not None:
            process.send_signal(signum)

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, forward)
    process = _start(argv, folder)
    for early in list(forwarded):  # signals that arrived before the process was started
        process.send_signal(early)
    code = process.wait()
    if code:
        raise ended(f"The command {argv[0]!r}", code, forwarded)


def _start(argv: list[str], folder: str) -> Popen[bytes]:
    import subprocess

    try:
        return subprocess.Popen(argv, cwd=folder)  # noqa: S603 - the user's own command
    except NotADirectoryError as error:
        raise StepError("user_error", f"The step's folder {folder} is not a folder: {error}") from None
    except FileNotFoundError:
        if not os.path.isdir(folder):
            raise StepError("user_error", f"The step's folder {folder} does not exist") from None
        hint = "name a program that is in the PATH where the step runs, or an absolute path"
        raise StepError("user_error", f"The command {argv[0]!r} was not found", hint, exit_code=127) from None
    except PermissionError:
        raise StepError("user_error", f"The command {argv[0]!r} may not be executed", exit_code=126) from None
    except (OSError, ValueError) as error:
        raise StepError(
            "user_error", f"The command {argv[0]!r} did not start: {error}", exit_code=126
        ) from None


def _missing(missing: list[str], folder: str, inputs: set[str]) -> StepError:
    there: list[str] = []
    for path, _, files in os.walk(folder):
        there += [name for name in (os.path.relpath(os.path.join(path, file), folder) for file in files)]
    there = sorted(set(there) - inputs)
    shown = ", ".join(there[:FILES_SHOWN]) or "none"
    more = f" and {len(there) - FILES_SHOWN} more" if len(there) > FILES_SHOWN else ""
    summary = f"The command did not write {', '.join(missing)}; files it left: {shown}{more}"
    return StepError(
        "user_error", summary, "write outputs relative to the folder in which the command starts"
    )


def _collect(step: Step, name: str, path: str) -> Entry:
    from .about import warn
    from .sizes import shown_size

    if not os.path.isfile(path):
        hint = "name a file; pack a folder with tar"
        raise StepError("user_error", f"The output {name!r} is not a file", hint)
    size = os.path.getsize(path)
    if size > protocol.INLINE_VALUE_BYTES:
        if name.endswith(".json"):
            warn(
                _UNPARSED.format(
                    name, f"has {shown_size(size)}, more than {shown_size(protocol.INLINE_VALUE_BYTES)}"
                )
            )
        with guard_disk():
            return {
                "codec": "file",
                "segments": [step.segments.save_file(path)],
                "about": f"file {name}"[:200],
            }
    with guard_disk(), open(path, "rb") as stream:
        data = stream.read()
    encoded = _parsed(name, data) if name.endswith(".json") else None
    if encoded is None:
        encoded = Encoded("file", [[data]])
        encoded.about = f"file {name}"[:200]
    return step.to_entry(encoded)


_UNPARSED = "The output {} {}. It is returned as bytes and not as the value of its JSON"


def _parsed(name: str, data: bytes) -> Encoded | None:
    import json

    from .about import describe, has_odd, warn

    def refuse(number: str) -> None:
        raise ValueError(f"it contains {number}")

    try:
        value = json.loads(data, parse_constant=refuse)
        encoded = encode_json(value)
    except (ValueError, RecursionError) as error:
        warn(_UNPARSED.format(name, f"is not valid JSON: {str(error) or 'it is nested too deeply'}"))
        return None
    if encoded is None or has_odd(encoded):
        warn(_UNPARSED.format(name, "is nested too deeply, or has a number that is too large"))
        return None
    encoded.about = describe(value)
    return encoded
