"""The files that a step's ``settings=`` name, such as a pod template. ``request.py`` calls this module."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_stepop.hooks.settings import BackendSettings
    from airflow_stepop.lifecycle.options import StepOptions
    from airflow_stepop.payload.code_archive import Project


def settings_of_step(options: StepOptions, backend: str, project: Project) -> BackendSettings:
    """Return the backend's options, with each path of a file resolved against the DAG file's folder.

    A path in the task's own settings stays inside the project, because whoever triggers the DAG may have made
    it through a template. A path in the connection may lead anywhere.

    :raises StepConfigError: a path leads out of the project, or see :meth:`StepOptions.settings`
    """
    settings, own = options.settings(backend), options.own_settings()
    for name, path in settings.named_files().items():
        if name in own:
            project.path_of(path, f"settings: {name}=")
    return settings.beside(project.dag_file.parent)
