"""The emulator of SageMaker runs jobs: containers, data, logs, outputs, and every kind of end."""

from __future__ import annotations

import io
import json
import os
import signal
import tarfile

import pytest

from tests.support.processes import is_alive, wait_gone
from tests.support.sagemaker import sagemaker
from tests.support.waiting import wait_until
from tests.unit.emulators.requests import refusal

LOOK_AROUND = """
import json, os, pathlib
ml = pathlib.Path("/opt/ml")
print("first line", flush=True)
print("nul \\0 in it", flush=True)
(ml / "model" / "weights").write_text("w")
(ml / "output" / "data" / "notes").mkdir()
inputs = ml / "input" / "data"
(ml / "output" / "data" / "notes" / "seen.json").write_text(json.dumps({
    "host": os.environ["HOSTNAME"], "cwd": os.getcwd(), "pid": os.getpid(), "tmp": os.listdir("/tmp"),
    "name": os.environ["TRAINING_JOB_NAME"], "arn": os.environ["TRAINING_JOB_ARN"],
    "mine": os.environ["MINE"],
    "parameters": json.loads((ml / "input" / "config" / "hyperparameters.json").read_text()),
    "hosts": json.loads((ml / "input" / "config" / "resourceconfig.json").read_text())["hosts"],
    "channels": json.loads((ml / "input" / "config" / "inputdataconfig.json").read_text()),
    "data": sorted(str(path.relative_to(inputs)) for path in inputs.rglob("*") if path.is_file()),
}))
"""
WRITE = """
import pathlib
pathlib.Path("/opt/ml/model/weights").write_text("w")
pathlib.Path("/opt/ml/output/data/notes").write_text("n")
"""
FOR_EVER = """
import time
print("running", flush=True)
while True:
    time.sleep(0.05)
"""
ENDS_ON_SIGTERM = """
import pathlib, signal, sys, time
def end(*_):
    pathlib.Path("/opt/ml/model/last").write_text("words")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("running", flush=True)
while True:
    time.sleep(0.05)
"""
RESUMES = """
import os, pathlib, time
saved = pathlib.Path("/opt/ml/checkpoints/step")
found = saved.read_text() if saved.exists() else "nothing"
print("found", found, flush=True)
pathlib.Path("/opt/ml/model/leftover").write_text(found)
saved.write_text("7")
while found == "nothing":
    time.sleep(0.05)
"""


def wait_for_line(service, job, line, attempt=0):
    wait_until(lambda: service.log(job, attempt), f"the line {line!r}", holds=lambda seen: line in seen)


def statuses(described):
    return [entry["Status"] for entry in described["SecondaryStatusTransitions"]]


def test_a_job_gets_its_input_and_leaves_its_output_and_its_log(running):
    """Input channels, configuration, variables, log lines and both output folders are where they belong."""
    running.put("rows/a.csv", "1")
    running.put("rows/sub/b.csv", "2")
    name = running.create_script(
        LOOK_AROUND,
        Environment={"MINE": "yes"},
        HyperParameters={"k": "10"},
        InputDataConfig=[running.channel("train", "rows")],
    )
    described = running.service.wait_for(name, "Completed", "Failed")
    assert statuses(described) == ["Starting", "Downloading", "Training", "Uploading", "Completed"]
    outputs = running.objects(f"out/{name}/output/")
    assert outputs["model/weights"] == b"w"
    seen = json.loads(outputs["output/notes/seen.json"])
    channel = {
        "TrainingInputMode": "File",
        "S3DistributionType": "FullyReplicated",
        "RecordWrapperType": "None",
    }
    assert seen == {
        "host": "ip-10-0-0-1.ec2.internal",
        "cwd": "/",
        "pid": 1,
        "tmp": [],
        "name": name,
        "arn": described["TrainingJobArn"],
        "mine": "yes",
        "parameters": {"k": "10"},
        "hosts": ["algo-1"],
        "channels": {"code": channel, "train": channel},
        "data": ["code/main.py", "train/a.csv", "train/sub/b.csv"],
    }
    assert running.service.log(name) == ["first line", "nul \0 in it"]
    assert described["ModelArtifacts"]["S3ModelArtifacts"].endswith(f"/out/{name}/output/model/")


