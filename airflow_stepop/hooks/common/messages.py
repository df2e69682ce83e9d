"""Messages of a service without the names in them: call :func:`without_names` before you classify a message.

The name of a step, an image or a quota may contain any word. A step ``check_timeout`` is not late, and an
image ``claims-denied`` is not denied.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# An event may be cut in the middle of a quoted name
_QUOTED = re.compile(r'\\?"[^"]*(?:"|$)|`[^`]*(?:`|$)')
_PATH = re.compile(r"\S*/\S*")  # images, addresses, namespace/name


def without_names(message: str, names: Iterable[str] = ()) -> str:
    """Return ``message`` without quoted text, without words that contain a slash, and without ``names``.

    :param names: further names that the service may write without quotes. A name of letters only is kept,
        since the service may use it as a word
    """
    rest = _PATH.sub(" ", _QUOTED.sub(" ", message))
    for name in sorted(names, key=len, reverse=True):
        if name and not name.isalpha():
            rest = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", " ", rest)
    return rest
