"""Finds the outcome of a training job in its output, and the receipt that proves it. Called by the hook.

The receipt of a step that failed is in the reason of the failure, and that of every other step in the log.

SageMaker copies ``/opt/ml/model`` to ``<S3OutputPath>/<job>/output``. With ``CompressionType: NONE`` the
files lie there by themselves. Where only ``model.tar.gz`` lies there, the worker unpacks the step's files.

Source: https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-output.html
"""

from __future__ import annotations

import mmap
import os
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO

from airflow_stepop.exceptions import OutcomeLostError, OutcomeNotReadyError
from airflow_stepop.hooks.common.receipts import find_receipt, is_of_runner, receipt_of, report
from airflow_stepop.hooks.sagemaker.archive import own_files
from airflow_stepop.hooks.sagemaker.failures import has_outcome, receipt_in, reported_in
from airflow_stepop.hooks.sagemaker.job_logs import GROUP
from airflow_stepop.hooks.sagemaker.places import OUTPUT_FOLDER
from airflow_stepop.hooks.sagemaker.request import signed_nonce
from airflow_stepop.hooks.sagemaker.service import FORBIDDEN, api_error
from airflow_stepop.hooks.sagemaker.status import status_of
from airflow_stepop.job import JobState, OutcomeReport
from airflow_stepop.runner.protocol import OUTCOME, OUTCOME_BYTES
from airflow_stepop.stores.configured import locate

if TYPE_CHECKING:
    from airflow_stepop.hooks.common.receipts import Receipt
    from airflow_stepop.job import JobHandle, JobStatus

ARCHIVE = "model.tar.gz"
# The receipt of a step that succeeded is waited for so long after the end of its job. Where the service
# itself knows why the job ended, the outcome adds little
LATE_S, LATE_ELSE_S = 900.0, 60.0
READ_LOGS = "allow logs:DescribeLogStreams and logs:FilterLogEvents for the caller (see airflow stepop check)"
WRITE_LOGS = "allow logs:CreateLogStream and logs:PutLogEvents for the role of the job"
LOST = "or an earlier attempt's machine took its last log lines along: clear the task to run the step again"
NOT_OF_THE_RUNNER = (
    "The step, or somebody else who may write into its log, has made it up: see who may call "
    "logs:PutLogEvents, and clear the task to run the step again"
)


def outcome_of(
    handle: JobHandle, job: Mapping[str, Any], output: Output, read_log: Callable[[], Sequence[str]]
) -> OutcomeReport:
    """Return the outcome of a job whose container has run.

    :param job: the whole record of the job
    :param read_log: reads the last texts of the job's log; called if nothing else has the receipt
    :raises OutcomeLostError: the runner left no outcome
    :raises OutcomeNotReadyError: the outcome or its receipt may still come
    """
    reason = str(job.get("FailureReason", ""))
    status, receipts = status_of(job), _Receipts(job)
    receipt = receipts.believed(receipt_in(reason))
    is_success = status.state is JobState.SUCCEEDED
    late_s = time.time() - (status.finished_at or 0.0)
    is_reported = has_outcome(reason)
    base_uri, place = output.base_uri(), f"{output.result_uri}/output"
    if base_uri is None and (is_success or receipt or (is_reported and late_s < LATE_ELSE_S)):
        known = reported_in(reason)
        failure = known.to_json() if known is not None else None
        raise OutcomeNotReadyError(f"{OUTCOME} of {handle} is not below {place}", failure=failure)
    if base_uri is None:
        raise OutcomeLostError(f"{handle} left no outcome below {place}")
    receipt, missing = receipt or receipts.believed(receipt_of(handle)), ""
    if receipt is None:
        receipt, missing = _from_log(receipts, read_log)
    may_come = late_s < (LATE_S if is_success else LATE_ELSE_S) and missing != READ_LOGS
    if receipt is None and may_come and (is_reported or status.state is not JobState.FAILED):
        raise OutcomeNotReadyError(f"the receipt of {handle} is not in the log group {GROUP}")
    if receipt is None and receipts.forged:
        raise OutcomeLostError(
            f"{handle} has a receipt that its runner did not write, and no other. {NOT_OF_THE_RUNNER}"
        )
    if receipt is None and is_success:
        missing = f"its receipt is not in the log group {GROUP}; {missing}"
        _refuse_restarted(handle, status, missing)
        data = output.read(base_uri, OUTCOME_BYTES)
        found = OutcomeReport(None, data, base_uri, missing)
    else:
        found = report(handle, receipt, base_uri, lambda _: output.read(base_uri, OUTCOME_BYTES), GROUP)
    model_uri = output.model_uri()
    return replace(found, usage={"model_uri": model_uri}) if model_uri else found


