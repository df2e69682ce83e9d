"""The step's secrets: into its environment, and out of what it prints. Imported only when it has some.

The values arrive in a file of their own. The parent process removes it before the step starts, gives them to
the child, and from then on stands between the child and the log: whoever shows or stores the log does not
know the values and could not mask them.
"""

from __future__ import annotations

import os

from . import protocol
from .failures import RefusedError
from .files import quietly

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

MASK = b"***"
MIN_BYTES = 4  # a shorter value would blot out half of the log: it is left alone
CHUNK_BYTES = 1 << 16
DRAIN_CHUNKS = 64  # read at most, when the step is over and something that it left behind still prints

# what a failure says in words that may come from the step, and where more of it are inside
_TEXTS = frozenset({"summary", "hint", "message", "traceback", "notes", "args", "log_tail"})
_NESTED = frozenset({"exception", "cause", "context"})


class Secrets:
    """The secrets of one step, in both processes of the runner."""

    def __init__(self, folder: str, names: Iterable[str]) -> None:
        """Take the values out of the input folder.

        :raises RefusedError: some of ``names`` are not there
        """
        self.values = _take(os.path.join(folder, protocol.SECRETS), sorted(names))
        self.redactor = Redactor(self.values.values())
        self._pump = Pump(self.redactor)

    def enter(self) -> None:
        """In the child: take the values into the environment, and print through the parent."""
        self._pump.enter()
        os.environ.update(self.values)

    def start(self) -> None:
        """In the parent, once it has forked: begin to pass on what the child prints."""
        self._pump.start()

    def finish(self) -> None:
        """In the parent, when the child has ended: return when everything that it printed is passed on."""
        self._pump.finish()

    def clean(self, failure: dict[str, Any]) -> dict[str, Any]:
        """Return a failure without the values: its words, and those of its exceptions."""
        cleaned: dict[str, Any] = {}
        for key, value in failure.items():
            if key in _TEXTS:
                cleaned[key] = self.redactor.tree(value)
            elif key in _NESTED and value is not None:
                cleaned[key] = self.clean(value)
            elif key == "exceptions":
                cleaned[key] = [self.clean(member) for member in value]
            else:
                cleaned[key] = value
        return cleaned


def _take(path: str, names: list[str]) -> dict[str, str]:
    import json

    try:
        with open(path, "rb") as stream:
            found = json.load(stream)
    except (OSError, ValueError):
        found = {}
    quietly(os.unlink, path)  # a mounted one cannot be removed
    missing = [name for name in names if not isinstance(found.get(name), str)]
    if missing:
        raise RefusedError(
            "infra",
            f"The step was not started: its secrets did not arrive: {', '.join(missing)}",
            f"the backend must put Payload.secrets into {protocol.SECRETS} of the input folder",
        )
    return {name: found[name] for name in names}


