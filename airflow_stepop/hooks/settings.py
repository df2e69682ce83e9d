"""A backend's own options: a dict or a model becomes the validated model, or an error that lists what is
valid.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from airflow_stepop.exceptions import StepConfigError


class BackendSettings(BaseModel):
    """Base of every backend's own options: an unknown key is an error, and a model is never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    location_fields: ClassVar[tuple[str, ...]] = ()
    """Names of the options that say where a job runs. The record keeps them before the job is submitted."""


def parse_settings(model: type[BackendSettings], settings: object, backend: str) -> BackendSettings:
    """Return ``settings`` as the backend's model.

    :raises StepConfigError: an unknown key (with the closest valid one), or a value of the wrong kind
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
    settings = in_snake_case(settings, valid, backend)
    for key in settings:
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
    """Return the settings with the keys that a service's own documentation spells in camel case as ours."""
    found: dict[str, object] = {}
    for key, value in settings.items():
        snake = re.sub(r"(?<!^)(?=[A-Z])", "_", str(key)).lower()
        name = snake if snake in valid else key
        if name in found:
            raise StepConfigError(f"backend {backend!r} was given the setting {name!r} in two spellings")
        found[name] = value
    return found
