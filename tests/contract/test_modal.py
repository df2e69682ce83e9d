"""The backend ``modal`` passes the contract, with the private parts of the package ``modal``."""

from __future__ import annotations

from tests.support.modal_contract import ModalContract, emulator

__all__ = ["emulator"]


class TestModal(ModalContract):
    """With few requests."""
