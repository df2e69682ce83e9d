"""A relative ``pod_template`` lies beside the DAG file, wherever the worker was started."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.hooks.kubernetes.settings import KubernetesSettings
from airflow_stepop.hooks.settings import BackendSettings, parse_settings
from airflow_stepop.lifecycle.options import NoTask, StepOptions, defaults_for
from airflow_stepop.lifecycle.setting_files import settings_of_step
from airflow_stepop.payload.code_archive import Project
from tests.support.connections import connection_with

POD = "spec:\n  hostNetwork: true\n"


@pytest.fixture
def dags(tmp_path, monkeypatch):
    folder, elsewhere = tmp_path / "dags", tmp_path / "elsewhere"
    (folder / "pods").mkdir(parents=True)
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (folder / "pod.yaml").write_text(POD)
    (folder / "pods" / "gpu.yaml").write_text(POD)
    return folder


def settings(template):
    return parse_settings(KubernetesSettings, {"pod_template": template}, "kubernetes")


@pytest.mark.parametrize("template", ["pod.yaml", "pods/gpu.yaml", Path("pod.yaml"), "../dags/pod.yaml"])
def test_a_relative_path_is_beside_the_dag(dags, template):
    assert settings(template).beside(dags).template()["spec"] == {"hostNetwork": True}


def test_everything_else_is_as_it_was(dags):
    absolute = str(dags / "pod.yaml")
    for template in (absolute, POD, {"hostNetwork": True}, '{"hostNetwork": true}', None):
        before = settings(template)
        assert before.beside(dags / "nowhere").template() == before.template()
    assert BackendSettings().beside(dags) == BackendSettings()


def test_a_path_that_is_missing_is_named(dags):
    with pytest.raises(StepConfigError) as error:
        settings("no.yaml").beside(dags).template()
    assert f"No such file or directory: '{dags}{os.sep}no.yaml'" in str(error.value)
    assert "A path is relative to the DAG file's folder" in str(error.value)


def of_step(dags, template, **connection):
    """Return the settings of a step, as its worker reads them: the project is the folder of the DAG file."""
    options = StepOptions(
        NoTask(settings=template and {"pod_template": template}),
        defaults_for(connection_with(connection), "kubernetes"),
    )
    return settings_of_step(options, "kubernetes", Project.of(dags / "train.py", dags))


@pytest.mark.parametrize("template", ["pod.yaml", "pods/gpu.yaml", "../dags/pod.yaml", POD])
def test_a_template_of_the_task_may_lie_in_its_project(dags, template):
    assert of_step(dags, template).template()["spec"] == {"hostNetwork": True}
    assert of_step(dags, str(dags / "pod.yaml")).template()["spec"] == {"hostNetwork": True}


@pytest.mark.parametrize(
    "outside", ["/etc/passwd", "../pod.yaml", "pods/../../pod.yaml", "../dags-2/pod.yaml"]
)
def test_a_template_of_the_task_outside_its_project_is_refused(dags, outside):
    """Whoever triggers the DAG may have made the path: ``{{ dag_run.conf['template'] }}``. It is not read."""
    for place in (dags.parent, dags.parent / "dags-2"):
        place.mkdir(exist_ok=True)
        (place / "pod.yaml").write_text("token: hunter2\n")
    with pytest.raises(StepConfigError) as error:
        of_step(dags, outside)
    assert f"settings: pod_template={outside!r} is outside the DAG's project ({dags})" in str(error.value)
    assert "hunter2" not in str(error.value)


def test_a_template_of_the_connection_may_lie_anywhere(dags):
    """Who writes the connection is an administrator, and no template is rendered there."""
    outside = dags.parent / "elsewhere" / "pod.yaml"
    outside.write_text(POD)
    found = of_step(dags, None, settings={"pod_template": str(outside)})
    assert found.template()["spec"] == {"hostNetwork": True}
    with pytest.raises(StepConfigError, match="is outside the DAG's project"):
        of_step(dags, str(outside), settings={"pod_template": str(outside)})
