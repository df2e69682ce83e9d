"""An emulator of the SageMaker training-job API, as a process of its own.

    python -m tests.emulators.sagemaker_api --port 0 --s3 URL --s3-key KEY --s3-secret SECRET --logs URL

It prints ``ready http://HOST:PORT`` when it answers. It is written from the vendor's model (botocore) and
from recordings and reports of the real service. Real boto3 speaks to it; jobs really run, in namespaces of
their own. ``tests/support/sagemaker.py`` starts it for a test. ``tests/emulators/sagemaker/control.py`` has
what a test can do to it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path

from tests.emulators.sagemaker.cloudwatch import CloudWatch
from tests.emulators.sagemaker.server import Server
from tests.emulators.sagemaker.settings import Settings, change
from tests.emulators.sagemaker.storage import S3
from tests.emulators.sagemaker.world import World


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--s3", help="the address of an S3 server; without it nothing is copied")
    parser.add_argument("--s3-key", default=os.environ.get("AWS_ACCESS_KEY_ID", "testkey"))
    parser.add_argument("--s3-secret", default=os.environ.get("AWS_SECRET_ACCESS_KEY", "testsecret"))
    parser.add_argument(
        "--logs", help="the address of a CloudWatch Logs server; without it lines are dropped"
    )
    parser.add_argument("--work", help="a folder for the files of the jobs; without it, a temporary one")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that runs every image")
    parser.add_argument("--settings", default="{}", help="JSON with fields of Settings")
    parser.add_argument("--with-parent", action="store_true", help="end when standard input ends")
    return parser.parse_args()


def wait_for_parent(over: threading.Event) -> None:
    """Standard input is a pipe of the process that started this one. It ends with that process."""
    while os.read(0, 4096):  # sys.stdin has a lock, which the end of the interpreter would meet
        pass
    over.set()


def main() -> None:
    options = arguments()
    world = World(
        settings=change(Settings(), json.loads(options.settings)),
        s3=S3(options.s3, options.s3_key, options.s3_secret) if options.s3 else None,
        logs=CloudWatch(options.logs) if options.logs else None,
        python=options.python,
        folder=Path(options.work or tempfile.mkdtemp(prefix="sagemaker-")),
    )
    server = Server(world, options.host, options.port)
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    if options.with_parent:
        threading.Thread(target=wait_for_parent, args=[over], daemon=True).start()
    print(f"ready {world.address}", flush=True)
    over.wait()
    server.shutdown()
    world.close()


if __name__ == "__main__":
    main()
