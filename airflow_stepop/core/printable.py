"""Text that a step printed, made safe for display on one line. Standard library only.

Called wherever log lines, error texts or native states of a job reach the task log or a terminal.
"""

from __future__ import annotations

import re

LINE_LIMIT = 20_000  # characters
SYMBOLS_FOR_CONTROLS = 0x2400  # U+2400 stands for NUL, and so on

# `re` compiles a pattern at its first use and keeps it: a DAG file that imports this module does not pay
_ESCAPE = r"""
    \x1b (?:
        \[ [0-?]* [ -/]* [@-~]                      # CSI: colours, cursor movements
      | [\]PX^_] [^\x07\x1b]* (?: \x07 | \x1b\\ )?  # OSC, DCS, SOS, PM, APC: titles, links, images
      | [ -/]* [0-~]?                               # all others, and incomplete sequences
    )
"""
_COLOUR = r"\x1b\[[0-9;]*m"
# Control characters except tab and escape; characters that some readers take for a line end; those that turn
# the direction of a text, so that it reads as another one; surrogates
_CONTROL = "[\\x00-\\x08\\x0a-\\x1a\\x1c-\\x1f\\x7f-\\x9f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]"


def printable(text: str) -> str:
    """Return ``text`` as one line that is safe to display.

    - If a line overwrites itself (carriage return, backspace), only its last state is kept.
    - Colours are kept, because Airflow's pages show them. Other escape sequences are removed.
    - A control character is replaced by its symbol.
    - A line of more than ``LINE_LIMIT`` characters is cut, and a note at its end says so.
    """
    if len(text) <= LINE_LIMIT and text.isprintable():
        return text
    if "\r" in text:
        text = text.rstrip("\r")
        text = text[text.rfind("\r") + 1 :]
    rest = len(text) - LINE_LIMIT
    text = text[:LINE_LIMIT]
    if "\b" in text:
        text = _erased(text)
    text = re.sub(_ESCAPE, _colour, text, flags=re.VERBOSE)
    text = re.sub(_CONTROL, _symbol, text)
    return f"{text} [stepop: {rest} more characters of this line are left out]" if rest > 0 else text


def printable_text(text: str) -> str:
    """Return a text of several lines that is safe in the message of an exception.

    Unlike :func:`printable`, it keeps line ends, cuts no line, and removes colours. ``::group::`` and
    ``::endgroup::`` lose their meaning.
    """
    lines = re.sub(_ESCAPE, "", text, flags=re.VERBOSE).replace("\x1b", "").replace("\r\n", "\n").split("\n")
    return without_groups("\n".join(re.sub(_CONTROL, _symbol, line) for line in lines))


def without_groups(text: str) -> str:
    """Return a text that begins and ends no group of lines on Airflow's log page."""
    return re.sub("::(end)?group::", r"[\1group] ", text) if "group::" in text else text


def _colour(match: re.Match[str]) -> str:
    return match[0] if re.fullmatch(_COLOUR, match[0]) else ""


def _symbol(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(SYMBOLS_FOR_CONTROLS + code)
    return "\N{SYMBOL FOR DELETE}" if code == 0x7F else "\N{REPLACEMENT CHARACTER}"


def _erased(text: str) -> str:
    """Apply backspaces, which old progress bars print."""
    kept: list[str] = []
    for character in text:
        if character != "\b":
            kept.append(character)
        elif kept:
            kept.pop()
    return "".join(kept)


def without_markup(text: str) -> str:
    """Return a text of a docstring for a terminal: without the backticks and the roles of reST."""
    return re.sub(r":[a-z:]+:`~?(?:[^`]*\.)?([^`.]+)`", r"\1", text).replace("``", "")
