"""What goes into a step and what comes out, on the host: a call becomes a payload, an outcome becomes a
result.

Called by the operator's request. The wire is described in ``runner/protocol.py``.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from airflow_stepop.callkey import code_key, digest
from airflow_stepop.core.host import host_of
from airflow_stepop.core.stored_json import COUNT, LIST, OBJECT, TEXT, TRUTH, known_fields, or_nothing
from airflow_stepop.exceptions import IntegrityError, PayloadError, StepConfigError, StoreError
from airflow_stepop.failure import Failure
from airflow_stepop.job import Buffer, OutcomeReport, Part, Payload
from airflow_stepop.pickles import advice, as_list, dumps
from airflow_stepop.results import StepResult, is_inline
from airflow_stepop.runner import protocol
from airflow_stepop.runner.values import (
    Encoded,
    SegmentError,
    UntrustedPickleError,
    check_entry,
    decode_entry,
    encode_value,
    is_plain_text,
)
from airflow_stepop.stores.base import Store
from airflow_stepop.stores.configured import locate
from airflow_stepop.stores.pieces import places_of
from airflow_stepop.transfer import put_parts

RECORD_BYTES = 60_000  # longest collected result inside the step's record


@dataclass(frozen=True, kw_only=True)
class _Call:
    """Arguments, each encoded once: for the call key, and for the payload."""

    main_module: str = ""
    refs: list[StepResult] = field(default_factory=list)
    _encoded: dict[str, Encoded] = field(default_factory=dict)

    def encode(self, name: str, value: Any) -> Encoded:
        """Encode one argument; the results inside it are appended to ``refs`` and not loaded.

        :raises PayloadError: it cannot be sent; says which and why
        """
        if name not in self._encoded:
            self._encoded[name] = self._encode(name, as_list(value))
        return self._encoded[name]

    def _encode(self, name: str, value: Any) -> Encoded:
        try:
            return encode_value(value, lambda obj, keep: dumps(obj, keep, self.main_module, self.refs))
        except Exception as error:
            kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
            raise PayloadError(
                f"{name} (a {kind}) cannot be sent to the step: {error}. {advice(value)}"
            ) from error


@dataclass(frozen=True, kw_only=True)
class FunctionCall(_Call):
    """A function with its arguments, as the user wrote them; references to results may be anywhere inside.

    :param main_module: name of the DAG file's module: what it defines goes by value
    :param reference: (module, qualified name) of a function that the step can import
    """

    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    reference: tuple[str, str] | None

    def arguments(self) -> dict[str, Any]:
        return dict(zip(self.argument_names(), self.args, strict=True)) | dict(self.kwargs)

    def argument_names(self) -> list[str]:
        """Return what the function calls its positional arguments."""
        try:
            parameters = inspect.signature(self.function).parameters.values()
        except (TypeError, ValueError):
            return [f"positional argument {index + 1}" for index in range(len(self.args))]
        names = [p.name for p in parameters if p.kind <= p.POSITIONAL_OR_KEYWORD][: len(self.args)]
        return names + [f"positional argument {index + 1}" for index in range(len(names), len(self.args))]


@dataclass(frozen=True, kw_only=True)
class CommandCall(_Call):
    """A program with its input files and the files that it will leave."""

    argv: Sequence[str]
    inputs: Mapping[str, Any]
    outputs: Sequence[str]
    workdir: str | None = None

    def arguments(self) -> dict[str, Any]:
        return dict(self.inputs)


Call = FunctionCall | CommandCall


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What the runner prepares before it starts the step.

    :param archive: the code archive, to unpack
    :param secrets: environment variables whose values travel beside the manifest, which has their names
    :param requirements: lines of a requirements file, to install
    :param checkpoint: whether the step gets a folder that its next try finds again
    """

    archive: bytes | None = None
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    requirements: Sequence[str] = ()
    checkpoint: bool = False

    def fields(self) -> dict[str, Any]:
        """Return what the manifest says of it; a field that the step does not need is not there."""
        fields = {
            "secrets": sorted(self.secrets),
            "requirements": list(self.requirements),
            "checkpoint": self.checkpoint,
        }
        return {name: value for name, value in fields.items() if value}


