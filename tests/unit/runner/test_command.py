"""Command steps: inputs become files, files become outputs."""

from __future__ import annotations

import json
import os
import sys

import pytest


def output(done, name="out"):
    assert done.outcome["failure"] is None, done.outcome["failure"]
    return done.decode(done.outcome["outputs"][name])


def test_inputs_and_outputs(folder, any_python):
    """Inputs are files in the current folder, outputs are read from there."""
    inputs = {"name.txt": "Ada", "deep/config.json": {"a": [1, "ä"], "t": (2,)}, "raw.bin": b"\0\1"}
    script = "cat name.txt deep/config.json raw.bin > all.bin; echo '{\"ok\": [true, null]}' > metrics.json"
    folder.command("sh", "-c", script, inputs=inputs, outputs=("all.bin", "metrics.json"))
    done = folder.run(any_python)
    assert output(done, "all.bin") == 'Ada{"a": [1, "ä"], "t": [2]}'.encode() + b"\0\1"
    assert output(done, "metrics.json") == {"ok": [True, None]}
    assert done.outcome["outputs"]["metrics.json"]["codec"] == "json"
    assert done.outcome["outputs"]["all.bin"]["codec"] == "file"
    assert done.code == 0


def test_arrays_tables_and_objects_as_inputs(folder):
    """An array is an .npy file, a table an Arrow stream, any other object a pickle in one piece."""
    import numpy as np
    import pyarrow as pa

    script = """
import pickle, numpy, pyarrow
big = pickle.load(open("big.pkl", "rb"))
table = pyarrow.ipc.open_stream(open("t.arrow", "rb").read()).read_all()
small = pickle.load(open("s.pkl", "rb"))
with open("out", "w") as stream:
    print(numpy.load("a.npy").sum(), table.num_rows, big["w"].sum(), small, file=stream)
"""
    big = {"w": np.ones(100_000)}
    inputs = {"a.npy": np.arange(4), "t.arrow": pa.table({"x": [1, 2]}), "big.pkl": big, "s.pkl": {3}}
    folder.command(sys.executable, "-c", script, inputs=inputs, outputs=("out",))
    assert output(folder.run()) == b"6 2 100000.0 {3}\n"


def test_json_that_is_none(folder):
    """An output called .json that is not valid JSON comes back as its bytes."""
    folder.command(
        "sh", "-c", "echo '{' > a.json; echo NaN > b.json; echo '{\"()\": []}' > c.json", outputs=("a.json",)
    )
    folder.manifest["command"]["outputs"] += ["b.json", "c.json"]
    done = folder.run()
    assert output(done, "a.json") == b"{\n"
    assert output(done, "b.json") == b"NaN\n"
    assert output(done, "c.json") == {"()": []}


def test_large_output(folder):
    """A large output is a segment, copied in pieces."""
    folder.command("sh", "-c", "head -c 3000000 /dev/zero > big.json", outputs=("big.json",))
    done = folder.run()
    assert output(done, "big.json") == bytes(3_000_000)
    assert done.outcome["outputs"]["big.json"]["segments"][0]["name"]
    assert done.outcome["outputs"]["big.json"]["codec"] == "file"


@pytest.mark.parametrize("workdir", ["sub/dir", "absolute", "."])
def test_workdir(folder, tmp_path, workdir):
    """Inputs and outputs are relative to the folder in which the command runs."""
    if workdir == "absolute":
        workdir = str(tmp_path / "app")
        os.mkdir(workdir)
    folder.command(
        "sh", "-c", "pwd > out; cat in >> out", inputs={"in": "x"}, outputs=("out",), workdir=workdir
    )
    cwd = output(folder.run()).decode()
    assert cwd.endswith("\nx")
    assert workdir in cwd or workdir == "."


def test_environment(folder):
    """The command finds its folder in the environment, and the code archive in the folder."""
    folder.code({"tool.py": "print(1)"})
    folder.command("sh", "-c", "echo $STEPOP_WORK $PWD $STEPOP_JOB > out; ls >> out", outputs=("out",))
    work, cwd, job, *files = output(folder.run()).decode().split()
    assert work == cwd
    assert job == "stepop-job"
    assert files == ["out", "tool.py"]


@pytest.mark.parametrize(
    ("argv", "code", "summary"),
    [
        (("sh", "-c", "exit 7"), 7, "The command 'sh' ended with exit code 7"),
        (("no-such-program",), 127, "The command 'no-such-program' was not found"),
        (("./plain",), 126, "The command './plain' may not be executed"),
        (("./text",), 126, "The command './text' did not start: [Errno 8] Exec format error"),
        (
            ("sh", "-c", "kill -9 $$"),
            137,
            "The command 'sh' was killed by SIGKILL; it may have been the out-of",
        ),
        (("sh", "-c", "kill -11 $$"), 139, "The command 'sh' was killed by SIGSEGV"),
    ],
)
def test_failing_commands(folder, argv, code, summary):
    """How a command fails is told apart."""
    text = folder.path / "text"
    text.write_text("no program")
    text.chmod(0o755)
    (folder.path / "plain").write_text("no program")
    folder.command(*argv, workdir=str(folder.path))
    failure = folder.run().failure
    assert summary in failure["summary"]
    assert failure["exit_code"] == code
    assert failure["category"] == "user_error"


