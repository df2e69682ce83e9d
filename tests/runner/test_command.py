"""Command steps: inputs become files, files become outputs."""

from __future__ import annotations


def test_inputs_and_outputs(folder, any_python):
    """Inputs are files in the current folder, outputs are read from there."""
    inputs = {"name.txt": "Ada", "deep/config.json": {"a": [1]}, "raw.bin": b"\0\1"}
    script = "cat name.txt deep/config.json raw.bin > all.bin; echo '{\"ok\": [true, null]}' > metrics.json"
    folder.command("sh", "-c", script, inputs=inputs, outputs=("all.bin", "metrics.json"))
    done = folder.run(any_python)
    assert done.outcome["failure"] is None
    assert done.decode(done.outcome["outputs"]["all.bin"]) == b'Ada{"a": [1]}\0\1'
    assert done.decode(done.outcome["outputs"]["metrics.json"]) == {"ok": [True, None]}
