"""The Airflow plugin: every process of Airflow imports it before it reads an XCom, so it is nearly free."""

from __future__ import annotations

from airflow.sdk.plugins_manager import AirflowPlugin
from airflow.sdk.serde import allow_class

from airflow_stepop.results import StepResult

# At import and not in on_load: the worker reads XComs of tasks that never touch this plugin.
allow_class(StepResult)


class StepopPlugin(AirflowPlugin):
    """Lets every process read the results of steps; adds nothing to the user interface."""

    name = "stepop"
