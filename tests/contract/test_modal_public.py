"""The backend ``modal`` passes the contract without any private part of the package ``modal``."""

from __future__ import annotations

import pytest

from airflow_stepop.hooks.modal import private
from tests.support.modal_contract import ModalContract, emulator

__all__ = ["emulator"]

GONE = "modal.sandbox:gone"


@pytest.fixture(autouse=True)
def closed_doors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of a version that has none of the private parts."""
    for door, names in private.DOORS.items():
        monkeypatch.setitem(private.DOORS, door, (*names, GONE))
    assert not any(map(private.is_open, private.DOORS))


class TestModalByThePublicInterface(ModalContract):
    """The same promises, with more requests."""
