"""The key that seals a job's secret files in a bucket. A hook's ``submit`` calls :func:`seal_key`.

The key travels in the job's request and the sealed files lie in the bucket: either alone reveals nothing.
``runner/sealing.py`` has the format of a sealed file.
"""

from __future__ import annotations

from airflow_stepop.core.signing_key import derived_keys


def seal_key(nonce: str) -> bytes:
    """Return the key for the sealed files of one job (32 bytes).

    The key is the same in every process of this deployment. So a later try can seal the files of a job again
    that an earlier try has submitted.

    :param nonce: the nonce of the job, ``StepSpec.nonce``
    """
    return seal_keys(nonce)[0]


def seal_keys(nonce: str) -> tuple[bytes, ...]:
    """Return every key that may have sealed the files of a job, the current one first.

    A deployment that replaces its signing key has several: a job may have been submitted before.

    :param nonce: the nonce of the job
    """
    return derived_keys(f"seal{nonce}")
