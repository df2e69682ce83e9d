"""``scripts/install``: uv installs with the system's certificates. Where uv cannot, pip installs silently."""

from __future__ import annotations

import datetime
import functools
import http.server
import ipaddress
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.paths import SCRIPTS
from tests.support.wheels import make_wheel

INSTALL = SCRIPTS / "install"
UV = Path(sys.executable).with_name("uv")
ENV = {"PATH": "/usr/bin:/bin", "PIP_CONFIG_FILE": "/dev/null", "PIP_RETRIES": "0", "UV_HTTP_RETRIES": "0"}


# -- with stand-ins for uv and pip


@pytest.fixture
def environment(tmp_path):
    """Return a function that makes a virtual environment whose stand-ins log their calls."""

    def make(uv, pip, uv_help="--system-certs"):
        uv = f'case $* in *--help) echo "{uv_help}"; exit;; esac; {uv}'
        for name, code in (("uv/bin/uv", uv), ("bin/python", pip)):
            program = tmp_path / "env" / name
            program.parent.mkdir(parents=True, exist_ok=True)
            told = '"$UV_SYSTEM_CERTS,$UV_NATIVE_TLS,$SSL_CERT_FILE"'
            program.write_text(f"#!/bin/sh\n{code}\necho {told} $* >>{tmp_path}/{program.name}.calls\n")
            program.chmod(0o755)
        return tmp_path / "env"

    return make


def install(folder, *arguments, **env):
    env = {**ENV, "HOME": str(folder), **env}
    return subprocess.run([INSTALL, folder, *arguments], env=env, capture_output=True, text=True)


def test_pip_takes_over_silently(environment, tmp_path):
    done = install(environment(uv="echo invalid peer certificate >&2; exit 2", pip=""), "thing")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (call,) = (tmp_path / "python.calls").read_text().splitlines()
    assert call == ",, -m pip install --quiet --disable-pip-version-check thing"


def test_both_errors_are_printed_when_both_fail(environment):
    done = install(environment(uv="echo said uv >&2; exit 2", pip="echo said pip >&2; exit 1"), "thing")
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["said pip", "pip has failed, and uv before it:", "said uv"]


def test_pip_is_not_called_when_uv_succeeds(environment, tmp_path):
    assert install(environment(uv="", pip="exit 1"), "thing").returncode == 0
    assert not (tmp_path / "python.calls").exists()


@pytest.mark.parametrize(("uv_help", "told"), [("--system-certs", "1,,"), ("--native-tls", ",1,")])
def test_uv_reads_the_certificates_of_the_system(environment, tmp_path, uv_help, told):
    """An older uv knows only the older variable, and a newer uv warns of the older one."""
    install(environment(uv="", pip="exit 1", uv_help=uv_help), "thing")
    assert (tmp_path / "uv.calls").read_text().startswith(f"{told} pip install")


@pytest.mark.parametrize("name", ["PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_uv_reads_the_certificates_that_pip_is_told(environment, tmp_path, name):
    bundle = tmp_path / "ca.pem"
    bundle.touch()
    install(environment(uv="", pip="exit 1"), "thing", **{name: str(bundle)})
    assert (tmp_path / "uv.calls").read_text().startswith(f"1,,{bundle} pip install")


# -- with the real uv, and an index whose certificate is trusted only by explicit configuration


def certificate(name, issuer=None, issuer_key=None, **extensions):
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if issuer:
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())
        builder = builder.add_extension(names, critical=False).add_extension(authority, critical=False)
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = builder.add_extension(own, critical=False)
    return builder.sign(issuer_key or key, hashes.SHA256()), key


def pem(found):
    if isinstance(found, x509.Certificate):
        return found.public_bytes(serialization.Encoding.PEM)
    plain = serialization.NoEncryption()
    return found.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_arguments):
        pass


@pytest.fixture
def index(tmp_path):
    """An index with one package; yields its address and the authority's certificate file."""
    make_wheel(tmp_path / "index" / "stepop-tiny", "stepop_tiny", "1.0")
    authority, authority_key = certificate("A company")
    server_certificate, server_key = certificate("The index", authority, authority_key)
    (tmp_path / "ca.pem").write_bytes(pem(authority))
    (tmp_path / "server.pem").write_bytes(pem(server_key) + pem(server_certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    handler = functools.partial(Handler, directory=str(tmp_path / "index"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://127.0.0.1:{server.server_port}/", tmp_path / "ca.pem"
        server.shutdown()


@pytest.fixture
def real(tmp_path):
    """A real virtual environment with the uv of these tests and without pip."""
    folder = tmp_path / "real"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (folder / "uv" / "bin").mkdir(parents=True)
    (folder / "uv" / "bin" / "uv").symlink_to(UV)
    return folder


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "PIP_CERT"])
def test_an_index_of_a_company_is_trusted(index, real, name):
    address, authority = index
    done = install(real, "stepop-tiny", PIP_INDEX_URL=address, **{name: str(authority)})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (real / "uv.log").read_text() == "", "uv did not do it"
    subprocess.run([real / "bin" / "python", "-c", "import stepop_tiny"], check=True)


def test_without_the_authority_the_reason_is_printed(index, real):
    address, _ = index
    subprocess.run([real / "bin" / "python", "-m", "ensurepip"], check=True, capture_output=True)
    done = install(real, "stepop-tiny", PIP_INDEX_URL=address)
    assert done.returncode == 1
    assert "certificate" in done.stderr.partition("pip has failed, and uv before it:")[2]
