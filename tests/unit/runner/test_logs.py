"""Records of ``logging`` in a function: they are in the step's log once, in order, with their level."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import textwrap

import pytest

from airflow_stepop.job import LogLine
from airflow_stepop.runner.protocol import LEVEL_MARK
from tests.support.processes import printed, started


def run(folder, body, head="", python=sys.executable, **options):
    """Run a function with this body. The module ``logging`` is imported before."""
    source = f"import logging, os, sys\n{textwrap.dedent(head)}\ndef f():\n"
    done = folder.reference(source + textwrap.indent(textwrap.dedent(body), "    "), "f").run(
        python, **options
    )
    assert done.code == 0, done.stderr
    return done


def lines(text):
    """Return (level, text) of each line that a backend would find."""
    return [(line.level, line.text) for row in text.splitlines() for line in LogLine.printed(0.0, row)]


def both(done):
    return lines(done.stdout) + lines(done.stderr)


def test_every_level(folder, any_python):
    """Each line has its record's level; a level of the step's own counts as the next lower standard one."""
    body = """
        log = logging.getLogger("a.b")
        logging.getLogger().setLevel(1)
        logging.addLevelName(35, "ALERT")
        for level in (5, 10, 20, 25, 30, 35, 40, 50, 60):
            log.log(level, "at %d", level)
    """
    assert lines(run(folder, body, python=any_python).stdout) == [
        ("debug", "DEBUG:a.b: at 5"),
        ("debug", "DEBUG:a.b: at 10"),
        ("info", "INFO:a.b: at 20"),
        ("info", "INFO:a.b: at 25"),
        ("warning", "WARNING:a.b: at 30"),
        ("warning", "WARNING:a.b: at 35"),
        ("error", "ERROR:a.b: at 40"),
        ("critical", "CRITICAL:a.b: at 50"),
        ("critical", "CRITICAL:a.b: at 60"),
    ]


def test_the_level_is_info_as_in_a_task(folder):
    """A step that sets up nothing sees INFO and more, of its own loggers and of libraries."""
    body = """
        logging.info("root")
        logging.getLogger("library").info("library")
        logging.debug("left out")
    """
    assert both(run(folder, body)) == [("info", "INFO:root: root"), ("info", "INFO:library: library")]


def test_a_function_by_value(folder):
    """The function imports logging itself, late, as many do."""

    def f():
        import logging

        logging.getLogger("mine").error("no %s", "luck")

    assert both(folder.function(f).run()) == [("error", "ERROR:mine: no luck")]


def test_the_logger_of_a_dag_file(folder):
    """Most DAG files have one as a global. Airflow's prefix of the file's module is not shown."""
    log = logging.getLogger("unusual_prefix_0123_my_dag")

    def f():
        log.warning("x")

    assert both(folder.function(f).run()) == [("warning", "WARNING:my_dag: x")]


def test_every_line_of_a_record_has_the_level(folder):
    r"""A traceback, a text of several lines, and line ends of Windows. The last state of a \r line stays."""
    body = r"""
        logging.warning("one\ntwo\r\n\nfour\n")
        logging.info("10%\r50%\r100%")
        try:
            1 / 0
        except ZeroDivisionError:
            logging.exception("failed")
    """
    found = both(run(folder, body))
    assert found[:5] == [
        ("warning", "WARNING:root: one"),
        ("warning", "WARNING:root: two"),
        ("warning", "WARNING:root: "),
        ("warning", "WARNING:root: four"),
        ("info", "INFO:root: 100%"),
    ]
    assert found[5:7] == [
        ("error", "ERROR:root: failed"),
        ("error", "ERROR:root: Traceback (most recent call last):"),
    ]
    assert found[-1] == ("error", "ERROR:root: ZeroDivisionError: division by zero")


def test_a_level_can_be_forged_and_nothing_else(folder):
    """A mark inside a record is removed; one that the step prints gives a line a level."""
    body = f"""
        logging.info("a{LEVEL_MARK}ERROR:root: b")
        print("{LEVEL_MARK}CRITICAL:root: printed")
        print("{LEVEL_MARK}NONSENSE:root: kept")
        print("columns{LEVEL_MARK}of a file")
    """
    assert both(run(folder, body)) == [
        ("info", "INFO:root: aERROR:root: b"),
        ("critical", "CRITICAL:root: printed"),
        ("info", f"{LEVEL_MARK}NONSENSE:root: kept"),
        ("info", f"columns{LEVEL_MARK}of a file"),
    ]


def test_text_that_no_encoding_holds(folder):
    body = r'logging.info("half \ud800 and %s", b"\xff")'
    assert both(run(folder, body)) == [("info", r"INFO:root: half \ud800 and b'\xff'")]


def test_a_record_that_cannot_be_formatted_fails_no_step(folder):
    """As Python does: the error is on standard error, and the step goes on."""
    done = run(folder, "logging.info('%d', 'x')\nlogging.info('next')")
    assert lines(done.stdout) == [("info", "INFO:root: next")]
    assert "TypeError: %d format" in done.stderr


# -- where the record goes


def test_order_with_prints(folder):
    """What was printed before a record is before the record, also when standard output has a buffer."""
    body = """
        sys.stdout = open(1, "w", buffering=1 << 16, closefd=False)
        for number in range(3):
            print("print", number)
            logging.info("record %d", number)
        print("half a line", end="")
        logging.warning("after half a line")
        sys.stdout.flush()
    """
    assert lines(run(folder, body).stdout) == [
        ("info", "print 0"),
        ("info", "INFO:root: record 0"),
        ("info", "print 1"),
        ("info", "INFO:root: record 1"),
        ("info", "print 2"),
        ("info", "INFO:root: record 2"),
        ("info", "half a line"),
        ("warning", "WARNING:root: after half a line"),
    ]


@pytest.mark.parametrize(
    "body",
    [
        "sys.stdout = None",
        "sys.stdout.close()",
        "os.close(1)",
        "import io; sys.stdout = io.StringIO()",
        "os.dup2(os.open('file', os.O_CREAT | os.O_WRONLY), 1)",
    ],
)
def test_a_step_that_puts_its_output_elsewhere(folder, body):
    """The record is in the log, and not in a file that the step opens under the number 1."""
    body += "\ndata = open('data', 'w')\nlogging.info('here')\nsys.stdout = sys.stderr\n"
    body += "data.close()\nreturn [open(name).read() for name in ('data', 'file') if os.path.exists(name)]"
    done = run(folder, body)
    assert lines(done.stdout) == [("info", "INFO:root: here")]
    assert set(done.value()) == {""}


def test_a_step_that_closes_every_descriptor(folder):
    """A daemon does so in a child process. A record never gets into a file of the step."""
    body = """
        pid = os.fork()
        if pid == 0:
            os.closerange(3, 256)
            files = [open(f"data {number}", "w") for number in range(20)]
            logging.info("lost")
            os._exit(0)
        os.waitpid(pid, 0)
        return [os.path.getsize(f"data {number}") for number in range(20)]
    """
    assert run(folder, body).value() == [0] * 20


def test_a_stream_that_logs(folder):
    """A stream may hand what is printed to logging, in write() and in flush()."""
    head = """
        class Stream:
            def write(self, text):
                if text.strip():
                    logging.info("printed: %s", text)
            def flush(self):
                logging.info("flushed")
    """
    body = "out, sys.stdout = sys.stdout, Stream()\nprint('x')\nsys.stdout = out"
    found = lines(run(folder, body, head).stdout)
    assert found == [("info", "INFO:root: flushed"), ("info", "INFO:root: printed: x")]


def test_a_record_of_a_megabyte(folder):
    """It is whole, and so is what follows."""
    done = run(folder, "logging.warning('x' * (1 << 20))\nlogging.info('next')")
    assert lines(done.stdout) == [
        ("warning", "WARNING:root: " + "x" * (1 << 20)),
        ("info", "INFO:root: next"),
    ]


def test_a_pipe_that_does_not_block(folder):
    """Another process that shares the pipe may have changed it."""
    body = "os.set_blocking(1, False)\nlogging.warning('x' * (1 << 20))\nlogging.info('next')"
    assert [len(text) for _, text in lines(run(folder, body).stdout)] == [(1 << 20) + 14, 15]


def test_many_threads(folder):
    """Lines of threads do not mix."""
    body = """
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: logging.info("%d %s", number, "x" * 5000), range(200)))
    """
    found = lines(run(folder, body).stdout)
    assert {text for _, text in found} == {f"INFO:root: {number} {'x' * 5000}" for number in range(200)}


def test_child_processes(folder):
    """A forked process logs like the step. A program of its own prints as it always does, once."""
    head = """
        def child():
            logging.getLogger("child").warning("forked")
    """
    body = """
        import multiprocessing, subprocess
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join()
        program = "import logging; logging.basicConfig(); logging.warning('program')"
        subprocess.run([sys.executable, "-c", program], check=True)
    """
    done = run(folder, body, head)
    assert lines(done.stdout) == [("warning", "WARNING:child: forked")]
    assert lines(done.stderr) == [("info", "WARNING:root:program")]


def test_secrets_are_masked(folder):
    """Their value is not in the log, and the level is."""
    (folder.path / "in" / "secrets.json").write_text('{"TOKEN": "s3cret-value"}')
    folder.set(secrets=["TOKEN"])
    done = run(folder, "logging.error('token %s', os.environ['TOKEN'])")
    assert both(done) == [("error", "ERROR:root: token ***")]


# -- what the step sets up itself


def test_basic_config_replaces_the_handler(folder):
    """The step's own format is used, and no line comes twice."""
    body = "logging.basicConfig(level=logging.DEBUG, format='%(message)s!')\nlogging.debug('own')"
    assert both(run(folder, body)) == [("info", "own!")]


