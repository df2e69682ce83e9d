"""An emulator of Cloud Storage and of Google's credentials, as a process of its own.

    python -m tests.emulators.gcs_api --port 0 --bucket steps --key-file KEY.json

It prints ``ready http://HOST:PORT`` when it answers, and writes the key file of an account that may use the
bucket. It is written from the vendor's documentation of the XML API. ``tests/support/gcs.py`` starts it as a
thread of a test, which then changes its world.
"""

from __future__ import annotations

import argparse
import json
import signal
import threading
from pathlib import Path

from tests.emulators.gcs.server import Server
from tests.emulators.gcs.world import World


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--bucket", default="steps")
    parser.add_argument("--location", default="US-CENTRAL1")
    parser.add_argument("--key-file", type=Path, help="where to write the key of the account")
    options = parser.parse_args()
    world = World()
    server = Server(world, options.host, options.port)
    world.buckets.add(options.bucket, options.location)
    account = world.accounts.add("stepop")
    if options.key_file:
        options.key_file.write_text(json.dumps(account.key_file(world.accounts.audience)))
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    server.start()
    print(f"ready {world.address}", flush=True)
    over.wait()
    server.close()


if __name__ == "__main__":
    main()
