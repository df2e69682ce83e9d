"""The table of backends: name, hook class and requirements. Called by the operator, the trigger and the CLI.

A third party adds a backend with an entry point in its own distribution::

    [project.entry-points."airflow_stepop.backends"]
    nomad = "airflow_stepop_nomad:NomadStepHook"

The class must inherit from :class:`airflow_stepop.hooks.base.StepHook` and should pass
:class:`airflow_stepop.testing.HookContract`. Importing this module loads no hook and no SDK. A lookup scans
the installed distributions only if the name is not built in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_stepop.exceptions import BackendNotFoundError, BackendNotInstalledError, StepConfigError
from airflow_stepop.runner.secret_references import AWS

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from airflow.sdk import Connection

    from airflow_stepop.hooks.base import StepHook
    from airflow_stepop.hooks.settings import BackendSettings
    from airflow_stepop.resources import ResourceSettings

ENTRY_POINT_GROUP = "airflow_stepop.backends"


@dataclass(frozen=True)
class Builtin:
    """A backend of this distribution.

    :param path: ``module:class`` of the hook
    :param extra: the extra that installs the backend's requirements; empty if there are none
    :param sdk: a module of that extra. A hook imports its SDK late, so this module checks whether it is
        is installed
    :param has_console: whether jobs have pages in a console of the service, so that tasks have links
    :param secret_services: the hook's own; here a DAG file can be checked without an import of the hook
    """

    path: str
    extra: str = ""
    sdk: str = ""
    has_console: bool = True
    secret_services: frozenset[str] = frozenset()

    @property
    def is_released(self) -> bool:
        """Whether this release contains the hook. A planned backend has no module for its hook yet.

        The package of the backend is not imported for the answer.
        """
        module = self.path.partition(":")[0]
        folder = Path(__file__).parent.joinpath(*module.split(".")[1:-1])
        return PathFinder.find_spec(module, [str(folder)]) is not None


BUILTINS = {
    "local": Builtin(
        "airflow_stepop.hooks.local.hook:LocalStepHook", has_console=False, secret_services=frozenset({AWS})
    ),
    "kubernetes": Builtin(
        "airflow_stepop.hooks.kubernetes.hook:KubernetesStepHook",
        "kubernetes",
        "airflow.providers.cncf.kubernetes",
        secret_services=frozenset({AWS}),
    ),
    "sagemaker": Builtin(
        "airflow_stepop.hooks.sagemaker.hook:SageMakerStepHook",
        "sagemaker",
        "boto3",
        secret_services=frozenset({AWS}),
    ),
    "vertex": Builtin(
        "airflow_stepop.hooks.vertex.hook:VertexStepHook", "vertex", "google.cloud.aiplatform_v1"
    ),
    "azureml": Builtin("airflow_stepop.hooks.azureml.hook:AzureMLStepHook", "azureml", "azure.ai.ml"),
    "modal": Builtin("airflow_stepop.hooks.modal.hook:ModalStepHook", "modal", "modal"),
}


@dataclass(frozen=True)
class Backend:
    """One line of ``airflow stepop list``.

    :param source: the distribution that contains the backend
    :param is_available: whether the hook can be used in this environment
    :param problem: why the hook cannot be used, and what to do
    """

    name: str
    source: str
    is_available: bool
    problem: str = ""


def backend_names() -> list[str]:
    """Return every name that :func:`hook_class` knows: built-in backends first, then third parties'."""
    return [*BUILTINS, *sorted(set(_entry_points()) - set(BUILTINS))]


def hook_class(name: str) -> type[StepHook]:
    """Return the hook class of a backend.

    :raises BackendNotFoundError: no backend has this name, or this release does not contain it yet
    :raises BackendNotInstalledError: a required module is missing; the message says what to install
    :raises StepConfigError: the backend of a third party is broken
    """
    if name in BUILTINS:
        return _builtin_class(name, BUILTINS[name])
    found = _entry_points().get(name, [])
    if not found:
        raise BackendNotFoundError(_unknown(name))
    return _third_party_class(name, found)


def settings_model(name: str) -> type[BackendSettings]:
    """Return the class of a backend's settings; for a built-in backend without its hook.

    :raises StepConfigError: as :func:`hook_class`
    """
    if name not in BUILTINS:
        return hook_class(name).settings_model
    check_backend(name)
    module, _, hook = BUILTINS[name].path.partition(":")
    package = import_module(module.rpartition(".")[0])
    found: type[BackendSettings] = getattr(package, hook.replace("StepHook", "Settings"))
    return found


def has_console(name: str) -> bool:
    """Return whether jobs of the backend may have pages in a console; ``True`` if that is unknown."""
    if name in BUILTINS:
        return BUILTINS[name].has_console
    from airflow_stepop.hooks.base import StepHook

    try:
        return hook_class(name).link is not StepHook.link
    except StepConfigError:  # the error is raised where the backend is used
        return True


