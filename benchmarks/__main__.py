"""The program of ``make bench``: measures and prints the tables. A missed goal is not an error.

``make bench ARGS='import step'`` measures some tables. ``ARGS=--short`` takes short measurements, to check
that each one runs. ``ARGS=--write`` writes the tables into the documentation.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.tables import Line, Table, measure, to_markdown

DOCS = Path(__file__).resolve().parents[1] / "docs"
SHORT = {"STEPOP_BENCH_BYTES": str(1 << 24), "STEPOP_BENCH_SHORT": "1"}

HEAD = """\
# Benchmarks

<!-- Made by `make bench ARGS=--write`: measure again instead of editing. -->

The cost of airflow-stepop, compared with its peers and with the physical minimum, all measured in one run:
{machine}. Ratios are to the first line of each table. CPU times are medians of 7 fresh processes.

Reasons for each missed goal:

- **Data through a folder, compared with `cp`.** The worker and the step check all data that they exchange.
  Both the writer and the reader hash the array, which is four passes of SHA-256 for the way there and back.
  `cp` hashes nothing. Each pass runs while the data are read or written, so the time of the passes remains.
  The upper bound is half of the speed in the line "SHA-256 of it". The start of the step and the first
  access to the memory of the array cost some more.
"""


KUBERNETES_HEAD = """\
# Benchmarks of Kubernetes

<!-- Made by `make bench ARGS='--write {names}'`: measure again instead of editing. -->

The cost of waiting for steps on a cluster, the cost of one step, and the delay until the end of a step is
known, compared with `KubernetesPodOperator`. All of it was measured in one run, on one host that is also the
cluster: Kubernetes 1.34, {machine}. Ratios are to the first line of each table. The pods
of thousands of waiting steps are simulated by [kwok](https://kwok.sigs.k8s.io). The pods of timed steps
really run.
"""


SAGEMAKER_HEAD = """\
# Benchmarks of SageMaker

<!-- Made by `make bench ARGS='--write {names}'`: measure again instead of editing. -->

The cost of a step on SageMaker for Airflow, compared with `SageMakerTrainingOperator` of the Amazon provider
and with `boto3` alone: {machine}. Ratios are to the first line of each table. Both use
one environment, with the version of boto3 that `aiobotocore` accepts, because the operator needs it to defer.

**The service is an emulator on the same host** (`tests/emulators/sagemaker`), so no figure contains the time
that AWS takes. It refuses requests above the rates that AWS documents: `ListTrainingJobs` 2 a second,
`CreateTrainingJob` 1, `FilterLogEvents` 5, `DescribeLogStreams` 25. The limit of `DescribeTrainingJob` is not
documented. The emulator takes 10 a second, and refuses most of what a thousand triggers of the operator ask.

The operator's trigger asks for each job by itself, and has a client of its own. Our triggers share one list
of what has changed. The thousand jobs in flight are simulated. They print nothing, which costs us most: we
ask whether they have a log stream by now. The operator shows no line of a log while it is deferred, so the
tables of log lines have the quota instead. The job of "A step that does nothing" really runs, and the service
takes no time for it.
"""


MODAL_HEAD = """\
# Benchmarks of Modal

<!-- Made by `make bench ARGS='--write {names}'`: measure again instead of editing. -->

The cost of a step on Modal for Airflow, compared with the package `modal` alone: {machine}. Ratios are to the
first line of each table.

**The service is an emulator on the same host** (`tests/emulators/modal`), to which the real package `modal`
speaks. So no figure contains the time that Modal takes. The emulator and what is measured share the
processors. A page of its list has 100 sandboxes; the size at Modal is not documented.

The thousand sandboxes are simulated. Each prints a line every ten seconds, and some of them end. The step
that gets an array really runs.
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description="measure and print")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"some of: {', '.join(TABLES)} (default: all)"
    )
    parser.add_argument("--short", action="store_true", help="short measurements, to see that each one runs")
    parser.add_argument("--write", action="store_true", help="write the page of the documentation")
    options = parser.parse_args()
    unknown = set(options.names) - set(TABLES)
    if unknown:
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")
    names = options.names or list(TABLES)
    pages = [page for page in PAGES if options.write and set(page.names) & set(names)]
    for page in pages:
        if missing := set(page.names) - set(names):
            parser.error(f"{page.path.name} needs {', '.join(sorted(missing))}, too")
    os.environ |= SHORT if options.short else {}
    print(f"{_machine()}\n")
    with tempfile.TemporaryDirectory(prefix="stepop-bench-") as home:
        os.environ["AIRFLOW_HOME"] = home
        done = {name: _measured(name) for name in names}
    for page in pages:
        head = page.head.format(machine=_machine(), names=" ".join(page.names))
        page.path.write_text(f"{head}\n{to_markdown([table for name in page.names for table in done[name]])}")


def _measured(name: str) -> list[Table]:
    with contextlib.closing(TABLES[name]()) as tables:  # removes what they created, after an error, too
        return [measure(table) for table in tables]


def _machine() -> str:
    return f"Python {platform.python_version()} on {platform.machine()} with {os.cpu_count()} CPUs"


def _imports() -> Iterator[Table]:
    from benchmarks.cases import import_lines

    yield Table("Import in a DAG file", "ms CPU", import_lines())


def _step() -> Iterator[Table]:
    from benchmarks.cases import step_lines

    with tempfile.TemporaryDirectory() as folder:
        yield Table("A no-op step", "ms CPU", step_lines(Path(folder)))


