"""The codecs of numpy and pyarrow. :mod:`.values` imports this module only for arrays and tables."""

from __future__ import annotations

import io
import sys

from .entries import Encoded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .hashing import Buffer


def encode_numpy(array: Any) -> Encoded | None:
    import numpy

    dtype = array.dtype
    try:
        is_exact = dtype.kind in "biufcSUmM" and dtype.metadata is None and numpy.dtype(dtype.str) == dtype
    except TypeError:  # an extension type, which the numpy format cannot name
        is_exact = False
    if not is_exact:
        return None
    header = io.BytesIO()
    numpy.lib.format.write_array_header_1_0(header, numpy.lib.format.header_data_from_array_1_0(array))
    if array.nbytes == 0:
        return Encoded("numpy", [[header.getvalue()]])
    if array.flags.f_contiguous and not array.flags.c_contiguous:
        array = array.T  # the header says fortran_order
    # copies only an array that is contiguous in neither order
    flat: Any = numpy.ascontiguousarray(array).reshape(-1).view("u1")
    return Encoded("numpy", [[header.getvalue(), memoryview(flat)]])


def encode_arrow(value: Any) -> Encoded | None:
    pyarrow = sys.modules.get("pyarrow")
    codec = {"Table": "arrow", "RecordBatch": "arrow_batch"}.get(type(value).__name__)
    if pyarrow is None or codec is None:
        return None
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, value.schema) as writer:
        writer.write(value)
    data = memoryview(sink.getvalue())
    return None if _is_pickled(data) else Encoded(codec, [[data]])


def _is_pickled(data: Any) -> bool:
    """Return whether the schema holds a pickle: pyarrow before 14.0.1 loads the pickle with the schema."""
    start = 4 if data[:4] == b"\xff" * 4 else 0  # the continuation marker, absent in the oldest format
    size = int.from_bytes(data[start : start + 4], "little")  # size of the first message, the schema
    return b"arrow.py_extension_type" in bytes(data[: start + 4 + size])


def _decode_numpy(data: Buffer) -> Any:
    import numpy

    head = io.BytesIO(bytes(data[: 64 * 1024]))
    numpy.lib.format.read_magic(head)
    shape, is_fortran, dtype = numpy.lib.format.read_array_header_1_0(head)
    if dtype.hasobject:
        raise ValueError("an array of Python objects is not data")
    return numpy.ndarray(shape, dtype, buffer=data, offset=head.tell(), order="F" if is_fortran else "C")


def decode_array(codec: str, data: Buffer) -> Any:
    """Decode numpy, arrow or arrow_batch data. The array or table uses the memory of ``data``; no copy.

    :raises ValueError: the data holds a pickle
    """
    if codec == "numpy":
        return _decode_numpy(data)
    import pyarrow

    if _is_pickled(data):
        raise ValueError("a table whose schema holds a pickle is not data")
    stream = pyarrow.ipc.open_stream(pyarrow.py_buffer(data))
    return stream.read_next_batch() if codec == "arrow_batch" else stream.read_all()
