"""Sealed files of the input folder, and parts that are named by their content."""

from __future__ import annotations

import gzip
import hashlib
import json
import os

import pytest

from airflow_stepop.runner import protocol
from airflow_stepop.runner.sealing import receipt_mac, sealed, unsealed

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
NAME = protocol.SECRETS


@pytest.mark.parametrize("size", [0, 1, 100, 1 << 20])
def test_there_and_back(size):
    data = os.urandom(size)
    blob = sealed(data, KEY, NAME)
    assert unsealed(blob, KEY, NAME) == data
    assert len(blob) == 48 + size


def test_a_sealed_file_shows_nothing():
    """Not the text, and not that two files have the same text."""
    first, second = (sealed(b"\0" * 200, KEY, NAME) for _ in range(2))
    pieces = [{blob[at : at + 8] for at in range(200)} for blob in (first, second)]
    assert not pieces[0] & pieces[1]
    assert len(pieces[0]) == 200


def test_every_byte_is_checked():
    blob = sealed(b"value", KEY, NAME)
    for at in range(len(blob)):
        changed = blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]
        with pytest.raises(ValueError, match=f"{NAME} was changed after it was sealed"):
            unsealed(changed, KEY, NAME)
        with pytest.raises(ValueError, match="was changed"):
            unsealed(blob[:at], KEY, NAME)
    with pytest.raises(ValueError, match="was changed"):
        unsealed(blob + b"x", KEY, NAME)


@pytest.mark.parametrize(("key", "name"), [(OTHER_KEY, NAME), (KEY, protocol.UPLOADS)])
def test_another_key_or_name_opens_nothing(key, name):
    with pytest.raises(ValueError, match="or was sealed with another key"):
        unsealed(sealed(b"value", KEY, NAME), key, name)


# -- in the runner


def put(folder, name, data, key=KEY):
    """Put a sealed file into the input folder."""
    (folder.path / "in" / f"{name}{protocol.SEALED}").write_bytes(sealed(data, key, name))


def secrets(**values):
    return json.dumps(values).encode()


def test_secrets_arrive(folder, any_python):
    folder.set(secrets=["TOKEN"]).command("sh", "-c", 'test "$TOKEN" = v4lue && env | grep -c STEPOP_')
    put(folder, NAME, secrets(TOKEN="v4lue"))
    done = folder.run(any_python, seal=KEY.hex(), runner_digest=folder.runner_digest())
    assert done.code == protocol.EXIT_OK, done.stderr
    again = folder.run(any_python, seal=KEY.hex())
    assert again.code == protocol.EXIT_OK, "a restarted job finds the sealed file again"


def test_the_key_is_not_in_the_step_s_environment(folder):
    done = folder.command("env").run(seal=KEY.hex())
    assert KEY.hex() not in done.stdout


@pytest.mark.parametrize("damage", ["changed", "truncated", "another key", "plain", "missing"])
def test_secrets_that_were_tampered_with(folder, any_python, damage):
    ran = folder.path / "ran"
    folder.set(secrets=["TOKEN"]).command("touch", str(ran))
    path = folder.path / "in" / f"{NAME}{protocol.SEALED}"
    put(folder, NAME, secrets(TOKEN="v4lue"), OTHER_KEY if damage == "another key" else KEY)
    data = path.read_bytes()
    if damage == "changed":
        path.write_bytes(data[:20] + bytes([data[20] ^ 1]) + data[21:])
    elif damage == "truncated":
        path.write_bytes(data[:-1])
    elif damage in ("plain", "missing"):
        path.unlink()
    if damage == "plain":
        (folder.path / "in" / NAME).write_bytes(secrets(TOKEN="forged"))
    done = folder.run(any_python, seal=KEY.hex())
    assert done.code == protocol.EXIT_REFUSED
    assert done.failure["category"] == "infra"
    has_file = damage not in ("plain", "missing")
    words = "secrets.json was changed after it was sealed" if has_file else "its secrets did not arrive"
    assert words in done.failure["summary"]
    assert not ran.exists()


def test_sealed_locations_and_a_part_by_its_path(folder, tmp_path, any_python):
    folder.code({"helpers.py": "def f():\n return 5\n"})
    (folder.path / "in" / protocol.CODE).rename(tmp_path / "elsewhere")
    put(folder, protocol.LOCATIONS, gzip.compress(secrets(**{protocol.CODE: str(tmp_path / "elsewhere")})))
    folder.manifest["function"] = {"by": "reference", "module": "helpers", "qualname": "f"}
    assert folder.arguments().run(any_python, seal=KEY.hex()).value() == 5


