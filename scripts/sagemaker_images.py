"""Write airflow_stepop/hooks/sagemaker/images.json: the training images of AWS, by name, version and region.

The catalogue is that of the package ``sagemaker-core``, which needs no network for it. The package cannot be
installed beside Airflow on newer Pythons, so run it in an environment of its own::

    uv run --no-project --python 3.11 --with sagemaker-core python scripts/sagemaker_images.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

OUT = Path(__file__).parents[1] / "airflow_stepop" / "hooks" / "sagemaker" / "images.json"
# name for people -> files of the catalogue
FRAMEWORKS = {
    "pytorch": ("pytorch", "pytorch-amzn2023"),
    "tensorflow": ("tensorflow",),
    "huggingface": ("huggingface",),
    "autogluon": ("autogluon",),
    "sklearn": ("sklearn",),
    "xgboost": ("xgboost",),
}
MACHINES = {"cpu": "ml.m5.large", "gpu": "ml.g5.xlarge"}
HOME = "us-east-1"
OLDEST = {"sklearn": (1, 2), "xgboost": (1, 7)}  # their tags do not name the Python
OLDEST_PYTHON = 38  # of the runner
URI = re.compile(
    r"(?P<account>[0-9]{12})\.dkr\.ecr\.[a-z0-9-]+\.(?P<suffix>[a-z0-9.-]+)/(?P<name>[^:]+):(?P<tag>.+)"
)


@cache
def catalogue(name: str) -> dict[str, Any]:
    """Return one file of the catalogue: its part about training."""
    from sagemaker.core import image_uris

    folder = Path(image_uris.__file__).parent / "image_uri_config"
    found: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return found.get("training", found)


def numbers(text: str) -> tuple[int, ...]:
    """Return the numbers of a version, to compare it with another one."""
    return tuple(int(one) for one in re.findall("[0-9]+", text))


def bases(versions: dict[str, Any]) -> list[str | None]:
    """Return the base frameworks of a version, newest first; ``[None]`` for a framework without bases."""
    found = [key for key in versions if re.match(r"pytorch[0-9]", key)]
    return sorted(found, key=numbers, reverse=True) or [None]


def uri_of(name: str, number: str, base: str | None, processor: str, region: str) -> re.Match[str] | None:
    """Return the address of an image in its parts; ``None`` if there is none."""
    from sagemaker.core import image_uris

    try:
        uri = image_uris.retrieve(
            name, region, version=number, base_framework_version=base,
            instance_type=MACHINES[processor], image_scope="training",
        )  # fmt: skip
    except (ValueError, KeyError):
        return None
    return URI.fullmatch(uri)


@cache
def suffixes() -> dict[str, str]:
    """Return region -> suffix of its addresses, such as ``amazonaws.com.cn``."""
    newest = max(catalogue("pytorch")["versions"], key=numbers)
    found = {}
    for region in catalogue("pytorch")["versions"][newest]["registries"]:
        uri = uri_of("pytorch", newest, None, "cpu", region)
        if uri is not None:
            found[region] = uri["suffix"]
    return found


def images(framework: str, name: str, number: str, base: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield processor and image: repository, tag, and region -> [account, suffix of the address]."""
    data = catalogue(name)["versions"][number]
    accounts = (data[base] if base else data).get("registries", {})
    places = {
        region: [accounts[region], suffixes()[region]] for region in sorted(accounts) if region in suffixes()
    }
    for processor in MACHINES:
        home = uri_of(name, number, base, processor, HOME)
        if home is not None and places and is_recent(framework, number, home["tag"]):
            yield processor, {"repository": home["name"], "tag": home["tag"], "places": places}


def is_recent(framework: str, number: str, tag: str) -> bool:
    """Return whether the runner runs in an image, as far as its tag or version tells."""
    python = re.search(r"-py([0-9]{2,3})(?:-|$)", tag)
    if python is not None:
        return int(python[1]) >= OLDEST_PYTHON
    return "amzn2023" in tag or numbers(number)[:2] >= OLDEST.get(framework, (99,))


def table() -> dict[str, Any]:
    """Return the table: its source, the places of images, and each framework's versions, newest first."""
    places: list[dict[str, list[str]]] = []
    frameworks: dict[str, dict[str, Any]] = {}
    for framework, files in FRAMEWORKS.items():
        found: dict[str, Any] = {}
        for file in files:
            for number, data in catalogue(file)["versions"].items():
                for base in bases(data)[:1]:
                    for processor, image in images(framework, file, number, base):
                        if image["places"] not in places:
                            places.append(image["places"])
                        place = places.index(image["places"])
                        found.setdefault(number, {})[processor] = [image["repository"], image["tag"], place]
        frameworks[framework] = dict(sorted(found.items(), key=lambda one: numbers(one[0]), reverse=True))
    source = f"sagemaker-core {version('sagemaker-core')}; scripts/sagemaker_images.py"
    return {"source": source, "places": places, "frameworks": frameworks}


def write(found: dict[str, Any]) -> None:
    """Write the table with one version per line."""
    text = json.dumps(found, separators=(",", ":"))
    text = re.sub(
        r'(?<=[{\[,])("[0-9][^":]*":{"(?:cpu|gpu)"|"[a-z]+":{"[0-9]|{"[a-z]{2,4}-[a-z]+-)', r"\n\1", text
    )
    if json.loads(text) != found:
        raise SystemExit("the line breaks have changed the table")
    OUT.write_text(text + "\n")


if __name__ == "__main__":
    write(table())
