"""Results by reference: the XCom of a step whose value is not small JSON.

- An ordinary task that reads the XCom gets the value itself. Airflow calls :meth:`StepResult.deserialize`,
  which loads the value.
- A remote step that reads the XCom gets the reference. The step reads the bytes where it runs.

Called by Airflow's serialization (``plugin.py`` registers the class) and by the payload, which passes
references on to the next step.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import logging
import pickle
import zlib
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_stepop.core.host import host_of
from airflow_stepop.core.pickles import IS_FALSE, OTHER_RESULTS, are_pickles_allowed
from airflow_stepop.core.printable import printable
from airflow_stepop.core.signing_key import Purpose, sign, why_refused
from airflow_stepop.core.stored_json import OBJECT, TEXT, checked_fields, is_kept_by_airflow, parsed_json
from airflow_stepop.core.units import shown_size
from airflow_stepop.exceptions import IntegrityError, NewerVersionError, ResultNotLoadedError, StepopError
from airflow_stepop.runner.protocol import DATA_CODECS

if TYPE_CHECKING:
    from airflow_stepop.job import Buffer, ObjectRange
    from airflow_stepop.runner.wire import Entry, Segment

log = logging.getLogger(__name__)
ABOUT_CHARS = 200
REFERENCE_BYTES = 64 << 20  # largest reference that is read, decompressed

# The same code has two names: the first inside the job, the second on Airflow's side
RUNNER_PACKAGE, HOST_PACKAGE = "stepop_runner", "airflow_stepop.runner"


class StepResult:
    """A reference to a value that a step returned.

    Airflow stores the reference with :meth:`serialize`. The class has no ``resolve``, ``template_fields`` or
    ``__call__``, because Airflow's templating would act on them.

    :param entry: the value entry (see ``runner/protocol.py``): codec, and size and SHA-256 of every segment
    :param base_uri: folder in the store with the segments whose bytes are not inside ``entry``
    :param host: the host that wrote the segments, if ``base_uri`` is a folder of a host
    :param job: name of the job that made the value
    :param step: id of the task whose step returned the value
    :param mac: HMAC-SHA256 over the others, made by the worker that authenticated the value
    :param conn_id: the connection that names the store of ``base_uri``; empty if the settings name the store
    """

    __version__ = 1

    def __init__(  # noqa: PLR0913 - the fields of one document
        self,
        entry: Entry,
        base_uri: str,
        host: str = "",
        mac: str = "",
        job: str = "",
        step: str = "",
        *,
        conn_id: str = "",
    ) -> None:
        self.entry = entry
        self.base_uri = base_uri
        self.host = host
        self.mac = mac
        self.job = job
        self.step = step
        self.conn_id = conn_id

    @classmethod
    def from_json(cls, data: Any) -> StepResult:
        """Return the reference that :meth:`to_json` wrote.

        :raises IntegrityError: ``data`` is not a reference, or is damaged
        """
        from airflow_stepop.runner.entries import EntryError  # later, since each DAG file imports this module
        from airflow_stepop.runner.values import check_entry

        required = {"entry": OBJECT, "base_uri": TEXT}
        optional = dict.fromkeys(("host", "mac", "job", "step", "conn_id"), TEXT)
        known = checked_fields(data, "the reference to a result", required, optional)
        try:
            check_entry(known["entry"])
        except EntryError as error:
            raise IntegrityError(f"the reference to a result is damaged: {error}") from error
        return cls(**known)

    @classmethod
    def signed(cls, entry: Entry, base_uri: str, job: str = "", step: str = "") -> StepResult:
        """Return a signed reference. The caller must have authenticated the digest of the value."""
        from airflow_stepop.stores.configured import connection_of

        if is_inline(entry):
            result = cls(entry, "", job=job, step=step)
        else:
            conn_id = connection_of(base_uri)
            result = cls(entry, base_uri, host_of(base_uri), job=job, step=step, conn_id=conn_id)
        result.sign()
        return result

    @property
    def codec(self) -> str:
        return str(self.entry["codec"])

    @property
    def size(self) -> int:
        """Size of the encoded value in bytes."""
        return sum(segment["size"] for segment in self.entry["segments"])

    @property
    def about(self) -> str:
        """What the value is, for people: ``pandas.DataFrame 2000 x 13, 204 KiB``."""
        what = printable(self.entry.get("about") or self.codec).replace("\x1b", "")[:ABOUT_CHARS]
        return f"{what}, {shown_size(self.size)}"

    @property
    def place(self) -> str:
        return self.base_uri or "XCom"

    @property
    def digest(self) -> str:
        """SHA-256 over the codec and the digests of all segments."""
        parts = [self.codec, *(segment["sha256"] for segment in self.entry["segments"])]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def ranges(self) -> list[ObjectRange]:
        """Return the stored ranges of the value, in order; empty if the reference carries the bytes."""
        from airflow_stepop.stores.pieces import ranges_of

        return [one for segment in self.entry["segments"] for one in ranges_of(segment, self.base_uri)]

    def load(self) -> Any:
        """Return the value.

        :raises IntegrityError: the bytes were changed, or the reference has no valid signature
        :raises StoreError: the value is outside the configured stores, or cannot be read
        :raises ResultNotLoadedError: a package is missing here, or the value is a pickle and ``[stepop]
            allow_pickle`` is false
        """
        from airflow_stepop.runner.entries import SegmentError
        from airflow_stepop.runner.values import decode_entry

        self.verify()
        if self.codec not in DATA_CODECS:
            self._check_pickle()
        try:
            return decode_entry(self.entry, self._read_segment, loads)
        except SegmentError as error:
            raise IntegrityError(f"refused to load {self!r}: {error}") from error
        except StepopError:
            raise
        except Exception as error:
            from airflow_stepop.core.reading_task import explained

            raise ResultNotLoadedError(explained(error, self.about, self.step)) from error

    def verify(self) -> None:
        """Refuse a reference that was not signed by a worker of this deployment.

        Unpickling runs code. And a reference of one's own making would read any object of the stores. So only
        data (``DATA_CODECS``) that the reference carries itself needs no signature: whoever made it knows it.

        :raises IntegrityError: the reference was changed, or was signed with another key
        """
        trouble = why_refused(Purpose.REFERENCE, self._signed_bytes(), self.mac)
        is_known = self.codec in DATA_CODECS and is_inline(self.entry) and not self.conn_id
        if trouble and not is_known:
            raise IntegrityError(
                f"refused to load {self!r}: the reference was not signed by this deployment: {trouble}"
            )

    def _check_pickle(self) -> None:
        """Refuse a pickle, or say in the task's log that one is loaded."""
        from_step = f" of the step {self.step!r}" if self.step else ""
        if not are_pickles_allowed():
            raise ResultNotLoadedError(
                f"A result{from_step} ({self.about}) is not loaded here: only pickle can hold it, and "
                f"{IS_FALSE}. Let the step return {OTHER_RESULTS}, or read the result in a step"
            )
        log.info(
            "Loading a pickle%s (%s; job %s; SHA-256 %s): it may run code of that step in this process",
            *(printable(from_step), self.about, printable(self.job), self.digest),
        )

    def _read_segment(self, segment: Segment, codec: str) -> Buffer:
        from airflow_stepop.stores.pieces import ranges_of, read_ranges

        return read_ranges(ranges_of(segment, self.base_uri), segment, self.host, codec, self.conn_id)

    def sign(self) -> None:
        """Sign the reference as it is now. The caller must have authenticated the digest of the value."""
        self.mac = sign(Purpose.REFERENCE, self._signed_bytes())

    def _signed_bytes(self) -> bytes:
        fields = {name: value for name, value in self.to_json().items() if name != "mac"}
        return json.dumps(fields, sort_keys=True).encode()

    def to_json(self) -> dict[str, Any]:
        """Return the form of the step's record."""
        found = {**vars(self), "entry": dict(self.entry)}
        return {name: value for name, value in found.items() if name != "conn_id" or value}

    def serialize(self) -> dict[str, Any]:
        """Return the form of XComs and rendered templates, which people read.

        ``airflow stepop gc`` finds a stored result by its ``base_uri``, which ends with the job's name.
        """
        shown: dict[str, Any] = {"about": self.about}  # first in Airflow's pages
        if self.codec == "json" and is_inline(self.entry):
            shown |= _in_clear(self.entry)
        shown |= {"step": self.step, "job": self.job, "base_uri": self.base_uri}
        fields = [self.entry, self.host, self.mac, *([self.conn_id] if self.conn_id else [])]
        rest = json.dumps(fields, separators=(",", ":")).encode()
        return {**shown, "reference": b64encode(zlib.compress(rest)).decode()}

    @staticmethod
    def deserialize(data: dict[str, Any], version: int) -> Any:
        """Return the value inside an ordinary task; return the reference everywhere else.

        :raises IntegrityError: the XCom was changed, or see :meth:`load`
        :raises NewerVersionError: a newer version of this package wrote the XCom in another form
        """
        from airflow.sdk import get_current_context

        if version != StepResult.__version__:
            raise NewerVersionError(
                f"a result of version {version!r} was written by a newer airflow-stepop, and this one reads "
                f"version {StepResult.__version__}: upgrade airflow-stepop here, as on the other hosts"
            )
        try:
            result = StepResult.from_json(_opened(data))
        except IntegrityError as error:
            raise IntegrityError(
                f"{error}. The XCom was changed after the task pushed it; clear that task"
            ) from error
        try:
            task = get_current_context()["ti"].task
        except RuntimeError:  # no running task (triggerer, callback, API server): never load there
            return result
        if _takes_references(task):
            return result
        from airflow_stepop.core.reading_task import leave_out_of_rendered_fields

        value = result.load()
        leave_out_of_rendered_fields(task, result.step, value)
        return value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StepResult) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"StepResult({self.about}, {self.base_uri or 'inside the XCom'})"


