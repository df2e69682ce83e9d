"""The receipt: the runner's report of the outcome, with the outcome's SHA-256 digest.

The runner writes the receipt to a channel that nobody with write access to the storage can forge: a
termination message, a log line, a pipe. A hook's ``outcome`` reads the channel, parses the receipt with this
module, and gets the :class:`~airflow_stepop.job.OutcomeReport` from :func:`report`.
"""

from __future__ import annotations

import binascii
import hmac
import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from airflow_stepop.core.signing_key import Purpose, sign, why_refused
from airflow_stepop.core.stored_json import COUNT, TEXT, checked_fields, parsed_json
from airflow_stepop.core.units import shown_size
from airflow_stepop.exceptions import IntegrityError, OutcomeLostError
from airflow_stepop.hooks.common.sealing import seal_keys
from airflow_stepop.job import JobHandle, OutcomeReport
from airflow_stepop.runner.protocol import OUTCOME_BYTES, RECEIPT_PREFIX
from airflow_stepop.runner.sealing import receipt_mac

RECEIPT_FIELDS = {"digest": TEXT}, {"size": COUNT, "outcome": TEXT, "mac": TEXT}  # required, optional
HANDED = "receipt"  # key of a handle's detail, for the receipt that a trigger has handed over
HANDED_BYTES = 4096  # of such a receipt: a larger one is stored in Airflow's database without its outcome


@dataclass(frozen=True)
class Receipt:
    """The runner's report of the outcome.

    :param digest: SHA-256 digest of the outcome
    :param size: size of the outcome in bytes
    :param outcome: the outcome itself; ``None`` if the outcome is too large for the receipt
    :param mac: proves that the runner of the job wrote the receipt, see :func:`is_of_runner`; empty: nothing
        proves it but the channel of the receipt
    """

    digest: str
    size: int = 0
    outcome: bytes | None = None
    mac: str = ""

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
        return cls(known["digest"], known.get("size", 0), outcome, known.get("mac", ""))

    def to_json(self) -> dict[str, object]:
        """Return the receipt in the form in which the runner writes it."""
        carried = {"outcome": b64encode(self.outcome).decode()} if self.outcome is not None else {}
        proof = {"mac": self.mac} if self.mac else {}
        return {"digest": self.digest, "size": self.size, **carried, **proof}


def parse_receipt(text: str) -> Receipt | None:
    """Return the receipt in ``text``, or ``None`` if the text is not a receipt or was truncated."""
    try:
        return Receipt.from_json(parsed_json(text, "the receipt"))
    except IntegrityError:
        return None


def is_of_runner(receipt: Receipt, nonce: str) -> bool:
    """Return whether the MAC of a receipt was made by the runner of the job with this nonce.

    Only the job and this deployment have the key: ``seal_key(nonce)``, which travels in the job's request.
    For a backend that starts the runner with ``--seal KEY --sign 1``.
    """
    given = receipt.mac.encode(errors="surrogatepass")
    expected = [receipt_mac(key, receipt.digest, receipt.size).encode() for key in seal_keys(nonce)]
    return any(hmac.compare_digest(given, mac) for mac in expected)


def find_receipt(
    texts: Iterable[str],
    prefix: str = RECEIPT_PREFIX,
    is_believed: Callable[[Receipt], bool] = lambda receipt: True,
) -> Receipt | None:
    """Return the last receipt in ``texts``, or ``None`` if there is no receipt.

    In a log, a receipt may follow text on the same line, which the step has printed without a line end.

    :param texts: log lines or messages, oldest first
    :param prefix: text in front of a receipt. The runner writes the default prefix into logs only
    :param is_believed: other receipts are skipped, for example those without the MAC of the runner
    """
    found = None
    for text in texts:
        _, mark, receipt = text.rpartition(prefix) if prefix else ("", "", text)
        parsed = parse_receipt(receipt) if mark == prefix else None
        if parsed is not None and is_believed(parsed):
            found = parsed
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
    :raises OutcomeLostError: there is no receipt, or the outcome's file is gone or too large
    """
    if receipt is None:
        raise OutcomeLostError(f"{handle} left no outcome{f' in {place}' if place else ''}")
    if receipt.size > OUTCOME_BYTES:
        raise OutcomeLostError(
            f"{handle} wrote an outcome of {shown_size(receipt.size)}, and an outcome has at most "
            f"{shown_size(OUTCOME_BYTES)}"
        )
    try:
        data = receipt.outcome if receipt.outcome is not None else read(receipt)
    except FileNotFoundError as error:
        raise OutcomeLostError(f"{handle} wrote an outcome that is gone: {error.filename}") from None
    return OutcomeReport(receipt.digest, data, base_uri)


# -- a receipt that is handed over, from the process that has read the log to the one that reads the outcome


def receipt_text(
    texts: Iterable[str], is_believed: Callable[[Receipt], bool] = lambda receipt: True
) -> str | None:
    """Return the last receipt in ``texts`` for :class:`~airflow_stepop.job.LogChunk`, or ``None``.

    :param texts: texts of the log as the service has them, oldest first
    :param is_believed: as for :func:`find_receipt`
    """
    receipt = find_receipt(texts, is_believed=is_believed)
    return json.dumps(receipt.to_json(), separators=(",", ":")) if receipt is not None else None


def signed_receipt(handle: JobHandle, text: str) -> dict[str, str] | None:
    """Return a receipt with a MAC, as JSON; ``None`` if it is no receipt.

    The outcome in a large receipt is left out: the hook reads the outcome's file instead.

    :param text: the receipt of a chunk of the job's log
    """
    receipt = parse_receipt(text)
    if receipt is None:
        return None
    if len(text) > HANDED_BYTES:
        text = json.dumps(replace(receipt, outcome=None).to_json())
    if len(text) > HANDED_BYTES:  # no digest is so long
        return None
    return {"text": text, "mac": sign(Purpose.RECEIPT, _signed_bytes(handle, text))}


def with_receipt(handle: JobHandle, signed: object) -> JobHandle:
    """Return the handle with a receipt that :func:`signed_receipt` has signed, checked or not."""
    return replace(handle, detail={**handle.detail, HANDED: signed}) if signed else handle


def without_receipt(handle: JobHandle) -> JobHandle:
    """Return the handle without a receipt: the outcome was read."""
    if HANDED not in handle.detail:
        return handle
    return replace(handle, detail={name: one for name, one in handle.detail.items() if name != HANDED})


def receipt_of(handle: JobHandle) -> Receipt | None:
    """Return the receipt that was handed over with a handle; ``None`` without one, or if its MAC is wrong.

    A hook whose receipt is a line of the log calls this function in ``outcome``, and reads the log only
    without a receipt.
    """
    signed = handle.detail.get(HANDED)
    if not isinstance(signed, Mapping):
        return None
    text, mac = signed.get("text"), signed.get("mac")
    if not isinstance(text, str) or not isinstance(mac, str):
        return None
    is_ours = not why_refused(Purpose.RECEIPT, _signed_bytes(handle, text), mac)
    return parse_receipt(text) if is_ours else None


def _signed_bytes(handle: JobHandle, text: str) -> bytes:
    """Return what the MAC of a job's receipt covers. The name of a job has a hash of its nonce."""
    return json.dumps(["receipt", handle.backend, handle.scope, handle.id, handle.name, text]).encode()
