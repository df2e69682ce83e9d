"""Sets the step's secrets as environment variables, and masks their values in the log.

1. The values arrive in ``secrets.json``. The parent process removes this file before the step starts. With
   ``--secrets env`` they arrive as environment variables instead. Values that lie in a cloud's own service
   are read there: see :mod:`.secret_references`.
2. The child process sets the values in its environment.
3. The parent reads everything that the child prints, masks the values, and writes the rest to the log. The
   services that show or store the log do not know the values and could not mask them.

Imported only by steps that have secrets. Used by :mod:`.main` and :mod:`.child`.
"""

from __future__ import annotations

import os

from . import files, protocol
from .failures import RefusedError
from .files import quietly, read_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

MASK = b"***"
MIN_BYTES = 4  # a shorter value is not masked: too many words of the log would match
SHORTEST_LINE = 8  # of base64; fewer characters may be in any text
CHUNK_BYTES = 1 << 16
DRAIN_CHUNKS = 64  # most chunks read after the step has ended, while a leftover process still prints

# fields of a failure whose text may come from the step, and fields that contain further failures
_TEXTS = frozenset({"summary", "hint", "message", "traceback", "notes", "args", "attributes", "log_tail"})
_TEXTS |= {"type", "module", "qualname", "mro"}
_NESTED = frozenset({"exception", "cause", "context"})


class Secrets:
    """The secrets of one step, in both processes of the runner."""

    def __init__(
        self, options: Mapping[str, str], names: Iterable[str], references: Mapping[str, str] | None = None
    ) -> None:
        """Read the values and remove their file from the input folder.

        :param options: those of the runner
        :param references: variable -> reference, of those that lie in a cloud's own service
        :raises RefusedError: the value of one of ``names`` is missing
        :raises StepError: the sealed file was changed
        """
        self.values = _take(options, sorted(set(names) - set(references or ())))
        if references:
            from .secret_references import read_references

            self.values.update(read_references(references))
        self.redactor = Redactor(self.values.values())
        self._pump = Pump(self.redactor)

    def enter(self) -> None:
        """Set the environment variables, and redirect the output to the parent. Called in the child."""
        self._pump.enter()
        os.environ.update(self.values)

    def start(self) -> None:
        """Begin to copy the child's output to the log. Called in the parent, after the fork.

        From here on the parent's own lines are masked, too: they may have names of the step's files.
        """
        files.mask = self.redactor.text
        self._pump.start()

    def finish(self) -> None:
        """Wait until all output is in the log. Called in the parent, after the child has ended."""
        self._pump.finish()

    def clean(self, failure: Any) -> Any:
        """Return a failure with the values masked, in its own texts and in those of its exceptions."""
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


def _take(options: Mapping[str, str], names: list[str]) -> dict[str, str]:
    found: Any
    try:
        is_env = options.get("secrets") == "env"
        found = os.environ if is_env else read_table(options, protocol.SECRETS) or {}
    except (OSError, ValueError):
        found = {}
    quietly(os.unlink, os.path.join(options["in"], protocol.SECRETS))  # a mounted file cannot be removed
    missing = [name for name in names if not isinstance(found.get(name), str)]
    if missing:
        raise RefusedError(
            "infra",
            f"The step was not started: its secrets did not arrive: {', '.join(missing)}",
            f"the backend must put Payload.secrets into {protocol.SECRETS} of the input folder, or into "
            "variables, with --secrets env",
        )
    return {name: found[name] for name in names}