def _takes_references(task: Any) -> bool:
    """Return whether ``task`` is a step, which reads results itself.

    A step that is mapped with ``expand_kwargs`` over a result is an exception: Airflow needs the value, a
    list of dicts.
    """
    kind = getattr(task, "operator_class", None) or type(task)  # a mapped task is no instance of its operator
    inputs = [getattr(task, name, None) for name in ("expand_input", "op_kwargs_expand_input")]
    is_over_kwargs = any(getattr(one, "EXPAND_INPUT_TYPE", "") == "list-of-dicts" for one in inputs)
    return getattr(kind, "takes_step_results", False) and not is_over_kwargs


def is_inline(entry: Entry) -> bool:
    """Return whether the entry carries the bytes of all its segments."""
    return all("data" in segment for segment in entry["segments"])


def inline_json(entry: Entry) -> Any:
    """Return the JSON that an entry carries. Objects in it may stand for other values: ``runner/scalars.py``.

    :raises EntryError: the bytes are not JSON
    """
    from airflow_stepop.runner.entries import EntryError
    from airflow_stepop.runner.values import plain_json, read_segments

    data = b"".join(bytes(one) for one in read_segments(entry, lambda segment, codec: b""))
    try:
        return plain_json(data)
    except (ValueError, RecursionError) as error:
        raise EntryError(f"its bytes are not json data: {type(error).__name__}: {error}") from error