@dataclass
class PayloadBuilder:
    """Collects the parts of one payload while its manifest is written."""

    parts: dict[str, Part] = field(default_factory=dict)

    def add(self, name: str, data: bytes) -> str:
        self.parts[name] = Part(hashlib.sha256(data).hexdigest(), len(data), buffers=(data,))
        return name

    def entry(self, encoded: Encoded) -> dict[str, Any]:
        return encoded.to_entry(self._save)

    def _save(self, buffers: Sequence[Any], digest: Callable[[], str], size: int) -> dict[str, Any]:
        sha256 = digest()
        name = f"{sha256[:16]}.bin"
        self.parts[name] = Part(sha256, size, buffers=tuple(buffers))
        return {"name": name}

    def reference(self, result: StepResult) -> dict[str, Any]:
        """Return the entry of a result that the step reads itself; its bytes never come here."""
        result.verify()
        entry = json.loads(json.dumps(result.entry))
        for segment in entry["segments"]:
            places = places_of(segment, result.base_uri)
            if places:
                for place in places:
                    locate(place.uri, result.host)
                segment.pop("pieces", None)
                segment["name"] = f"{segment['sha256'][:16]}.ref"
                self.parts[segment["name"]] = Part(segment["sha256"], segment["size"], places=places)
        return dict(entry)

    def value(self, value: Any, call: Call, name: str) -> dict[str, Any]:
        if isinstance(value, StepResult):
            return self.reference(value)
        return self.entry(call.encode(name, value))


def build_payload(
    call: Call,
    *,
    job: str,
    nonce: str,
    setup: Setup | None = None,
    split: str,
    is_result_wanted: bool,
) -> Payload:
    """Return the payload of one job.

    :param split: ``dict`` for multiple outputs, ``auto`` when a mapped task maps over the result, else ``no``
    :raises PayloadError: the function or an argument cannot be sent; names it
    """
    builder, setup = PayloadBuilder(), setup or Setup()
    manifest: dict[str, Any] = {
        "protocol": protocol.PROTOCOL,
        "job": job,
        "nonce": nonce,
        "python": None,
        "split": split,
        "discard_result": not is_result_wanted,
    }
    if setup.archive is not None:
        builder.add(protocol.CODE, setup.archive)
    manifest |= setup.fields()
    if isinstance(call, FunctionCall):
        manifest |= _function_fields(call, builder)
    else:
        manifest["kind"] = "command"
        inputs = {path: builder.value(value, call, path) for path, value in call.inputs.items()}
        manifest["command"] = {
            "argv": list(call.argv),
            "inputs": inputs,
            "outputs": list(call.outputs),
            "workdir": call.workdir,
        }
    manifest["refs"] = [builder.reference(result) for result in call.refs]
    manifest["parts"] = {name: {"sha256": p.sha256, "size": p.size} for name, p in builder.parts.items()}
    data = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    features = frozenset(setup.fields()) | ({"command"} if isinstance(call, CommandCall) else set())
    return Payload(data, hashlib.sha256(data).hexdigest(), builder.parts, dict(setup.secrets), features)


def _function_fields(call: FunctionCall, builder: PayloadBuilder) -> dict[str, Any]:
    names = call.argument_names()
    args = [builder.value(value, call, names[index]) for index, value in enumerate(call.args)]
    kwargs = {name: builder.value(value, call, name) for name, value in call.kwargs.items()}
    fields: dict[str, Any] = {
        "kind": "function",
        "main_module": call.main_module,
        "args": args,
        "argument_names": names,
        "kwargs": kwargs,
    }
    if call.reference is not None:
        module, qualname = call.reference
        return fields | {"function": {"by": "reference", "module": module, "qualname": qualname}}
    try:
        pickled = dumps(call.function, None, call.main_module, call.refs)
    except Exception as error:
        raise PayloadError(
            f"the function {call.function.__qualname__} cannot be sent: {error}. "
            "Something that it refers to (a global or an outer variable) cannot be pickled; "
            "create it inside the function, or pass it as an argument"
        ) from error
    entry = builder.entry(Encoded("pickle", [[pickled]]))
    return fields | {
        "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "function": {"by": "value", "entry": entry},
    }


