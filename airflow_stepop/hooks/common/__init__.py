"""Code that several backends share. ``airflow_stepop.hooks.base`` exports it to authors of backends."""
