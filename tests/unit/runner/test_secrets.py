"""Secrets reach the step's environment, and nothing that it prints or raises."""

from __future__ import annotations

import base64
import binascii
import html
import itertools
import json
import os
import re
import shlex
import string
import subprocess
import sys
from urllib.parse import quote, quote_plus
from xml.sax.saxutils import escape as escape_xml

import markupsafe
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_stepop.runner import protocol
from airflow_stepop.runner.secrets import MIN_BYTES, Redactor
from tests.support.processes import ended, started
from tests.support.waiting import PATIENCE_S

VALUE = 'p@ss/w0rd+"x"é'
KEY = "-----BEGIN KEY-----\nMIIEowIBAAK\nCAQEAx1y2\n-----END KEY-----\n"


def give(folder, **secrets):
    path = folder.path / "in" / protocol.SECRETS
    path.write_text(json.dumps(secrets))
    path.chmod(0o600)
    folder.set(secrets=sorted(secrets))
    return folder


def run_shell(folder, script, python=sys.executable, **secrets):
    return give(folder.command("sh", "-c", script), **secrets).run(python)


def test_a_command_has_them_in_its_environment(folder, any_python):
    script = 'test "$A" = alpha && test "$B" = beta && echo "<$A> <$B>"'
    done = run_shell(folder, script, any_python, A="alpha", B="beta")
    assert (done.code, done.stdout) == (0, "<***> <***>\n"), done.stderr
    assert not (folder.path / "in" / protocol.SECRETS).exists()


def test_a_function_has_them_in_its_environment(folder, any_python):
    source = (
        "import os\ndef f(length):\n    print(os.environ['A'])\n    return len(os.environ['A']) == length\n"
    )
    done = give(folder.reference(source, "f", 12), A="twelve-chars").run(any_python)
    assert done.value() is True
    assert done.stdout == "***\n"


def test_the_parent_process_does_not_have_them(folder):
    """Only the step's process has them, and what it starts; no command line has them."""
    script = "r=$(awk '{print $4}' /proc/$PPID/stat); grep -c alpha-beta "
    script += "/proc/$r/environ /proc/$r/cmdline /proc/$PPID/cmdline /proc/self/environ | cut -d: -f2"
    assert run_shell(folder, script, A="alpha-beta").stdout == "0\n0\n0\n1\n"


def test_the_file_is_gone_before_the_step_starts(folder):
    script = f"test ! -e {folder.path}/in/{protocol.SECRETS} && echo gone"
    assert run_shell(folder, script, A="alpha").stdout == "gone\n"


def test_they_are_taken_only_as_the_manifest_names_them(folder):
    """Whoever can write to the input folder cannot bring variables of his own."""
    give(folder.command("sh", "-c", 'echo "<$A> <$LD_PRELOAD>"'), A="alpha", LD_PRELOAD="/tmp/evil.so")
    assert folder.set(secrets=["A"]).run().stdout == "<***> <>\n"


@pytest.mark.parametrize("content", [None, "{}", '{"A": 5}', "not json"])
def test_a_step_without_its_secrets_is_not_started(folder, content):
    folder.command("echo", "must not run").set(secrets=["A", "B"])
    if content is not None:
        (folder.path / "in" / protocol.SECRETS).write_text(content)
    done = folder.run()
    assert done.code == protocol.EXIT_REFUSED
    assert "its secrets did not arrive: A, B" in done.failure["summary"]
    assert "must not run" not in done.stdout
    assert not (folder.path / "in" / protocol.SECRETS).exists()


def test_a_step_that_is_refused_leaves_no_secrets(folder):
    done = give(folder.command("true"), A="alpha").run(digest="0" * 64)
    assert done.code == protocol.EXIT_REFUSED
    assert not (folder.path / "in" / protocol.SECRETS).exists()


# -- what is printed


@pytest.mark.parametrize(
    "printed",
    [
        VALUE,
        f"{VALUE}{VALUE}",
        repr(VALUE),
        json.dumps({"token": VALUE}),
        json.dumps({"token": VALUE}, ensure_ascii=False),
        f"https://user:{quote(VALUE, safe='')}@host",
        f"https://host/?token={quote_plus(VALUE)}",
        f"https://host/{quote(VALUE)}",
        base64.b64encode(VALUE.encode()).decode(),
        base64.b64encode(f"user:{VALUE}".encode()).decode(),
        base64.b64encode(f"a:{VALUE}:more".encode()).decode(),
        base64.urlsafe_b64encode(f"me:{VALUE}".encode()).decode(),
    ],
)
def test_every_usual_form_is_masked(folder, edge_python, printed):
    source = "def f(text):\n    print('before', text, 'after')\n"
    done = give(folder.reference(source, "f", printed), A=VALUE).run(edge_python)
    assert done.stdout.startswith("before "), done.stderr
    assert done.stdout.endswith(" after\n")
    assert "***" in done.stdout
    assert not any(
        part in done.stdout for part in (VALUE, "w0rd", base64.b64encode(VALUE.encode()).decode()[4:-6])
    )