def _refuse_restarted(handle: JobHandle, status: JobStatus, missing: str) -> None:
    """Refuse the outcome of a job that has no receipt and was started several times.

    The last attempt may have restored what somebody has forged in the bucket: see decision 0023.

    :raises OutcomeLostError: it is such a job
    """
    if status.usage.get("attempts") and not missing.endswith(READ_LOGS):
        raise OutcomeLostError(
            f"the service started the job of {handle} several times, and {missing}; {LOST}"
        )


class _Receipts:
    """Tells the receipts that the runner of a job has written from all others.

    A step with the same role may write any line into the log. A job that an earlier version of this package
    has submitted has no key, so the channel alone proves its receipts.
    """

    def __init__(self, job: Mapping[str, Any]) -> None:
        self._nonce = signed_nonce(job)
        self.forged = False  # whether there was a receipt that the runner did not write

    def is_believed(self, receipt: Receipt) -> bool:
        is_ours = self._nonce is None or is_of_runner(receipt, self._nonce)
        self.forged = self.forged or not is_ours
        return is_ours

    def believed(self, receipt: Receipt | None) -> Receipt | None:
        return receipt if receipt is not None and self.is_believed(receipt) else None


def _from_log(receipts: _Receipts, read: Callable[[], Sequence[str]]) -> tuple[Receipt | None, str]:
    """Return the receipt in the log, or else ``None`` and which permission may be missing."""
    try:
        return find_receipt(read(), is_believed=receipts.is_believed), WRITE_LOGS
    except Exception as error:
        if api_error(error).code not in FORBIDDEN:
            raise
        return None, READ_LOGS


class Output:
    """The output of one job in its store.

    :param result_uri: the step's folder for results, which ends with the job's name
    """

    def __init__(self, result_uri: str) -> None:
        self.result_uri = result_uri
        self.store, self.path = locate(result_uri)

    def base_uri(self) -> str | None:
        """Return the folder with ``outcome.json``; ``None``: it is not there, perhaps not yet.

        The objects of a failed job may come a little after its status.
        """
        usual = f"{self.path}/output/model/{OUTPUT_FOLDER}"
        if f"{usual}/{OUTCOME}" in self.store.list(usual):
            return self.store.uri(usual)
        names = list(self.store.list(f"{self.path}/output"))
        found = [name for name in names if name.endswith(f"/{OUTPUT_FOLDER}/{OUTCOME}")]
        if found:  # the one that is least deep: the step may have such a file in a folder of its own
            first = min(found, key=lambda name: (name.count("/"), name))
            return self.store.uri(first.removesuffix(f"/{OUTCOME}"))
        archives = [name for name in names if name.endswith(f"/{ARCHIVE}")]
        return self._unpack(min(archives, key=lambda name: (name.count("/"), name))) if archives else None

    def read(self, base_uri: str, limit: int) -> bytes:
        """Return the bytes of ``outcome.json``.

        :param limit: most bytes that are read
        :raises OutcomeLostError: it is gone, or larger
        """
        path = self.store.path_of(f"{base_uri}/{OUTCOME}") or ""
        size = self.store.size_of(path)
        if size > limit:
            raise OutcomeLostError(
                f"{self.store.uri(path)} has {size} bytes, more than the {limit} of an outcome"
            )
        return bytes(self.store.read(path, size))

    def model_uri(self) -> str | None:
        """Return the folder with the step's own files of ``/opt/ml/model``; ``None``: there are none."""
        top = f"{self.path}/output/model/"
        names = self.store.list(f"{self.path}/output/model")
        is_there = any(not name.removeprefix(top).startswith(f"{OUTPUT_FOLDER}/") for name in names)
        return f"{self.result_uri}/output/model" if is_there else None

    def _unpack(self, archive: str) -> str | None:
        """Copy the step's files out of ``model.tar.gz`` to ``result_uri``; return their folder.

        :raises OutcomeLostError: the archive is damaged, or it holds too much
        """
        target = f"{self.path}/output/model/{OUTPUT_FOLDER}"
        with tempfile.TemporaryFile() as plain:
            try:
                names = [self._put(target, name, plain) for name in own_files(self.store, archive, plain)]
            except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, RecursionError) as error:
                uri = self.store.uri(archive)
                raise OutcomeLostError(f"{uri} cannot be unpacked: {error}") from error
        return self.store.uri(target) if OUTCOME in names else None

    def _put(self, target: str, name: str, plain: BinaryIO) -> str:
        """Write one file into the store, unless it is there, and return its name."""
        if size := plain.seek(0, os.SEEK_END):
            with mmap.mmap(plain.fileno(), size, access=mmap.ACCESS_READ) as data, memoryview(data) as view:
                self.store.put_new(f"{target}/{name}", view)
        else:
            self.store.put_new(f"{target}/{name}", b"")
        return name
