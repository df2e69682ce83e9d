"""Writes the receipt: the runner's last line. Called by the parent process, :mod:`.main`.

The receipt uses a channel of the backend. Write access to the step's storage is not enough to forge it.
"""

from __future__ import annotations

import binascii
import json
import os
import sys

from . import protocol
from .failures import StepError
from .files import quietly, read_input, read_table
from .hashing import sha256
from .phases import phase

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def finish(options: dict[str, str], found: tuple[bytes, bool], code: int | None = None) -> int:
    """Write the receipt and return the exit code of the runner.

    :param found: the outcome as JSON, and whether ``outcome.json`` was written
    :param code: exit code of the child; ``None`` if a signal killed it
    """
    data, is_written = found
    outcome = json.loads(data)
    code = _exit_code(outcome["status"], is_written, code)
    limit, prefix = (
        int(options["receipt-limit"]),
        protocol.RECEIPT_PREFIX if options["receipt"] == "-" else "",
    )
    if "failure" in options and outcome["failure"]:
        from .reason import write_reason

        own = _receipt(options, data, "", is_inline=False).decode() if is_written else ""
        write_reason(options["failure"], outcome["failure"], own)
    line = _receipt(options, data, prefix)
    if len(line) > limit and not is_written:  # only the receipt can carry the outcome, so shorten it
        failure = outcome["failure"]
        outcome["failure"] = {**failure, "summary": failure["summary"][:300], "hint": "", "exception": None}
        line = _receipt(options, json.dumps(outcome).encode(), prefix)
    if len(line) > limit:
        line = _receipt(options, data, prefix, is_inline=False)
        _send_outcome(options, data)
    if "sync" in options:
        from .synced import sync

        sync(options["sync"])
    try:
        _write_receipt(options["receipt"], line)
    except OSError as error:
        sys.stderr.write(f"stepop: the receipt cannot be written to {options['receipt']}: {error}\n")
        return protocol.EXIT_NO_OUTCOME
    phase("receipt written")
    return code


def _exit_code(status: str, is_written: bool, code: int | None) -> int:
    if not is_written:
        return protocol.EXIT_NO_OUTCOME
    if status == "success":
        return protocol.EXIT_OK
    return protocol.EXIT_REFUSED if code == protocol.EXIT_REFUSED else protocol.EXIT_STEP_FAILED


def _send_outcome(options: dict[str, str], data: bytes) -> None:
    """Send an outcome that does not fit into the receipt: as lines of the log, or to the store.

    Does nothing if the input folder has neither a key for the log nor an address in the store. The backend
    then reads ``outcome.json`` itself.
    """
    try:
        key = read_input(options, protocol.FRAMES)
    except (OSError, StepError):
        _store_outcome(options, data)
        return
    from .frames import write

    quietly(write, data, key)


def _store_outcome(options: dict[str, str], data: bytes) -> None:
    try:
        uploads = read_table(options, protocol.UPLOADS) or {}
        if "outcome" in uploads:
            from .urls import put

            put(uploads["outcome"], lambda: iter((data,)), len(data), uploads["headers"])
    except (OSError, ValueError, StepError) as error:
        sys.stderr.write(f"stepop: the outcome cannot be written to the store: {error}\n")


def _receipt(options: dict[str, str], data: bytes, prefix: str, is_inline: bool = True) -> bytes:
    receipt: dict[str, Any] = {
        "protocol": protocol.PROTOCOL,
        "digest": sha256(len(data), data).hexdigest(),
        "size": len(data),
    }
    if options.get("sign") == "1":
        from .sealing import receipt_mac

        receipt["mac"] = receipt_mac(bytes.fromhex(options["seal"]), receipt["digest"], len(data))
    if is_inline:
        receipt["outcome"] = binascii.b2a_base64(data, newline=False).decode()
    return f"{prefix}{json.dumps(receipt, separators=(',', ':'))}\n".encode()


def _write_receipt(where: str, line: bytes) -> None:
    if where == "-":
        descriptor = 1
    elif where.startswith("fd:"):
        descriptor = int(where[3:])
    else:
        descriptor = os.open(where, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    view = memoryview(line)
    while view:
        view = view[os.write(descriptor, view) :]
    os.close(descriptor)
