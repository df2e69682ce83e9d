"""A call is a function or a command with its arguments. Each argument is encoded once.

:func:`call_key` tells whether two tries of a task make the same call. Called by ``lifecycle/request.py`` and
by :mod:`.build`.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from airflow_stepop.exceptions import PayloadError
from airflow_stepop.payload.code_key import code_key, digest
from airflow_stepop.payload.pickling import DagGlobals, advice, as_list, can_pickle, dumps
from airflow_stepop.payload.unpicklable import Unpicklable, Visited, find_unpicklable
from airflow_stepop.results import StepResult
from airflow_stepop.runner import protocol
from airflow_stepop.runner.entries import Encoded
from airflow_stepop.runner.failures import plain
from airflow_stepop.runner.values import encode_value

if TYPE_CHECKING:
    from airflow_stepop.runner.wire import Manifest


@dataclass(frozen=True, kw_only=True)
class _Call:
    """Arguments. Each is encoded once, and both the call key and the payload use the encoded bytes."""

    main_module: str = ""
    refs: list[StepResult] = field(default_factory=list)
    _encoded: dict[str, Encoded] = field(default_factory=dict)

    @property
    def dag_globals(self) -> DagGlobals | None:
        """What the step gets of the DAG file; ``None``: the values bring their own code."""
        return None

    def encode(self, name: str, value: object) -> Encoded:
        """Encode one argument. Earlier steps' results inside it are appended to ``refs`` and not loaded.

        :raises PayloadError: the argument cannot be encoded; the message names the argument and the reason
        """
        if name not in self._encoded:
            self._encoded[name] = self._encode(name, as_list(value))
        return self._encoded[name]

    def _encode(self, name: str, value: object) -> Encoded:
        try:
            return encode_value(
                value, lambda obj, keep: dumps(obj, keep, self.main_module, self.refs, self.dag_globals)
            )
        except Exception as error:
            kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
            found = self.find_unpicklable({name: value}, value)
            why = f"{error}. {advice(value)}"
            if found is not None and found.path != f"{name} ({kind})":
                why = f"{error}: {found.path}. {found.advice}"
            raise PayloadError(plain(f"{name} (a {kind}) cannot be sent to the step: {why}")) from error

    def find_unpicklable(
        self, roots: Mapping[str, object], value: object, *, is_code: bool = False
    ) -> Unpicklable | None:
        """Return what cannot be pickled inside ``value``, with the way to it from one of the roots."""

        def trace(one: object) -> Visited | None:
            visited = Visited()
            works = can_pickle(one, visited.add, self.main_module, self.dag_globals, is_code)
            return None if works else visited

        return find_unpicklable(roots, trace, value)


@dataclass(frozen=True, kw_only=True)
class FunctionCall(_Call):
    """A function with its arguments, as the user wrote them. Arguments may contain earlier steps' results.

    :param main_module: name of the DAG file's module; its functions and classes are pickled by value
    :param reference: (module, qualified name) of a function that the step can import; ``None``: by value
    :param moments: names of the keyword arguments that are times of Airflow's context
    """

    function: Callable[..., object]
    args: Sequence[object]
    kwargs: Mapping[str, object]
    reference: tuple[str, str] | None
    moments: Sequence[str] = ()

    @cached_property
    def dag_globals(self) -> DagGlobals | None:
        return DagGlobals.of(self.main_module, self.function)

    def arguments(self) -> dict[str, object]:
        return dict(zip(self.argument_names(), self.args, strict=True)) | dict(self.kwargs)

    def argument_names(self) -> list[str]:
        """Return the parameter names of the positional arguments."""
        try:
            parameters = inspect.signature(self.function).parameters.values()
        except (TypeError, ValueError):
            return [f"positional argument {index + 1}" for index in range(len(self.args))]
        names = [p.name for p in parameters if p.kind <= p.POSITIONAL_OR_KEYWORD][: len(self.args)]
        return names + [f"positional argument {index + 1}" for index in range(len(names), len(self.args))]


@dataclass(frozen=True, kw_only=True)
class CommandCall(_Call):
    """A command line, its input files, and the names of the output files that the command must write."""

    argv: Sequence[str]
    inputs: Mapping[str, object]
    outputs: Sequence[str]
    workdir: str | None = None

    def arguments(self) -> dict[str, object]:
        return dict(self.inputs)


Call = FunctionCall | CommandCall


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The preparation that the runner makes before it starts the step.

    :param archive: the code archive that the runner unpacks
    :param secrets: environment variables. The manifest has only their names; ``secrets.json`` has the values
    :param secret_references: environment variables whose values the runner reads in a cloud's own service:
        variable -> reference
    :param requirements: lines of a requirements file that the runner installs
    :param checkpoint: whether the step gets a checkpoint folder, which the next try finds again
    """

    archive: bytes | None = None
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    secret_references: Mapping[str, str] = field(default_factory=dict)
    requirements: Sequence[str] = ()
    checkpoint: bool = False

    def fields(self) -> Manifest:
        """Return the manifest fields of this setup. A field that the step does not need is left out."""
        fields: Manifest = {}
        if self.secrets or self.secret_references:
            fields["secrets"] = sorted({*self.secrets, *self.secret_references})
        if self.secret_references:
            fields["secret_references"] = dict(self.secret_references)
        if self.requirements:
            fields["requirements"] = list(self.requirements)
        if self.checkpoint:
            fields["checkpoint"] = self.checkpoint
        return fields


def call_key(call: Call, archive: bytes | None, extra: Sequence[object]) -> str:
    """Return the call key. Two tries with the same key make the same call and may share a job.

    :param archive: the code archive
    :param extra: further JSON-able values that make two calls different
    """
    arguments = {name: _argument_key(value, call, name) for name, value in call.arguments().items()}
    code: list[object]
    if isinstance(call, FunctionCall):
        code = ["function", list(call.reference or ()) or code_key(call.function, call.main_module)]
    else:
        code = ["command", list(call.argv), list(call.outputs), call.workdir]
    archived = hashlib.sha256(archive).hexdigest() if archive is not None else None
    return digest([code, archived, arguments, [result.digest for result in call.refs], list(extra)])


def arguments_key(call: Call) -> str:
    """Return a digest of the arguments alone. The digest stays the same when the user corrects the code."""
    arguments = {name: _argument_key(value, call, name) for name, value in call.arguments().items()}
    argv = list(call.argv) if isinstance(call, CommandCall) else None
    return digest([arguments, [result.digest for result in call.refs], argv])


def _argument_key(value: object, call: Call, name: str) -> object:
    if isinstance(value, StepResult):
        return value.digest
    encoded = call.encode(name, value)
    if encoded.codec in protocol.DATA_CODECS:
        return [encoded.codec, *(sha256 for sha256, _ in encoded.digests())]
    return code_key(value, call.main_module)  # not the pickle: its bytes differ from process to process
