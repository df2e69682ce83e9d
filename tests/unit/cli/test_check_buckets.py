"""``airflow stepop check`` of a store in a bucket says for how long its addresses can be signed."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.support.gcs import gcs_emulator


@pytest.mark.parametrize(
    ("may_sign", "words"),
    [
        (True, "signed addresses are valid for up to 12:00:00"),
        (False, "no addresses can be signed, .*TokenCreator"),
    ],
)
def test_without_a_key_the_service_signs(
    stepop: Any, monkeypatch: pytest.MonkeyPatch, may_sign: bool, words: str
) -> None:
    with gcs_emulator() as gcs:
        target = gcs.world.accounts.add("target")
        target.token_creators.add(gcs.account.email)
        if not may_sign:
            gcs.world.refuses_to_sign = True
        name = f"AIRFLOW_CONN_{gcs.conn_id.upper()}"
        monkeypatch.setenv(name, gcs.connection({"impersonation_chain": target.email}))
        monkeypatch.setenv("AIRFLOW__STEPOP__STORE", gcs.new_address())
        output = stepop("check", "-o", "json")
        found = {row["what"]: row for row in output.data}
        assert found["store"]["ok"]
        assert found["addresses"]["ok"], "a backend whose jobs reach the bucket needs no addresses"
        assert re.search(words, found["addresses"]["found"])
