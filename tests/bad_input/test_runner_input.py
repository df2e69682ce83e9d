"""Input folders that the runner must refuse: it reports the reason, leaves an outcome and runs nothing."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile

import pytest

from airflow_stepop.runner import protocol
from airflow_stepop.runner.values import encode_value
from tests.support.damage import bomb, bomb_entry, inline
from tests.support.step_folder import StepFolder
from tests.support.waiting import PATIENCE_S

pytestmark = [pytest.mark.corpus, pytest.mark.once]

NEVER = "def f(*a, **k): raise SystemExit('it ran')\n"


@pytest.fixture
def folder(tmp_path):
    return StepFolder(tmp_path / "step").reference(NEVER, "f")


def assert_refused(done, text, category=None):
    assert done.code == protocol.EXIT_REFUSED, done.stderr
    assert text in done.failure["summary"]
    assert "it ran" not in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.failure["summary"]) <= 2000
    assert category in (None, done.failure["category"])


# -- the manifest

MANIFESTS = {
    "nothing": (b"", "its manifest is malformed: it is not JSON"),
    "half of it": (b'{"protocol": 1, "job": ', "its manifest is malformed: it is not JSON"),
    "not UTF-8": (b"\xff\xfe{}", "its manifest is malformed: it is not JSON"),
    "deeper than any stack": (b"[" * 100_000, "its manifest is malformed: it is not JSON"),
    "a list": (b"[]", "its manifest has protocol None, this runner has 1"),
    "a text": (b'"text"', "its manifest has protocol None, this runner has 1"),
    "a number of a million digits": (b"1" * 10**6, "malformed: it is not JSON"),
    "an object of nothing": (b"{}", "its manifest has protocol None, this runner has 1"),
}
FIELDS = {
    "protocol": [None, 0, 2, "1", [], "9" * 10**6],
    "job": [..., None, 1, []],
    "nonce": [..., None, 1, []],
    "kind": [..., None, "job", [], {}],
    "python": [..., 3.11, ["3.11"]],
    "parts": [..., None, [], "code.zip"],
    "split": [..., None, 1],
    "discard_result": [..., None, "no"],
    "refs": [..., None, {}],
    "function": [..., None, [], "f"],
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_manifest(folder, case):
    data, text = MANIFESTS[case]
    assert_refused(_run_manifest(folder, data), text, "bad_config")


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in FIELDS.items() for value in values],
    ids=lambda value: str(value)[:20],
)
def test_field_of_the_manifest(folder, field, value):
    manifest = {**folder.manifest, field: value}
    if value is ...:
        del manifest[field]
    if field == "protocol":
        text = "this runner has 1"
    elif field == "function" or value == "job":
        text = "its manifest is malformed: it has neither a function nor a command"
    else:
        text = f"its manifest is malformed: its field {field} is missing or has the wrong type"
    assert_refused(_run_manifest(folder, json.dumps(manifest).encode()), text, "bad_config")


def _run_manifest(folder, data):
    import hashlib
    import subprocess

    argv = folder.argv(digest=hashlib.sha256(data).hexdigest())
    (folder.path / "in" / protocol.MANIFEST).write_bytes(data)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE_S)
    return folder.finished(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("name", [protocol.MANIFEST, protocol.CODE])
@pytest.mark.parametrize(
    "damage", ["flipped", "truncated", "extended", "emptied", "swapped", "removed", "folder"]
)
def test_damaged_file(folder, name, damage, tmp_path):
    """A bit flipped, the end cut off, or everything gone: the digest in the job's request does not match."""
    argv, path = folder.argv(), folder.path / "in" / name
    data = path.read_bytes()
    other = StepFolder(tmp_path / "other").reference(NEVER + "# another job's\n", "f", 1)
    other.seal()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "removed":
        damaged = {
            "flipped": data[:40] + bytes([data[40] ^ 1]) + data[41:],
            "truncated": data[:-1],
            "extended": data + b" ",
            "emptied": b"",
            "swapped": (other.path / "in" / name).read_bytes(),
        }
        path.write_bytes(damaged[damage])
    import subprocess

    done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE_S)
    done = folder.finished(done.returncode, done.stdout, done.stderr)
    is_gone = damage in ("removed", "folder")
    other_digest = "the job was submitted with" if name == protocol.MANIFEST else "part code.zip "
    assert_refused(done, "cannot be read" if is_gone else other_digest, "infra")
    assert name in done.failure["summary"] or is_gone


