"""A DAG file that is loaded as Airflow loads it, and steps of its functions in the real runner."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from airflow_stepop.hooks.common.zipapp import runner_zipapp
from airflow_stepop.payload.build import build_payload
from airflow_stepop.payload.call import FunctionCall, Setup
from airflow_stepop.payload.callables import dag_module, import_reference
from airflow_stepop.payload.code_archive import Project
from airflow_stepop.runner import protocol
from tests.support.step_folder import Finished, StepFolder


def airflow_name(path: Path) -> str:
    """Return the name under which Airflow loads a DAG file."""
    return f"unusual_prefix_{hashlib.sha1(str(path).encode(), usedforsecurity=False).hexdigest()}_{path.stem}"


@contextmanager
def loaded(path: Path, name: str | None = None) -> Iterator[ModuleType]:
    """Load a DAG file under Airflow's name for it, or another name; on exit, the module is forgotten."""
    name = name or airflow_name(path)
    before = sys.modules.get(name)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before


def run_step(path: Path, dag: ModuleType, function: Any, *args: Any, **options: Any) -> Finished:
    """Run a function in the real runner, with the payload that a task of the DAG file would send.

    :param path: folder for the step
    :param options: ``archive``, the function's ``kwargs``, and arguments of ``StepFolder.run``
    """
    assert dag.__file__ is not None
    project = Project.of(dag.__file__, None)
    call = FunctionCall(
        function=function,
        args=args,
        kwargs=options.pop("kwargs", {}),
        main_module=dag_module(project, function),
        reference=import_reference(function, project),
    )
    setup = Setup(archive=options.pop("archive", None))
    payload = build_payload(
        call, job="stepop-job", nonce="n0nce", setup=setup, split="no", is_result_wanted=True
    )
    folder = StepFolder(path)
    for name, part in payload.parts.items():
        assert part.buffers is not None
        (path / "in" / name).write_bytes(b"".join(part.buffers))
    (path / "in" / protocol.MANIFEST).write_bytes(payload.manifest)
    (path / "in" / protocol.RUNNER).write_bytes(runner_zipapp(payload.features))
    return folder.run(digest=payload.digest, **options)