def test_basic_config_with_a_file(folder):
    """The record is in the file, and in the task's log as in a task."""
    body = "logging.basicConfig(filename='log.txt')\nlogging.warning('x')\nreturn open('log.txt').read()"
    done = run(folder, body)
    assert done.value() == "WARNING:root:x\n"
    assert both(done) == [("warning", "WARNING:root: x")]


def test_basic_config_that_fails(folder):
    """The handler is there afterwards."""
    body = """
        try:
            logging.basicConfig(stream=sys.stdout, filename="x")
        except ValueError:
            logging.info("x")
    """
    assert both(run(folder, body)) == [("info", "INFO:root: x")]


def test_dict_config(folder):
    """The configuration wins; loggers that it disables are silent."""
    body = """
        import logging.config
        early = logging.getLogger("early")
        logging.config.dictConfig({
            "version": 1,
            "formatters": {"own": {"format": "[%(levelname)s] %(message)s"}},
            "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "own"}},
            "root": {"handlers": ["console"], "level": "DEBUG"},
        })
        logging.debug("own")
        early.info("disabled")
    """
    assert both(run(folder, body)) == [("info", "[DEBUG] own")]


def test_dict_config_without_root(folder):
    """The handler of the root stays for the loggers that have none, and is silent for those that print."""
    body = """
        import logging.config
        logging.config.dictConfig({
            "version": 1,
            "handlers": {"console": {"class": "logging.StreamHandler"}},
            "loggers": {"own": {"handlers": ["console"]}},
        })
        logging.getLogger("own.child").warning("own")
        logging.getLogger("other").warning("other")
    """
    done = run(folder, body)
    assert lines(done.stdout) == [("warning", "WARNING:other: other")]
    assert lines(done.stderr) == [("info", "own")]