def is_plain(entry: Entry) -> bool:
    """Return whether an entry carries JSON that Airflow can store, and that needs no other types.

    :raises EntryError: the bytes are not JSON
    """
    from airflow_stepop.runner.readable import has_types

    if entry["codec"] != "json" or not is_inline(entry):
        return False
    found = inline_json(entry)
    try:
        return is_kept_by_airflow(found) and not has_types(found)
    except RecursionError:
        return False


def _in_clear(entry: Entry) -> dict[str, Any]:
    """Return a field with the JSON of a value for people; nothing if Airflow would change the JSON."""
    from airflow_stepop.runner.entries import SegmentError
    from airflow_stepop.runner.readable import readable

    try:
        value = readable(inline_json(entry))
        return {"value": value} if is_kept_by_airflow(value) else {}
    except (SegmentError, AttributeError, RecursionError, TypeError, ValueError):
        return {}


def _opened(data: Any) -> dict[str, Any]:
    """Return the fields of an XCom's reference in the form of :meth:`StepResult.from_json`."""
    what = "the reference to a result"
    fields = checked_fields(data, what, dict.fromkeys(("base_uri", "job", "step", "reference"), TEXT))
    try:
        packed = b64decode(fields.pop("reference"), validate=True)
        unpacked = zlib.decompressobj().decompress(packed, REFERENCE_BYTES)
        entry, host, mac, *more = parsed_json(unpacked, f"{what}: its 'reference'")
        (conn_id,) = more or [""]
    except (ValueError, TypeError, zlib.error) as error:
        raise IntegrityError(f"{what} has a damaged 'reference': {error}") from error
    return {**fields, "entry": entry, "host": host, "mac": mac, "conn_id": conn_id}


class _Unpickler(pickle.Unpickler):
    """Reads pickles of the runner, whose package has another name on Airflow's side."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == (f"{RUNNER_PACKAGE}.pickling", "dag_class"):
            return _dag_class
        if module == RUNNER_PACKAGE or module.startswith(RUNNER_PACKAGE + "."):
            module = HOST_PACKAGE + module[len(RUNNER_PACKAGE) :]
        return super().find_class(module, name)


def _dag_class(module: str, qualname: str, by_value: bytes) -> Any:
    """Return the class or function that the running task's function sees under this name.

    ``airflow dags test`` imports the DAG file twice. The class in ``sys.modules`` is then not the class that
    the task uses, and ``isinstance`` would fail.
    """
    from airflow_stepop.runner.dag_module import find, is_code

    name, *inner = qualname.split(".")
    found = _globals_of_task(module).get(name)
    for name in inner:
        found = getattr(found, name, None)
    return found if is_code(found) else find(module, qualname, by_value, lambda data: loads(data, []))


def _globals_of_task(module: str) -> Mapping[str, Any]:
    """Return the globals of the running task's function, if the function was defined in ``module``.

    On another worker the DAG file may have another path, and then Airflow gives its module another name.
    """
    from airflow.sdk import get_current_context

    from airflow_stepop.runner.failures import plain

    try:
        task = get_current_context()["ti"].task
    except RuntimeError:
        return {}
    function = inspect.unwrap(getattr(task, "python_callable", None) or _globals_of_task)
    is_same = plain(function.__module__) == plain(module)
    return getattr(function, "__globals__", {}) if is_same else {}


def loads(data: Any, buffers: list[Any]) -> Any:
    """Unpickle authenticated bytes. Never call this function with other bytes: unpickling runs code.

    :raises ResultNotLoadedError: ``[stepop] allow_pickle`` is false
    """
    if not are_pickles_allowed():
        raise ResultNotLoadedError(f"a pickle is not loaded here: {IS_FALSE}")
    return _Unpickler(io.BytesIO(data), buffers=buffers).load()
