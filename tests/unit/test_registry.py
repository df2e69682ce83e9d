"""Backend names: what is known, what can be used, and what is said about the rest."""

from __future__ import annotations

import subprocess
import sys

import pytest

from airflow_stepop import registry
from airflow_stepop.exceptions import BackendNotFoundError, BackendNotInstalledError
from airflow_stepop.hooks.local import LocalStepHook


def test_builtin_backends_come_first_in_their_order() -> None:
    """The names are those of the documentation."""
    assert registry.backend_names()[:6] == ["local", "kubernetes", "sagemaker", "vertex", "azureml", "modal"]


def test_local_is_there_without_any_extra() -> None:
    """A new hook at each call, with the connection that was named."""
    assert registry.hook_class("local") is LocalStepHook
    hook = registry.create_hook("local", conn_id="here")
    assert isinstance(hook, LocalStepHook)
    assert hook.conn_id == "here"
    assert registry.create_hook("local") is not registry.create_hook("local")


@pytest.mark.parametrize("name", registry._released())
def test_the_settings_of_a_backend_are_those_of_its_hook(name: str) -> None:
    """A DAG file gets the model without the hook."""
    assert registry.settings_model(name) is registry.hook_class(name).settings_model


@pytest.mark.parametrize("name", [name for name in registry.BUILTINS if name not in registry._released()])
def test_a_backend_of_a_later_release_says_so(name: str) -> None:
    """Known, not there yet: that is not the user's mistake, and installing an extra would not help."""
    with pytest.raises(BackendNotFoundError) as caught:
        registry.hook_class(name)
    assert f"backend {name!r} is planned" in str(caught.value)
    assert "has no hook for it yet; this release has: local" in str(caught.value)
    assert "pip install" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "guess"), [("kubernets", "kubernetes"), ("Local", "local"), ("azure_ml", "azureml")]
)
def test_an_unknown_name_gets_the_closest_one(name: str, guess: str) -> None:
    """The message has the guess and all names."""
    with pytest.raises(BackendNotFoundError) as caught:
        registry.hook_class(name)
    assert f"there is no backend {name!r}; did you mean {guess!r}?" in str(caught.value)
    assert "Backends: local, kubernetes, sagemaker, vertex, azureml, modal" in str(caught.value)


def test_a_name_like_no_other_gets_no_guess() -> None:
    """A wrong guess is worse than none."""
    with pytest.raises(BackendNotFoundError, match=r"there is no backend 'xyzzy'\. Backends: local"):
        registry.hook_class("xyzzy")


@pytest.mark.parametrize("sdk", ["no_such_sdk", "no_such.sdk.at_all"])
def test_a_backend_whose_extra_is_missing_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, sdk: str
) -> None:
    """There is a hook for it, and the library that it calls is not installed."""
    there = registry.BUILTINS["local"].path
    monkeypatch.setitem(registry.BUILTINS, "modal", registry.Builtin(there, "modal", sdk))
    with pytest.raises(BackendNotInstalledError) as caught:
        registry.hook_class("modal")
    assert str(caught.value) == (
        f"backend 'modal' needs the module {sdk}, which is not installed: pip install 'airflow-stepop[modal]'"
    )


def test_the_list_says_what_can_be_used() -> None:
    """Every name has a line; those that cannot be used say why."""
    backends = {backend.name: backend for backend in registry.describe_backends()}
    assert backends["local"] == registry.Backend("local", "airflow-stepop", is_available=True)
    assert all(backend.is_available != bool(backend.problem) for backend in backends.values())


def test_importing_the_registry_is_cheap() -> None:
    """A DAG file pays for no hook, no SDK, no Airflow and no look at the installed distributions."""
    script = "import sys, airflow_stepop.registry; print(*sys.modules, sep='\\n')"
    loaded = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    heavy = {"airflow", "pydantic", "boto3", "kubernetes", "modal", "google.cloud", "azure"}
    assert not heavy & set(loaded.stdout.split())
    bare = subprocess.run(
        [sys.executable, "-I", "-c", "import sys; print(*sys.modules, sep='\\n')"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "importlib.metadata" not in set(loaded.stdout.split()) - set(bare.stdout.split())


def test_settings_alone_make_no_backend() -> None:
    """A backend is released when its hook is there, whatever else its folder has."""
    assert not registry.Builtin("airflow_stepop.hooks.sagemaker.no_hook:SomeStepHook").is_released
    assert not registry.Builtin("airflow_stepop.hooks.no_backend.hook:SomeStepHook").is_released
    assert registry.Builtin("airflow_stepop.hooks.local.hook:LocalStepHook").is_released
