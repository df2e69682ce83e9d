"""The Airflow plugin, which allows Airflow to deserialize results of steps.

Every Airflow process imports this module before it reads an XCom, so the import must stay cheap.
"""

from __future__ import annotations

from airflow.sdk.plugins_manager import AirflowPlugin
from airflow.sdk.serde import allow_class

from airflow_stepop.results import StepResult

# At import and not in on_load: a worker also reads such XComs for tasks that do not use this plugin.
allow_class(StepResult)


class StepopPlugin(AirflowPlugin):
    """Lets every Airflow process read results of steps; adds nothing to the UI."""

    name = "stepop"
