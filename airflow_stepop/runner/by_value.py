"""Pickles functions and classes by value: in the worker the step's code, in the step its results.

:class:`ByValue` corrects cloudpickle's pickler and is mixed into it; cloudpickle itself is not imported here.
"""

from __future__ import annotations

import copyreg
import dataclasses
import functools
import io
import sys
import weakref
from enum import EnumMeta
from types import CodeType, FunctionType

from . import code_names, dag_module
from .enums import reduce_enum
from .pickling import dag_class, reduce_code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_Cached = type(functools.lru_cache(repr))
_PLAIN = (str, bytes, int, float, complex, type(None))


class _Globals(dict):  # type: ignore[type-arg]
    """The first names of a DAG file's module. Pickled as a call that returns the module's globals."""


class ByValue:
    """Mixed into ``cloudpickle.Pickler``: the base class of both picklers of this project.

    Without :meth:`use_module`, functions get globals of their own, as with cloudpickle.
    """

    _module = ""
    _namespace: dict[str, Any] | None = None
    _names: dict[str, Any] | None = None
    _globals: Any = None
    _ids: dict[int, str] | None = None

    def use_module(self, name: str, namespace: dict[str, Any], names: dict[str, Any] | None) -> object:
        """Pickle functions of a DAG file so that they share the globals of its module in the step.

        :param namespace: the module's globals here
        :param names: collects the globals that the value needs, instead of pickling them; another pickle
            must bring them
        :return: what is pickled as the module's globals
        """
        self._module, self._namespace, self._names = name, namespace, names
        self._globals = _Globals()
        self._globals.update((key, namespace[key]) for key in ("__name__", "__file__") if key in namespace)
        self.globals_ref[id(namespace)] = self._globals  # type: ignore[attr-defined]
        return self._globals

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, CodeType):
            return reduce_code(self, obj)
        if isinstance(obj, _Globals):
            return dag_module.module_globals, (self._module, dict(obj))
        first = self._global_name(obj) if isinstance(obj, (type, FunctionType, _Cached)) else ""
        if first and self._names is not None:
            self._names[first] = self._namespace[first]  # type: ignore[index]
            return dag_module.attribute, (self._module, obj.__qualname__)
        known = _REDUCERS.get(type(obj))
        if known is not None:
            return known(self, obj, first)
        own = self._own_reduce(obj) if self._namespace is not None else None
        if own is not None:
            return own
        reduced = super().reducer_override(obj)  # type: ignore[misc]
        is_class = isinstance(obj, type) and isinstance(reduced, tuple) and len(reduced) == 6
        return self._class_reduce(obj, first, reduced) if is_class else reduced

    def _global_name(self, obj: Any) -> str:
        """Return under which name the module has ``obj``, or the class that ``obj`` is defined in."""
        if self._namespace is None or getattr(obj, "__module__", None) != self._module:
            return ""
        first, _, inner = obj.__qualname__.partition(".")
        found = self._namespace.get(first)
        found = dag_module.inside(found, inner) if inner else found
        return first if found is obj else ""

    def _own_reduce(self, obj: Any) -> Any:
        """Reduce an object that is a global of the DAG file and that code may compare with ``is``."""
        kind: Any = type(obj)
        namespace = self._namespace or {}
        if kind is not object and kind.__module__ != self._module:
            return None
        if self._ids is None:
            self._ids = {id(value): name for name, value in namespace.items()}
        name = self._ids.get(id(obj))
        if name is not None and self._names is not None:
            self._names[name] = obj
            return dag_module.attribute, (self._module, name)
        if name is not None and kind.__reduce__ is not object.__reduce__ and obj.__reduce__() == name:
            return copyreg.__newobj__, (kind,), vars(obj) or None  # type: ignore[attr-defined]
        return None

    # -- classes

    def _class_reduce(self, cls: type, first: str, reduced: Any) -> Any:
        make, args, (attributes, slots) = reduced[:3]
        if isinstance(cls, EnumMeta):
            make, args, (attributes, slots) = reduce_enum(cls, reduced)
        attributes["__qualname__"] = cls.__qualname__  # cloudpickle leaves it out
        names: dict[str, Any] = {}
        if self._namespace is not None:
            texts = code_names.words(vars(cls).get("__annotations__", {}).values())
            names, imports = self._named_in_texts(texts, self._namespace, self._module)
            names.update({first: cls} if first == cls.__qualname__ else {})
            slots["imports"] = _Imports(self._globals, imports)
        elif not slots:
            return make, args, (attributes, slots), *reduced[3:]
        if make.__name__ == "_make_skeleton_class":
            make = dag_module.make_class
        here = {} if self._globals is None else self._globals
        return make, args, ((attributes, slots), here, names), None, None, dag_module.set_class

    # -- functions

    def _dynamic_function_reduce(self, func: FunctionType) -> Any:
        make, args, (state, slots), *rest = super()._dynamic_function_reduce(func)  # type: ignore[misc]
        code, found, here = func.__code__, slots["__globals__"], func.__globals__
        found.update((name, here[name]) for name in code_names.class_body_names(code) if name in here)
        texts = code_names.words_of_code(code) | code_names.words(func.__annotations__.values())
        names, imports = self._named_in_texts(texts - set(found), here, str(here.get("__name__")))
        found.update(names)
        closure = [cell.cell_contents for cell in func.__closure__ or () if _is_full(cell)]
        modules: list[Any] = code_names.submodules(code, [*found.values(), *closure])
        slots["_cloudpickle_submodules"] = [*modules, _Imports(args[1], imports)] if imports else modules
        if here is self._namespace:
            if self._names is not None:
                self._names.update(found)
                slots["__globals__"] = {}
            elif self._global_name(func) == func.__qualname__:
                found[func.__qualname__] = func
        return (make, args, (state, slots), *rest)

    def _named_in_texts(
        self, texts: set[str], here: dict[str, Any], module: str
    ) -> tuple[dict[str, Any], dict[str, tuple[str, str]]]:
        """Return the globals that texts name: what to pickle, and what the step imports if it can.

        The text need not be meant as code. So nothing here may fail that would not fail without.
        """
        names: dict[str, Any] = {}
        imports: dict[str, tuple[str, str]] = {}
        for name in sorted(texts.intersection(here)):
            value = here[name]
            try:
                where = code_names.reference(value)
            except Exception:  # noqa: S112 - any object may be a global
                continue
            if type(value) in _PLAIN:
                names[name] = value
            elif where is None or where[0] == module:
                is_own = where is not None or _is_alias(value, module)
                names.update({name: value} if is_own and self._can_pickle(value) else {})
            elif where[0].partition(".")[0] not in ("airflow", "airflow_stepop"):
                imports[name] = where
        return names, imports

    _tried: dict[int, bool] | None = None

    def _can_pickle(self, value: Any) -> bool:
        self._tried = {} if self._tried is None else self._tried
        if id(value) not in self._tried:
            self._tried[id(value)] = True  # what it refers to may refer to it
            pickler: Any = type(self)(io.BytesIO(), protocol=5)  # type: ignore[call-arg]
            pickler._tried = self._tried
            if self._namespace is not None:
                pickler.use_module(self._module, self._namespace, None)
            try:
                pickler.dump(value)
            except Exception:  # pickling runs foreign code
                self._tried[id(value)] = False
        return self._tried[id(value)]

    # -- functools

    def _cached_reduce(self, obj: Any, first: str) -> Any:
        module = str(obj.__module__)
        is_registered = module in ("__main__", self._module)
        qualname = getattr(obj, "__qualname__", "")  # the wrapper of a partial has none
        if not is_registered and dag_module.inside(sys.modules.get(module), qualname) is obj:
            return NotImplemented
        made = dag_module.make_cached, (obj.__wrapped__, obj.cache_parameters())
        return (*made, (self._globals, {first: obj}), None, None, dag_module.set_names) if first else made

    def _cached_property_reduce(self, obj: Any, _first: str) -> Any:
        kept = {key: value for key, value in vars(obj).items() if key != "lock"}
        return functools.cached_property, (obj.func,), kept

    def _weak_reduce(self, obj: Any, _first: str) -> Any:
        return type(obj), (dict(obj),)


