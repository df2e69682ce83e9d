"""Builds input folders of steps, and runs the real ``step.pyz`` on them with real Pythons."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_stepop.hooks.common.bootstrap import BOOTSTRAP
from airflow_stepop.hooks.common.zipapp import runner_zipapp
from airflow_stepop.payload import pickling
from airflow_stepop.runner import protocol
from airflow_stepop.runner.values import decode_entry, encode_value, read_checked
from tests.support.waiting import PATIENCE_S

DAG_MODULE = "unusual_prefix_0123_dag"


@dataclass
class Finished:
    """The output of the runner: its exit code, streams and files."""

    code: int
    stdout: str
    stderr: str
    out: Path
    receipt: dict[str, Any] | None
    outcome: dict[str, Any] | None

    @property
    def failure(self) -> dict[str, Any]:
        assert self.outcome is not None, self.stderr
        assert self.outcome["status"] == "failure", self.outcome
        failure: dict[str, Any] = self.outcome["failure"]
        return failure

    def decode(self, entry: Mapping[str, Any], loads: Callable[..., Any] | None = None) -> Any:
        def read(segment: dict[str, Any], _codec: str) -> bytearray:
            with open(self.out / segment["name"], "rb") as stream:
                return read_checked(stream, segment)

        return decode_entry(dict(entry), read, loads)

    def value(self, loads: Callable[..., Any] | None = None) -> Any:
        assert self.outcome is not None, self.stderr
        assert self.outcome["status"] == "success", self.outcome["failure"]
        return self.decode(self.outcome["value"], loads)


@dataclass
class StepFolder:
    """An input folder. Each call adds something to it; ``run`` writes the manifest and runs the step."""

    path: Path
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.path / "in").mkdir(parents=True)
        (self.path / "in" / protocol.RUNNER).write_bytes(runner_zipapp())
        self.manifest = {
            "protocol": protocol.PROTOCOL,
            "job": "stepop-job",
            "nonce": "n0nce",
            "kind": "function",
            "python": None,
            "parts": self.parts,
            "args": [],
            "kwargs": {},
            "refs": [],
            "main_module": None,
            "split": "no",
            "discard_result": False,
        }

    def part(self, name: str, data: bytes) -> dict[str, Any]:
        (self.path / "in" / name).write_bytes(data)
        self.parts[name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        return {**self.parts[name], "name": name}

    def entry(
        self, value: Any, dumps: Callable[..., bytes] | None = None, limit: int = 49152
    ) -> dict[str, Any]:
        def plain_dumps(obj: Any, callback: Callable[..., Any]) -> bytes:
            import cloudpickle

            return cloudpickle.dumps(obj, protocol=5, buffer_callback=callback)  # type: ignore[no-any-return]

        def save(buffers: Any, digest: Any, size: int) -> dict[str, Any]:
            name = f"part-{len(self.parts)}"
            self.part(name, b"".join(buffers))
            return {"name": name}

        return encode_value(value, dumps or plain_dumps).to_entry(save, limit)

    def function(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> StepFolder:
        """Send a function by value."""
        function.__module__ = DAG_MODULE
        self.manifest["python"] = f"{sys.version_info[0]}.{sys.version_info[1]}"
        self.manifest["main_module"] = DAG_MODULE
        entry = self.entry(function, lambda value, callback: pickling.dumps(value, callback, DAG_MODULE, []))
        self.manifest["function"] = {"by": "value", "entry": entry}
        return self.arguments(*args, **kwargs)

    def reference(
        self, source: str, qualname: str, *args: Any, module: str = "helpers", **kwargs: Any
    ) -> StepFolder:
        """Send a module and call a function of it."""
        self.code({module.replace(".", "/") + ".py": source})
        self.manifest["function"] = {"by": "reference", "module": module, "qualname": qualname}
        return self.arguments(*args, **kwargs)

    def arguments(self, *args: Any, **kwargs: Any) -> StepFolder:
        self.manifest["args"] = [self.entry(arg) for arg in args]
        self.manifest["kwargs"] = {name: self.entry(arg) for name, arg in kwargs.items()}
        return self

    def command(
        self,
        *argv: str,
        inputs: Mapping[str, Any] | None = None,
        outputs: tuple[str, ...] = (),
        workdir: str | None = None,
    ) -> StepFolder:
        entries = {name: self.entry(value) for name, value in (inputs or {}).items()}
        self.manifest["kind"] = "command"
        self.manifest["command"] = {
            "argv": list(argv),
            "inputs": entries,
            "outputs": list(outputs),
            "workdir": workdir,
        }
        return self

    def code(self, members: Mapping[str, str]) -> StepFolder:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for name, text in members.items():
                archive.writestr(name, text)
        self.part(protocol.CODE, stream.getvalue())
        return self

    def set(self, **changes: Any) -> StepFolder:
        self.manifest.update(changes)
        return self

    def seal(self) -> str:
        data = json.dumps(self.manifest).encode()
        (self.path / "in" / protocol.MANIFEST).write_bytes(data)
        return hashlib.sha256(data).hexdigest()

    def argv(
        self, python: str = sys.executable, *, runner_digest: str | None = None, **options: str
    ) -> list[str]:
        """Return the command line of the runner. ``options`` replace or add some of its options."""
        named = {
            "in": str(self.path / "in"),
            "out": str(self.path / "out"),
            "digest": options.get("digest") or self.seal(),
            "receipt": str(self.path / "receipt"),
            **options,
        }
        flags = [word for name, value in named.items() for word in (f"--{name.replace('_', '-')}", value)]
        program = [str(self.path / "in" / protocol.RUNNER)]
        if runner_digest is not None:
            program = ["-c", BOOTSTRAP, *program, runner_digest]
        return [*python.split(" "), "-u", *program, "run", *flags]

    def runner_digest(self) -> str:
        """Return the SHA-256 of the runner in the folder."""
        return hashlib.sha256((self.path / "in" / protocol.RUNNER).read_bytes()).hexdigest()

    def run(
        self, python: str = sys.executable, *, env: Mapping[str, str] | None = None, **options: str
    ) -> Finished:
        done = subprocess.run(
            self.argv(python, **options), capture_output=True, text=True, timeout=PATIENCE_S, env=env
        )
        return self.finished(done.returncode, done.stdout, done.stderr)

    def finished(self, code: int, stdout: str = "", stderr: str = "") -> Finished:
        """Read the files that a run left, and check that receipt and outcome agree."""
        out = self.path / "out"
        path, receipt_path = out / protocol.OUTCOME, self.path / "receipt"
        data = path.read_bytes() if path.exists() else None
        receipt = json.loads(receipt_path.read_bytes()) if receipt_path.exists() else None
        if receipt is not None and data is None:
            data = base64.b64decode(receipt["outcome"])
        if receipt is not None and data is not None:
            assert receipt["protocol"] == protocol.PROTOCOL
            assert receipt["digest"] == hashlib.sha256(data).hexdigest()
            assert receipt["size"] == len(data)
            assert base64.b64decode(receipt.get("outcome", "")) in (b"", data)
        return Finished(code, stdout, stderr, out, receipt, json.loads(data) if data else None)
