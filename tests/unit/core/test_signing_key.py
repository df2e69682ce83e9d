"""The keys of a deployment: the first signs and all verify, with a derived key for each purpose."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from airflow_stepop.core import signing_key
from airflow_stepop.core.host import host_id
from airflow_stepop.core.signing_key import Purpose, derived_keys, is_of_this_host_only, sign, why_refused

MESSAGE = b"the message"


@pytest.fixture
def use(monkeypatch, tmp_path):
    """Return a function that sets the keys, on a host without a key of its own."""
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))

    def use(keys, fernet_key=""):
        monkeypatch.setenv("AIRFLOW__STEPOP__SIGNING_KEY", keys)
        monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", fernet_key)

    return use


def refused(mac, message=MESSAGE, purpose=Purpose.RECORD):
    return why_refused(purpose, message, mac)


def as_before(secret, message=MESSAGE):
    """Return the MAC that versions before the list of keys wrote."""
    root = hashlib.sha256(b"airflow-stepop references\n" + secret.encode()).digest()
    return hmac.new(root, message, hashlib.sha256).hexdigest()


def test_a_signed_message_is_accepted(use):
    use("one")
    assert refused(sign(Purpose.RECORD, MESSAGE)) == ""


def test_the_first_key_signs_and_all_keys_verify(use):
    use("old")
    by_old = sign(Purpose.RECORD, MESSAGE)
    use("new, old")
    by_new = sign(Purpose.RECORD, MESSAGE)
    assert refused(by_old) == refused(by_new) == ""
    use("new")
    assert refused(by_new) == ""
    assert "another key" in refused(by_old)


def test_a_changed_message_is_told_from_another_key(use):
    use("one")
    mac = sign(Purpose.RECORD, MESSAGE)
    assert refused(mac, b"another message") == "it was changed after it was signed"
    use("two")
    assert "signed with another key" in refused(mac)
    assert "[stepop] signing_key" in refused(mac)


def test_each_purpose_has_its_own_key(use):
    use("one")
    mac = sign(Purpose.RECORD, MESSAGE)
    assert len({sign(purpose, MESSAGE) for purpose in Purpose}) == len(Purpose)
    for other in set(Purpose) - {Purpose.RECORD}:
        assert refused(mac, purpose=other) != ""


@pytest.mark.parametrize("mac", ["", None, 7, [], "x", "é", "0" * 64, f"{0:08}:{0:064}", ":", "@", "a:b@c"])
def test_what_is_no_signature_is_refused(use, mac):
    use("one")
    assert refused(mac)


def test_the_key_id_is_no_part_of_the_key(use):
    use("one")
    key_id = sign(Purpose.RECORD, MESSAGE).partition(":")[0]
    assert len(bytes.fromhex(key_id)) == 4
    assert not any(key.hex().startswith(key_id) for key in derived_keys("record"))


def test_references_and_receipts_that_were_signed_before_are_still_accepted(use):
    use("one")
    mac = as_before("one")
    assert refused(mac, purpose=Purpose.REFERENCE) == refused(mac, purpose=Purpose.RECEIPT) == ""
    assert refused(mac, purpose=Purpose.RECORD), "no record was signed before"
    assert refused(mac, b"another message", Purpose.REFERENCE)
    use("two,one")
    assert refused(mac, purpose=Purpose.REFERENCE) == ""


def test_a_list_of_fernet_keys_was_one_key_before(use):
    use("", "first,second")
    assert refused(as_before("first,second"), purpose=Purpose.REFERENCE) == ""
    mac = sign(Purpose.RECORD, MESSAGE)
    use("", "first")
    assert refused(mac) == "", "the first key alone signs"


def test_keys_of_jobs_are_those_of_before(use):
    """A checkpoint that was saved before is read, and so are the files of a job submitted before."""
    use("one")
    root = hashlib.sha256(b"airflow-stepop references\none").digest()
    assert derived_keys("seal1234")[0] == hmac.new(root, b"seal1234", "sha256").digest()
    use("two,one")
    two, one = derived_keys("seal1234")[:2]
    assert one == hmac.new(root, b"seal1234", "sha256").digest() != two


def test_without_a_configured_key_a_signature_names_its_host(use, monkeypatch, tmp_path):
    use("")
    assert is_of_this_host_only()
    mac = sign(Purpose.RECORD, MESSAGE)
    assert refused(mac) == ""
    assert mac.endswith(f"@{host_id()}")
    use("shared")
    assert not is_of_this_host_only()
    assert refused(mac) == "", "what this host has signed before stays valid here"
    assert not sign(Purpose.RECORD, MESSAGE).endswith(f"@{host_id()}")
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "elsewhere"))
    assert f"that of {host_id()}" in refused(mac)


def test_the_template_of_a_key_is_no_key(use):
    """Airflow's SDK returns it where no fernet_key is set. Everybody could sign with it."""
    use("", "{FERNET_KEY}")
    assert is_of_this_host_only()
    assert "{FERNET_KEY}" not in signing_key.secrets()
    assert refused(as_before("{FERNET_KEY}"), purpose=Purpose.REFERENCE)


def test_the_name_of_a_host_is_printed_safely(use):
    use("one")
    text = refused("00000000:" + "0" * 64 + "@\x1b[31mhost\n" + "x" * 5000)
    assert "\x1b" not in text
    assert "\n" not in text
    assert len(text) < 500


def test_a_list_without_a_key_counts_as_no_key(use):
    use(" , ")
    assert is_of_this_host_only()
    assert signing_key.secrets()
