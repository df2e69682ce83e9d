"""Checks an outcome in a mounted output folder (``--mounted 1``), to which others may write, too.

Between the child's write and the parent's read, others could replace ``outcome.json``. The parent would then
write a receipt for bytes that the step did not write. So the child sends the SHA-256 through a pipe.

Imported only by jobs with such a folder. Used by :mod:`.child` and :mod:`.main`.
"""

from __future__ import annotations

from .failures import StepError
from .hashing import sha256


def to_message(outcome: bytes) -> bytes:
    """Return what the child sends to the parent after it has written the outcome."""
    return sha256(len(outcome), outcome).hexdigest().encode()


def checked(outcome: bytes, message: bytes) -> bytes:
    """Return the outcome that the child has written; ``b""`` if the child did not finish the write.

    :param outcome: the bytes in the output folder
    :param message: the bytes that the child has sent
    :raises StepError: the outcome is not the one that the child has written
    """
    if len(message) != 64:
        return b""
    if to_message(outcome) != message:
        summary = "The step ran, but its outcome.json was changed after it was written"
        raise StepError(
            "infra", summary, "others can write to the folder of the job's results; clear the task"
        )
    return outcome
