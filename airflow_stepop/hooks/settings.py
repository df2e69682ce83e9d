"""Validation of ``settings=``, a backend's own options.

Every backend's model derives from :class:`BackendSettings`. :func:`parse_settings` turns a dict into the
model; its errors list the valid keys. The operator, the worker and :meth:`StepHook.settings_of` call it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from airflow_stepop.exceptions import StepConfigError

if TYPE_CHECKING:
    from airflow_stepop.resources import ResourceSettings


class BackendSettings(BaseModel):
    """Base class of a backend's settings. An unknown key is an error, and an instance is immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    location_fields: ClassVar[tuple[str, ...]] = ()
    """Names of the options that say where a job runs, such as a namespace. The worker saves these options in
    the record before the submit, so that :meth:`StepHook.lookup` can find the job after a crash.
    """

    timeout_field: ClassVar[str] = ""
    """Name of the option that is the service's own name for the task's ``timeout``; empty if there is none.
    Where the task has no ``timeout``, the option gives it. Where both are given, they must be equal: the
    hook's ``render`` checks that.
    """

    not_settings: ClassVar[Mapping[str, str]] = {}
    """Names that look like options and are none -> why, and what to write instead. For names that users know
    from the service, its SDK, or another backend. The error about such a name has the text.
    """

    @model_validator(mode="before")
    @classmethod
    def _refuse_known_names(cls, given: Any) -> Any:
        for name in given if isinstance(given, Mapping) else ():
            if name in cls.not_settings:
                raise ValueError(f"there is no setting {name!r}: {cls.not_settings[name]}")
        return given

    @property
    def alternatives(self) -> Sequence[str]:
        """The kinds of machine that a step may run on, in the order of preference; empty: there is no choice.

        If a job of one kind has not begun within ``start_timeout``, or there is no capacity, the worker ends
        the job and then asks for the next kind. A backend with such an option overrides this and
        :meth:`at_alternative`.
        """
        return ()

    def at_alternative(self, index: int) -> Self:
        """Return the settings for one of the :attr:`alternatives`; the last one if ``index`` is too large.

        :meth:`StepHook.settings_of` calls this method, so a hook sees one kind of machine.
        """
        return self

    def timeout_or(self, default_s: float) -> float:
        """Return the timeout of a step for which nobody has set ``timeout``, in seconds.

        :param default_s: the configured default
        """
        named = getattr(self, self.timeout_field) if self.timeout_field else None
        return float(named) if named is not None else default_s

    def beside(self, folder: Path) -> Self:
        """Return the settings with each relative path of a file resolved against ``folder``.

        The worker calls this method with the folder of the DAG file. A backend with such paths overrides it.
        """
        return self

    def named_files(self) -> Mapping[str, Path]:
        """Return option -> path for each option that is the path of a file on Airflow's side.

        The worker refuses a path outside the DAG's project if the task gives it, since a template may have
        made it. A connection's path may lead anywhere. A backend with such paths overrides this method.
        """
        return {}

    def check_with(self, image: str | None, resources: ResourceSettings | None) -> None:
        """Check the settings together with other arguments that are literal in a DAG file.

        Called while the DAG file is read, so this method reads no connection and imports no SDK. A backend
        overrides it to refuse what no job could have, whatever the connection says.

        :param image: the task's image; ``None`` if it names none, or if it is known only when the task runs
        :param resources: the task's resources, as far as they are known
        :raises StepConfigError: no job could have this
        """


def parse_settings(model: type[BackendSettings], settings: object, backend: str) -> BackendSettings:
    """Return ``settings`` as the backend's model.

    :param settings: a dict, an instance of ``model``, or ``None`` for the defaults
    :raises StepConfigError: an unknown key (the message names the closest valid key), or a value of the wrong
        type
    """
    if settings is None:
        return model()
    if isinstance(settings, model):
        return settings
    if not isinstance(settings, Mapping):
        raise StepConfigError(
            f"settings of {backend!r} must be a {model.__name__} or a dict, not {type(settings).__name__}"
        )
    valid = sorted(model.model_fields)
    settings = in_snake_case(settings, [*valid, *model.not_settings], backend)
    for key in settings:
        if key in model.not_settings:
            raise StepConfigError(f"backend {backend!r} has no setting {key!r}: {model.not_settings[key]}")
        if key not in valid:
            close = get_close_matches(str(key), valid, n=1)
            guess = f"; did you mean {close[0]!r}?" if close else ""
            raise StepConfigError(
                f"backend {backend!r} has no setting {key!r}{guess} (valid: {', '.join(valid) or 'none'})"
            )
    try:
        return model.model_validate(dict(settings))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False)
        )
        raise StepConfigError(f"settings of backend {backend!r}: {problems}") from error


def in_snake_case(settings: Mapping[str, object], valid: Sequence[str], backend: str) -> dict[str, object]:
    """Return the settings with camel-case keys, as in the service's documentation, changed to snake case.

    :raises StepConfigError: one setting was given in both spellings
    """
    found: dict[str, object] = {}
    for key, value in settings.items():
        snake = re.sub(r"(?<!^)(?=[A-Z])", "_", str(key)).lower()
        name = snake if snake in valid else key
        if name in found:
            raise StepConfigError(f"backend {backend!r} was given the setting {name!r} in two spellings")
        found[name] = value
    return found
