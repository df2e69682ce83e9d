"""An emulator of Modal's API, as a process of its own.

    python -m tests.emulators.modal_api --port 0

It prints ``ready GRPC_ADDRESS HTTP_ADDRESS`` when it answers; the first is a MODAL_SERVER_URL. It is written
from the vendor's messages (``modal_proto``), the vendor's client and test server, and published measurements.
The real ``modal`` package speaks to it; sandboxes really run, in namespaces of their own.
``tests/support/modal.py`` starts it for a test. ``tests/emulators/modal/control.py`` has what a test can do
to it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path

from tests.emulators.modal.accounts import AccountRpcs, Accounts
from tests.emulators.modal.apps import AppRpcs, Apps
from tests.emulators.modal.costs import CostRpcs
from tests.emulators.modal.http_door import HttpDoor
from tests.emulators.modal.images import ImageRpcs, Images
from tests.emulators.modal.log_rpcs import LogRpcs, RouterRpcs
from tests.emulators.modal.log_store import LogStore
from tests.emulators.modal.sandbox_rpcs import SandboxRpcs
from tests.emulators.modal.sandboxes import Sandboxes
from tests.emulators.modal.secret_store import SecretRpcs, Secrets
from tests.emulators.modal.server import serve
from tests.emulators.modal.settings import Settings, change
from tests.emulators.modal.volume_rpcs import VolumeRpcs
from tests.emulators.modal.volumes import Volumes
from tests.emulators.modal.world import World


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="of the gRPC API; 0: any free port")
    parser.add_argument("--work", help="a folder for blocks and sandboxes; without it, a temporary one")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that runs every image")
    parser.add_argument("--settings", default="{}", help="JSON with fields of Settings")
    parser.add_argument("--with-parent", action="store_true", help="end when standard input ends")
    return parser.parse_args()


def make_world(options: argparse.Namespace) -> World:
    folder = Path(options.work or tempfile.mkdtemp(prefix="modal-"))
    world = World(change(Settings(), json.loads(options.settings)), options.python, folder)
    world.accounts, world.apps, world.images = Accounts(world), Apps(), Images(world)
    world.secrets, world.volumes = Secrets(world), Volumes(world)
    world.sandboxes, world.logs = Sandboxes(), LogStore()
    return world


def wait_for_parent(loop: asyncio.AbstractEventLoop, over: asyncio.Event) -> None:
    """Standard input is a pipe of the process that started this one. It ends with that process."""
    while os.read(0, 4096):
        pass
    loop.call_soon_threadsafe(over.set)


async def run(options: argparse.Namespace) -> None:
    """Serve until a signal comes, or the parent ends. Sandboxes die with this process."""
    world = make_world(options)
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    door = HttpDoor(world)
    world.http = await door.start(options.host)
    rpcs = (
        AccountRpcs,
        AppRpcs,
        ImageRpcs,
        SecretRpcs,
        VolumeRpcs,
        SandboxRpcs,
        LogRpcs,
        RouterRpcs,
        CostRpcs,
    )
    server = await serve(world, [made(world) for made in rpcs], options.host, options.port)
    port = server._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]  # grpclib has no public way
    world.grpc = f"http://{options.host}:{port}"
    if options.with_parent:
        threading.Thread(target=wait_for_parent, args=[loop, over], daemon=True).start()
    print(f"ready {world.grpc} {world.http}", flush=True)
    await over.wait()
    server.close()
    await door.stop()


def main() -> None:
    asyncio.run(run(arguments()))


if __name__ == "__main__":
    main()
