"""Write airflow_stepop/hooks/kubernetes/schema.json: the fields of a pod, taken from the official client.

Run ``python scripts/pod_schema.py`` with the package ``kubernetes`` installed. A test compares the file with
the client.
"""

from __future__ import annotations

import json
from pathlib import Path

OUT = Path(__file__).parents[1] / "airflow_stepop" / "hooks" / "kubernetes" / "schema.json"
ROOTS = ("PodSpec", "ObjectMeta")


def schema() -> dict[str, dict[str, str]]:
    """Return the fields of each kind of object: field name in the API's spelling -> kind of its value.

    A kind is the name of another object, ``[kind]`` for a list, ``{}`` for a mapping of free keys, or ``""``
    for a plain value.
    """
    from kubernetes.client import models

    found: dict[str, dict[str, str]] = {}
    todo = list(ROOTS)
    while todo:
        name = todo.pop()
        if name in found:
            continue
        model = getattr(models, f"V1{name}", None) or getattr(models, name)
        kinds = {field: _kind(text) for field, text in model.openapi_types.items()}
        found[name] = {model.attribute_map[field]: kind for field, kind in sorted(kinds.items())}
        todo += [kind.strip("[]") for kind in kinds.values() if kind.strip("[]{}")]
    return dict(sorted(found.items()))


def _kind(text: str) -> str:
    from kubernetes.client import models

    if text.startswith("list["):
        inner = _kind(text[5:-1])
        return f"[{inner}]"
    if text.startswith("dict"):
        return "{}"
    short = text.removeprefix("V1")
    return short if hasattr(models, text) and hasattr(getattr(models, text), "openapi_types") else ""


if __name__ == "__main__":
    OUT.write_text(json.dumps(schema(), indent=0, separators=(",", ":"), sort_keys=True) + "\n")