def spill(payload: Payload, store: Callable[[], Store], limit: int) -> Payload:
    """Return the payload with its largest parts in the store, until the rest fits into ``limit`` bytes.

    Parts are named by their digest, so the same argument is stored once a week.
    """
    excess, chosen = payload.inline_bytes - limit, {}
    for name, part in sorted(payload.parts.items(), key=lambda item: -item[1].size):
        if excess > 0 and part.buffers is not None:
            chosen[name] = part
            excess -= part.size
    return replace(payload, parts={**payload.parts, **put_parts(chosen, store())}) if chosen else payload


def call_key(call: Call, archive: bytes | None, extra: Sequence[Any]) -> str:
    """Return the key that tells whether another try is the same call."""
    arguments = {name: _argument_key(value, call, name) for name, value in call.arguments().items()}
    code: Any
    if isinstance(call, FunctionCall):
        code = ["function", list(call.reference or ()) or code_key(call.function, call.main_module)]
    else:
        code = ["command", list(call.argv), list(call.outputs), call.workdir]
    archived = hashlib.sha256(archive).hexdigest() if archive is not None else None
    return digest([code, archived, arguments, [result.digest for result in call.refs], list(extra)])


def arguments_key(call: Call) -> str:
    """Return a digest of the arguments alone: the same for a step whose code was put right."""
    arguments = {name: _argument_key(value, call, name) for name, value in call.arguments().items()}
    argv = list(call.argv) if isinstance(call, CommandCall) else None
    return digest([arguments, [result.digest for result in call.refs], argv])


def _argument_key(value: Any, call: Call, name: str) -> Any:
    if isinstance(value, StepResult):
        return value.digest
    encoded = call.encode(name, value)
    if encoded.codec in protocol.DATA_CODECS:
        return [encoded.codec, *(sha256 for sha256, _ in encoded.digests())]
    return code_key(value, call.main_module)  # a pickle differs from process to process


# -- the way back