def _bytes() -> Iterator[Table]:
    from benchmarks.cases import byte_lines

    with tempfile.TemporaryDirectory() as folder:
        yield Table("Bytes shipped", "kB", byte_lines(Path(folder)))


def _data() -> Iterator[Table]:
    from benchmarks.data import BYTES, MIB, folder_lines

    with tempfile.TemporaryDirectory() as folder:
        title = f"{BYTES // MIB} MiB of numpy there and back, in a folder"
        yield Table(title, "MiB/s", folder_lines(Path(folder)), is_more_better=True)


def _bucket() -> Iterator[Table]:
    from benchmarks.data import BYTES, MIB, bucket_lines
    from tests.support.s3 import started

    title = f"{BYTES // MIB} MiB of numpy there and back, in a bucket on the same host"
    command = os.environ.get("STEPOP_S3SERVER")
    if not command:
        yield Table(title, "MiB/s", [Line("not measured", None, "set STEPOP_S3SERVER=scripts/s3server")])
        return
    server = started(command)
    os.environ[f"AIRFLOW_CONN_{server.conn_id.upper()}"] = server.connection()
    with tempfile.TemporaryDirectory() as folder:
        yield Table(title, "MiB/s", bucket_lines(Path(folder), server.new_address()), is_more_better=True)


def _memory() -> Iterator[Table]:
    from benchmarks.memory import memory_lines

    yield Table("Memory of a worker while a result passes by reference", "MiB", memory_lines())


def _watcher() -> Iterator[Table]:
    from benchmarks.watching import JOBS, watcher_lines

    calls, shares = itertools.tee(watcher_lines())
    yield Table(f"{JOBS} deferred steps: status calls", "a minute", (call for call, _ in calls))
    yield Table(f"{JOBS} deferred steps: share of a core", "%", (share for _, share in shares))


def _noticing() -> Iterator[Table]:
    from benchmarks.watching import noticing_lines

    with tempfile.TemporaryDirectory() as folder:
        yield Table("An ended process is noticed after", "s", noticing_lines(Path(folder)))


def _latency() -> Iterator[Table]:
    from benchmarks.latency import latency_lines

    yield Table("A task that does nothing, in a real Airflow", "s", latency_lines())


def _kubernetes(module: str) -> Iterator[Table]:
    """Yield the tables of a module of :mod:`benchmarks.kubernetes`, measured in a new namespace."""
    from importlib import import_module

    from benchmarks.kubernetes import cluster

    if reason := cluster.why_not(module):
        yield Table(f"Kubernetes: {module}", "", [Line("not measured", None, reason)])
        return
    with cluster.room() as room:
        yield from import_module(f"benchmarks.kubernetes.{module}").tables(room)


def _sagemaker(module: str) -> Iterator[Table]:
    """Yield the tables of a module of :mod:`benchmarks.sagemaker`, measured in a new account."""
    from importlib import import_module

    from benchmarks.sagemaker import service

    if reason := service.why_not():
        yield Table(f"SageMaker: {module}", "", [Line("not measured", None, reason)])
        return
    with service.room() as room:
        yield from import_module(f"benchmarks.sagemaker.{module}").tables(room)


def _modal(module: str) -> Iterator[Table]:
    """Yield the tables of a module of :mod:`benchmarks.modal`, measured in a new workspace."""
    from importlib import import_module

    from benchmarks.modal import service

    if reason := service.why_not():
        yield Table(f"Modal: {module}", "", [Line("not measured", None, reason)])
        return
    with service.room() as room:
        yield from import_module(f"benchmarks.modal.{module}").tables(room)


KUBERNETES = ("waiting", "submitting", "noticing", "transfer", "latency")
SAGEMAKER = ("parsing", "submitting", "steps", "waiting", "logs")
MODAL = ("parsing", "submitting", "transfer", "waiting")
TABLES: dict[str, Callable[[], Iterator[Table]]] = {
    "import": _imports,
    "step": _step,
    "bytes": _bytes,
    "data": _data,
    "bucket": _bucket,
    "memory": _memory,
    "watcher": _watcher,
    "noticing": _noticing,
    "latency": _latency,
    **{f"kubernetes-{module}": partial(_kubernetes, module) for module in KUBERNETES},
    **{f"sagemaker-{module}": partial(_sagemaker, module) for module in SAGEMAKER},
    **{f"modal-{module}": partial(_modal, module) for module in MODAL},
}


@dataclass(frozen=True)
class Page:
    """A page of the documentation, and the names of its benchmarks."""

    path: Path
    head: str
    names: Sequence[str]


_ON_KUBERNETES = [name for name in TABLES if name.startswith("kubernetes-")]
_ON_SAGEMAKER = [name for name in TABLES if name.startswith("sagemaker-")]
_ON_MODAL = [name for name in TABLES if name.startswith("modal-")]
PAGES = (
    Page(DOCS / "benchmarks.md", HEAD, [name for name in TABLES if "-" not in name]),
    Page(DOCS / "backends" / "kubernetes-benchmarks.md", KUBERNETES_HEAD, _ON_KUBERNETES),
    Page(DOCS / "backends" / "sagemaker-benchmarks.md", SAGEMAKER_HEAD, _ON_SAGEMAKER),
    Page(DOCS / "backends" / "modal-benchmarks.md", MODAL_HEAD, _ON_MODAL),
)


if __name__ == "__main__":
    main()
