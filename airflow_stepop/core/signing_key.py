"""The keys that sign what this deployment writes: records, references, receipts, deletions, checkpoints.

A deployment may have several keys while it replaces one: the first key signs, and all keys verify.
:func:`sign` and :func:`why_refused` are for what Airflow stores. :func:`derived_keys` is for what a job gets:
the key of its checkpoints and the key of its sealed files.

The form of a signature is ``<key id>:<HMAC-SHA-256>``, and ``@<host>`` follows if only that host has the key.
The key id is 8 hex digits of a digest of the derived key. So an error can tell a changed message from another
key. Versions before had the bare HMAC, made with the root key: references and receipts still have it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from enum import StrEnum
from functools import cache

from airflow_stepop.core.host import airflow_folder, host_id

_FORM = re.compile(r"([0-9a-f]{8}):([0-9a-f]{64})(?:@(.*))?", re.DOTALL)
_FORM_BEFORE = re.compile(r"[0-9a-f]{64}")
_HOST_CHARS = 100  # of a host's name in an error


class Purpose(StrEnum):
    """What a signature is for. Each purpose has derived keys of its own: no signature serves another."""

    RECORD = "record"
    REFERENCE = "reference"
    RECEIPT = "receipt"
    DELETION = "deletion"


_SIGNED_BEFORE = (Purpose.REFERENCE, Purpose.RECEIPT)  # their messages could not be taken for one another


def sign(purpose: Purpose, message: bytes) -> str:
    """Return the signature of a message, made with the first key.

    :param message: must name everything that the signature is to be bound to, in an unambiguous form
    """
    key = _key_of(purpose, _roots()[0])
    mac = f"{_key_id(key)}:{_mac(key, message)}"
    return f"{mac}@{host_id()}" if is_of_this_host_only() else mac


def why_refused(purpose: Purpose, message: bytes, mac: object) -> str:
    """Return why a signature is not valid, as a part of a sentence; an empty text if the signature is valid.

    :param mac: the signature as it was found, of any type
    """
    text = mac if isinstance(mac, str) else ""
    if not text:
        return "it is not signed"
    if _FORM_BEFORE.fullmatch(text) and purpose in _SIGNED_BEFORE:
        is_ours = any(hmac.compare_digest(_mac(root, message), text) for root in _roots())
        return "" if is_ours else f"it was changed, or signed with another key; {_SAME_KEY}"
    found = _FORM.fullmatch(text)
    if found is None:
        return "its signature is damaged, or a newer airflow-stepop made it"
    key_id, value, host = found.groups()
    keys = [key for root in _roots() if _key_id(key := _key_of(purpose, root)) == key_id]
    if not keys:
        whose = " (that of {})".format(re.sub(r"[^\w.-]", "?", host[:_HOST_CHARS])) if host else ""
        return f"it was signed with another key{whose}; {_SAME_KEY}"
    is_ours = any(hmac.compare_digest(_mac(key, message), value) for key in keys)
    return "" if is_ours else "it was changed after it was signed"


_SAME_KEY = "give every host the same [stepop] signing_key, and keep a replaced key in the list after it"


# For people: a finding of `airflow stepop check`, and a warning in the log of a host's first step
OWN_KEY = "records and references are signed with a random key that only this host has"
OWN_KEY_FIX = "set [stepop] signing_key to the same secret on every host, or other hosts refuse them"


def derived_keys(words: str) -> tuple[bytes, ...]:
    """Return keys (32 bytes each) for what a job gets, the same in every process: the first one signs.

    The other keys only verify what was signed before the first key was added.

    :param words: the kind of the key and what it is for: ``checkpoint\\n<folder>``, ``seal<nonce>``
    """
    return tuple(hmac.new(root, words.encode(), hashlib.sha256).digest() for root in _roots())


def is_of_this_host_only() -> bool:
    """Return whether no key is configured, so that a random one signs, which only this host has."""
    return not configured_option()


def configured_option() -> str:
    """Return the option with the keys, such as ``[core] fernet_key``; an empty text if none is configured."""
    return _configured()[0]


def secrets() -> tuple[str, ...]:
    """Return the keys as texts: ``[stepop] signing_key``, else ``[core] fernet_key``, else this host's own.

    Both options may be lists with commas. Versions before took a list for one key, which therefore verifies.
    So does this host's own key, if it has signed before a key was configured.
    """
    _, text = _configured()
    own = airflow_folder("signing_key")
    if not text:
        return (_key_of_this_host(str(own)),)
    found = [*_parts(text), text]
    if own.exists():
        found.append(_key_of_this_host(str(own)))
    return tuple(dict.fromkeys(found))


def _configured() -> tuple[str, str]:
    """Return the option with the keys, and its value; two empty texts if no key is configured."""
    from airflow.sdk.configuration import conf

    found = {
        "[stepop] signing_key": conf.get("stepop", "signing_key", fallback=""),
        "[core] fernet_key": conf.get("core", "fernet_key", fallback=""),
    }
    for option, value in found.items():
        text = str(value or "")
        if _parts(text) and text != _PLACEHOLDER:
            return option, text
    return "", ""


# What Airflow's SDK returns for a fernet_key that is not set: the default's template, which everybody knows
_PLACEHOLDER = "{FERNET_KEY}"


def _parts(text: str) -> list[str]:
    return [part for one in text.split(",") if (part := one.strip())]


def _roots() -> tuple[bytes, ...]:
    return tuple(map(_root, secrets()))


@cache
def _root(secret: str) -> bytes:
    return hashlib.sha256(b"airflow-stepop references\n" + secret.encode()).digest()


@cache
def _key_of(purpose: Purpose, root: bytes) -> bytes:
    return hmac.new(root, f"key of {purpose.value}".encode(), hashlib.sha256).digest()


def _key_id(key: bytes) -> str:
    return hashlib.sha256(b"key id\n" + key).hexdigest()[:8]


def _mac(key: bytes, message: bytes) -> str:
    return hmac.new(key, message, hashlib.sha256).hexdigest()


@cache
def _key_of_this_host(file: str) -> str:
    path = airflow_folder("signing_key")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        stream.write(os.urandom(32).hex())
    try:
        os.link(temporary, path)  # create-only: the first process wins, and the others read its key
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
    return path.read_text()
