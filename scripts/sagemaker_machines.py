"""Write airflow_stepop/hooks/sagemaker/machines.json: the machines of SageMaker training, with their sizes.

The names come from botocore's model of SageMaker, the sizes from the recorded answer of EC2's
``DescribeInstanceTypes`` that moto carries (Apache-2.0). Run it in an environment of its own::

    uv run --no-project --with moto --with botocore python scripts/sagemaker_machines.py

A test compares the names with the installed botocore.
"""

from __future__ import annotations

import gzip
import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

OUT = Path(__file__).parents[1] / "airflow_stepop" / "hooks" / "sagemaker" / "machines.json"
COLUMNS = (
    "name", "cpu_count", "memory_mib", "gpu_count", "gpu_type", "gpu_memory_mib", "nvme_gb", "kind",
)  # fmt: skip
# EC2 lists these no more, and SageMaker still has them.
# https://docs.aws.amazon.com/ec2/latest/instancetypes/pg.html
BY_HAND = (
    ("ml.p2.xlarge", 4, 61 * 1024, 1, "K80", 12 * 1024, 0, "previous"),
    ("ml.p2.8xlarge", 32, 488 * 1024, 8, "K80", 12 * 1024, 0, "previous"),
    ("ml.p2.16xlarge", 64, 732 * 1024, 16, "K80", 12 * 1024, 0, "previous"),
    ("ml.p3.2xlarge", 8, 61 * 1024, 1, "V100", 16 * 1024, 0, "previous"),
    ("ml.p3.8xlarge", 32, 244 * 1024, 4, "V100", 16 * 1024, 0, "previous"),
    ("ml.p3.16xlarge", 64, 488 * 1024, 8, "V100", 16 * 1024, 0, "previous"),
)


def _data(package: str, path: str) -> Any:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"install {package} first; see the first lines of this file")
    return json.loads(gzip.decompress((Path(spec.origin).parent / path).read_bytes()))


def kind_of(name: str, machine: dict[str, Any]) -> str:
    """Return why a machine is not preferred; empty for a machine that is."""
    if machine["BurstablePerformanceSupported"]:
        return "burstable"
    if "-flex." in name:
        return "flex"
    if re.search(r"[0-9]n\.", name):
        return "network"
    # EC2 calls m6i previous and c6i current; here, both are previous
    is_old = (
        "GpuInfo" not in machine and "NeuronInfo" not in machine and int(re.findall("[0-9]", name)[0]) < 7
    )
    return "" if machine["CurrentGeneration"] and not is_old else "previous"


def row(name: str, machine: dict[str, Any]) -> tuple[Any, ...]:
    """Return the columns of one machine."""
    gpus = (
        machine.get("GpuInfo", {}).get("Gpus") or machine.get("NeuronInfo", {}).get("NeuronDevices") or [{}]
    )
    return (
        name,
        machine["VCpuInfo"]["DefaultVCpus"],
        machine["MemoryInfo"]["SizeInMiB"],
        gpus[0].get("Count", 0),
        gpus[0].get("Name", ""),
        gpus[0].get("MemoryInfo", {}).get("SizeInMiB", 0),
        machine.get("InstanceStorageInfo", {}).get("TotalSizeInGB", 0),
        kind_of(name, machine),
    )


def table() -> dict[str, Any]:
    """Return the table: where it comes from, the columns, the rows, and the names without a row."""
    from importlib.metadata import version

    import botocore

    model = _data("botocore", "data/sagemaker/2017-07-24/service-2.json.gz")
    sizes = _data("moto", "ec2/resources/instance_types.json.gz")
    names = model["shapes"]["TrainingInstanceType"]["enum"]
    rows = {
        name: row(name, sizes[name.removeprefix("ml.")])
        for name in names
        if name.removeprefix("ml.") in sizes
    }
    rows.update({one[0]: one for one in BY_HAND if one[0] in names})
    return {
        "source": f"botocore {botocore.__version__}, moto {version('moto')}; scripts/sagemaker_machines.py",
        "columns": COLUMNS,
        "unknown": sorted(set(names) - set(rows)),
        "rows": [rows[name] for name in sorted(rows)],
    }


def write(found: dict[str, Any]) -> None:
    """Write the table with one machine per line."""
    head = {key: value for key, value in found.items() if key != "rows"}
    lines = ",\n".join(json.dumps(one, separators=(",", ":")) for one in found["rows"])
    OUT.write_text(json.dumps(head, indent=0)[:-2] + f',\n"rows": [\n{lines}\n]\n}}\n')


if __name__ == "__main__":
    write(table())
