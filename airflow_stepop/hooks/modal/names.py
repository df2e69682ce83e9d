"""What Modal takes as names, networks, regions, mount paths and tags: checks for ``settings.py``.

Each function returns the text that is given, or raises ``ValueError`` with a text that Modal takes.
Sources: https://modal.com/docs/guide/region-selection, https://modal.com/docs/guide/sandbox-networking, and
the checks of the client (``modal/_utils/name_utils.py``, ``mount_utils.py`` of 1.6).
"""

from __future__ import annotations

import posixpath
import re
from difflib import get_close_matches

APP_NAME = "airflow-stepop"
JOB_VOLUME, CHECKPOINT_VOLUME = "airflow-stepop", "airflow-stepop-checkpoints"
JOB_VOLUMES = (JOB_VOLUME, CHECKPOINT_VOLUME)
STEP_FOLDER, CHECKPOINT_FOLDER = "/stepop", "/stepop-checkpoints"  # where a sandbox mounts the two
OWN_PREFIX = "stepop"  # tags with this prefix belong to the step

_NAME = re.compile(r"[a-zA-Z0-9-_.]{1,64}")
_APP_ID = re.compile(r"ap-[a-zA-Z0-9]{22}")
_ENVIRONMENT = re.compile(r"(?!(?i:en-))[a-zA-Z0-9][a-zA-Z0-9-_.]{0,63}")
_DOMAIN = re.compile(
    r"(?:\*\.)?(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.)+[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
)
_TAG = re.compile(r"[a-zA-Z0-9._-]{1,63}")
# Modal's own names of regions: a part of the world, and there a direction. Besides them it takes the names of
# its clouds, such as us-east-1 (AWS), us-central1 (Google) and us-ashburn-1 (Oracle)
_WORLD = ("us", "eu", "ap", "uk", "ca", "sa", "me", "mx", "af", "il", "jp", "au")
_WORLD_OF_CLOUDS = (*_WORLD, "europe", "asia", "northamerica", "southamerica", "australia", "africa")
_PLACES = ("melbourne",)
_DIAGONALS = ("northeast", "northwest", "southeast", "southwest")
_DIRECTIONS = ("east", "west", "north", "south", "central", *_DIAGONALS)


def check_name(text: str) -> str:
    """Check the name of an App, a Volume, a Secret or a Proxy."""
    if not _NAME.fullmatch(text) or _APP_ID.fullmatch(text):
        raise ValueError(
            f"{text!r} is no name in Modal: 1 to 64 letters, digits and - _ ., and no id; write one such as "
            "'my-data'"
        )
    return text


def check_environment(text: str) -> str:
    """Check the name of an environment."""
    if not _ENVIRONMENT.fullmatch(text):
        raise ValueError(
            f"{text!r} is no environment: 1 to 64 letters, digits and - _ ., a letter or digit first, and "
            "not en-; write one such as 'main'"
        )
    return text


def check_cidr(text: str) -> str:
    """Check a network, such as ``10.0.0.0/8``."""
    import ipaddress

    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"{error}; write a network such as '203.0.113.0/24'") from None
    if "/" not in text:
        raise ValueError(f"{text!r} is one address; write it as a network: '{ipaddress.ip_network(text)}'")
    return text


def check_domain(text: str) -> str:
    """Check a domain, such as ``pypi.org`` or ``*.example.com``."""
    if text != "*" and not _DOMAIN.fullmatch(text):
        raise ValueError(
            f"{text!r} is no domain; write one such as 'pypi.org' or '*.example.com', without https:// and "
            "without a path"
        )
    return text


def check_region(text: str) -> str:
    """Check a region. New regions of the clouds pass, and misspelt ones do not."""
    world, _, place = text.partition("-")
    direction, number = re.fullmatch(r"([a-z]*)(.*)", place).groups()  # type: ignore[union-attr]
    is_modals = world in _WORLD and text in (world, f"{world}-{direction}")
    is_clouds = re.fullmatch(r"-?[0-9]+(?:-?[a-z])?", number) is not None
    is_known = is_modals and direction in ("", *_DIRECTIONS, *_PLACES)
    if not is_known and is_clouds and world in _WORLD_OF_CLOUDS:
        is_known = direction in _DIRECTIONS or not get_close_matches(direction, _DIRECTIONS, cutoff=0.75)
    if not is_known:
        raise ValueError(
            f"{text!r} is no region of Modal{_nearest_region(text)}; write a part of the world "
            f"({', '.join(_WORLD[:6])}, ...), one with a direction (us-east, eu-west), or a cloud's own name "
            "(us-east-1)"
        )
    return text


def _nearest_region(text: str) -> str:
    known = [*_WORLD, *(f"{world}-{direction}" for world in _WORLD for direction in _DIRECTIONS)]
    plain = re.sub(r"[^a-z-]+", "-", text.lower().replace("_", "-")).strip("-")
    close = get_close_matches(plain, known, n=1, cutoff=0.75)
    return f"; did you mean {close[0]!r}?" if close else ""


def check_mount(path: str) -> str:
    """Check a path in the sandbox at which something is mounted."""
    if posixpath.normpath(path) != path or not path.startswith("/") or path.startswith("//"):
        right = posixpath.normpath(f"/{path.lstrip('/')}")
        raise ValueError(f"{path!r} is no mount path; write {right if right != '/' else '/data'!r}")
    if path in ("/", "/root", "/tmp"):  # noqa: S108 - a path in the sandbox
        raise ValueError(f"Modal mounts nothing at {path!r}; write a folder of its own, such as '/data'")
    for own in (STEP_FOLDER, CHECKPOINT_FOLDER):
        if path == own or path.startswith(f"{own}/"):
            raise ValueError(f"{path!r}: {own} carries the step itself; use another path, such as '/data'")
    return path


def check_tag(key: str, value: str) -> None:
    """Check a tag by the rules that Modal has for the tags of Apps."""
    for text in (key, value):
        if not _TAG.fullmatch(text):
            raise ValueError(
                f"{key!r}: {value!r} is no tag; a key and a value have 1 to 63 letters, digits and . _ -"
            )
    if key.lower().startswith(OWN_PREFIX):
        raise ValueError(f"the tag {key!r}: names with {OWN_PREFIX} are reserved; use another name")