# -- the code archive


def archive(*members, compression=zipfile.ZIP_DEFLATED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file:
        for name, data, mode in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = compression
            file.writestr(info, data)
    return stream.getvalue()


def encrypted():
    data = bytearray(archive(("helpers.py", NEVER, 0o644)))
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(mark) + offset] |= 1
    return bytes(data)


def lying_about_its_size():
    """Return an archive bomb whose header understates how much it unpacks to."""
    data = bytearray(archive(("helpers.py", bytes(10**6), 0o644)))
    for mark, offset in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        struct.pack_into("<I", data, data.index(mark) + offset, 10)
    return bytes(data)


HELPERS = ("helpers.py", NEVER, 0o644)
ARCHIVES = {
    "no archive": (b"PK", "cannot be unpacked: BadZipFile", "infra"),
    "nothing": (b"", "cannot be unpacked: BadZipFile", "infra"),
    "random bytes": (bytes(range(256)) * 8, "cannot be unpacked: BadZipFile", "infra"),
    "a pickle": (bomb(), "cannot be unpacked: BadZipFile", "infra"),
    "cut in the middle": (archive(HELPERS)[:-30], "cannot be unpacked: BadZipFile", "infra"),
    "encrypted": (encrypted(), "cannot be unpacked: RuntimeError", "infra"),
    "lying about its size": (lying_about_its_size(), "cannot be unpacked: BadZipFile", "infra"),
    "a bomb": (
        archive(HELPERS, *((f"zeros-{number}", bytes(2**23), 0o644) for number in range(9))),
        "The code archive has 72 MiB; the limit is 64 MiB",
        "bad_config",
    ),
    "link": (archive(HELPERS, ("link", "/etc", 0o120777)), "'link' is a link", "bad_config"),
    "absolute path": (
        archive(HELPERS, ("/tmp/evil.py", "", 0o644)),
        "'/tmp/evil.py' is not a path",
        "bad_config",
    ),
    "parent": (archive(HELPERS, ("../evil.py", "", 0o644)), "'../evil.py' is not a path", "bad_config"),
    "parent below": (archive(HELPERS, ("a/../../evil.py", "", 0o644)), "is not a path inside", "bad_config"),
    "the folder itself": (archive(HELPERS, (".", "", 0o644)), "'.' is not a path inside", "bad_config"),
    "a name twice": (
        archive(HELPERS, ("a/../helpers.py", "", 0o644)),
        "'a/../helpers.py' twice",
        "bad_config",
    ),
    "a file that is a folder": (
        archive(HELPERS, ("helpers.py/x.py", "", 0o644)),
        "cannot be unpacked: NotADirectoryError",
        "infra",
    ),
    "a name too long": (archive(HELPERS, ("x" * 300, "", 0o644)), "cannot be unpacked: OSError", "infra"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("case", ARCHIVES)
def test_archive(folder, case, tmp_path):
    data, text, category = ARCHIVES[case]
    folder.part(protocol.CODE, data)
    assert_refused(folder.run(env={**os.environ, "TMPDIR": str(tmp_path)}), text, category)
    assert not [path for path in tmp_path.rglob("evil.py")]
    assert not [path for path in tmp_path.glob("stepop-*")]


# -- locations.json: any process that may write to the folder can change it

LOCATIONS = {
    "nothing": (b"", "part code.zip cannot be read"),
    "a list": (b"[]", "locations.json is not a JSON object"),
    "deeper than any stack": (b"[" * 100_000, "locations.json is not a JSON object"),
    "not UTF-8": (b"\xff", "part code.zip cannot be read"),
    "a number": (b'{"code.zip": 1}', "part code.zip cannot be read"),
    "an object": (b'{"code.zip": {}}', "part code.zip cannot be read"),
    "nul": (b'{"code.zip": "a\\u0000b"}', "part code.zip cannot be read"),
    "half a character": (b'{"code.zip": "\\ud800"}', "part code.zip cannot be read"),
    "a folder": (b'{"code.zip": "/tmp"}', "part code.zip "),
    "a device without end": (b'{"code.zip": "/dev/zero"}', "part code.zip has "),
    "another file": (b'{"code.zip": "/etc/passwd"}', "part code.zip has "),
    "a file that is not there": (b'{"code.zip": "/no/such"}', "part code.zip cannot be read: [Errno 2]"),
    "no URL": (b'{"code.zip": "http://["}', "part code.zip cannot be read"),
    "no port": (b'{"code.zip": "http://localhost:port/"}', "part code.zip cannot be read"),
    "another scheme": (b'{"code.zip": "ftp://localhost/x"}', "part code.zip cannot be read"),
}


@pytest.mark.parametrize("case", LOCATIONS)
def test_locations(folder, case):
    data, text = LOCATIONS[case]
    (folder.path / "in" / protocol.LOCATIONS).write_bytes(data)
    assert_refused(folder.run(), text, "infra")


@pytest.mark.parametrize("place", [protocol.CODE, protocol.LOCATIONS])
def test_a_pipe_that_nobody_writes_to_does_not_hang(folder, place):
    path = folder.path / "in" / "pipe"
    os.mkfifo(path)
    (folder.path / "in" / protocol.LOCATIONS).write_text(json.dumps({protocol.CODE: str(path)}))
    assert_refused(folder.run(), "part code.zip has 0 bytes", "infra")


# -- values

ENTRIES = {
    "nothing": (None, "is not a value entry"),
    "a text": ("text", "is not a value entry"),
    "no segments": ({"codec": "json"}, "is not a value entry"),
    "unknown codec": ({**inline("parquet", b"")}, "unknown codec 'parquet'"),
    "codec of a list": ({**inline("json", b""), "codec": []}, "unknown codec '[]'"),
    "not JSON": (inline("json", b"{"), "its bytes are not json data: JSONDecodeError"),
    "JSON deeper than any stack": (
        inline("json", b"[" * 100_000),
        "its bytes are not json data: RecursionError",
    ),
    "a tag of nothing": (inline("json", b'{"()":1}'), "its bytes are not json data: ValueError"),
    "a pickle called JSON": ({**bomb_entry(), "codec": "json"}, "its bytes are not json data"),
    "other bytes": (
        {"codec": "bytes", "segments": [{**inline("x", b"")["segments"][0], "data": "AAAA"}]},
        "has at least 3 bytes and not the 0",
    ),
    "size beyond memory": (
        {"codec": "bytes", "segments": [{"sha256": "0", "size": 2**62, "name": protocol.CODE}]},
        f"bytes and not the {2**62} that were recorded",
    ),
    "a name that leaves the folder": (
        {"codec": "bytes", "segments": [{"sha256": "0", "size": 1, "name": "../step.pyz"}]},
        "'../step.pyz' is not a path inside the step's folder",
    ),
    "a pickle of another part": (
        {"codec": "pickle", "segments": [{"sha256": "0" * 64, "size": 3, "name": protocol.MANIFEST}]},
        "part manifest.json has",
    ),
}


@pytest.mark.parametrize("case", ENTRIES)
@pytest.mark.parametrize("place", ["argument", "input"])
def test_value(folder, case, place, mark):
    entry, text = ENTRIES[case]
    if place == "argument":
        folder.manifest["args"] = [entry]
    else:
        folder.command("sh", "-c", "echo it ran >&2")
        folder.manifest["command"]["inputs"] = {"x": entry}
    done = folder.run()
    assert_refused(done, text)
    assert not mark.exists()


def test_a_table_that_hides_a_pickle_is_refused(folder, mark):
    """pyarrow before 14.0.1 unpickles such an extension type while it reads the schema (CVE-2023-47248)."""
    pa = pytest.importorskip("pyarrow")
    metadata = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": bomb()}
    schema = pa.schema([pa.field("x", pa.int64(), metadata=metadata)])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write(pa.record_batch([pa.array([1])], schema=schema))
    folder.manifest["args"] = [inline("arrow", sink.getvalue().to_pybytes())]
    assert_refused(folder.run(), "a table whose schema holds a pickle is not data")
    assert not mark.exists()
    table = pa.Table.from_batches([pa.record_batch([pa.array([1])], schema=schema)])
    assert encode_value(table, lambda value, keep: b"").codec == "pickle"


# -- inputs, outputs and the folder of a command


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        (["x", "./x"], "The inputs 'x' and './x' are the same file"),
        (["a/../x", "x"], "The inputs 'a/../x' and 'x' are the same file"),
        (["x", "x/y"], "The input 'x/y' needs a folder where a file is"),
        (["x/y", "x"], "The input 'x' needs a folder where a file is"),
        (["../x"], "The input '../x' is not a path inside the step's folder"),
        (["/etc/x"], "The input '/etc/x' is not a path inside the step's folder"),
        ([""], "The input '' is not a path inside the step's folder"),
        (["."], "The input '.' is not a path inside the step's folder"),
        (["a\0b"], "is not a path inside the step's folder"),
        (["\ud800"], "cannot be written: 'utf-8' codec can't encode"),
        (["x" * 300], "cannot be written: [Errno 36] File name too long"),
    ],
    ids=lambda value: "-".join(value)[:20] if isinstance(value, list) else None,
)
def test_names_of_inputs(folder, inputs, text):
    folder.command("sh", "-c", "echo it ran >&2", inputs=dict.fromkeys(inputs, b"data"))
    assert_refused(folder.run(), text, "bad_config")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        ("mkdir x", "The output 'x' is not a file"),
        ("mkfifo x", "The output 'x' is not a file"),
        ("ln -s /dev/zero x", "The output 'x' is not a file"),
        ("ln -s / x", "The output 'x' is not a file"),
        ("ln -s gone x", "The command did not write x; files it left: "),
        ("ln -s x x", "The command did not write x; files it left: "),
        ("true", "The command did not write x; files it left: "),
        (
            "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"x\")'",
            "The output 'x' is not a file",
        ),
    ],
)
def test_outputs_that_are_no_files(folder, make, text):
    done = folder.command("sh", "-c", make, outputs=("x",)).run()
    assert done.code == protocol.EXIT_STEP_FAILED
    assert text in done.failure["summary"]
    assert done.failure["hint"]