class Redactor:
    """Masks values in bytes and texts, also in escaped, URL-encoded and base64 form."""

    def __init__(self, values: Iterable[str]) -> None:
        forms = {form for value in values for form in _forms(value)}
        self.patterns = sorted(form for form in forms if len(form) >= MIN_BYTES)

    def spans(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Yield (begin, end) of each value in ``data``, in order. Overlapping values form one span."""
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
        """Return where a value begins that may continue after ``data``; ``len(data)`` if there is none."""
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
        """Return ``data`` up to ``keep`` with the values masked, and the unmasked rest.

        A value that continues after ``keep`` stays whole in the rest.
        """
        pieces, at = [], 0
        for begin, end in self.spans(data):
            if end > keep:  # the value continues: wait for the rest of it
                keep = min(keep, begin)
                break
            pieces += [data[at:begin], MASK]
            at = end
        return b"".join([*pieces, data[at:keep]]), data[keep:]

    def last(self, data: bytes) -> bytes:
        """Return the last bytes of a stream, or the bytes of a truncated text, with the values masked."""
        end = self.open_end(data)
        if len(data) - end < MIN_BYTES:
            return self.cut(data, len(data))[0]
        cleaned, rest = self.cut(data, end)
        return cleaned + (MASK if rest else b"")  # the beginning of a value is secret, too

    def text(self, text: str) -> str:
        data = text.encode("utf-8", "surrogatepass")
        if text.endswith("…"):
            cleaned = self.last(text[:-1].encode("utf-8", "surrogatepass")) + "…".encode()
        else:
            cleaned = self.cut(data, len(data))[0]
        return text if cleaned == data else cleaned.decode("utf-8", "replace")

    def tree(self, value: Any) -> Any:
        """Return JSON-able data with the values masked in every text, key and number."""
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
    """Yield the forms in which a value, or a line of it, may be printed."""
    for text in {value, value.strip(), *(line.strip() for line in value.splitlines())}:
        data = text.encode("utf-8", "surrogatepass")
        yield data
        if len(data) >= MIN_BYTES:
            for form in (*_escaped(text, data), *_quoted(text, data)):
                yield form.encode("utf-8", "surrogatepass")
            yield from _in_base64(data)


def _escaped(text: str, data: bytes) -> Iterator[str]:
    """Yield a value as Python and JSON print it, also one within the other, and as Go and PHP write JSON."""
    import json

    plains = json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]
    once = {*plains, *_in_python(text), *_in_python(data)}
    yield from once
    for one in once:
        yield from _in_python(one)
    for plain in plains:
        yield json.dumps(plain)[1:-1]
        go = plain
        for character in "&<>":
            go = go.replace(character, f"\\u{ord(character):04x}")
        yield from (go, plain.replace("/", "\\/"), go.replace("/", "\\/"))


def _in_python(value: str | bytes) -> Iterator[str]:
    """Yield a value as ``repr()`` and ``ascii()`` print it, alone and within a text that has both quotes."""
    quotes: Any = "'\"" if isinstance(value, str) else b"'\""
    for shown in (repr, ascii):
        yield shown(value).lstrip("b")[1:-1]
        yield shown(value + quotes).lstrip("b")[1:-4]


def _quoted(text: str, data: bytes) -> Iterator[str]:
    """Yield a value as it stands in URLs, in HTML, and in the lines of a shell."""
    import re
    from urllib.parse import quote

    # "", "/": Python; the others: encodeURIComponent and encodeURI of JavaScript
    for safe in ("", "/", "!~*'()", "!~*'();/?:@&=+$,#"):
        for quoted in (quote(data, safe=safe), quote(data, safe=f"{safe} ").replace(" ", "+")):
            yield quoted
            yield re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), quoted)
    html = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    quotes = ('"', "'"), ("&quot;", "'"), ("&quot;", "&#x27;"), ("&#34;", "&#39;"), ("&quot;", "&apos;")
    for double, single in quotes:
        yield html.replace('"', double).replace("'", single)
    for single in ("'\"'\"'", "'\\''"):
        yield text.replace("'", single)
    yield re.sub(r"([^\w@%+=:,./-])", r"\\\1", text)
    yield re.sub(r'([\\"$`])', r"\\\1", text)


def _in_base64(data: bytes) -> Iterator[bytes]:
    """Yield a value in base64: in one line, also of a longer text; alone, in lines of 64 or 76 characters."""
    from binascii import b2a_base64

    for shift in range(3):  # the text before the value, such as ``name:``, shifts it
        plain = b2a_base64(b"\0" * shift + data, newline=False).rstrip(b"=")
        whole = plain[(0, 2, 3)[shift] : (shift + len(data)) * 8 // 6]
        yield from (whole, whole.replace(b"+", b"-").replace(b"/", b"_"))
    alone = b2a_base64(data, newline=False).rstrip(b"=")
    for width in (64, 76):
        lines = [alone[at : at + width] for at in range(0, len(alone), width)]
        yield from (end.join(lines) for end in (b"\n", b"\r\n"))
        yield from (line for line in lines if len(line) >= SHORTEST_LINE)


class Pump:
    """Copies the child's standard output and error to the log at once, with the values masked."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._pipes: dict[int, tuple[int, int]] = {}  # 1 or 2 -> reading and writing end
        self._held: dict[int, bytes] = {}
        identities = []
        for target in (1, 2):
            try:
                found = os.fstat(target)
            except OSError:
                continue  # the descriptor is closed, so its output is lost anyway
            identities.append((found.st_dev, found.st_ino))
            # One pipe for both if both are the same file: this keeps the order of the lines
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
        import _thread  # not threading, to save an import
        import signal

        self._close(1)
        self._end, self._end_writer = os.pipe()
        self._done = _thread.allocate_lock()
        self._done.acquire()
        targets = {pipe[0]: target for target, pipe in reversed(list(self._pipes.items()))}
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # for the main thread only
        _thread.start_new_thread(self._run, (targets,))
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def finish(self) -> None:
        os.close(self._end_writer)
        self._done.acquire()

    def _run(self, targets: dict[int, int]) -> None:
        """Copy until all writers have closed the pipes, or the child has ended and the pipes are empty.

        ``DRAIN_CHUNKS`` limits the reads after the child has ended.
        """
        from select import select

        chunks_left = DRAIN_CHUNKS
        try:
            while targets and chunks_left:
                ready = set(select([*targets, self._end], [], [])[0])
                if self._end in ready:  # the child has ended: read the rest without waiting
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
            os.close(reader)  # the log's reader is gone: the child's next write fails, as without a pump
            del targets[reader]

    def _write(self, target: int, data: bytes) -> bool:
        """Write all of ``data``; return whether the write succeeded."""
        from select import select

        view = memoryview(data)
        while view:
            try:
                view = view[os.write(target, view) :]
            except BlockingIOError:  # another process that shares the file made it non-blocking
                select([], [target], [])
            except OSError:
                return False
        return True
