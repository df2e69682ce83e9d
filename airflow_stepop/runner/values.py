"""Encodes and decodes values. Used by the runner and, in Airflow, by ``payload``, ``results`` and ``stores``.

Writing::

    encoded = encode_value(value, dumps)
    # dumps(value, buffer_callback) -> bytes: called only if no data codec fits
    # encoded.codec: one of protocol.DATA_CODECS, or "pickle"
    # encoded.segments: list of segments; a segment is a list of buffers to be concatenated
    entry = encoded.to_entry(save)
    # entry: JSON-able
    # save(buffers, digest, size) -> location: called only for values that are not inline; save may write the
    # buffers before it calls digest(), which waits for the hash

Reading::

    value = decode_entry(entry, read_segment, loads)
    # read_segment(segment, codec) -> Buffer: called only for segments that are not inline; it must check
    # their bytes, see read_checked and check_segment
    # loads(data, buffers) -> value; None: a pickle is refused with UntrustedPickleError

Data codecs are exact: the decoded value has the type of the original. Every other value is pickled (protocol
5). Large buffers of a pickle become segments of their own, so an array is not copied on either way, and is
writable after decoding. To encode a value, this module imports numpy or pyarrow only if the step has.
"""

from __future__ import annotations

import binascii
import json
import sys

from . import protocol
from .entries import Encoded, EntryError, SegmentError, UntrustedPickleError, hashing
from .hashing import BackgroundSha256, ReadBuffer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .entries import Dumps, Loads, ReadSegment
    from .hashing import Buffer
    from .wire import Checked, Entry, Segment

CHUNK_BYTES = 1 << 20

# A JSON object whose only key is in parentheses stands for another value: {TAG: list} is a tuple, and
# {TAG: object} is a dict whose only key is in parentheses. For the other names see scalars.py
TAG = "()"
# deeper values are pickled: JSON encoders and decoders may run out of stack
JSON_DEPTH = 100
# larger integers are pickled: Python refuses to print more than 4,300 digits
JSON_INT_BITS = 14000
# JSON writes a shared list again at each place where it occurs, which can take forever (ten levels of lists
# that refer ten times to the next list). A value with more repeated items is pickled: a pickle writes it once
JSON_REPEATS = 1_000_000
# a value with more items of types that JSON does not have is pickled: to write and read them takes long
JSON_TAGS = 20_000

# smaller buffers stay inside the pickle; after BUFFER_COUNT segments, only very large buffers get their own
BUFFER_BYTES = 256 * 1024
BUFFER_COUNT = 100
LARGE_BUFFER_BYTES = 64 * 1024 * 1024


# -- writing -------------------------------------------------------------------------------------------------


def encode_value(value: object, dumps: Dumps) -> Encoded:
    """Encode with the first data codec that preserves ``value`` exactly, else with ``dumps``.

    :raises Exception: the exception of ``dumps`` for a value that cannot be pickled
    """
    encoded = encode_data(value)
    if encoded is not None:
        return encoded
    buffers: list[Buffer] = []

    def keep(pickle_buffer: Any) -> bool:
        raw = pickle_buffer.raw()
        if raw.nbytes < (BUFFER_BYTES if len(buffers) < BUFFER_COUNT else LARGE_BUFFER_BYTES):
            return True  # in-band: the bytes stay inside the pickle
        buffers.append(raw)
        return False

    head = dumps(value, keep)
    return Encoded("pickle", [[head], *([buffer] for buffer in buffers)])


def encode_data(value: Any) -> Encoded | None:
    """Encode with a data codec; ``None`` when only a pickle can hold ``value``."""
    kind = type(value)
    if kind is bytes or kind is bytearray:
        return Encoded(kind.__name__, [[value]])
    if kind.__module__ == "numpy" and kind is getattr(sys.modules.get("numpy"), "ndarray", None):
        from .arrays import encode_numpy

        return encode_numpy(value)
    if kind.__module__ == "pyarrow.lib":
        from .arrays import encode_arrow

        return encode_arrow(value)
    return encode_json(value)


def encode_json(value: Any) -> Encoded | None:
    try:
        plain = _Plain().of(value)
    except _NotJson:
        return None
    # Not escaped, to preserve lone surrogates: two escaped ones would be decoded as one character
    text = json.dumps(plain, ensure_ascii=False, separators=(",", ":"))
    return Encoded("json", [[text.encode("utf-8", "surrogatepass")]])


