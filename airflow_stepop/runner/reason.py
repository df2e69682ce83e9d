"""Writes the failure file: a file from which a service takes the reason that it shows for a failed job.

SageMaker shows the first 1,024 characters of ``/opt/ml/output/failure``, including words of its own:
https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-output.html

Imported only by jobs with ``--failure FILE``. Used by :mod:`.receipt` and :mod:`.once`.
"""

from __future__ import annotations

import os

from .failures import cut, plain
from .files import report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .wire import Failure

CHARS = 900  # in all, so that the service has room for its own words


def write_reason(path: str, failure: Failure, receipt: str = "") -> None:
    """Write the receipt of a failed step, and on the next line ``category: summary`` for people.

    The receipt comes first, because a service cuts the end of the text. It gets the step's exit code.

    :param receipt: the receipt without the outcome in it; empty if there is no ``outcome.json``
    """
    head, code = receipt.rstrip(), failure.get("exit_code")
    if head and code is not None:  # the service shows the runner's own exit code
        head = f'{head[:-1]},"exit_code":{code}}}'
    head += "\n" if head else ""
    text = " ".join(plain(f"{failure['category']}: {failure['summary']}").split())
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8", errors="replace") as stream:
            stream.write(head + cut(text, CHARS - len(head)))
    except OSError as error:
        report(f"the failure file cannot be written: {error}")