def test_an_output_that_is_a_link_is_what_it_points_to(folder, tmp_path):
    """A step may use links to name a file, whether in its folder or outside."""
    (tmp_path / "far").write_bytes(b"far away")
    done = folder.command("ln", "-s", str(tmp_path / "far"), "x", outputs=("x",)).run()
    assert done.decode(done.outcome["outputs"]["x"]) == b"far away"


@pytest.mark.parametrize(
    ("workdir", "text", "is_refused"),
    [
        ("helpers.py", "The workdir 'helpers.py' is not a folder", True),
        ("helpers.py/x", "The workdir 'helpers.py/x' is not a folder", True),
        ("../x", "The workdir '../x' is not a path inside the step's folder", True),
        ("/etc/passwd", "The step's folder /etc/passwd is not a folder", False),
        ("/no/such/folder", "The step's folder /no/such/folder does not exist", False),
    ],
)
def test_workdir(folder, workdir, text, is_refused):
    done = folder.command("sh", "-c", "echo it ran >&2", workdir=workdir).run()
    assert text in done.failure["summary"]
    assert done.code == (protocol.EXIT_REFUSED if is_refused else protocol.EXIT_STEP_FAILED)
    assert "it ran" not in done.stderr


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        ([""], "The command '' "),
        (["a\0b"], "did not start: embedded null byte"),
        (["sh", "a\0b"], "The command 'sh' did not start: embedded null byte"),
        (["\ud800"], "did not start: 'utf-8' codec can't encode"),
        (["sh", "x" * 200_000], "The command 'sh' did not start: [Errno 7] Argument list too long"),
    ],
    ids=["empty", "nul", "nul in a word", "half a character", "too long"],
)
def test_words_of_a_command(folder, argv, text):
    done = folder.command(*argv).run()
    assert done.code == protocol.EXIT_STEP_FAILED
    assert text in done.failure["summary"]
    assert "Traceback" not in done.stderr