def read_outcome(report: OutcomeReport, job: str, nonce: str) -> dict[str, Any]:
    """Return ``{"result": ...}`` or ``{"failure": ...}``, both JSON, from an outcome; nothing is unpickled.

    Beside it is ``usage``, as the runner measured it.

    :raises IntegrityError: the outcome is not the one that the control plane vouches for, or is another job's
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
            found = {"failure": Failure.from_json(outcome.get("failure")).to_json()}
        else:
            found = {"result": _small(_result_of(outcome, report), report.base_uri, job)}
    except SegmentError as error:
        raise IntegrityError(f"a value in it is damaged: {error}") from error
    return {**found, "usage": dict(outcome.get("usage") or {})}


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
    """Return the fields of an outcome; what is printed in them can be printed again, and stored."""
    try:
        outcome = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"it is not an outcome ({error})") from error
    known = known_fields(outcome, "the outcome", _OUTCOME_FIELDS)
    if known["protocol"] == protocol.PROTOCOL:  # another one may have any other form
        known |= known_fields(outcome, "the outcome", {}, _OUTCOME_VALUES)
    return known


def outcome_size(report: OutcomeReport) -> int:
    """Return the bytes of an outcome that was read, with those of its result that lie in the store."""
    try:
        outcome = json.loads(report.data)
        several = outcome.get("outputs") or outcome.get("values") or []
        entries = list(several.values()) if isinstance(several, Mapping) else list(several)
        entries += [outcome["value"]] if outcome.get("value") else []
        stored = [s["size"] for entry in entries for s in entry["segments"] if "data" not in s]
        return len(report.data) + int(sum(stored))
    except (AttributeError, KeyError, TypeError, ValueError):  # the step can write there what it likes
        return len(report.data)


def _result_of(outcome: Mapping[str, Any], report: OutcomeReport) -> dict[str, Any]:
    def keep(entry: dict[str, Any]) -> dict[str, Any]:
        check_entry(entry)
        if (
            entry["codec"] == "json"
            and is_inline(entry)
            and _is_plain(decode_entry(dict(entry), _no_segment))
        ):
            return {"plain": dict(entry)}
        if report.digest is None and entry["codec"] not in protocol.DATA_CODECS:
            raise StepConfigError(
                "the step returned a value that only pickle can hold, and this backend cannot vouch for "
                "its bytes; return JSON, bytes, numpy or Arrow data"
            )
        return {"reference": StepResult.signed(entry, report.base_uri).serialize()}

    values = outcome.get("outputs") or outcome.get("values")
    if isinstance(values, Mapping):
        return {"dict": {key: keep(entry) for key, entry in values.items()}}
    if isinstance(values, list):
        return {"list": [keep(entry) for entry in values]}
    if outcome.get("split") in ("dict", "list"):
        return {outcome["split"]: {} if outcome["split"] == "dict" else []}
    return {"value": keep(outcome["value"])} if outcome.get("value") is not None else {"nothing": True}


def _small(result: dict[str, Any], base_uri: str, job: str) -> dict[str, Any]:
    """Return ``result``, or where it is in the store: Airflow wants less than 64 KB in its task state."""
    data = json.dumps(result, separators=(",", ":")).encode()
    if len(data) <= RECORD_BYTES:
        return result
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        store, path = locate(f"{base_uri}/{job}.collected-{sha256[:16]}.json")
        store.put_new(path, data)
    except StoreError:  # then Airflow has to hold it
        return result
    return {
        "stored": {"uri": store.uri(path), "sha256": sha256, "size": len(data), "host": host_of(store.url)}
    }


def _stored(place: Any) -> dict[str, Any]:
    fields = {"uri": TEXT, "sha256": TEXT, "size": COUNT, "host": TEXT}
    place = known_fields(place, "the place of the collected result", fields)
    store, path = locate(place["uri"], place["host"])
    data = store.read(path, place["size"])
    if hashlib.sha256(data).hexdigest() != place["sha256"]:
        raise IntegrityError(f"{place['uri']} changed after it was written")
    return dict(json.loads(data))


_RESULT_FIELDS = {"dict": OBJECT, "list": LIST, "value": OBJECT}


def hand_over(result: Mapping[str, Any]) -> Any:
    """Return what the task returns to Airflow: plain values, and references for the rest.

    :raises IntegrityError: the collected result changed in the store, or in the task's state
    """
    if "stored" in result:
        result = _stored(result["stored"])
    result = known_fields(result, "the collected result", {}, {**_RESULT_FIELDS, "nothing": TRUTH})
    if len(result) != 1:
        raise IntegrityError(f"the collected result is not one of {', '.join(_RESULT_FIELDS)} and nothing")
    if "dict" in result:
        return {key: _given(kept) for key, kept in result["dict"].items()}
    if "list" in result:
        return [_given(kept) for kept in result["list"]]
    return _given(result["value"]) if "value" in result else None


def _given(kept: Any) -> Any:
    known = known_fields(kept, "a collected value", {}, {"plain": OBJECT, "reference": OBJECT})
    if "reference" in known:
        return StepResult.from_json(known["reference"])
    try:
        return decode_entry(dict(known.get("plain") or {}), _no_segment)
    except (SegmentError, UntrustedPickleError) as error:
        raise IntegrityError(f"a collected value is damaged: {error}") from error


# Keys with which Airflow marks what it encoded itself
_RESERVED_KEYS = frozenset({"__classname__", "__id__", "__type"})


def _is_plain(value: Any) -> bool:
    """Return whether Airflow keeps ``value`` as it is: its messages and databases cannot hold all of JSON."""
    if isinstance(value, str):
        return is_plain_text(value)
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    if isinstance(value, Mapping):
        return not _RESERVED_KEYS & set(value) and all(
            _is_plain(k) and _is_plain(v) for k, v in value.items()
        )
    return all(map(_is_plain, value)) if isinstance(value, (list, tuple)) else True


def _no_segment(segment: Mapping[str, Any], _codec: str) -> Buffer:
    raise IntegrityError(f"a plain value must carry its bytes, and {segment!r} does not")
