"""Everything that an emulator knows: accounts, buckets and faults."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tests.emulators.gcs.accounts import Account, Accounts
from tests.emulators.gcs.buckets import Buckets
from tests.emulators.gcs.faults import Faults


class World:
    """One emulator's state. Tests change it directly.

    :ivar metadata: the account of the machine, which its metadata server gives tokens for; ``None``: the
        emulator is no metadata server
    :ivar refuses_to_sign: nobody has the permission ``iam.serviceAccounts.signBlob``
    :ivar skew: by how much the clock of the service is ahead
    """

    def __init__(self) -> None:
        self.address = ""
        self.accounts = Accounts()
        self.buckets = Buckets()
        self.faults = Faults()
        self.metadata: Account | None = None
        self.refuses_to_sign = False
        self.skew = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.skew
