"""Programs as steps."""

from __future__ import annotations

import sys

from airflow.sdk import DAG, task

from airflow_stepop import RemoteStepOperator

PYTHON = sys.executable


@task.remote_step
def values(kind):
    if kind == "array":
        import numpy as np

        return np.arange(6).reshape(2, 3)
    if kind == "table":
        import pyarrow as pa

        return pa.table({"a": [1, 2, 3]})
    return {
        "json": {"a": [1, None]},
        "text": "grüße",
        "bytes": b"\x00\xff",
        "object": {1, 2},
        "big": b"b" * 100_000,
    }[kind]


READ_ARRAY = "import numpy, json; json.dump(numpy.load('in.npy').sum().item(), open('out.json', 'w'))"
READ_TABLE = (
    "import pyarrow.ipc, json; table = pyarrow.ipc.open_stream('in.arrow').read_all()\n"
    "json.dump(table.num_rows, open('out.json', 'w'))"
)
READ_PICKLE = (
    "import pickle, json; json.dump(sorted(pickle.load(open('in.pkl', 'rb'))), open('out.json', 'w'))"
)

NAMES = (
    "import glob, json, os; files = sorted(glob.glob('**/*.txt', recursive=True))\n"
    "json.dump([os.environ['A_NAME'], files], open('out.json', 'w'))"
)

with DAG("commands", schedule=None, default_args={"retries": 0}):

    def command(name, argv, **options):
        return RemoteStepOperator(task_id=name, command=argv, **options)

    for kind, name, script in [
        ("json", "in.json", "cp in.json out.json"),
        ("text", "in.txt", 'printf "\\"%s\\"" "$(cat in.txt)" > out.json'),
        ("bytes", "in.bin", "wc -c < in.bin > out.json"),
        ("big", "in.bin", "wc -c < in.bin > out.json"),
    ]:
        made = values.override(task_id=f"{kind}_made")(kind)
        command(f"{kind}_input", ["sh", "-c", script], inputs={name: made}, outputs=["out.json"])
    for kind, name, script in [
        ("array", "in.npy", READ_ARRAY),
        ("table", "in.arrow", READ_TABLE),
        ("object", "in.pkl", READ_PICKLE),
    ]:
        made = values.override(task_id=f"{kind}_made")(kind)
        command(f"{kind}_input", [PYTHON, "-c", script], inputs={name: made}, outputs=["out.json"])
    command(
        "literal_input",
        ["sh", "-c", "cat a/b.txt > out.txt"],
        inputs={"a/b.txt": "literal"},
        outputs=["out.txt"],
    )

    outputs = command(
        "outputs",
        [
            "sh",
            "-c",
            "echo '{\"auc\": 0.9}' > m.json; head -c 100000 /dev/zero > model.bin\n"
            "echo no json > bad.json; echo hi > t.txt",
        ],
        outputs=["m.json", "model.bin", "bad.json", "t.txt"],
    )

    @task
    def check_outputs(metrics, model, text, bad, everything):
        assert metrics == {"auc": 0.9}
        assert model == bytes(100_000)
        assert text == b"hi\n"
        assert bad == b"no json\n"
        assert everything["m.json"] == metrics

    @task.remote_step
    def check_outputs_in_a_step(model, everything):
        assert model == bytes(100_000)
        assert everything["t.txt"] == b"hi\n"

    check_outputs(
        *(outputs.output[name] for name in ("m.json", "model.bin", "t.txt", "bad.json")), outputs.output
    )
    check_outputs_in_a_step(outputs.output["model.bin"], outputs.output)
    command(
        "again",
        ["sh", "-c", "wc -c < m.bin > n.json"],
        inputs={"m.bin": outputs.output["model.bin"]},
        outputs=["n.json"],
    )

    command("nothing", ["true"])
    command("script", ["sh", "commands_run.sh", "one"], outputs=["out.txt"])
    command("python_script", [PYTHON, "commands_train.py"], outputs=["out.json"])
    command(
        "workdir",
        ["sh", "-c", "pwd > where.txt; cat in.txt"],
        workdir="deep/er",
        inputs={"in.txt": "x"},
        outputs=["where.txt"],
    )
    command("templated", ["sh", "-c", "echo {{ ds }} > out.txt"], outputs=["out.txt"])
    command(
        "templated_names",
        [PYTHON, "-c", NAMES],
        inputs={"in-{{ task.task_id }}.txt": "{{ task.task_id }}", "sub/{% if 1 %}yes{% endif %}.txt": "x"},
        env={"{{ 'a_name' | upper }}": "its {{ 'value' | upper }}"},
        outputs=["out.json"],
    )
    command("same_names", ["true"], inputs={"{{ 'a' }}.txt": "1", "a.txt": "2"})
    command("output_missing", ["sh", "-c", "echo x > modle.bin"], outputs=["model.bin"])
    command("exit_code", ["sh", "-c", "echo about to fail; exit 7"])
    command("not_found", ["no-such-program", "--flag"])
    command("killed", ["sh", "-c", "kill -9 $$"])
    command("climbing_output", ["true"], outputs=["../x"])
    command("climbing_input", ["true"], inputs={"../x": "x"})
    command("climbing_workdir", ["true"], workdir="../../x")
    command("bad_input", ["true"], inputs={"x": (n for n in ())})
    command("not_executable", ["./commands_run.sh"])
    command("executable", ["./commands_exec.sh"], outputs=["out.txt"])
