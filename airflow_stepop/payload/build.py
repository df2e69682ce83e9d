"""Builds the payload of a job: the manifest, and the parts that the manifest names.

``lifecycle/request.py`` calls :func:`build_payload` in the worker. The format: ``runner/protocol.py``.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_stepop.exceptions import PayloadError
from airflow_stepop.job import Part, Payload
from airflow_stepop.payload.call import Call, CommandCall, FunctionCall, Setup
from airflow_stepop.payload.pickling import dump_code
from airflow_stepop.results import StepResult
from airflow_stepop.runner import protocol
from airflow_stepop.runner.entries import Encoded
from airflow_stepop.runner.failures import plain
from airflow_stepop.runner.secret_references import service_of
from airflow_stepop.stores.configured import locate
from airflow_stepop.stores.pieces import ranges_of

if TYPE_CHECKING:
    from airflow_stepop.job import Buffer
    from airflow_stepop.runner.wire import Entry, Function, Location, Manifest


@dataclass
class PayloadBuilder:
    """Collects the parts of one payload while :func:`build_payload` writes the manifest."""

    parts: dict[str, Part] = field(default_factory=dict)

    def add(self, name: str, data: bytes) -> str:
        self.parts[name] = Part(hashlib.sha256(data).hexdigest(), len(data), buffers=(data,))
        return name

    def entry(self, encoded: Encoded) -> Entry:
        return encoded.to_entry(self._save)

    def _save(self, buffers: Sequence[Buffer], digest: Callable[[], str], size: int) -> Location:
        sha256 = digest()
        name = f"{sha256[:16]}.bin"
        self.parts[name] = Part(sha256, size, buffers=tuple(buffers))
        return {"name": name}

    def reference(self, result: StepResult) -> Entry:
        """Return the entry of an earlier step's result. The step reads the bytes; the worker never does."""
        result.verify()
        entry: Entry = json.loads(json.dumps(result.entry))
        if result.step:
            entry["about"] = f"{result.about} of the step {result.step}"
        for segment in entry["segments"]:
            ranges = ranges_of(segment, result.base_uri)
            if ranges:
                for object_range in ranges:
                    locate(object_range.uri, result.host, result.conn_id)
                segment.pop("pieces", None)
                segment["name"] = f"{segment['sha256'][:16]}.ref"
                self.parts[segment["name"]] = Part(segment["sha256"], segment["size"], ranges=ranges)
        return entry

    def value(self, value: object, call: Call, name: str) -> Entry:
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
    :raises PayloadError: the function or an argument cannot be pickled; the message names it
    """
    builder, setup = PayloadBuilder(), setup or Setup()
    manifest: Manifest = {
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
    services = {service_of(reference) for reference in setup.secret_references.values()}
    features = frozenset(setup.fields()) | services | _features(call, manifest)
    return Payload(data, hashlib.sha256(data).hexdigest(), builder.parts, dict(setup.secrets), features)


def _features(call: Call, manifest: Manifest) -> set[str]:
    found = {"command", "function", "moments"} & set(manifest)
    if isinstance(call, CommandCall):
        return found
    has_results = any(isinstance(value, StepResult) for value in call.arguments().values())
    is_needed = "entry" in manifest["function"] or bool(call.refs) or has_results
    return {*found, "dag_module"} if is_needed else found


def _function_fields(call: FunctionCall, builder: PayloadBuilder) -> Manifest:
    names = call.argument_names()
    args = [builder.value(value, call, names[index]) for index, value in enumerate(call.args)]
    kwargs = {name: builder.value(value, call, name) for name, value in call.kwargs.items()}
    fields: Manifest = {
        "kind": "function",
        "main_module": call.main_module,
        "args": args,
        "argument_names": names,
        "kwargs": kwargs,
    }
    if call.moments:
        fields["moments"] = sorted(call.moments)
    if call.reference is not None:
        module, qualname = call.reference
        function: Function = {"by": "reference", "module": module, "qualname": qualname}
        if call.dag_globals is not None and call.dag_globals.needed:
            function["entry"] = code_entry(None, call, builder)
    else:
        function = {"by": "value", "entry": code_entry(call.function, call, builder)}
    if "entry" in function:
        fields["python"] = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return fields | {"function": function}


def code_entry(function: Callable[..., object] | None, call: FunctionCall, builder: PayloadBuilder) -> Entry:
    """Return the entry of a function by value; of ``None``: of what the arguments need of the DAG file.

    :raises PayloadError: the code cannot be pickled; the message names what cannot, and the way to it
    """
    try:
        pickled = dump_code(function, call.main_module, call.refs, call.dag_globals)
    except Exception as error:
        raise _not_sent(error, function, call) from error
    return builder.entry(Encoded("pickle", [[pickled]]))


def _not_sent(error: Exception, function: Callable[..., object] | None, call: FunctionCall) -> PayloadError:
    what = f"the function {call.function.__qualname__}" if function else "the code of the arguments"
    what = plain(f"{what} cannot be sent: {error}")
    own = {getattr(function, "__name__", "the function"): function} if function else {}
    needed = call.dag_globals.needed if call.dag_globals is not None else {}
    arguments = {name: one for name, one in call.arguments().items() if name not in own}
    for roots in ({**own, **arguments}, needed):
        found = call.find_unpicklable(roots, list(roots.values()), is_code=True)
        if found is not None:
            return PayloadError(f"{what}: {found.path}. {found.advice}")
    return PayloadError(
        f"{what}. Something that it refers to (a global or an outer variable) cannot be pickled; "
        "create it inside the function, or pass it as an argument"
    )