HARD = "wh&at<ev>er'x\"y$z/q w\\e%é`t"
LINES = f"first line of it\n{HARD}\nlast line"
LONG = "".join(chr(33 + number * 7 % 90) for number in range(200))


def go_json(value):
    """As ``json.Marshal`` of Go writes it: https://pkg.go.dev/encoding/json#Marshal."""
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def java_script(value, kept):
    """As encodeURIComponent or encodeURI write it: https://tc39.es/ecma262/#sec-encode."""
    plain = string.ascii_letters + string.digits + "-_.!~*'()" + kept
    return "".join(c if c in plain else "".join(f"%{byte:02X}" for byte in c.encode()) for c in value)


FORMS = {
    "ascii": lambda value: ascii(value)[1:-1],
    "repr of bytes": lambda value: repr(value.encode())[2:-1],
    "json of Go": lambda value: go_json(value)[1:-1],
    "json of PHP": lambda value: json.dumps(value)[1:-1].replace("/", "\\/"),
    "json in json": lambda value: json.dumps(json.dumps(value))[3:-3],
    "quote": lambda value: quote(value, safe=""),
    "quote in small letters": lambda value: re.sub("%..", lambda m: m[0].lower(), quote(value)),
    "quote_plus in small letters": lambda value: re.sub("%..", lambda m: m[0].lower(), quote_plus(value)),
    "encodeURIComponent": lambda value: java_script(value, ""),
    "encodeURI": lambda value: java_script(value, ";/?:@&=+$,#"),
    "html": html.escape,
    "html without quotes": lambda value: html.escape(value, quote=False),
    "xml": lambda value: escape_xml(value, {"'": "&apos;", '"': "&quot;"}),
    "html of markupsafe": lambda value: str(markupsafe.escape(value)),
    "a shell": lambda value: shlex.quote(value)[1:-1],
    "a shell's set -x": lambda value: value.replace("'", "'\\''"),
    "printf %q": lambda value: bash("printf %q", value),
    "double quotes of a shell": lambda value: re.sub(r'([\\"$`])', r"\\\1", value),
    "base64": lambda value: base64.b64encode(value.encode()).decode().rstrip("="),
}


def bash(command, value):
    done = subprocess.run(
        ["bash", "-c", f'{command} "$1"', "-", value],
        capture_output=True,
        check=True,
        text=True,
        env={"LC_ALL": "C.UTF-8"},
    )
    return done.stdout


@pytest.mark.parametrize("form", FORMS)
def test_a_value_is_masked_as_others_write_it(form):
    """Also one line of a value that has several."""
    shown = FORMS[form](HARD)
    assert shown != HARD or "html" not in form
    for value in (HARD, LINES):
        assert Redactor([value]).text(f"before {shown} after") == "before *** after"


@pytest.mark.parametrize(
    "printed",
    [
        lambda value: repr([f'"{value}"']),
        lambda value: ascii({"both": f"'{value}\""}),
        lambda value: repr(f'"{value}"'.encode()),
        lambda value: repr(repr(value)),
        lambda value: repr(str(value.encode())),
        lambda value: repr(json.dumps({"token": value})),
        lambda value: repr(json.dumps({"token": value}).encode()),
        lambda value: repr({"body": json.dumps({"token": value}, ensure_ascii=False)}),
    ],
)
@pytest.mark.parametrize(
    "value", ["it's a secret", 'a "secret" text', "Gr\xfc\xdfe's \\ \t", "both ' and \" x"]
)
def test_a_value_is_masked_within_a_text_that_python_shows(value, printed):
    """Python escapes a quote only if the whole text has both, and a log often shows JSON as a text."""
    shown = Redactor([value]).text(printed(value))
    assert "***" in shown
    assert not any(word in shown for word in ("secret", "Gr", " and "))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("width", [64, 76])