def test_plain_locations_are_read_beside_sealed_files(folder, tmp_path):
    """They are not trusted, since every part is checked."""
    folder.reference("def f():\n return 5\n", "f")
    (folder.path / "in" / protocol.CODE).rename(tmp_path / "elsewhere")
    (folder.path / "in" / protocol.LOCATIONS).write_bytes(
        secrets(**{protocol.CODE: str(tmp_path / "elsewhere")})
    )
    assert folder.run(seal=KEY.hex()).value() == 5


@pytest.mark.parametrize("name", [protocol.UPLOADS, protocol.CHECKPOINT, protocol.FRAMES])
def test_an_added_plain_file_is_not_believed(folder, tmp_path, name):
    """Whoever can write to the bucket could otherwise send the results to an address of their own."""
    there = tmp_path / "there"
    table = {
        "urls": {"00.bin": f"http://127.0.0.1:9/{there}"},
        "headers": {},
        "least_bytes": 1,
        "most_bytes": 99,
    }
    (folder.path / "in" / name).write_bytes(secrets(**table))
    done = folder.reference("def f():\n return b'x' * 100_000\n", "f").run(
        seal=KEY.hex(), receipt_limit="300"
    )
    assert done.value() == b"x" * 100_000
    assert protocol.FRAME_PREFIX not in done.stdout


def test_uploads_that_were_tampered_with(folder):
    """They are read after the step has run: the step fails as ``infra``, and not as the step's own error."""
    folder.reference("def f():\n return b'x' * 100_000\n", "f")
    put(folder, protocol.UPLOADS, b"{}", OTHER_KEY)
    done = folder.run(seal=KEY.hex())
    assert done.code == protocol.EXIT_STEP_FAILED
    assert done.failure["category"] == "infra"
    assert "The step's input cannot be read: uploads.json was changed" in done.failure["summary"]


@pytest.mark.parametrize("seal", ["", "00", "x" * 64])
def test_a_key_of_another_form_is_refused(folder, seal):
    put(folder, NAME, secrets(TOKEN="v4lue"))
    done = folder.set(secrets=["TOKEN"]).command("true").run(seal=seal)
    assert done.code == protocol.EXIT_REFUSED
    assert done.failure["category"] == "infra"


def test_a_key_of_another_length_seals_nothing():
    with pytest.raises(ValueError, match="must have 32 bytes, and this one has 5"):
        sealed(b"value", b"short", NAME)


# -- parts by content


def test_a_part_is_found_by_its_sha256(folder, any_python):
    """Two submits of one name then never overwrite a part of each other."""
    folder.reference("def f(a):\n return len(a)\n", "f", b"y" * 200_000)
    for name, part in folder.parts.items():
        (folder.path / "in" / name).rename(folder.path / "in" / part["sha256"])
    assert folder.run(any_python).value() == 200_000


def test_a_part_under_its_digest_is_checked_as_well(folder):
    folder.reference("def f():\n return 1\n", "f")
    path = folder.path / "in" / protocol.CODE
    data = path.read_bytes()
    path.unlink()
    (path.parent / hashlib.sha256(data).hexdigest()).write_bytes(data[:-1] + b"?")
    done = folder.run()
    assert done.code == protocol.EXIT_REFUSED
    assert "part code.zip does not have the SHA-256" in done.failure["summary"]


def test_a_part_that_is_nowhere_is_named_by_its_name(folder):
    folder.reference("def f():\n return 1\n", "f")
    (folder.path / "in" / protocol.CODE).unlink()
    done = folder.run()
    assert "part code.zip cannot be read" in done.failure["summary"]
    assert "/code.zip" in done.failure["summary"]


# -- the MAC of the receipt


def test_a_receipt_has_a_mac(folder, any_python):
    """Of the digest and the size, and short enough for the reason of a failure."""
    path = folder.path / "failure"
    done = folder.command("sh", "-c", "exit 3").run(any_python, seal=KEY.hex(), sign="1", failure=str(path))
    expected = receipt_mac(KEY, done.receipt["digest"], done.receipt["size"])
    assert done.receipt["mac"] == expected
    line = path.read_text().split("\n")[0]
    assert json.loads(line)["mac"] == expected
    assert len(line) <= 160


def test_the_mac_covers_all_that_a_receipt_says():
    macs = {receipt_mac(*one) for one in ((KEY, "a" * 64, 1), (OTHER_KEY, "a" * 64, 1), (KEY, "b" * 64, 1))}
    assert len({*macs, receipt_mac(KEY, "a" * 64, 2)}) == 4
    assert {len(mac) for mac in macs} == {32}


def test_without_a_key_nothing_can_be_signed(folder):
    done = folder.command("true").run(sign="1")
    assert done.code == protocol.EXIT_REFUSED
    assert "missing --seal" in done.stderr
    assert "mac" not in folder.run(seal=KEY.hex(), sign="0").receipt