@pytest.mark.parametrize("logger", ["", "name"])
@pytest.mark.parametrize(
    "stream", ["sys.stdout", "sys.stderr", "open(1, 'w', closefd=False)", "open('/dev/stderr', 'w')"]
)
def test_no_line_comes_twice(folder, logger, stream):
    """Another handler that prints is enough, whatever it prints to."""
    body = f"""
        logging.getLogger({logger!r}).addHandler(logging.StreamHandler({stream}))
        logging.getLogger("name").warning("once")
        logging.shutdown()
    """
    assert both(run(folder, body)) == [("info", "once")]


def test_a_handler_of_a_higher_level(folder):
    """Each record is there once: what the step's handler leaves out is not lost."""
    body = """
        handler = logging.StreamHandler()
        handler.setLevel(logging.ERROR)
        logging.getLogger().addHandler(handler)
        logging.info("low")
        logging.error("high")
    """
    done = run(folder, body)
    assert lines(done.stdout) == [("info", "INFO:root: low")]
    assert lines(done.stderr) == [("info", "high")]


@pytest.mark.parametrize(
    "handler",
    ["logging.NullHandler()", "logging.FileHandler('log.txt')", "logging.StreamHandler(io.StringIO())"],
)
def test_a_handler_that_writes_elsewhere(folder, handler):
    """The task's log has the record, too."""
    body = f"import io\nlogging.getLogger().addHandler({handler})\nlogging.info('x')"
    assert both(run(folder, body)) == [("info", "INFO:root: x")]