@pytest.mark.parametrize(
    ("compression", "layout", "expected"),
    [
        ("NONE", "plain", {"model/weights", "output/notes"}),
        ("NONE", "mixed", {"model/weights", "output.tar.gz"}),
        ("NONE", "tar", {"model.tar.gz", "output.tar.gz"}),
        ("GZIP", "plain", {"model.tar.gz", "output.tar.gz"}),
    ],
)
def test_outputs_come_in_each_layout(running, compression, layout, expected):
    """Which layout the real service uses without compression is not certain, so a client meets all."""
    running.service.do("settings", layout=layout)
    target = {"S3OutputPath": f"{running.url}/out", "CompressionType": compression}
    name = running.create_script(WRITE, OutputDataConfig=target)
    running.service.wait_for(name, "Completed")
    outputs = running.objects(f"out/{name}/output/")
    assert set(outputs) == expected
    for key in expected & {"model.tar.gz", "output.tar.gz"}:
        with tarfile.open(fileobj=io.BytesIO(outputs[key])) as archive:
            assert archive.getnames() == ["weights" if key == "model.tar.gz" else "notes"]


def test_a_manifest_names_the_objects_of_a_channel(running):
    running.put("far/one.bin", "1")
    running.put("far/deep/two.bin", "2")
    running.put("far/other.bin", "3")
    manifest = [{"prefix": f"{running.url}/far/"}, "one.bin", "deep/two.bin"]
    running.put("list.json", json.dumps(manifest))
    channels = [running.channel("parts", "list.json", "ManifestFile")]
    name = running.create_script(LOOK_AROUND, Environment={"MINE": "yes"}, InputDataConfig=channels)
    running.service.wait_for(name, "Completed", "Failed")
    seen = json.loads(running.objects(f"out/{name}/output/output/notes/")["seen.json"])
    assert seen["data"] == ["code/main.py", "parts/deep/two.bin", "parts/one.bin"]


FAILURES = [
    ("sys.exit(3)", "AlgorithmError: , exit code: 3"),
    ("tell('out of cheese'); sys.exit(1)", "AlgorithmError: out of cheese, exit code: 1"),
    ("tell('é' * 2000); sys.exit(1)", "AlgorithmError: " + "é" * 1008),
]


@pytest.mark.parametrize(("ending", "reason"), FAILURES)
def test_a_failure_has_its_reason_and_its_outputs(running, ending, reason):
    """The file /opt/ml/output/failure is told, cut at 1,024 characters with the prefix."""
    script = f"""
import pathlib, sys
def tell(text):
    pathlib.Path("/opt/ml/output/failure").write_text(text, "utf-8")
pathlib.Path("/opt/ml/output/data/notes").write_text("n")
{ending}
"""
    name = running.create_script(script)
    described = running.service.wait_for(name, "Failed", "Completed")
    assert described["FailureReason"] == reason
    assert len(described["FailureReason"]) <= 1024
    assert running.objects(f"out/{name}/output/") == {"output/notes": b"n"}
    assert "ModelArtifacts" not in described


def test_a_process_that_a_signal_ends_has_no_text(running):
    name = running.create_script(FOR_EVER)
    wait_for_line(running.service, name, "running")
    os.kill(running.service.report()["jobs"][name]["pid"], signal.SIGKILL)
    assert running.service.wait_for(name, "Failed")["FailureReason"] == "AlgorithmError: Exit Code: 137"


def test_too_little_memory_has_the_text_of_the_service(running):
    running.service.do("settings", oom_text=True)
    name = running.create_script("import sys; sys.exit(137)")
    assert (
        "use an instance type with more memory" in running.service.wait_for(name, "Failed")["FailureReason"]
    )


@pytest.mark.parametrize(
    ("entrypoint", "reason"),
    [(["nowhere"], "AlgorithmError: , exit code: 127"), (None, 'exec: "train": executable file not found')],
)
def test_an_executable_that_is_not_there(running, entrypoint, reason):
    algorithm = {"TrainingImage": running.service.image, "TrainingInputMode": "File"}
    algorithm |= {"ContainerEntrypoint": entrypoint} if entrypoint else {}
    name = running.create(AlgorithmSpecification=algorithm)
    assert reason in running.service.wait_for(name, "Failed")["FailureReason"]


def test_the_objects_of_a_failure_may_come_after_its_status(running):
    running.service.do("settings", late_objects_hold=True)
    name = running.create_script(WRITE + "raise SystemExit(1)")
    running.service.wait_for(name, "Failed")
    assert running.objects(f"out/{name}/") == {}
    running.service.do("settings", late_objects_hold=False)
    wait_until(lambda: running.objects(f"out/{name}/"), "the objects", holds=lambda seen: len(seen) == 2)


def test_stop_sends_sigterm_and_uploads_the_outputs(running):
    """The container has time to end by itself, and what it writes then is kept."""
    running.service.do("settings", kill_after_s=200.0)
    name = running.create_script(ENDS_ON_SIGTERM)
    wait_for_line(running.service, name, "running")
    running.client.stop_training_job(TrainingJobName=name)
    described = running.service.wait_for(name, "Stopped")
    assert described["SecondaryStatus"] == "Stopped"
    assert statuses(described)[-3:] == ["Stopping", "Uploading", "Stopped"]
    assert running.objects(f"out/{name}/output/") == {"model/last": b"words"}
    assert "FailureReason" not in described


