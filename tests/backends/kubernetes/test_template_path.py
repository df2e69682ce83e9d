"""A relative ``pod_template`` lies beside the DAG file, wherever the worker was started."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.hooks.kubernetes.settings import KubernetesSettings
from airflow_stepop.hooks.settings import BackendSettings, parse_settings

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
