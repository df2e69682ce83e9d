"""The receipt: what the runner reports of the outcome on a channel that the step's storage cannot forge.

A backend takes it from there (a termination message, a line of the log, a pipe), parses it here, and makes
the :class:`~airflow_stepop.job.OutcomeReport` of it.
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
    """What the runner reports.

    :param digest: SHA-256 of the outcome
    :param size: its bytes
    :param outcome: the outcome itself; ``None`` when the receipt had no room for it
    """

    digest: str
    size: int = 0
    outcome: bytes | None = None

    @classmethod
    def from_json(cls, data: object, what: str = "the receipt") -> Receipt:
        """Return the receipt.

        :param what: what ``data`` is, for the error
        :raises IntegrityError: this is none
        """
        known = checked_fields(data, what, *RECEIPT_FIELDS)
        try:
            outcome = b64decode(known["outcome"], validate=True) if "outcome" in known else None
        except (ValueError, binascii.Error) as error:
            raise IntegrityError(f"{what} is damaged: {error}") from error
        return cls(known["digest"], known.get("size", 0), outcome)

    def to_json(self) -> dict[str, object]:
        """Return the receipt as the runner writes it."""
        carried = {"outcome": b64encode(self.outcome).decode()} if self.outcome is not None else {}
        return {"digest": self.digest, "size": self.size, **carried}


def parse_receipt(text: str) -> Receipt | None:
    """Return the receipt that ``text`` is; ``None`` when it is something else, or was cut off."""
    try:
        return Receipt.from_json(json.loads(text))
    except (ValueError, RecursionError, IntegrityError):
        return None


def find_receipt(texts: Iterable[str], prefix: str = RECEIPT_PREFIX) -> Receipt | None:
    """Return the last receipt among texts, the oldest of which comes first; ``None`` when there is none.

    :param prefix: what a receipt begins with. The runner writes the default one into a log only
    """
    found = None
    for text in texts:
        if text.startswith(prefix):
            found = parse_receipt(text[len(prefix) :]) or found
    return found


def report(
    handle: JobHandle,
    receipt: Receipt | None,
    base_uri: str,
    read: Callable[[Receipt], bytes],
    place: str = "",
) -> OutcomeReport:
    """Return the outcome that a receipt stands for.

    :param base_uri: the ``result_uri`` of the step
    :param read: fetches an outcome that the receipt had no room for
    :param place: where the receipt would be, for the error
    :raises OutcomeLostError: there is no receipt, or the file that it stands for is gone
    """
    if receipt is None:
        raise OutcomeLostError(f"{handle} left no outcome{f' in {place}' if place else ''}")
    try:
        data = receipt.outcome if receipt.outcome is not None else read(receipt)
    except FileNotFoundError as error:
        raise OutcomeLostError(f"{handle} wrote an outcome that is gone: {error.filename}") from None
    return OutcomeReport(receipt.digest, data, base_uri)