def test_stop_kills_a_container_that_does_not_listen(running):
    """As process 1 of its container, a program without a handler does not get SIGTERM."""
    running.service.do("settings", kill_after_s=0.2)
    name = running.create_script(FOR_EVER)
    wait_for_line(running.service, name, "running")
    pid = running.service.report()["jobs"][name]["pid"]
    running.client.stop_training_job(TrainingJobName=name)
    running.service.wait_for(name, "Stopped")
    assert not is_alive(pid)


def test_a_runtime_that_is_exceeded_ends_late_and_as_stopped(running):
    running.service.do("settings", second_s=0.1, kill_after_s=0.1)
    name = running.create_script(FOR_EVER, StoppingCondition={"MaxRuntimeInSeconds": 5})
    described = running.service.wait_for(name, "MaxRuntimeExceeded", "Failed")
    assert described["TrainingJobStatus"] == "Stopped"
    assert described["TrainingTimeInSeconds"] >= 7
    assert statuses(described)[2:] == ["Training", "Stopping", "Uploading", "MaxRuntimeExceeded"]


def test_spot_begins_anew_with_the_checkpoints(running):
    """An interruption: a new attempt with a fresh /opt/ml, a new log stream, and the checkpoints from S3."""
    name = running.create_script(
        RESUMES,
        EnableManagedSpotTraining=True,
        StoppingCondition={"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 7200},
        CheckpointConfig={"S3Uri": f"{running.url}/checkpoints/"},
    )
    wait_until(lambda: running.objects("checkpoints/"), "the checkpoint", holds=lambda seen: seen.get("step"))
    wait_for_line(running.service, name, "found nothing")
    running.service.do("interrupt", job=name)
    described = running.service.wait_for(name, "Completed", "Failed")
    attempt = ["Starting", "Downloading", "Training"]
    assert statuses(described) == [*attempt, "Interrupted", *attempt, "Uploading", "Completed"]
    assert running.objects(f"out/{name}/output/") == {"model/leftover": b"7"}
    assert running.service.log(name, 1) == ["found 7"]
    streams = running.service.report()["jobs"][name]["streams"]
    assert len(set(streams)) == 2
    assert all(stream.startswith(f"{name}/algo-1-") for stream in streams)
    assert described["CheckpointConfig"]["LocalPath"] == "/opt/ml/checkpoints"


def test_a_retry_strategy_retries_an_internal_error(running):
    running.service.do("plan", job="*", internal_errors=1)
    kept = running.create_script("print('once more')", RetryStrategy={"MaximumRetryAttempts": 1})
    assert "Restarting" in statuses(running.service.wait_for(kept, "Completed", "Failed"))
    lost = running.create_script("print('once')")
    described = running.service.wait_for(lost, "Completed", "Failed")
    assert described["FailureReason"].startswith("InternalServerError: ")


def test_a_data_log_stream_may_lie_beside(running):
    running.service.do("settings", data_log=True)
    name = running.create_script("print('x')")
    running.service.wait_for(name, "Completed")
    found = running.service.client("logs").describe_log_streams(
        logGroupName=running.service.group, logStreamNamePrefix=f"{name}/"
    )
    names = [stream["logStreamName"] for stream in found["logStreams"]]
    assert len(names) == 2
    assert f"{name}/data-log" in names


def test_network_isolation_leaves_no_network(running):
    script = """
import socket
try:
    socket.create_connection(("127.0.0.1", 1))
except OSError as error:
    print(error.errno, flush=True)
"""
    name = running.create_script(script, EnableNetworkIsolation=True)
    running.service.wait_for(name, "Completed")
    assert running.service.log(name) == ["101"]


def test_a_job_that_somebody_deleted_ends_and_is_unknown(running):
    name = running.create_script(FOR_EVER)
    wait_for_line(running.service, name, "running")
    pid = running.service.report()["jobs"][name]["pid"]
    running.service.do("vanish", job=name)
    expected = ("ValidationException", "Requested resource not found.")
    assert refusal(running.client, "describe_training_job", TrainingJobName=name) == expected
    wait_gone([pid], "the container")


@pytest.mark.parametrize("ending", ["killed", "alone"])
def test_containers_end_with_the_emulator(running, ending):
    """Whatever ends the emulator, no process of a job is left. It ends with the process that started it."""
    shared = running.service
    with sagemaker(shared.s3, shared.logs_url) as own:
        running.service = own
        name = running.create_script(
            "import subprocess, sys\nprint('running', flush=True)\nsubprocess.run(['sleep', '1000'])"
        )
        wait_for_line(own, name, "running")
        pid = own.report()["jobs"][name]["pid"]
        if ending == "killed":
            own.process.kill()
        else:
            own.process.stdin.close()
        wait_gone([pid, own.process.pid] if ending == "killed" else [pid], "the container")


def test_the_container_gets_credentials_of_the_role(running):
    script = """
import json, os, urllib.request
with urllib.request.urlopen(os.environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"]) as answer:
    print(json.load(answer)["AccessKeyId"], flush=True)
"""
    name = running.create_script(script)
    running.service.wait_for(name, "Completed", "Failed")
    assert running.service.log(name) == [running.service.s3.key]


def test_an_isolated_container_gets_none(running):
    script = "import os\nprint([name for name in os.environ if 'CREDENTIALS' in name], flush=True)"
    name = running.create_script(script, EnableNetworkIsolation=True)
    running.service.wait_for(name, "Completed", "Failed")
    assert running.service.log(name) == ["[]"]


def test_the_last_lines_may_come_after_the_end(running):
    running.service.do("settings", late_logs_hold=True)
    name = running.create_script("print('late')")
    running.service.wait_for(name, "Completed")
    assert running.service.log(name) == []
    running.service.do("settings", late_logs_hold=False)
    wait_for_line(running.service, name, "late")


def test_a_folder_for_checkpoints_elsewhere(running):
    """LocalPath may lie outside /opt/ml."""
    running.put("saved/deep/step", "3")
    name = running.create_script(
        "print(open('/tmp/checkpoints/deep/step').read()); open('/tmp/checkpoints/new', 'w').write('4')",
        CheckpointConfig={"S3Uri": f"{running.url}/saved", "LocalPath": "/tmp/checkpoints"},
    )
    running.service.wait_for(name, "Completed", "Failed")
    assert running.service.log(name) == ["3"]
    assert running.objects("saved/") == {"deep/step": b"3", "new": b"4"}


def test_a_folder_of_the_host_can_be_shared(running, tmp_path):
    """Everything else below /tmp is the job's own."""
    running.service.do("settings", shared=[str(tmp_path)])
    name = running.create_script(f"open({str(tmp_path / 'seen')!r}, 'w').write('x')")
    running.service.wait_for(name, "Completed", "Failed")
    assert (tmp_path / "seen").read_text() == "x"


GOES_ON = """
import os, pathlib, signal, sys, time
saved = pathlib.Path("/opt/ml/checkpoints/last")
if saved.exists():
    sys.exit(0)
def end(*_):
    saved.write_text("words")
    while not os.path.exists(FREE):
        time.sleep(0.01)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("running", flush=True)
while True:
    time.sleep(0.05)
"""


def test_a_reclaim_may_send_sigterm(running, tmp_path):
    """Whether the real service does so is not known. What is written then is still copied."""
    running.service.do("settings", spot_sigterm=True, kill_after_s=200.0, shared=[str(tmp_path)])
    name = running.create_script(
        f"FREE = {str(tmp_path / 'free')!r}\n{GOES_ON}",
        EnableManagedSpotTraining=True,
        StoppingCondition={"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 7200},
        CheckpointConfig={"S3Uri": f"{running.url}/saved"},
    )
    wait_for_line(running.service, name, "running")
    running.service.do("interrupt", job=name)
    wait_until(lambda: running.objects("saved/"), "the copy", holds=lambda seen: seen.get("last") == b"words")
    (tmp_path / "free").touch()
    assert "Interrupted" in statuses(running.service.wait_for(name, "Completed", "Failed"))


def test_long_lines_are_divided_and_empty_ones_left_out(running):
    """An event of the log service has one character at least and 256 KiB at most."""
    name = running.create_script("print('é' * 150_000); print(); print('end')")
    running.service.wait_for(name, "Completed", "Failed")
    assert [len(line) for line in running.service.log(name)] == [60_000, 60_000, 30_000, 3]


def test_metrics_are_read_from_the_log(running):
    """The last value of each pattern of MetricDefinitions."""
    running.put("code/main.py", "for loss in (3, 2.5): print(f'loss={loss};')")
    name = running.create(
        InputDataConfig=[running.channel("code", "code/")],
        AlgorithmSpecification={
            "TrainingImage": running.service.image,
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["python3", "/opt/ml/input/data/code/main.py"],
            "MetricDefinitions": [{"Name": "loss", "Regex": "loss=(.*?);"}],
        },
    )
    (metric,) = running.service.wait_for(name, "Completed", "Failed")["FinalMetricDataList"]
    assert (metric["MetricName"], metric["Value"]) == ("loss", 2.5)