def test_base64_in_lines(width, end):
    text = base64.b64encode(LONG.encode()).decode()
    lines = [text[at : at + width] for at in range(0, len(text), width)]
    assert Redactor([LONG]).text(f"<{end.join(lines)}>").replace("=", "") == "<***>"
    for line in lines:
        assert Redactor([LONG]).text(f"  {line}\n").replace("=", "") == "  ***\n"


def test_every_line_of_a_value_is_masked(folder):
    done = run_shell(folder, 'echo "$A"; echo "$A" | sed -n 2p; echo "$A" | sed "s/^/  | /"', A=KEY)
    assert done.stdout == "***\n***\n" + "  | ***\n" * 4 + "  | \n"


def test_a_value_of_three_characters_is_left_alone(folder):
    assert run_shell(folder, "echo abc abcd", A="abc", B="abcd").stdout == "abc ***\n"


def test_a_value_that_comes_in_pieces_is_masked(folder, any_python):
    source = (
        "import os, time\ndef f():\n    for letter in 'x' + os.environ['A'] + 'y':\n"
        "        os.write(1, letter.encode())\n        time.sleep(0.002)\n"
    )
    assert give(folder.reference(source, "f"), A="abcabcabcd").run(any_python).stdout == "x***y"


def test_output_that_is_no_secret_comes_at_once(folder):
    """Only what may be the beginning of a value waits for more."""
    script = 'echo first; printf "half a line"; sleep 600'
    give(folder.command("sh", "-c", script), A="alpha")
    with started(folder.argv(), stdout=subprocess.PIPE) as process:
        seen = b""
        while seen != b"first\nhalf a line":
            more = os.read(process.stdout.fileno(), 100)
            assert more, f"it ended after {seen}"
            seen += more
        process.terminate()
        ended(process)


