"""The labels of a job as tags of its sandbox, and back.

``Sandbox.list`` selects by the exact values of tags. The client does not check the tags of a sandbox, so
they keep to the rules for the tags of Apps: 1 to 63 letters, digits and ``. _ -``. A label that is no such
text has two tags: a readable one to select by, and the text itself, encoded.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping

from airflow_stepop.core.stored_json import parsed_json
from airflow_stepop.exceptions import IntegrityError
from airflow_stepop.hooks.common.labels import LabelRules
from airflow_stepop.hooks.modal.names import OWN_PREFIX

RULES = LabelRules("A-Za-z0-9._-", 63, edges="A-Za-z0-9._-")
RESULTS, JOB = "results", "job"  # beside the labels: where the step's results are, and the job's name
# Tags stepop.text-0, stepop.text-1, ...: pieces of JSON in base64, of the labels that no tag can hold
_TEXT = f"{OWN_PREFIX}.text"


def tag_key(label: str) -> str:
    """Return the tag of a label: ``stepop-dag-id`` of ``dag_id``."""
    return f"{OWN_PREFIX}-{label.replace('_', '-')}"


def selector(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of all sandboxes with these labels. Labels that are empty have no tag."""
    return {tag_key(name): RULES.encode(value) for name, value in labels.items() if value}


def to_tags(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of a sandbox; :func:`labels_of` finds exactly these labels in them."""
    others = {name: value for name, value in labels.items() if RULES.encode(value) != value or not value}
    text = base64.urlsafe_b64encode(json.dumps(others, separators=(",", ":")).encode()).decode().rstrip("=")
    pieces = [text[begin : begin + RULES.length] for begin in range(0, len(text), RULES.length)]
    found = {f"{_TEXT}-{index}": piece for index, piece in enumerate(pieces if others else [])}
    return {**selector(labels), **found}


def labels_of(tags: Mapping[str, str]) -> dict[str, str] | None:
    """Return the labels that :func:`to_tags` has put into tags; ``None``: the sandbox is not one of ours.

    Whoever may create sandboxes can write such tags.
    """
    start = f"{OWN_PREFIX}-"
    found = {
        name.removeprefix(start).replace("-", "_"): value
        for name, value in tags.items()
        if name.startswith(start)
    }
    pieces: list[str] = []
    while (piece := tags.get(f"{_TEXT}-{len(pieces)}")) is not None:
        pieces.append(piece)
    packed = "".join(pieces)
    try:
        data = base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True)
        others = parsed_json(data or "{}", "the tags of a sandbox")
    except (binascii.Error, ValueError, IntegrityError):
        return None
    if not isinstance(others, dict) or not all(isinstance(value, str) for value in others.values()):
        return None
    found |= others
    return found if "nonce" in found else None