def test_workdir_that_is_missing(folder):
    """A missing folder is not mistaken for a missing command."""
    failure = folder.command("sh", workdir="/no/such/folder").run().failure
    assert failure["summary"] == "The step's folder /no/such/folder does not exist"


def test_missing_outputs(folder):
    """The message lists the outputs that are missing and the files that are there."""
    script = "mkdir d; touch d/metrics.json model.pt; for i in $(seq 30); do touch z$i; done"
    folder.command("sh", "-c", script, inputs={"in": "x"}, outputs=("metrics.json", "model.pt", "log"))
    summary = folder.run().failure["summary"]
    assert summary.startswith(
        "The command did not write metrics.json, log; files it left: d/metrics.json, model.pt, z1"
    )
    assert summary.endswith("and 12 more")


def test_output_that_is_a_folder(folder):
    """A folder is not an output, and the hint says what to do."""
    failure = folder.command("mkdir", "d", outputs=("d",)).run().failure
    assert failure["summary"] == "The output 'd' is not a file"
    assert "tar" in failure["hint"]


@pytest.mark.parametrize("path", ["/etc/x", "../x", "a/../../x", ".", "", "a\0b"])
@pytest.mark.parametrize("kind", ["input", "output"])
def test_paths_that_leave_the_folder(folder, path, kind):
    """Inputs and outputs stay inside the step's folder; nothing runs otherwise."""
    inputs, outputs = ({path: "x"}, ()) if kind == "input" else ({}, (path,))
    done = folder.command("touch", str(folder.path / "ran"), inputs=inputs, outputs=outputs).run()
    assert done.failure["summary"] == f"The {kind} {path!r} is not a path inside the step's folder"
    assert done.code == 64
    assert not (folder.path / "ran").exists()


def test_workdir_that_leaves_the_folder(folder):
    """A relative workdir stays inside as well."""
    failure = folder.command("true", workdir="../x").run().failure
    assert failure["summary"] == "The workdir '../x' is not a path inside the step's folder"


def test_what_the_command_prints(folder):
    """Output of the command is the output of the step, in order and unbuffered by us."""
    done = folder.command("sh", "-c", "echo one; echo two >&2; echo three").run()
    assert done.stdout == "one\nthree\n"
    assert done.stderr == "two\n"
    assert json.dumps(done.outcome["outputs"]) == "{}"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"loss": NaN}', "is not valid JSON: it contains NaN"),
        ('{"loss": [1, -Infinity]}', "is not valid JSON: it contains -Infinity"),
        ("{", "is not valid JSON: Expecting property name enclosed in double quotes"),
        ("", "is not valid JSON: Expecting value"),
        ("[" * 5000, "is not valid JSON: "),
        ("[" * 150 + "]" * 150, "is nested too deeply, or has a number that is too large"),
        ('{"x": 1e999}', "is nested too deeply, or has a number that is too large"),
        ('"' + "x" * 60_000 + '"', "has 58.6 KiB, more than 48 KiB"),
    ],
)
def test_a_json_output_that_is_not_parsed(folder, content, reason):
    """It comes back as bytes, and the step's log says why."""
    folder.command("sh", "-c", "cat text > m.json", inputs={"text": content}, outputs=("m.json",))
    done = folder.run()
    assert output(done, "m.json") == content.encode()
    assert done.outcome["outputs"]["m.json"]["codec"] == "file"
    (line,) = [line for line in done.stderr.splitlines() if "m.json" in line]
    assert line.startswith(f"\x1fWARNING:stepop: The output m.json {reason}")
    assert line.endswith("It is returned as bytes and not as the value of its JSON")


def test_outputs_that_are_as_expected_are_not_warned_about(folder):
    folder.command(
        "sh", "-c", "echo '{\"a\": 1}' > m.json; echo NaN > log.txt", outputs=("m.json", "log.txt")
    )
    done = folder.run()
    assert output(done, "m.json") == {"a": 1}
    assert "WARNING" not in done.stderr
    assert [done.outcome["outputs"][name]["about"] for name in ("m.json", "log.txt")] == [
        "dict of 1",
        "file log.txt",
    ]


def test_values_with_types_as_inputs(folder):
    """A ``.json`` file holds JSON that people can read; any other file a pickle, as for other objects."""
    import datetime
    import decimal

    value = {
        "lr": decimal.Decimal("0.1"),
        "on": datetime.date(2024, 1, 2),
        1: {2},
        "bad": float("nan"),
        "t": (1,),
    }
    script = """
import json, pickle
value = pickle.load(open("v", "rb"))
with open("out", "w") as stream:
    print(open("v.json").read(), type(value["lr"]).__name__, value["t"], value[1], file=stream)
"""
    folder.command(sys.executable, "-c", script, inputs={"v": value, "v.json": value}, outputs=("out",))
    text = '{"lr": "0.1", "on": "2024-01-02", "1": [2], "bad": "nan", "t": [1]}'
    assert output(folder.run()) == f"{text} Decimal (1,) {{2}}\n".encode()
