"""A cut ``Line`` leaves no socket open; Python would report a forgotten one during another test."""

from __future__ import annotations

import os
import socket

import pytest

from tests.support.line import Line
from tests.support.waiting import wait_until


@pytest.mark.parametrize("ended_by", ["client", "server", "line"])
def test_no_end_of_a_connection_stays_open(ended_by):
    before = len(os.listdir("/dev/fd"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        line = Line(f"http://127.0.0.1:{listener.getsockname()[1]}")
        with socket.create_connection(("127.0.0.1", int(line.url.rpartition(":")[2]))) as client:
            server, _ = listener.accept()
            with server:
                client.sendall(b"there")
                assert server.recv(10) == b"there"
                server.sendall(b"back")
                assert client.recv(10) == b"back"
                if ended_by == "line":
                    line.cut()
                else:
                    {"client": client, "server": server}[ended_by].close()
        line.cut()
    wait_until(lambda: len(os.listdir("/dev/fd")), "all to be closed", holds=lambda count: count <= before)