# -- exceptions and results of the step


def test_a_hundred_megabytes_of_traceback(tmp_path):
    source = """
def f():
    source = "def g():\\n    raise ValueError('x' * 100_000_000)  # " + "y" * 100_000_000
    import linecache
    linecache.cache["<long>"] = (len(source), None, source.splitlines(True), "<long>")
    names = {}
    exec(compile(source, "<long>", "exec"), names)
    names["g"]()
"""
    done = StepFolder(tmp_path / "long").reference(source, "f").run()
    assert done.failure["summary"].startswith("The step raised ValueError: xxx")
    assert (done.out / protocol.OUTCOME).stat().st_size < 300_000
    assert len(done.stderr) < 300_000


def test_groups_of_groups_of_exceptions(tmp_path):
    """Nested groups of eight: 32,768 exceptions in the cause, 8**50 references in the exception itself."""
    source = """
def f():
    def group(depth):
        return ExceptionGroup("g", [group(depth - 1)] * 8) if depth else ValueError("x" * 10_000)
    def wide(depth):
        return ExceptionGroup("g", [wide(depth - 1) for _ in range(8)]) if depth else ValueError("x" * 10_000)
    try:
        raise wide(5)
    except ExceptionGroup as error:
        raise group(50) from error
"""
    done = StepFolder(tmp_path / "groups").reference(source, "f").run()
    assert done.failure["summary"] == "The step raised ExceptionGroup: g (8 sub-exceptions)"
    assert (done.out / protocol.OUTCOME).stat().st_size < 2_000_000