def test_a_handler_that_nobody_knows(folder):
    """It may print, as loguru's and tqdm's recipes do."""
    head = """
        class Intercept(logging.Handler):
            def emit(self, record):
                print("own:", record.getMessage())
    """
    body = "logging.getLogger().addHandler(Intercept())\nlogging.info('x')"
    assert both(run(folder, body, head)) == [("info", "own: x")]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("logger.warning('x')\nlogging.info('y')", ["INFO:root: y", "x"]),
        ("logging.basicConfig(handlers=[Intercept()], level=0, force=True)\nlogging.info('y')", ["y"]),
        ("logging.getLogger().addHandler(Intercept())\nlogging.info('y')", ["y"]),
        (
            "logger.remove()\nlogger.add(Propagate(), format='{message}')\nlogger.error('x')",
            ["ERROR:helpers: x"],
        ),
    ],
)
def test_loguru(folder, body, expected):
    """Each message is there once, also with the two recipes of loguru's documentation."""
    pytest.importorskip("loguru")
    head = """
        from loguru import logger
        class Intercept(logging.Handler):
            def emit(self, record):
                logger.opt(depth=6, exception=record.exc_info).log(record.levelname, record.getMessage())
        class Propagate(logging.Handler):
            def emit(self, record):
                logging.getLogger(record.name).handle(record)
    """
    found = [text.rpartition(" - ")[2] for _, text in both(run(folder, body, head))]
    assert found == expected


def test_tqdm(folder):
    """Records between a bar's updates have their level; tqdm's own recipe prints them above the bar."""
    pytest.importorskip("tqdm")
    body = """
        from tqdm import tqdm
        from tqdm.contrib.logging import logging_redirect_tqdm
        for number in tqdm(range(3), mininterval=0):
            logging.warning("plain %d", number)
        with logging_redirect_tqdm():
            for number in tqdm(range(3), mininterval=0):
                logging.warning("recipe %d", number)
        logging.warning("after")
    """
    done = run(folder, body)
    plain = [("warning", f"WARNING:root: {text}") for text in ("plain 0", "plain 1", "plain 2", "after")]
    assert lines(done.stdout) == plain
    assert [line for line in done.stderr.splitlines() if "recipe" in line] == [
        f"recipe {n}" for n in range(3)
    ]


def test_a_step_that_removes_all_handlers(folder):
    """Python sets itself up at the next record, as in a task."""
    body = "logging.getLogger().handlers.clear()\nlogging.info('x')\nlogging.warning('y')"
    assert both(run(folder, body)) == [("info", "INFO:root:x"), ("info", "WARNING:root:y")]


