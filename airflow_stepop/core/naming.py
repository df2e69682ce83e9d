"""Names that people can read and every service accepts: of jobs, and of folders in a store."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches


def slug(text: str, length: int) -> str:
    """Return ``text`` in ``[a-z0-9-]``, at most ``length`` characters.

    When characters are replaced or cut, a hash of the whole text is appended, so that names stay different.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    plain = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if plain and plain == text and len(plain) <= length:
        return plain
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{plain[: length - 9].strip('-') or 'x'}-{digest}"


def job_name(dag_id: str, task_id: str, nonce: str) -> str:
    """Return the job's name: 1 to 52 characters of ``[a-z0-9-]``. The nonce makes the name unique."""
    readable = [re.sub(r"-[0-9a-f]{8}$", "", slug(text, 26))[:17].strip("-") for text in (dag_id, task_id)]
    return "-".join(["s", *readable, nonce_hash(nonce)])


def nonce_hash(nonce: str) -> str:
    """Return the end of the name of a job with this nonce: 12 hexadecimal digits."""
    return hashlib.sha256(nonce.encode()).hexdigest()[:12]


def did_you_mean(name: object, valid: Iterable[str]) -> str:
    """Return ``; did you mean 'image'?`` for a name that is close to a valid one, else an empty text."""
    close = get_close_matches(str(name), list(valid), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
