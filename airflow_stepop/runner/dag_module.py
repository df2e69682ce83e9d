"""The DAG file's module inside the step. Called by the unpickler, and by :mod:`.function`.

The DAG file itself is not sent: it needs Airflow. :mod:`.by_value` pickles those of its functions, classes
and other globals that the step's function needs. They come into a module with the name that the DAG file has
in Airflow, so that ``pickle``, ``multiprocessing``, ``dataclasses`` and ``typing`` find it in
``sys.modules``.

**Child processes.** A forked process has the module. A process that starts anew (``spawn``, ``forkserver``,
loky) imports it: :func:`share` writes a file of the module's name that loads the same, already checked
pickles.

**Known limit.** A module of the image that has the same name wins, unless only Airflow gives such a name.
"""

from __future__ import annotations

import os
import sys
from types import FunctionType, ModuleType

from .failures import PREFIX
from .files import quietly
from .protocol import ENV_WORK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_MAIN = "stepop_main_of_dag_file"  # a started child that needs our __main__ imports it under this name

modules: dict[str, dict[str, Any]] = {}  # module name -> the globals of its functions
_folder: list[str] = []  # the folder of the stub files, once there is one

_STUB = """\
import sys
if {zipapp!r} not in sys.path:
    sys.path.append({zipapp!r})
from {package}.dag_module import load
from {package}.pickling import argument_loads
load({name!r}, globals(), {folder!r}, argument_loads)
"""


class DagModule(ModuleType):
    """A module that holds a part of a DAG file."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"The step has only what its function uses of the DAG file, and not {name!r}. "
            f"Use {name!r} in the function"
        )

    def __repr__(self) -> str:
        return f"<what the step has of the DAG file {os.path.basename(getattr(self, '__file__', ''))}>"


def module_globals(name: str, base: dict[str, Any]) -> dict[str, Any]:
    """Return the globals of a DAG file's module.

    :param base: the first names of the module, which the first call makes
    """
    if name not in modules:
        module = DagModule(name)
        modules[name] = module.__dict__
        module.__dict__.update(base)
        if not _is_in_image(name):
            if name == "__main__":
                module.__spec__ = type(sys.__spec__)(_MAIN, None)
            _register(name, module)
    return modules[name]


def _is_in_image(name: str) -> bool:
    if name == "__main__" or name.startswith(PREFIX):
        return False
    if name in sys.modules:
        return True
    from importlib.util import find_spec

    try:
        return find_spec(name) is not None
    except (ImportError, AttributeError, ValueError):  # its package is missing, or is no package
        return False


def _register(name: str, module: Any) -> None:
    sys.modules[name] = module
    cloudpickle = sys.modules.get("cloudpickle.cloudpickle")
    if cloudpickle is not None:  # else the zipapp's cloudpickle asks for our names when it is imported
        cloudpickle._PICKLE_BY_VALUE_MODULES.add(name)


# -- called by the unpickler ---------------------------------------------------------------------------------


def attribute(module: str, qualname: str) -> Any:
    """Return a function or class of the DAG file that came with the step's function."""
    first, *inner = qualname.split(".")
    found = module_globals(module, {})[first]
    for name in inner:
        found = getattr(found, name)
    return found


def with_names(namespace: dict[str, Any], names: dict[str, Any], value: Any) -> Any:
    """Return ``value`` after the module got further names."""
    namespace.update(names)
    return value


def make_class(metaclass: Any, name: str, bases: Any, members: Any, tracker: str, extra: Any) -> Any:
    """Return a class without its members, as cloudpickle does, but run no code of the DAG file for it.

    ``__init_subclass__`` and the metaclasses of the DAG file ran when Airflow read the file. What they did to
    its classes and globals comes along. A second run would register the class twice, or miss the keywords of
    the ``class`` statement.
    """
    from types import resolve_bases

    from cloudpickle import cloudpickle

    own = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS
    resolved: Any = resolve_bases(bases)  # Generic[T] is no class
    hooks = {
        kind: vars(kind)["__init_subclass__"]
        for base in resolved
        for kind in base.__mro__
        if kind in own and "__init_subclass__" in vars(kind)
    }
    for kind in hooks:
        type.__delattr__(kind, "__init_subclass__")
    try:
        if metaclass not in own:
            return cloudpickle._make_skeleton_class(metaclass, name, bases, members, tracker, extra)
        of_library = next(kind for kind in metaclass.__mro__ if kind not in own)
        more = {} if resolved is bases else {"__orig_bases__": bases}
        made = of_library.__new__(metaclass, name, resolved, {**members, **more})
        return cloudpickle._lookup_class_or_track(tracker, made)
    finally:
        for kind, hook in hooks.items():
            type.__setattr__(kind, "__init_subclass__", hook)


def set_class(kind: Any, state: Any) -> Any:
    """Fill a class, as cloudpickle does, and put the class and what it needs into the module."""
    from cloudpickle.cloudpickle import _class_setstate

    own, namespace, names = state
    namespace.update(names)
    _class_setstate(kind, own)
    if "values" in own[1]:
        from .enums import fill_enum

        fill_enum(kind, own[1]["own"], own[1]["values"])
    return kind


def set_names(made: Any, state: Any) -> Any:
    """Put an object, and what it needs, into the module."""
    namespace, names = state
    namespace.update(names)
    return made