VALUES = {
    "shared lists, 2**100 items": "x = []\n    for _ in range(100): x = [x, x]",
    "shared tuples, 2**90 items": "x = ()\n    for _ in range(90): x = (x, x)",
    "shared dicts, 2**90 items": "x = {}\n    for _ in range(90): x = {'a': x, 'b': x}",
    "a list in itself": "x = []; x.append(x)",
    "a dict in itself": "x = {}; x['x'] = x",
    "fifty thousand lists deep": "x = []\n    for _ in range(50_000): x = [x]",
    "a key of a megabyte": "x = {'k' * 10**6: 1}",
    "not a number": "x = [float('nan'), float('inf'), -0.0]",
    "half a character": "x = {'\\ud800': '\\udfff'}",
    "nul": "x = {'\\0': '\\0'}",
    "tag of tuples": "x = {'()': {'()': ['()', ()]}}",
    "large whole number": "x = 10 ** 100_000",
}


@pytest.mark.parametrize("case", VALUES)
def test_strange_results_come_back_or_are_refused(tmp_path, case):
    """A refusal has its reason, and nothing hangs."""
    import pickle

    import cloudpickle

    done = (
        StepFolder(tmp_path / "value").reference(f"def f():\n    {VALUES[case]}\n    return x\n", "f").run()
    )
    if case == "fifty thousand lists deep":
        assert "a value of type list that cannot be pickled: " in done.failure["summary"]
        return
    back = done.value(lambda data, buffers: pickle.loads(data, buffers=buffers))
    names = {}
    exec(f"def f():\n    {VALUES[case]}\n    return x\n", names)
    value = names["f"]()
    assert cloudpickle.dumps(back) == cloudpickle.dumps(value) or back == value


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("''", "the key '' cannot name an XCom"),
        ("'x' * 513", "xxx cannot name an XCom"),
        ("'\\0'", "the key '\\x00' cannot name an XCom"),
        ("'\\ud800'", "the key '\\ud800' cannot name an XCom"),
        ("None", "the key None is not a str"),
    ],
)
def test_keys_of_multiple_outputs(tmp_path, key, text):
    step = StepFolder(tmp_path / "keys").reference(f"def f(): return {{{key}: 1}}\n", "f").set(split="dict")
    assert text in step.run().failure["summary"]