def test_the_order_of_both_streams_is_kept(folder):
    script = "for i in 1 2 3 4 5 6 7 8 9; do echo out $i; echo err $i >&2; done"
    give(folder.command("sh", "-c", script), A="alpha")
    done = subprocess.run(
        folder.argv(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE_S
    )
    assert done.stdout.split("\n")[:-1] == [f"{name} {i}" for i in range(1, 10) for name in ("out", "err")]


def test_streams_that_are_two_stay_two(folder):
    done = run_shell(folder, 'echo "out $A"; echo "err $A" >&2', A="alpha")
    assert (done.stdout, done.stderr) == ("out ***\n", "err ***\n")


def test_a_process_that_the_step_leaves_behind_holds_nobody_up(folder):
    """It lives longer than any test waits."""
    done = run_shell(folder, "sleep 600 & echo done $A", A="alpha")
    assert done.stdout == "done ***\n"


def test_a_process_that_never_stops_printing_holds_nobody_up(folder):
    give(folder.command("sh", "-c", "yes $A & sleep 0.1"), A="alpha")
    with open(os.devnull, "wb") as null:
        subprocess.run(folder.argv(), stdout=null, timeout=PATIENCE_S, check=True)
    assert folder.finished(0).outcome["status"] == "success"


def test_a_reader_that_goes_away_does_no_harm(folder):
    """As without secrets: the step learns that nobody listens."""
    give(folder.command("sh", "-c", "yes alpha; exit 0"), A="alpha")
    with started(folder.argv(), stdout=subprocess.PIPE) as process:
        process.stdout.read(10)
        process.stdout.close()
        ended(process)
    assert folder.finished(0).outcome is not None


def test_much_output_goes_through_whole(folder):
    lines = 300_000
    source = f"import os\ndef f():\n    print(('x' * 50 + os.environ['A'] + '\\n') * {lines}, end='')\n"
    done = give(folder.reference(source, "f"), A="alpha").run()
    assert done.stdout == ("x" * 50 + "***\n") * lines


def test_what_was_printed_before_a_crash_is_there(folder):
    source = "import os\ndef f():\n"
    source += "    print('last words', os.environ['A'], end=' al')\n    os.kill(os.getpid(), 9)\n"
    done = give(folder.reference(source, "f"), A="alpha").run()
    assert done.stdout == "last words *** al"
    assert done.failure["native_reason"] == "SIGKILL"


def test_half_a_value_at_the_end_is_masked(folder):
    source = "import os\ndef f():\n    os.write(1, b'last words: alpha-be')\n    os._exit(3)\n"
    assert give(folder.reference(source, "f"), A="alpha-beta").run().stdout == "last words: ***"


def test_stdout_that_is_closed_is_no_trouble(folder):
    give(folder.command("sh", "-c", "echo $A; echo $A >&2"), A="alpha")
    command = ["sh", "-c", 'exec "$0" "$@" >&-', *folder.argv()]
    done = subprocess.run(command, stderr=subprocess.PIPE, timeout=PATIENCE_S)
    assert b"alpha" not in done.stderr
    assert folder.finished(done.returncode).outcome["status"] == "success"


def test_a_step_that_prints_nothing_ends_like_any_other(folder):
    done = run_shell(folder, "exit 7", A="alpha")
    assert (done.code, done.failure["exit_code"]) == (protocol.EXIT_STEP_FAILED, 7)


def test_being_stopped_reaches_the_step(folder):
    give(
        folder.command("sh", "-c", "trap 'echo saved $A; exit 0' TERM; echo up; while :; do sleep 0.1; done"),
        A="alpha",
    )
    with started(folder.argv(), stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"up\n"
        process.terminate()
        assert process.stdout.read() == b"saved ***\n"
        ended(process)
    assert folder.finished(0).outcome["status"] == "success"


# -- what is raised

RAISES = """
import os
class Own(Exception):
    pass
def f(kind):
    value = os.environ["A"]
    if kind == "exit":
        raise SystemExit("no access with " + value)
    if kind == "long":
        raise Own("x" * 490 + value)
    if kind == "longer":
        raise Own("x" * 16370 + value)
    if kind == "repr":
        raise KeyError(value)
    if kind == "cause":
        raise Own("outer") from ValueError(value, {value: [value]})
    if kind == "attributes":
        error = Own("x")
        error.plain, error.deep, error.data = value, {value: (value,)}, b"<" + value.encode() + b">"
        raise error
    if kind == "bytes":
        raise Own(b"ab" + value.encode(), b"abc" + value.encode(), b"abcd" + value.encode())
    if kind == "file":
        open("/no/" + value)
    if kind == "class":
        raise type(value, (Own,), {"__module__": "about." + value})("no")
    if kind == "pickle":
        class Held:
            def __reduce__(self):
                raise TypeError("cannot pickle " + value)
        return Held()
    exec(compile("raise Own(value)", value + ".py", "exec"))
"""


@pytest.mark.parametrize(
    "kind",
    [
        "exit",
        "long",
        "longer",
        "repr",
        "cause",
        "attributes",
        "bytes",
        "file",
        "class",
        "pickle",
        "traceback",
    ],
)
def test_an_exception_does_not_tell_them(folder, edge_python, kind):
    value = "very-secret-value"
    done = give(folder.reference(RAISES, "f", kind), A=value).run(edge_python)
    told = json.dumps(done.failure) + done.stdout + done.stderr + (folder.path / "receipt").read_text()
    told += base64.b64decode(done.receipt["outcome"]).decode() if "outcome" in done.receipt else ""
    assert "***" in done.failure["summary"] + json.dumps(done.failure)
    assert "very-s" not in told
    exception = done.failure["exception"] or {}
    pairs = [*(exception.get("args") or ()), *exception.get("attributes", {}).values()]
    pieces = [piece for codec, text in pairs if codec == "bytes" for piece in text.split("***")]
    for piece in (piece[offset:] for piece in pieces for offset in range(4)):
        assert b"very-s" not in binascii.a2b_base64(piece[: len(piece) // 4 * 4])


def test_words_of_our_own_stay(folder):
    """A weak secret that is also a word of ours does not break the failure."""
    done = run_shell(folder, "exit 3", A="user_error", B="sh")
    assert done.failure["category"] == "user_error"


# -- the rules, on any text


@given(
    values=st.lists(st.text("abA \n", min_size=MIN_BYTES, max_size=8), min_size=1, max_size=3),
    text=st.text("abA \nx", max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=6),
)
def test_pieces_come_to_the_same_as_the_whole(values, text, cuts):
    """However the output is cut into pieces, what is passed on is the same, and holds no value."""
    redactor, data = Redactor(values), text.encode()
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    out = held = b""
    for begin, end in itertools.pairwise(edges):
        held += data[begin:end]
        passed, held = redactor.cut(held, redactor.open_end(held))
        out += passed
    out += redactor.last(held)
    assert not [p for p in redactor.patterns if b"*" not in p and p in out]
    if redactor.open_end(data) == len(data):
        assert out == redactor.cut(data, len(data))[0]