def import_names(namespace: dict[str, Any], names: dict[str, tuple[str, str]]) -> None:
    """Import what annotations name, as far as this Python has it."""
    for name, (module, qualname) in names.items():
        try:
            __import__(module)
            found = sys.modules[module]
            found = inside(found, qualname) if qualname else found
        except Exception:  # noqa: S112 - an image without the package runs the step as well
            continue
        if found is not None:
            namespace.setdefault(name, found)


def make_cached(function: Any, parameters: dict[str, Any]) -> Any:
    """Return the function with a cache of its own, as ``functools.lru_cache`` makes it."""
    from functools import lru_cache

    return lru_cache(**parameters)(function)


def receive(module: str, qualname: str, by_value: bytes) -> Any:
    """Return an object of an earlier step's DAG file. If this step does not have it, its module gets it."""
    import pickle

    found = find(module, qualname, by_value, pickle.loads)
    first = qualname.partition(".")[0]
    if first not in modules.get(module, {}) and getattr(found, "__qualname__", "") == first:
        module_globals(module, {})[first] = found
        if _folder:
            _write(pickle.dumps(_Received(module, qualname, by_value)), module)
    return found


def find(module: str, qualname: str, by_value: bytes, loads: Callable[[bytes], Any]) -> Any:
    """Return the class or function of that name.

    The order: an object that is imported here; a class that came with the function; the copy ``by_value``.

    :param by_value: a pickle of the object, or of the class in which it is defined
    """
    found = inside(sys.modules.get(module), qualname)
    if is_code(found):
        return found
    found = _received_class(module, qualname) or loads(by_value)
    is_outer = getattr(found, "__qualname__", qualname) != qualname
    return inside(found, qualname.partition(".")[2]) if is_outer else found


def is_code(found: object) -> bool:
    """Return whether ``found`` is a class or a plain function."""
    return isinstance(found, (type, FunctionType))


def inside(found: Any, qualname: str) -> Any:
    """Return what a module or class has under a name; ``None`` when there is nothing."""
    for name in qualname.split("."):
        found = getattr(found, name, None)
    return found


def _received_class(module: str, qualname: str) -> Any:
    # This step's function may have brought the class along, too. cloudpickle does not see that both are one
    # class: another process pickled the earlier step's function, so the class has another tracker id
    cloudpickle = sys.modules.get("cloudpickle.cloudpickle")
    for kind in list(getattr(cloudpickle, "_DYNAMIC_CLASS_TRACKER_BY_CLASS", ())):
        if (kind.__module__, getattr(kind, "__qualname__", "")) == (module, qualname):  # a TypeVar has none
            return kind
    return None


class _Received:
    """Is pickled as a call of :func:`receive`."""

    def __init__(self, *args: object) -> None:
        self._args = args

    def __reduce__(self) -> Any:
        return receive, self._args


# -- for child processes that do not fork --------------------------------------------------------------------


def share(folder: str, data: Any) -> None:
    """Let child processes import the modules.

    :param folder: a folder that does not exist yet; the parent removes it
    :param data: the pickle from which the modules come
    """
    names = [name for name, namespace in modules.items() if vars(sys.modules.get(name, sys)) is namespace]
    if names:
        quietly(os.mkdir, folder, 0o700)
        sys.path.insert(1, folder)
        _folder.append(folder)
        _write(data, *names)


def _write(data: Any, *names: str) -> None:
    (folder,) = _folder
    zipapp = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    try:
        with open(os.path.join(folder, f"{len(os.listdir(folder)):04}.pickle"), "xb") as stream:
            stream.write(data)
        for name in names:
            text = _STUB.format(zipapp=zipapp, package=__package__, name=name, folder=folder)
            with open(_stub_path(folder, name), "w", encoding="utf-8") as stub:
                stub.write(text)
    except OSError as error:  # the step itself does not need them
        sys.stderr.write(f"stepop: child processes cannot use the DAG file's functions: {error}\n")


def _stub_path(folder: str, name: str) -> str:
    package, _, leaf = name.rpartition(".")
    places = getattr(sys.modules.get(package), "__path__", ())
    for place in places:
        if place.startswith(os.environ[ENV_WORK] + os.sep):
            return os.path.join(place, leaf + ".py")  # the package was shipped, so its folder is the place
    path = os.path.join(folder, *package.split("."))
    os.makedirs(path, exist_ok=True)
    return os.path.join(path, (_MAIN if name == "__main__" else leaf) + ".py")


def load(name: str, namespace: dict[str, Any], folder: str, loads_of: Callable[..., Any]) -> None:
    """Fill a module from the pickles of :func:`share`. Called by the stub files, in a child process.

    :param loads_of: :func:`.pickling.argument_loads`
    """
    modules[name] = namespace
    module = sys.modules.get(name)
    if module is not None and vars(module) is namespace:
        module.__class__ = DagModule
        _register(name, module)
    _folder[:] = []
    for file in sorted(os.listdir(folder)):
        if file.endswith(".pickle"):
            with open(os.path.join(folder, file), "rb") as stream:
                loads_of(_no_result)(stream.read(), [])


def _no_result(_index: int) -> Any:
    raise RuntimeError("a result of an earlier step is not available in a child process that does not fork")
