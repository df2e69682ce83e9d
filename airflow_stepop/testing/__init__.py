"""The suite that every backend passes, ours and a third party's. Needs ``pip install pytest``.

A backend's whole test of the contract::

    from airflow_stepop.testing import HookContract

    class TestNomad(HookContract):
        @pytest.fixture
        def make_hook(self, nomad):                  # a new hook at each call
            return lambda: NomadStepHook(conn_id="nomad")

Where a service is unlike the others, a class attribute says so (``has_live_logs = False``); no test is
overridden. Every step really runs: the suite needs the service, or an emulator of it that runs the job's
command, with ``sh``. Assertions explain themselves when a ``conftest.py`` has
``pytest.register_assert_rewrite("airflow_stepop.testing")``.
"""

from __future__ import annotations

from airflow_stepop.payload.standalone import Step, make_step
from airflow_stepop.testing.jobs import JobContract
from airflow_stepop.testing.service import ServiceContract
from airflow_stepop.testing.steps import StepContract

__all__ = ["HookContract", "Step", "make_step"]


class HookContract(JobContract, StepContract, ServiceContract):
    """What every backend promises. A subclass has the fixture ``make_hook`` and, if need be, attributes."""