class Redactor:
    """Finds values in bytes, also in the forms in which they are usually printed."""

    def __init__(self, values: Iterable[str]) -> None:
        forms = {form for value in values for form in _forms(value)}
        self.patterns = sorted(form for form in forms if len(form) >= MIN_BYTES)

    def spans(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Yield where values are, in order; what overlaps is one."""
        found = []
        for pattern in self.patterns:
            at = data.find(pattern)
            while at >= 0:
                found.append((at, at + len(pattern)))
                at = data.find(pattern, at + 1)
        begin = end = -1
        for first, last in sorted(found):
            if first < end:
                end = max(end, last)
                continue
            if end >= 0:
                yield begin, end
            begin, end = first, last
        if end >= 0:
            yield begin, end

    def open_end(self, data: bytes) -> int:
        """Return where a value may begin whose end is not in ``data``; its length, when none does."""
        first = len(data)
        for pattern in self.patterns:
            at = data.find(pattern[:1], max(0, len(data) - len(pattern) + 1), first)
            while at >= 0:
                if pattern.startswith(data[at:]):
                    first = at
                    break
                at = data.find(pattern[:1], at + 1, first)
        return first

    def cut(self, data: bytes, keep: int) -> tuple[bytes, bytes]:
        """Return ``data`` up to about ``keep`` without the values, and the rest as it is."""
        pieces, at = [], 0
        for begin, end in self.spans(data):
            if end > keep:  # goes on behind it: wait for all of it
                keep = min(keep, begin)
                break
            pieces += [data[at:begin], MASK]
            at = end
        return b"".join([*pieces, data[at:keep]]), data[keep:]

    def last(self, data: bytes) -> bytes:
        """Return the last bytes of a stream, or text that was cut off, without the values."""
        end = self.open_end(data)
        if len(data) - end < MIN_BYTES:
            return self.cut(data, len(data))[0]
        cleaned, rest = self.cut(data, end)
        return cleaned + (MASK if rest else b"")  # the beginning of a value is as good as a part of it

    def text(self, text: str) -> str:
        data = text.encode("utf-8", "surrogatepass")
        if text.endswith("…"):
            cleaned = self.last(text[:-1].encode("utf-8", "surrogatepass")) + "…".encode()
        else:
            cleaned = self.cut(data, len(data))[0]
        return text if cleaned == data else cleaned.decode("utf-8", "replace")

    def tree(self, value: Any) -> Any:
        """Return JSON-able data with every text in it cleaned."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.tree(item) for item in value]
        if isinstance(value, dict):
            return {self.text(key): self.tree(item) for key, item in value.items()}
        if isinstance(value, (int, float)) and self.text(str(value)) != str(value):
            return self.text(str(value))
        return value


def _forms(value: str) -> Iterator[bytes]:
    """Yield a value as it may be printed: whole, by line, escaped, in a URL, in base64."""
    import json
    from binascii import b2a_base64
    from urllib.parse import quote, quote_plus

    for text in {value, value.strip(), *(line.strip() for line in value.splitlines())}:
        yield text.encode("utf-8", "surrogatepass")
    for escaped in (repr(value)[1:-1], json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]):
        yield escaped.encode("utf-8", "surrogatepass")
    data = value.encode("utf-8", "surrogatepass")
    if len(data) < MIN_BYTES:
        return
    for quoted in (quote(data), quote(data, safe=""), quote_plus(data)):
        yield quoted.encode()
    for shift in range(3):  # base64 of a longer text that has the value in it, such as name:password
        plain = b2a_base64(b"\0" * shift + data, newline=False).rstrip(b"=")
        whole = plain[(0, 2, 3)[shift] : (shift + len(data)) * 8 // 6]
        yield whole
        yield whole.replace(b"+", b"-").replace(b"/", b"_")


class Pump:
    """Passes on what the child writes to 1 and 2, without the values, as soon as it is written."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._pipes: dict[int, tuple[int, int]] = {}  # 1 or 2 -> reading and writing end
        self._held: dict[int, bytes] = {}
        identities = []
        for target in (1, 2):
            try:
                found = os.fstat(target)
            except OSError:
                continue  # closed: nothing that is printed there goes anywhere
            identities.append((found.st_dev, found.st_ino))
            # One pipe for both when they are one file: the order of lines stays what it was
            is_same = target == 2 and 1 in self._pipes and identities[0] == identities[1]
            self._pipes[target] = self._pipes[1] if is_same else os.pipe()

    def enter(self) -> None:
        for target, (_, writer) in self._pipes.items():
            os.dup2(writer, target)
        self._close(0)
        self._close(1)

    def _close(self, end: int) -> None:
        for descriptor in {pipe[end] for pipe in self._pipes.values()}:
            os.close(descriptor)

    def start(self) -> None:
        import _thread  # not threading: it is an import more
        import signal

        self._close(1)
        self._end, self._end_writer = os.pipe()
        self._done = _thread.allocate_lock()
        self._done.acquire()
        targets = {pipe[0]: target for target, pipe in reversed(list(self._pipes.items()))}
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are the main thread's
        _thread.start_new_thread(self._run, (targets,))
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def finish(self) -> None:
        os.close(self._end_writer)
        self._done.acquire()

    def _run(self, targets: dict[int, int]) -> None:
        """Read until the ends are closed, or until the child is over and nothing more is there."""
        from select import select

        chunks_left = DRAIN_CHUNKS
        try:
            while targets and chunks_left:
                ready = set(select([*targets, self._end], [], [])[0])
                if self._end in ready:  # the child is over: what is left, and no waiting
                    ready = set(select(list(targets), [], [], 0)[0])
                    chunks_left = chunks_left - 1 if ready else 0
                for reader in ready & set(targets):
                    self._pass_on(reader, targets)
            for target in targets.values():
                self._write(target, self._redactor.last(self._held.pop(target, b"")))
        finally:
            for reader in targets:
                os.close(reader)
            self._done.release()

    def _pass_on(self, reader: int, targets: dict[int, int]) -> None:
        target = targets[reader]
        new = os.read(reader, CHUNK_BYTES)
        data = self._held.pop(target, b"") + new
        if new:
            cleaned, self._held[target] = self._redactor.cut(data, self._redactor.open_end(data))
        else:
            cleaned = self._redactor.last(data)
        if not self._write(target, cleaned) or not new:
            os.close(reader)  # nobody listens any more, which the child learns now as it would have
            del targets[reader]

    def _write(self, target: int, data: bytes) -> bool:
        """Write all of it; return whether it went through."""
        from select import select

        view = memoryview(data)
        while view:
            try:
                view = view[os.write(target, view) :]
            except BlockingIOError:  # somebody who shares the file made it non-blocking
                select([], [target], [])
            except OSError:
                return False
        return True
