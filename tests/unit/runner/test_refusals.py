"""What the runner checks before it believes anything, and where parts come from."""

from __future__ import annotations

import http.server
import io
import json
import os
import threading
import zipfile

import pytest

from airflow_stepop.runner import protocol

pytestmark = [pytest.mark.corpus, pytest.mark.once]

BOMB = "def f(*a): raise SystemExit('it ran')\n"


def assert_refused(done, *words, category="infra"):
    """The step did not run, and the outcome says why."""
    assert done.code == protocol.EXIT_REFUSED, done.stderr
    assert done.failure["category"] == category
    for word in words:
        assert word in done.failure["summary"]
    assert done.failure["summary"] in done.stderr


def test_changed_manifest(folder, any_python):
    """A manifest that is not the one the job asked for is not even parsed."""
    folder.reference(BOMB, "f")
    digest = folder.seal()
    (folder.path / "in" / protocol.MANIFEST).write_bytes(b"[")
    env = {protocol.ENV_JOB: "the-job", protocol.ENV_NONCE: "n1"}
    done = folder.run(any_python, digest=digest, env=env)
    assert_refused(done, "manifest.json does not have the SHA-256", f"the job was submitted with, {digest}")
    assert (done.outcome["job"], done.outcome["nonce"]) == ("the-job", "n1")


def test_missing_manifest(folder):
    """Without a manifest there is still an outcome."""
    folder.reference(BOMB, "f")
    argv = folder.argv()
    (folder.path / "in" / protocol.MANIFEST).unlink()
    import subprocess

    done = subprocess.run(argv, capture_output=True, text=True)
    assert_refused(folder.finished(done.returncode, "", done.stderr), "its manifest cannot be read")


def test_other_protocol(folder):
    """Another protocol is named before anything else in the manifest is believed."""
    folder.reference(BOMB, "f").set(protocol=99, python="2.0")
    assert_refused(folder.run(), "its manifest has protocol 99, this runner has 1", category="bad_config")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "does not have the SHA-256"),
        (
            lambda data: data + b"!",
            f"has at least {(1 << 18) + 1} bytes and not the {1 << 18} that were recorded",
        ),
        (lambda data: data[:-5], f"has {(1 << 18) - 5} bytes and not the {1 << 18} that were recorded"),
        (lambda data: b"", "has 0 bytes"),
    ],
)
def test_damaged_part(folder, damage, words):
    """A part whose bytes are not those that were recorded is named, and nothing is unpickled."""
    folder.reference(BOMB, "f", os.urandom(1 << 18))
    path = folder.path / "in" / folder.manifest["args"][0]["segments"][0]["name"]
    path.write_bytes(damage(path.read_bytes()))
    assert_refused(folder.run(), f"part {path.name} ", words)


def test_damaged_code_archive(folder):
    """The code archive is checked like any other part."""
    folder.reference(BOMB, "f")
    (folder.path / "in" / protocol.CODE).write_bytes(b"PK")
    assert_refused(folder.run(), "part code.zip has 2 bytes")


def test_missing_part(folder):
    """A part that is not there is named."""
    folder.reference(BOMB, "f")
    (folder.path / "in" / protocol.CODE).unlink()
    assert_refused(folder.run(), "part code.zip cannot be read", "No such file or directory")


def test_damaged_inline_value(folder):
    """Inline values are checked, too."""
    folder.reference(BOMB, "f", 1)
    folder.manifest["args"][0]["segments"][0]["sha256"] = "0" * 64
    assert_refused(folder.run(), "positional argument 1 is damaged", "does not have the SHA-256")


@pytest.mark.parametrize("name", ["../evil.py", "/tmp/evil.py", "a/../../evil.py", ".."])
def test_code_archive_that_leaves_the_folder(folder, name):
    """A member outside the step's folder is refused before anything is unpacked."""
    folder.reference(BOMB, "f").code({"helpers.py": BOMB, name: ""})
    assert_refused(folder.run(), "member of the code archive", repr(name), category="bad_config")


def test_code_archive_with_a_link(folder):
    """A symbolic link in the code archive is refused."""
    folder.reference(BOMB, "f")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc")
    folder.part(protocol.CODE, stream.getvalue())
    assert_refused(folder.run(), "'link' is a link", category="bad_config")


@pytest.mark.parametrize("kind", ["relative", "absolute"])
def test_locations(folder, tmp_path, kind):
    """locations.json says where parts are."""
    folder.reference("def f(): return 1\n", "f")
    (folder.path / "elsewhere").mkdir()
    target = folder.path / "elsewhere" / "c.zip"
    (folder.path / "in" / protocol.CODE).rename(target)
    where = str(target) if kind == "absolute" else "../elsewhere/c.zip"
    (folder.path / "in" / protocol.LOCATIONS).write_text(json.dumps({protocol.CODE: where}))
    assert folder.run().value() == 1


@pytest.fixture
def server():
    """An HTTP server whose answers are taken from a list; ``server.url``, ``server.answers``."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status, body, length = self.server.answers.pop(0)
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        server.url = f"http://127.0.0.1:{server.server_port}/code?X-Signature=secret"
        yield server
        server.shutdown()
        thread.join()


def test_parts_from_urls(folder, server, any_python):
    """A part is fetched from its URL, again when the server stumbles or the connection is cut."""
    folder.reference("def f(): return 1\n", "f")
    body = (folder.path / "in" / protocol.CODE).read_bytes()
    (folder.path / "in" / protocol.CODE).unlink()
    (folder.path / "in" / protocol.LOCATIONS).write_text(json.dumps({protocol.CODE: server.url}))
    server.answers = [(503, b"", 0), (200, body, len(body))]
    assert folder.run(any_python).value() == 1
    assert server.answers == []


def test_cut_connection(folder, server):
    """A body that ends early is fetched again, too."""
    folder.reference("def f(): return 1\n", "f")
    body = (folder.path / "in" / protocol.CODE).read_bytes()
    (folder.path / "in" / protocol.LOCATIONS).write_text(json.dumps({protocol.CODE: server.url}))
    server.answers = [(200, body[:10], len(body)), (200, body, len(body))]
    assert folder.run().value() == 1


def test_url_that_is_refused(folder, server):
    """An expired URL is named without its signature."""
    folder.reference(BOMB, "f")
    (folder.path / "in" / protocol.LOCATIONS).write_text(json.dumps({protocol.CODE: server.url}))
    server.answers = [(403, b"expired", 7)]
    done = folder.run()
    assert_refused(done, "part code.zip cannot be read: HTTP 403 Forbidden for http://127.0.0.1", "/code")
    assert "secret" not in json.dumps(done.outcome) + done.stderr
