"""Whether Airflow's processes load pickles: ``[stepop] allow_pickle``.

``results.py`` asks before it loads a value, and ``payload/outcome.py`` before a task gets its result. Only
Airflow's configuration has the option: no argument of a task, and no connection.
"""

from __future__ import annotations

from airflow_stepop.exceptions import StepConfigError

IS_FALSE = "[stepop] allow_pickle is false"
OTHER_RESULTS = "JSON, bytes, NumPy or Arrow data"


def are_pickles_allowed() -> bool:
    """Return ``[stepop] allow_pickle``, by default true.

    :raises StepConfigError: the configured value is neither true nor false. Then no pickle is loaded
    """
    from airflow.sdk.configuration import conf

    try:
        return bool(conf.getboolean("stepop", "allow_pickle", fallback=True))
    except Exception as error:  # AirflowConfigException; every other error means the same
        text = conf.get("stepop", "allow_pickle", fallback="")
        raise StepConfigError(f"[stepop] allow_pickle must be true or false, and this is {text!r}") from error