def secret_services(name: str) -> frozenset[str]:
    """Return the services from which the jobs of a backend can read secrets; of a built-in one without its
    hook.

    :raises StepConfigError: as :func:`hook_class`
    """
    return BUILTINS[name].secret_services if name in BUILTINS else hook_class(name).secret_services


def create_hook(name: str, conn_id: str | None = None, connection: Connection | None = None) -> StepHook:
    """Return a new hook of the backend; see :class:`StepHook` for the parameters.

    This process may then use the store that the hook's connection names.
    """
    from airflow_stepop.stores.configured import use_connection

    found = hook_class(name)
    if used := conn_id or found.default_conn_id:
        use_connection(used)
    return found(conn_id=conn_id, connection=connection)


def describe_backends() -> Iterator[Backend]:
    """Yield every backend and whether it can be used. A broken backend does not hide the others."""
    third_party = _entry_points()
    for name in BUILTINS:
        yield _describe(name, "airflow-stepop")
    for name, found in sorted(third_party.items()):
        source = ", ".join(_distribution(entry_point) for entry_point in found)
        if name in BUILTINS:
            problem = f"the name {name!r} is taken by airflow-stepop; {source} must choose another one"
            yield Backend(name, source, is_available=False, problem=problem)
        else:
            yield _describe(name, source)


def _describe(name: str, source: str) -> Backend:
    try:
        hook_class(name)
    except StepConfigError as error:
        return Backend(name, source, is_available=False, problem=str(error))
    return Backend(name, source, is_available=True)


def _builtin_class(name: str, builtin: Builtin) -> type[StepHook]:
    check_backend(name)
    module, _, attribute = builtin.path.partition(":")
    found: type[StepHook] = getattr(import_module(module), attribute)
    return found


def check_backend(name: str) -> None:
    """Check that the backend can be used, without an import of its hook if it is built in.

    :raises StepConfigError: as :func:`hook_class`
    """
    from airflow_stepop import __version__

    if name not in BUILTINS:
        hook_class(name)
        return
    builtin = BUILTINS[name]
    if not builtin.is_released:
        raise BackendNotFoundError(
            f"backend {name!r} is planned, but airflow-stepop {__version__} has no hook for it yet; "
            f"this release has: {', '.join(_released())}"
        )
    if builtin.sdk and not _is_installed(builtin.sdk):
        raise BackendNotInstalledError(
            f"backend {name!r} needs the module {builtin.sdk}, which is not installed: "
            f"pip install 'airflow-stepop[{builtin.extra}]'"
        )


def check_literals(name: str, image: str | None, resources: ResourceSettings | None) -> None:
    """Check an image and resources that are literal in a DAG file; for a built-in backend without its hook.

    :raises StepConfigError: no job of the backend could have this
    """
    if name in BUILTINS:
        module = BUILTINS[name].path.partition(":")[0].rpartition(".")[0]
        import_module(f"{module}.literals").check_literals(image, resources)
        return
    from pydantic import ValidationError

    with suppress(ValidationError):  # of settings that the connection has to give
        hook_class(name).settings_model().check_with(image, resources)


def _third_party_class(name: str, found: list[EntryPoint]) -> type[StepHook]:
    from airflow_stepop.hooks.base import StepHook

    source = " and ".join(_distribution(entry_point) for entry_point in found)
    if len(found) > 1:
        raise StepConfigError(f"backend {name!r} is registered by {source}; uninstall all but one")
    try:
        hook = found[0].load()
    except Exception as error:  # third-party code may raise anything; it must not hide the other backends
        own = found[0].module.partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] != own:
            raise BackendNotInstalledError(
                f"backend {name!r} of {source} needs the module {error.name}, which is not installed; "
                f"install the extra of {source} that brings it"
            ) from error
        raise StepConfigError(f"backend {name!r} of {source} cannot be loaded: {error!r}") from error
    if not (isinstance(hook, type) and issubclass(hook, StepHook)):
        raise StepConfigError(f"backend {name!r} of {source} is not a StepHook: {found[0].value}")
    return hook


def _entry_points() -> dict[str, list[EntryPoint]]:
    from importlib.metadata import entry_points

    found: dict[str, list[EntryPoint]] = {}
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        if entry_point not in found.setdefault(entry_point.name, []):
            found[entry_point.name].append(entry_point)
    return found


def _distribution(entry_point: EntryPoint) -> str:
    return entry_point.dist.name if entry_point.dist else entry_point.value


def _released() -> list[str]:
    return [name for name, builtin in BUILTINS.items() if builtin.is_released]


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False


def _unknown(name: str) -> str:
    names = backend_names()
    close = get_close_matches(name, names, n=1)
    guess = f"; did you mean {close[0]!r}?" if close else "."
    return f"there is no backend {name!r}{guess} Backends: {', '.join(names)}"