class _NotJson(Exception):  # noqa: N818 - control flow, never seen outside
    """The value, or a value inside it, is not exactly representable as JSON."""


_CONTAINERS = (list, tuple, dict, set, frozenset)


def is_tag(plain: dict[str, Any]) -> bool:
    """Return whether a JSON object has a single key, and the key is in parentheses."""
    if len(plain) != 1:
        return False
    (key,) = plain
    return key[:1] == "(" and key[-1:] == ")"


class _Plain:
    """Converts a value to plain JSON types; raises ``_NotJson`` if JSON would not preserve it exactly."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._repeats = 0
        self._tags = 0

    def of(self, value: Any, depth: int = 0) -> Any:
        kind = type(value)
        if value is None or kind is str or kind is bool:
            return value
        if kind is int and value.bit_length() <= JSON_INT_BITS:
            return value
        if kind is float and value - value == 0:  # finite
            return value
        if depth < JSON_DEPTH and (kind not in _CONTAINERS or self._may_repeat(value)):
            return self._of_others(value, kind, depth + 1)
        raise _NotJson

    def _of_others(self, value: Any, kind: type, depth: int) -> Any:
        if kind is list:
            return [self.of(item, depth) for item in value]
        if kind is tuple:
            return {TAG: [self.of(item, depth) for item in value]}
        if kind is dict and all(type(key) is str for key in value):
            plain = {key: self.of(item, depth) for key, item in value.items()}
            return {TAG: plain} if is_tag(plain) else plain
        from .scalars import tagged

        self._tags += 1
        found = self._tags <= JSON_TAGS and tagged(value, lambda item: self.of(item, depth), from_plain)
        if not found:
            raise _NotJson
        return found

    def _may_repeat(self, value: Any) -> bool:
        if id(value) in self._seen:
            self._repeats += len(value)
        self._seen.add(id(value))
        return self._repeats <= JSON_REPEATS


# -- reading -------------------------------------------------------------------------------------------------


def decode_entry(entry: Entry, read_segment: ReadSegment, loads: Loads | None = None) -> Any:
    """Read a value back. All segments are checked before the first is decoded.

    :raises SegmentError: the size or SHA-256 of a segment is not the recorded one
    :raises EntryError: the entry is malformed, or the bytes are not data of its codec
    :raises UntrustedPickleError: the value is a pickle, and ``loads`` is ``None``
    """
    check_entry(entry)
    codec = entry["codec"]
    if codec == "pickle" and loads is None:
        raise UntrustedPickleError("a pickled value was not loaded: its bytes have no trusted digest")
    return decode(codec, read_segments(entry, read_segment), loads)


def check_entry(entry: Any) -> None:
    """Check the structure of an entry from an untrusted source.

    :raises EntryError: ``entry`` is not a value entry; the message says why
    """
    segments = entry.get("segments") if isinstance(entry, dict) else None
    if not isinstance(segments, list) or not segments:
        raise EntryError("it is not a value entry: an object with a codec and segments")
    codec = entry.get("codec")
    if not isinstance(codec, str) or (codec != "pickle" and codec not in protocol.DATA_CODECS):
        known = ", ".join(sorted(protocol.DATA_CODECS))
        raise EntryError(f"unknown codec {str(codec)[:80]!r}; known are {known} and pickle")
    if not all(isinstance(entry.get(name, ""), str) for name in ("about", "pickled")):
        raise EntryError("its description is not a text")
    if codec != "pickle" and len(segments) != 1:
        raise EntryError(f"a value of codec {codec} has one segment and not {len(segments)}")
    for segment in segments:
        _check_shape(segment)


def _check_shape(segment: object) -> None:
    shape: dict[str, type] = {"sha256": str, "size": int}
    if isinstance(segment, dict):
        if "pieces" in segment:
            shape["pieces"] = list
        else:
            shape["data" if "data" in segment else "name"] = str
        if _has_shape(segment, shape) and all(map(_is_piece, segment.get("pieces", ()))):
            return
    raise EntryError("one of its segments lacks its SHA-256, its size, or its data, name or pieces")


def _is_piece(piece: Any) -> bool:
    return _has_shape(piece, {"name": str, "offset": int, "size": int}) and bool(piece["offset"] >= 0)


def _has_shape(value: Any, shape: dict[str, type]) -> bool:
    return (
        isinstance(value, dict)
        and all(type(value.get(name)) is kind for name, kind in shape.items())
        and bool(value["size"] >= 0)
    )


def read_segments(entry: Entry, read_segment: ReadSegment) -> list[Buffer]:
    """Return the checked bytes of every segment."""
    codec, segments = entry["codec"], entry["segments"]
    return [_inline(one) if "data" in one else read_segment(one, codec) for one in segments]


def _inline(segment: Segment) -> bytearray:
    try:
        data = bytearray(binascii.a2b_base64(segment["data"]))
    except ValueError as error:
        raise EntryError(f"a value inside the entry is not base64: {error}") from None
    check_segment(data, segment, "a value inside the entry")
    return data


def check_segment(data: Buffer, segment: Segment, what: str = "") -> None:
    """Compare bytes with the size and SHA-256 that ``segment`` records for them.

    :raises SegmentError: they differ
    """
    found = hashing([data])
    check(what or str(segment.get("name", "segment")), segment, found.size, found.hexdigest())


def read_checked(
    stream: Any, segment: Segment, what: str = "", there: int | None = None, codec: str = ""
) -> Buffer:
    """Read the bytes of ``segment`` from a binary stream (``readinto``), and check their size and SHA-256.

    :param what: name of the bytes in messages
    :param there: size of the stream in bytes, if known: a stream that is too short then takes no memory
    :param codec: codec of the value
    :raises SegmentError: size or SHA-256 differ
    """
    if there is not None and there < segment["size"]:
        check(what or str(segment.get("name", "segment")), segment, there, "")
    data, size = ReadBuffer(segment["size"], codec), 0
    with data.view as view, BackgroundSha256(len(view)) as found:
        while size < len(view):
            count = stream.readinto(view[size : size + CHUNK_BYTES])
            if not count:
                break
            found.update(view[size : size + count])
            size += count
    extra = stream.read(1) if size == segment["size"] else b""
    check(what or str(segment.get("name", "segment")), segment, size + len(extra), found.hexdigest())
    return data.whole()


def check(what: str, segment: Checked, size: int, found: str) -> None:
    """Compare a size and a SHA-256 with those that ``segment`` records.

    The error does not say which SHA-256 was found: whoever makes a reference to single bytes of a file would
    read them in the error.

    :raises SegmentError: they differ
    """
    if size != segment["size"]:
        more = "at least " if size > segment["size"] else ""
        raise SegmentError(f"{what} has {more}{size} bytes and not the {segment['size']} that were recorded")
    if found != segment["sha256"]:
        raise SegmentError(f"{what} does not have the SHA-256 {segment['sha256']} that was recorded")


def decode(codec: str, segments: list[Buffer], loads: Loads | None = None) -> Any:
    """Decode checked bytes."""
    if codec == "pickle":
        if loads is None:
            raise UntrustedPickleError("a pickled value was not loaded: its bytes have no trusted digest")
        return loads(segments[0], list(segments[1:]))
    try:
        return _decode_data(codec, *segments)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # numpy and pyarrow raise their own kinds of errors
        raise EntryError(f"its bytes are not {codec} data: {type(error).__name__}: {error}") from error


def _decode_data(codec: str, data: Buffer) -> Any:
    if codec == "json":
        return decode_json(data)
    if codec == "bytearray":
        return data if isinstance(data, bytearray) else bytearray(data)
    if codec in protocol.BYTES_CODECS:
        return data if isinstance(data, bytes) else bytes(data)
    from .arrays import decode_array

    return decode_array(codec, data)


def decode_json(data: Buffer) -> Any:
    value = plain_json(data)
    return from_plain(value) if b'{"(' in bytes(data) else value


def plain_json(data: Buffer) -> Any:
    """Return the JSON of a value, in which objects with a single key may stand for other values."""
    return json.loads(str(data, "utf-8", "surrogatepass"))


def from_plain(value: Any) -> Any:
    """Return the value of its JSON."""
    if type(value) is list:
        return [from_plain(item) for item in value]
    if type(value) is not dict:
        return value
    if is_tag(value):
        ((tag, inner),) = value.items()
        if tag != TAG:
            from .scalars import untagged

            return untagged(tag[1:-1], from_plain(inner))
        if type(inner) is list:
            return tuple(from_plain(item) for item in inner)
        if type(inner) is not dict:
            raise ValueError(f"{TAG!r} marks a list or an object")
        value = inner
    return {key: from_plain(item) for key, item in value.items()}
