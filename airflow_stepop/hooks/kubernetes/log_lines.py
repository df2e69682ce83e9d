"""Splits the answer of a log request into lines while it arrives, however long a line is.

Used by ``pod_log.py``. A step may print megabytes without a line end. Such a line is cut, and says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

CHUNK_BYTES = 64 * 1024
LINE_BYTES = 1 << 20  # a line that is longer is cut
END_BYTES = 64 * 1024  # of such a line are read from its begin and from its end, where only the end counts
CUT = b" [stepop: the rest of this line is left out, because it is longer than 1 MiB]"
LEFT_OUT = b" [stepop: %d bytes of this line are left out] "


class FirstParts:
    """Iterates over the lines of an answer; of a line that is too long, it has the first part.

    Such a line comes at once, and the rest of it is passed over, in this answer and the next ones.

    :param chunks: bytes of the answer
    :param is_over: a last line without a line end is complete, because the log is
    """

    def __init__(self, chunks: Iterable[bytes], *, is_over: bool) -> None:
        self._chunks = chunks
        self._is_over = is_over
        self.has_unfinished = False
        """After the last line: the answer ends within a line that was left for the next answer."""

    def __iter__(self) -> Iterator[bytes]:
        held, is_cut = bytearray(), False
        for piece, has_ended in _pieces(self._chunks):
            if not is_cut:
                held += piece
            if len(held) > LINE_BYTES:
                yield bytes(held[:LINE_BYTES]) + CUT
                held, is_cut = bytearray(), True
            if has_ended:
                if not is_cut:
                    yield bytes(held)
                held, is_cut = bytearray(), False
        if held and self._is_over:
            yield bytes(held)
        self.has_unfinished = bool(held) and not self._is_over


def ends(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of an answer; of a line that is too long, the begin and the end.

    A line of the runner may follow a text without a line end, in the same line.
    """
    held, left = bytearray(), 0
    for piece, has_ended in _pieces(chunks):
        held += piece
        if len(held) > 2 * END_BYTES + CHUNK_BYTES:
            left += len(held) - 2 * END_BYTES
            del held[END_BYTES:-END_BYTES]
        if has_ended:
            yield _joined(held, left)
            held, left = bytearray(), 0
    if held:
        yield _joined(held, left)


def _joined(held: bytearray, left: int) -> bytes:
    return bytes(held[:END_BYTES]) + LEFT_OUT % left + bytes(held[END_BYTES:]) if left else bytes(held)


def _pieces(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Yield the parts of lines in the chunks, and for each whether its line ends with it."""
    for chunk in chunks:
        *lines, rest = chunk.split(b"\n")
        yield from ((line, True) for line in lines)
        if rest:
            yield rest, False
