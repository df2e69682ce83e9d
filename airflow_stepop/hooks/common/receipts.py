"""The receipt: the runner's report of the outcome, with the outcome's SHA-256 digest.

The runner writes the receipt to a channel that nobody with write access to the storage can forge: a
termination message, a log line, a pipe. A hook's ``outcome`` reads the channel, parses the receipt with this
module, and gets the :class:`~airflow_stepop.job.OutcomeReport` from :func:`report`.
"""

from __future__ import annotations

import binascii
import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_stepop.core.stored_json import COUNT, TEXT, checked_fields
from airflow_stepop.exceptions import IntegrityError, OutcomeLostError
from airflow_stepop.job import OutcomeReport
from airflow_stepop.runner.protocol import RECEIPT_PREFIX

if TYPE_CHECKING:
    from airflow_stepop.job import JobHandle

RECEIPT_FIELDS = {"digest": TEXT}, {"size": COUNT, "outcome": TEXT}  # required, optional


@dataclass(frozen=True)
class Receipt:
    """The runner's report of the outcome.

    :param digest: SHA-256 digest of the outcome
    :param size: size of the outcome in bytes
    :param outcome: the outcome itself; ``None`` if the outcome is too large for the receipt
    """

    digest: str
    size: int = 0
    outcome: bytes | None = None

    @classmethod
    def from_json(cls, data: object, what: str = "the receipt") -> Receipt:
        """Return the receipt that ``data`` describes.

        :param what: name of ``data`` in the error message
        :raises IntegrityError: ``data`` is not a receipt
        """
        known = checked_fields(data, what, *RECEIPT_FIELDS)
        try:
            outcome = b64decode(known["outcome"], validate=True) if "outcome" in known else None
        except (ValueError, binascii.Error) as error:
            raise IntegrityError(f"{what} is damaged: {error}") from error
        return cls(known["digest"], known.get("size", 0), outcome)

    def to_json(self) -> dict[str, object]:
        """Return the receipt in the form in which the runner writes it."""
        carried = {"outcome": b64encode(self.outcome).decode()} if self.outcome is not None else {}
        return {"digest": self.digest, "size": self.size, **carried}


def parse_receipt(text: str) -> Receipt | None:
    """Return the receipt in ``text``, or ``None`` if the text is not a receipt or was truncated."""
    try:
        return Receipt.from_json(json.loads(text))
    except (ValueError, RecursionError, IntegrityError):
        return None


def find_receipt(texts: Iterable[str], prefix: str = RECEIPT_PREFIX) -> Receipt | None:
    """Return the last receipt in ``texts``, or ``None`` if there is no receipt.

    In a log, a receipt may follow text on the same line, which the step has printed without a line end.

    :param texts: log lines or messages, oldest first
    :param prefix: text in front of a receipt. The runner writes the default prefix into logs only
    """
    found = None
    for text in texts:
        _, mark, receipt = text.rpartition(prefix) if prefix else ("", "", text)
        if mark == prefix:
            found = parse_receipt(receipt) or found
    return found


def report(
    handle: JobHandle,
    receipt: Receipt | None,
    base_uri: str,
    read: Callable[[Receipt], bytes],
    place: str = "",
) -> OutcomeReport:
    """Return the outcome that a receipt reports.

    The outcome is in the receipt itself, or in a file if it is too large for the receipt.

    :param base_uri: the ``result_uri`` of the step
    :param read: reads the outcome's file; called if the outcome is not in the receipt
    :param place: where the receipt should have been, for the error message
    :raises OutcomeLostError: there is no receipt, or the outcome's file is gone
    """
    if receipt is None:
        raise OutcomeLostError(f"{handle} left no outcome{f' in {place}' if place else ''}")
    try:
        data = receipt.outcome if receipt.outcome is not None else read(receipt)
    except FileNotFoundError as error:
        raise OutcomeLostError(f"{handle} wrote an outcome that is gone: {error.filename}") from None
    return OutcomeReport(receipt.digest, data, base_uri)