def test_logging_that_is_reloaded(folder):
    body = "import importlib\nimportlib.reload(logging)\nlogging.info('x')\nreturn logging.__loader__.name"
    done = run(folder, body)
    assert both(done) == [("info", "INFO:root: x")]
    assert done.value() == "logging"


def test_progress_bars(folder):
    r"""A bar of tqdm ends with \r. A record in between has its level, and the bar its last state."""
    body = r"""
        for percent in (10, 50, 100):
            sys.stderr.write(f"\r{percent}%|#####|")
            logging.info("at %d", percent)
        sys.stderr.write("\n")
    """
    done = run(folder, body)
    assert lines(done.stdout) == [("info", f"INFO:root: at {percent}") for percent in (10, 50, 100)]
    assert done.stderr == "\n10%|#####|\n50%|#####|\n100%|#####|\n", (
        "where Python reads a \\r as an end of line"
    )


# -- warnings


def test_warnings(folder):
    """A warning is a record of the level WARNING, also if the step does not import logging."""

    def f():
        import sys
        import warnings

        if "logging" in sys.modules:
            raise RuntimeError("logging was imported before")
        warnings.warn("careful", stacklevel=1)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("again", FutureWarning, stacklevel=1)
        warnings.warn("and again", RuntimeWarning, stacklevel=1)

    done = folder.function(f).run(f"{sys.executable} -I -S")
    found = [line for line in both(done) if "Warning: " in line[1]]
    assert [level for level, _ in found] == ["warning"] * 3
    assert [text.partition("Warning: ")[2] for _, text in found] == ["careful", "again", "and again"]
    assert found[0][1].startswith(f"WARNING:py.warnings: {__file__}:")


def test_warnings_that_are_caught_or_raised(folder):
    """What is recorded is not shown, and what the step makes an error is one."""
    body = """
        import warnings
        with warnings.catch_warnings(record=True) as found:
            warnings.warn("recorded")
        warnings.simplefilter("error")
        try:
            warnings.warn("raised")
        except UserWarning as error:
            return [str(found[0].message), str(error)]
    """
    done = run(folder, body)
    assert done.value() == ["recorded", "raised"]
    assert both(done) == []


def test_warnings_that_the_step_shows_itself(folder):
    body = """
        import warnings
        warnings.showwarning = lambda message, *args: print("own:", message)
        warnings.warn("careful")
    """
    assert both(run(folder, body)) == [("info", "own: careful")]


# -- signals

TRAP = """
    import logging, signal, sys, time
    def f():
        def stop(*args):
            logging.warning("stopping")
            sys.exit(7)
        signal.signal(signal.SIGTERM, stop)
        logging.info("ready")
        while True:
            logging.debug("left out")
            signal.pause()
"""
INTERRUPT = """
    import logging, time
    def f():
        try:
            logging.info("ready")
            while True:
                time.sleep(0.01)
        except KeyboardInterrupt:
            logging.exception("interrupted")
            return "saved"
"""


@pytest.mark.parametrize(("source", "signum"), [(TRAP, signal.SIGTERM), (INTERRUPT, signal.SIGINT)])
def test_handlers_of_signals(folder, source, signum):
    """The step's own handlers run as without logging, and what they log is there."""
    folder.reference(textwrap.dedent(source), "f")
    with started(folder.argv(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert lines(process.stdout.readline()) == [("info", "INFO:root: ready")]
        process.send_signal(signum)
        out, err = printed(process)
    done = folder.finished(process.returncode, out, err)
    found = lines(out)
    if signum == signal.SIGTERM:
        assert found[0] == ("warning", "WARNING:root: stopping")
        assert done.failure["summary"] == "The step called sys.exit(7)"
    else:
        assert found[0] == ("error", "ERROR:root: interrupted")
        assert found[-1] == ("error", "ERROR:root: KeyboardInterrupt")
        assert done.value() == "saved"
