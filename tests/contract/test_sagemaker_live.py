"""The backend ``sagemaker`` passes the contract on a real account. It runs only when it is asked to.

CONTRIBUTING.md says what the account needs. The jobs cost money: about sixty jobs of a few minutes each on
``ml.m5.large``.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest

from airflow_stepop.hooks.sagemaker.hook import SageMakerStepHook
from airflow_stepop.stores.base import Store
from airflow_stepop.stores.configured import open_store
from tests.contract import test_sagemaker as emulated

NAMES = ("STEPOP_LIVE_ROLE", "STEPOP_LIVE_IMAGE", "STEPOP_LIVE_STORE", "AWS_REGION")
MISSING = [name for name in NAMES if not os.environ.get(name)]
if MISSING:
    # Nobody's machine has an account by itself, CI neither, so this is a plain skip
    pytest.skip(f"live: set {', '.join(MISSING)} (see CONTRIBUTING.md)", allow_module_level=True)

ROLE, IMAGE, STORE, REGION = (os.environ[name] for name in NAMES)


class TestLiveSageMaker(emulated.TestSageMaker):
    """The real service. The credentials are those that boto3 finds."""

    patience_s = 3600.0  # a job of a busy region begins late
    poll_s = 5.0  # the service allows few requests a second
    spec_options: ClassVar = {"image": IMAGE, "settings": {"role": ROLE}}

    @pytest.fixture
    def make_hook(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[], SageMakerStepHook]:  # type: ignore[override]
        stepop = {"settings": {"role": ROLE}}
        extra = {"region_name": REGION, "stepop": stepop}
        monkeypatch.setenv(emulated.CONNECTION, json.dumps({"conn_type": "aws", "extra": extra}))
        return SageMakerStepHook

    @pytest.fixture
    def store(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:  # type: ignore[override]
        address = f"{STORE.replace('s3://', 's3://aws_default@', 1).rstrip('/')}/live/{uuid.uuid4().hex}"
        monkeypatch.setenv("AIRFLOW__STEPOP__STORE", address)
        store = open_store(address)
        yield store
        store.delete_folder("")

    @pytest.fixture
    def full_quota(self) -> Any:
        """No test uses up the quota of an account."""
        return None