_REDUCERS: dict[type, Any] = {
    _Cached: ByValue._cached_reduce,
    functools.cached_property: ByValue._cached_property_reduce,
    weakref.WeakKeyDictionary: ByValue._weak_reduce,  # functools.singledispatch has one
    type(dataclasses.MISSING): lambda *_: "MISSING",  # by name: there is one, and it is compared with "is"
}


def _is_full(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _is_alias(value: Any, module: str) -> bool:
    """Return whether an annotation is made of types that every step has, or of those of the DAG file."""
    parts = getattr(value, "__args__", None)
    if parts is not None:
        return all(_is_alias(part, module) for part in parts)
    where = getattr(value, "__module__", None)
    known = getattr(sys, "stdlib_module_names", ())
    return isinstance(value, str) or where == module or str(where).partition(".")[0] in known


class ByNameAndValue(ByValue):
    """The pickler's base in the step: a class or function of the DAG file is pickled by name, with a copy.

    A class of the DAG file exists twice: in Airflow's process, and as the copy that came with the function. A
    result is an instance of the copy. The process that loads the result prefers its own class of that name:
    so ``isinstance`` works there. If there is none, the copy is unpickled.
    """

    named_module: str | None = None

    def reducer_override(self, obj: Any) -> Any:
        if not dag_module.is_code(obj) or obj.__module__ != self.named_module or not self.named_module:
            return super().reducer_override(obj)
        own = sys.modules.get(self.named_module)
        is_found = dag_module.inside(own, obj.__qualname__) is obj
        if not is_found and (not isinstance(obj, type) or "<locals>" in obj.__qualname__):
            return super().reducer_override(obj)
        stream = io.BytesIO()
        pickler: Any = type(self)(stream, protocol=5)  # type: ignore[call-arg]
        pickler.named_module = None
        pickler.dump(getattr(own, obj.__qualname__.partition(".")[0]) if is_found else obj)
        return dag_class, (self.named_module, obj.__qualname__, stream.getvalue())


class _Imports:
    """Names for globals that the step imports if it can. Pickled as the call that does so."""

    def __init__(self, namespace: Any, imports: dict[str, tuple[str, str]]) -> None:
        self._args = namespace, imports

    def __reduce__(self) -> Any:
        return dag_module.import_names, self._args


class WithNames:
    """A value, and names that a module needs. Pickled as a call that sets the names and returns the value."""

    def __init__(self, namespace: Any, names: dict[str, Any], value: Any) -> None:
        self._args = namespace, names, value

    def __reduce__(self) -> Any:
        return dag_module.with_names, self._args
