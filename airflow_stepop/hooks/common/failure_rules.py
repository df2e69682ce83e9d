"""Rules that classify the text with which a service explains the end of a job, or refuses a request.

A backend writes its rules once, each with the vendor's text that it recognizes, and calls :func:`failure_by`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from airflow_stepop.failure import Category, Failure
from airflow_stepop.hooks.common.messages import without_names


@dataclass(frozen=True)
class Rule:
    r"""One kind of failure.

    Begin a pattern with ``\A`` wherever the service has a fixed beginning: text that people choose (names,
    keys, messages of the step) comes later and then cannot look like another failure. Put such rules first.

    :param pattern: regular expression. White space in the text counts as one space. A pattern that begins
        with ``\A`` sees the whole text; any other pattern sees the text without names
    :param summary: what happened, for people; by default the text itself. ``{text}`` is the text, and
        ``{quota}`` is the pattern's group ``quota``
    :param hint: what to do; may have the same fields as the summary
    """

    pattern: str
    category: Category
    summary: str = "{text}"
    hint: str = ""


def failure_by(
    rules: Iterable[Rule],
    text: str,
    *,
    native_reason: str = "",
    exit_code: int | None = None,
    names: Iterable[str] = (),
) -> Failure | None:
    """Return the failure of the first rule whose pattern is in ``text``; ``None`` if there is none.

    Names count only for a pattern that says where they are: see :class:`Rule` and
    :func:`~airflow_stepop.hooks.common.messages.without_names`. A step ``check-out-of-memory`` has not run
    out of memory.

    :param names: names that may be in the text without quotes, such as the job's
    """
    one_line = " ".join(text.split())
    nameless = " ".join(without_names(one_line, names).split())
    for rule in rules:
        searched = one_line if rule.pattern.startswith(r"\A") else nameless
        if (found := re.search(rule.pattern, searched)) is None:
            continue
        whole = re.search(rule.pattern, one_line) or found
        groups = {name: value or "" for name, value in whole.groupdict().items()}
        fields = {**groups, "text": one_line}
        return Failure(
            rule.category,
            rule.summary.format_map(fields),
            native_reason,
            exit_code,
            rule.hint.format_map(fields),
        )
    return None
