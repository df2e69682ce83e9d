"""Turns an outcome into the task's return value, in the worker. Nothing is unpickled here.

1. :func:`read_outcome` verifies the outcome and makes the result small enough for the step's record.
2. :func:`to_xcom` turns the collected result into the value that the task returns to Airflow.

Called by the step's lifecycle. ``runner/protocol.py`` describes the format of an outcome.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_stepop.core.host import host_of
from airflow_stepop.core.pickles import IS_FALSE, OTHER_RESULTS, are_pickles_allowed
from airflow_stepop.core.printable import printable
from airflow_stepop.core.stored_json import (
    COUNT,
    LIST,
    OBJECT,
    TEXT,
    TRUTH,
    checked_fields,
    or_nothing,
    parsed_json,
)
from airflow_stepop.core.units import shown_size
from airflow_stepop.exceptions import IntegrityError, StepConfigError, StoreError
from airflow_stepop.failure import Category, Failure
from airflow_stepop.results import StepResult, is_plain
from airflow_stepop.runner import protocol
from airflow_stepop.runner.entries import SegmentError, UntrustedPickleError
from airflow_stepop.runner.values import check_entry, decode_entry
from airflow_stepop.stores.configured import locate

if TYPE_CHECKING:
    from airflow_stepop.core.documents import CollectedData, CollectedResult, CollectedValue, StepUsage
    from airflow_stepop.job import Buffer, OutcomeReport
    from airflow_stepop.runner.wire import Entry, Segment

RECORD_BYTES = 60_000  # largest collected result inside the step's record


def read_outcome(report: OutcomeReport, job: str, nonce: str, step: str = "") -> CollectedData:
    """Return ``{"result": ..., "usage": ...}`` or ``{"failure": ..., "usage": ...}`` from an outcome.

    A result that only pickle can hold is a failure if ``[stepop] allow_pickle`` is false. All of it is JSON.
    ``usage`` is the usage that the runner measured. Nothing is unpickled.

    :param step: the task's id; a reference to the result holds it for people
    :raises IntegrityError: the outcome's digest is not the one in the receipt, the outcome belongs to another
        job, or it is malformed
    :raises StepConfigError: the result is a pickle, and the backend has no receipt that vouches for the bytes
    """
    if report.digest is not None and hashlib.sha256(report.data).hexdigest() != report.digest:
        raise IntegrityError(f"its bytes changed after the step wrote it (expected SHA-256 {report.digest})")
    outcome = _parsed(report.data)
    if outcome["protocol"] != protocol.PROTOCOL:
        raise IntegrityError(
            f"it has protocol {outcome['protocol']!r} and this airflow-stepop has {protocol.PROTOCOL}: "
            "another version started the step; run the task again, and let steps end before you upgrade"
        )
    if (outcome["job"], outcome["nonce"]) != (job, nonce):
        raise IntegrityError(
            f"it belongs to job {outcome['job']!r} (nonce {outcome['nonce']!r}) "
            f"and not to {job!r} (nonce {nonce!r})"
        )
    try:
        if outcome["status"] != "success":
            found: CollectedData = {"failure": Failure.from_json(outcome.get("failure")).to_json()}
        else:
            _check_inline(outcome)
            if places := _refused_pickles(outcome):
                found = {"failure": _only_pickle(places).to_json()}
            else:
                found = {"result": _small(_result_of(outcome, report, step), report.base_uri, job)}
    except SegmentError as error:
        raise IntegrityError(f"a value in it is damaged: {error}") from error
    usage: StepUsage | None = outcome.get("usage")  # its readers check each number
    found["usage"] = usage or {}
    return found


_STATUS = ("success or failure", lambda value: value in ("success", "failure"))
_OUTCOME_FIELDS = {"protocol": COUNT, "job": TEXT, "nonce": TEXT, "status": _STATUS}
_OUTCOME_VALUES = {
    "value": or_nothing(OBJECT),
    "values": ("an object or a list", lambda value: value is None or isinstance(value, (Mapping, list))),
    "outputs": or_nothing(OBJECT),
    "split": or_nothing(TEXT),
    "failure": or_nothing(OBJECT),
    "usage": or_nothing(OBJECT),
}


def _parsed(data: bytes) -> dict[str, Any]:
    """Return the checked fields of an outcome."""
    if len(data) > protocol.OUTCOME_BYTES:
        raise IntegrityError(
            f"it has {shown_size(len(data))}, and an outcome has at most {shown_size(protocol.OUTCOME_BYTES)}"
        )
    outcome = parsed_json(data, "outcome.json")
    known = checked_fields(outcome, "the outcome", _OUTCOME_FIELDS)
    if known["protocol"] == protocol.PROTOCOL:  # another version may have other fields
        known |= checked_fields(outcome, "the outcome", {}, _OUTCOME_VALUES)
    return known


def outcome_size(report: OutcomeReport) -> int:
    """Return the size of an outcome in bytes, including the parts of its result that lie in the store."""
    try:
        stored = [one["size"] for one in _segments(_parsed(report.data)) if "data" not in one]
        return len(report.data) + int(sum(stored))
    except (AttributeError, IntegrityError, KeyError, TypeError, ValueError):  # the step can write any bytes
        return len(report.data)


def _segments(outcome: Mapping[str, Any]) -> list[Segment]:
    """Return the segments of all values of an outcome."""
    several = outcome.get("outputs") or outcome.get("values") or []
    entries = list(several.values()) if isinstance(several, Mapping) else list(several)
    entries += [outcome["value"]] if outcome.get("value") else []
    return [segment for entry in entries for segment in entry["segments"]]


def _check_inline(outcome: Mapping[str, Any]) -> None:
    """Check the size of the values inside an outcome: they are stored in Airflow's database.

    :raises IntegrityError: they are larger than those that the runner writes, or no values
    """
    try:
        size = sum(len(one["data"]) * 3 // 4 for one in _segments(outcome) if "data" in one)
    except (AttributeError, KeyError, TypeError) as error:
        raise IntegrityError(f"a value in it is damaged: {error!r}") from error
    if size > protocol.OUTCOME_VALUES_BYTES + 4 * protocol.INLINE_VALUE_BYTES:
        raise IntegrityError(
            f"the values in it have {shown_size(size)}, and the runner writes at most "
            f"{shown_size(protocol.OUTCOME_VALUES_BYTES)} into an outcome"
        )


PLACE_CHARS = 200  # of the text about one pickled value
PLACES = 3  # pickled values that an error names


def _refused_pickles(outcome: Mapping[str, Any]) -> list[str]:
    """Return place and type of each value that may not be loaded, such as ``['model'] is forests.Forest``."""
    several = outcome.get("outputs") or outcome.get("values") or {}
    named = several.items() if isinstance(several, Mapping) else enumerate(several)
    entries = [(f"[{key!r}]", entry) for key, entry in named]
    if outcome.get("value") is not None:
        entries.append(("the result", outcome["value"]))
    found = []
    for place, entry in entries:
        check_entry(entry)
        if entry["codec"] not in protocol.DATA_CODECS:
            text = entry.get("pickled") or f"{place} is {entry.get('about') or entry['codec']}"
            found.append(printable(text).replace("\x1b", "")[:PLACE_CHARS])
    return [] if not found or are_pickles_allowed() else found


def _only_pickle(places: list[str]) -> Failure:
    """Return the failure of a step whose result may not be loaded in Airflow."""
    more = f" and {len(places) - PLACES} more" if len(places) > PLACES else ""
    return Failure(
        Category.BAD_CONFIG,
        f"the step returned what only pickle can hold, and {IS_FALSE}: {', '.join(places[:PLACES])}{more}",
        hint=f"return {OTHER_RESULTS}; or write the object to a place of its own, and return the address",
        has_succeeded=True,
    )


def _result_of(outcome: Mapping[str, Any], report: OutcomeReport, step: str) -> CollectedResult:
    def keep(entry: Entry) -> CollectedValue:
        check_entry(entry)
        entry.pop("pickled", None)
        if is_plain(entry):
            return {"plain": dict(entry)}
        if report.digest is None and entry["codec"] not in protocol.DATA_CODECS:
            raise StepConfigError(
                "the step returned a value that only pickle can hold, and this backend reports no trusted "
                f"digest of the outcome{f': {report.missing}' if report.missing else ''}; "
                "return JSON, bytes, numpy or Arrow data"
            )
        return {"reference": StepResult.signed(entry, report.base_uri, outcome["job"], step).to_json()}

    values = outcome.get("outputs") or outcome.get("values")
    if isinstance(values, Mapping):
        return {"dict": {key: keep(entry) for key, entry in values.items()}}
    if isinstance(values, list):
        return {"list": [keep(entry) for entry in values]}
    if outcome.get("split") == "dict":
        return {"dict": {}}
    if outcome.get("split") == "list":
        return {"list": []}
    return {"value": keep(outcome["value"])} if outcome.get("value") is not None else {"nothing": True}


def _small(result: CollectedResult, base_uri: str, job: str) -> CollectedResult:
    """Return ``result``, or a reference to its copy in the store: a task state takes less than 64 KB."""
    data = json.dumps(result, separators=(",", ":")).encode()
    if len(data) <= RECORD_BYTES:
        return result
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        store, path = locate(f"{base_uri}/{job}.collected-{sha256[:16]}.json")
        store.put_new(path, data)
    except StoreError:  # without a store, the record has to hold the result
        return result
    return {
        "stored": {"uri": store.uri(path), "sha256": sha256, "size": len(data), "host": host_of(store.url)}
    }


def _stored(reference: object) -> dict[str, object]:
    fields = {"uri": TEXT, "sha256": TEXT, "size": COUNT, "host": TEXT}
    reference = checked_fields(reference, "the reference to the collected result", fields)
    store, path = locate(reference["uri"], reference["host"])
    data = store.read(path, reference["size"])
    if hashlib.sha256(data).hexdigest() != reference["sha256"]:
        raise IntegrityError(f"{reference['uri']} changed after it was written")
    return dict(json.loads(data))


_RESULT_FIELDS = {"dict": OBJECT, "list": LIST, "value": OBJECT}


def to_xcom(result: Mapping[str, object]) -> object:
    """Return the task's return value: plain values as they are, a :class:`StepResult` for each other value.

    :raises IntegrityError: the collected result changed in the store, or in the task's state
    """
    if "stored" in result:
        result = _stored(result["stored"])
    result = checked_fields(result, "the collected result", {}, {**_RESULT_FIELDS, "nothing": TRUTH})
    if len(result) != 1:
        raise IntegrityError(f"the collected result is not one of {', '.join(_RESULT_FIELDS)} and nothing")
    if "dict" in result:
        return {key: _value_of(collected) for key, collected in result["dict"].items()}
    if "list" in result:
        return [_value_of(collected) for collected in result["list"]]
    return _value_of(result["value"]) if "value" in result else None


def _value_of(collected: object) -> object:
    known = checked_fields(collected, "a collected value", {}, {"plain": OBJECT, "reference": OBJECT})
    if "reference" in known:
        return StepResult.from_json(known["reference"])
    entry: Any = dict(known.get("plain") or {})  # decode_entry says what is wrong with it
    try:
        return decode_entry(entry, _no_segment)
    except (SegmentError, UntrustedPickleError) as error:
        raise IntegrityError(f"a collected value is damaged: {error}") from error


def _no_segment(segment: Segment, _codec: str) -> Buffer:
    raise IntegrityError(f"a plain value must carry its bytes, and {segment!r} does not")


def said(result: object) -> str:
    """Return what a task returned, and where it is kept, as a line for the task's log.

    :param result: the value from :func:`to_xcom`
    """
    from airflow_stepop.runner.about import describe

    if result is None:
        return "None"
    if isinstance(result, StepResult):
        return f"{result.about} -> {result.place}"
    parts = list(result.values()) if isinstance(result, dict) else result if isinstance(result, list) else []
    references = [one for one in parts if isinstance(one, StepResult)]
    places = sorted({one.place for one in references} - {"XCom"}) or ["XCom"]
    size = f", {shown_size(sum(one.size for one in references))}" if references else ""
    return f"{describe(result)}{size} -> {places[0]}"
