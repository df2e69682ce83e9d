"""Requirements are installed before the step starts, once, whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from airflow_stepop.runner import protocol
from tests.support.processes import ended, printed, started
from tests.support.waiting import PATIENCE_S, wait_until
from tests.support.wheels import make_wheel

UV = Path(sys.executable).with_name("uv")
USES = "def f():\n    import stepop_dep, stepop_base\n    return [stepop_dep.VERSION, stepop_base.VERSION]\n"
PLAIN = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}


@pytest.fixture
def wheels(tmp_path):
    folder = tmp_path / "wheels"
    make_wheel(folder, "stepop_base", "2.0")
    make_wheel(folder, "stepop_dep", "1.0", needs=("stepop_base>=1",))
    make_wheel(folder, "stepop_tool", source="def main():\n    print('the tool ran')\n", script="stepop-tool")
    return folder


@pytest.fixture(params=["pip", "uv"])
def env(request, tmp_path, wheels):
    """The environment of an image with that installer, and an index that is a folder."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    if request.param == "uv":
        (bin_folder / "uv").symlink_to(UV)
    return {
        **PLAIN,
        "PATH": f"{bin_folder}:{PLAIN['PATH']}",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "STEPOP_CACHE": str(tmp_path / "cache"),
        "HOME": str(tmp_path / "home"),
        "INSTALLER": request.param,
    }


def installed(tmp_path):
    folder = tmp_path / "cache" / "requirements"
    return [path for path in folder.iterdir() if path.suffix != ".lock"] if folder.exists() else []


def test_a_function_imports_them(folder, env, tmp_path):
    done = folder.reference(USES, "f").set(requirements=["stepop_dep==1.0"]).run(env=env)
    assert done.value() == ["1.0", "2.0"], done.stdout
    (line,) = done.stdout.splitlines()
    told = rf"stepop: installed 2 packages in \d+(\.\d)? s with {env['INSTALLER']}: stepop_dep==1\.0"
    assert re.fullmatch(told, line)
    (path,) = installed(tmp_path)
    assert path.name == path.stem, "no draft is left"


def test_one_package_is_no_plural(folder, env):
    done = folder.command("true").set(requirements=["stepop_base"]).run(env=env)
    assert "stepop: installed 1 package in " in done.stdout


def test_the_output_of_the_installer_is_shown_when_every_phase_is(folder, env):
    done = folder.command("true").set(requirements=["stepop_dep"]).run(env={**env, "STEPOP_DEBUG": "1"})
    assert "stepop_dep" in done.stdout.partition("stepop: installed")[0].replace("-", "_")


def test_the_time_of_an_installation_is_no_time_of_the_step(new_folder, env):
    """It is apart from the wall time, and its CPU time is none of the step's."""
    source = "def f():\n    import stepop_dep\n"
    first, again = (
        new_folder().reference(source, "f").set(requirements=["stepop_dep"]).run(env=env).outcome["usage"]
        for _ in range(2)
    )
    assert 0 < first["installing_s"] <= first["wall_s"]
    assert first["cpu_s"] <= first["wall_s"] - first["installing_s"] + 0.5, "a step of one thread"
    assert "installing_s" not in again


def test_a_step_that_is_killed_after_the_installation_knows_its_time(folder, env):
    source = "import os\ndef f():\n    os.kill(os.getpid(), 9)\n"
    used = folder.reference(source, "f").set(requirements=["stepop_base"]).run(env=env).outcome["usage"]
    assert 0 < used["installing_s"] <= used["wall_s"]


def test_a_failed_installation_has_its_time(folder, env):
    used = folder.command("true").set(requirements=["stepop_base>=3"]).run(env=env).outcome["usage"]
    assert 0 < used["installing_s"] <= used["wall_s"]


def test_every_python_installs_them(folder, wheels, tmp_path, any_python):
    env = {
        **PLAIN,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "XDG_CACHE_HOME": str(tmp_path / "xdg"),
    }
    done = folder.reference(USES, "f").set(requirements=["stepop_dep"]).run(any_python, env=env)
    assert done.value() == ["1.0", "2.0"], done.stdout + done.stderr
    assert list((tmp_path / "xdg" / "stepop" / "requirements").iterdir())


def test_a_module_at_import_needs_them(folder, env):
    """They are there before the function's own module is imported."""
    source = "import stepop_base\ndef f():\n    return stepop_base.VERSION\n"
    assert folder.reference(source, "f").set(requirements=["stepop_base"]).run(env=env).value() == "2.0"


def test_code_of_the_project_comes_first(folder, env):
    folder.reference("def f():\n    import stepop_base\n    return stepop_base.VERSION\n", "f")
    folder.code({"helpers.py": "def f():\n    import stepop_base\n    return stepop_base.VERSION\n",
                 "stepop_base.py": "VERSION = 'own'\n"})  # fmt: skip
    assert folder.set(requirements=["stepop_base"]).run(env=env).value() == "own"


def test_a_command_finds_modules_and_programs(folder, env):
    script = f"stepop-tool && {sys.executable} -c 'import stepop_base; print(stepop_base.VERSION)'"
    folder.command("sh", "-c", script).set(requirements=["stepop_tool", "stepop_base"])
    done = folder.run(env={**env, "PYTHONPATH": "/nonexistent"})
    assert done.stdout.splitlines()[-2:] == ["the tool ran", "2.0"], done.stdout + done.stderr


def test_a_second_step_finds_them_ready(new_folder, env, wheels, tmp_path):
    requirements = ["stepop_base", "stepop_tool"]
    assert new_folder().reference("def f():\n    pass\n", "f").set(requirements=requirements).run(env=env)
    for wheel in wheels.iterdir():
        wheel.unlink()
    again = new_folder().command("stepop-tool").set(requirements=requirements[::-1]).run(env=env)
    assert again.stdout == "stepop: requirements ready (cached)\nthe tool ran\n"
    assert len(installed(tmp_path)) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder to another user")
@pytest.mark.parametrize("how", ["another user's", "a link", "open to all", "open to a group"])
def test_a_cache_that_somebody_has_planted_is_not_believed(new_folder, env, tmp_path, how):
    """The planted set has the right name. The step installs its own set, in a folder with its user's id."""
    lines = ["stepop_base==2.0"]
    new_folder().command("true").set(requirements=lines).run(env=env)
    (name,) = [path.name for path in installed(tmp_path)]
    cache = tmp_path / "cache"
    planted = cache / "requirements"
    (planted / name / "stepop_base.py").unlink()  # perhaps a link into the cache of uv
    (planted / name / "stepop_base.py").write_text("VERSION = 'planted'\n")
    if how == "another user's":
        os.chown(planted, 12345, 12345)
    elif how == "a link":
        planted.rename(tmp_path / "elsewhere")
        planted.symlink_to(tmp_path / "elsewhere")
    else:
        planted.chmod(0o777 if how == "open to all" else 0o770)
    step = new_folder().command("python3", "-c", "import stepop_base; print(stepop_base.VERSION)")
    done = step.set(requirements=lines).run(env=env)
    assert done.stdout.splitlines()[-1] == "2.0"
    own = cache / f"requirements-{os.geteuid()}"
    assert (own / name).is_dir()
    assert own.stat().st_mode & 0o777 == 0o700


def test_a_cache_below_a_folder_that_is_open_to_all_is_refused(folder, env, tmp_path):
    """Whoever may rename the cache may put another one in its place."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    done = folder.command("true").set(requirements=["stepop_base"]).run(env=env)
    assert done.code == protocol.EXIT_REFUSED
    assert done.failure["category"] == "bad_config"
    assert "is open to all and has no sticky bit" in done.failure["summary"]


def test_other_requirements_are_another_folder(new_folder, env, tmp_path):
    for requirements in (["stepop_base"], ["stepop_base==2.0"]):
        assert new_folder().command("true").set(requirements=requirements).run(env=env).code == 0
    assert len(installed(tmp_path)) == 2


def test_a_failed_install_says_why(folder, env, tmp_path):
    done = folder.command("echo", "must not run").set(requirements=["stepop_base>=3"]).run(env=env)
    assert done.code == protocol.EXIT_REFUSED
    assert done.failure["category"] == "requirements"
    assert f"{env['INSTALLER']} ended with exit code" in done.failure["summary"]
    assert "stepop_base" in "\n".join(done.failure["log_tail"]).replace("-", "_")
    assert all(line in done.stdout for line in done.failure["log_tail"])
    assert "must not run" not in done.stdout
    assert installed(tmp_path) == []


def test_a_failed_install_is_tried_again(new_folder, env, wheels):
    requirements = ["stepop_late"]
    assert (
        new_folder().command("true").set(requirements=requirements).run(env=env).code == protocol.EXIT_REFUSED
    )
    make_wheel(wheels, "stepop_late")
    assert new_folder().command("true").set(requirements=requirements).run(env=env).code == 0


def test_no_installer_says_what_to_do(folder, tmp_path):
    """As in an image with a bare Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    folder.command("true").set(requirements=["stepop_base"])
    done = folder.run(str(tmp_path / "bare" / "bin" / "python"), env={**PLAIN, "HOME": str(tmp_path)})
    assert done.failure["category"] == "requirements"
    assert "no uv in PATH works, and" in done.failure["summary"]
    assert "use an image that has uv or pip" in done.failure["hint"]


def test_a_cache_that_cannot_be_written_is_refused_when_it_was_asked_for(folder, tmp_path):
    (tmp_path / "file").touch()
    folder.command("true").set(requirements=["stepop_base"])
    done = folder.run(env={**PLAIN, "STEPOP_CACHE": str(tmp_path / "file")})
    assert done.failure["category"] == "bad_config"
    assert f"The folder {tmp_path}/file of STEPOP_CACHE" in done.failure["summary"]


@pytest.mark.parametrize("home", [None, "/proc/nowhere"])
def test_without_a_writable_home_they_live_as_long_as_the_step(folder, env, tmp_path, home):
    env = {name: value for name, value in env.items() if name not in ("STEPOP_CACHE", "HOME")}
    env |= {"TMPDIR": str(tmp_path)} | ({"HOME": home} if home else {})
    done = folder.reference(USES, "f").set(requirements=["stepop_dep"]).run(env=env)
    assert done.value() == ["1.0", "2.0"], done.stdout + done.stderr
    assert not list(tmp_path.glob("stepop-*"))


def runs_pip(python, env):
    try:
        return (
            subprocess.run([python, "-m", "pip", "-V"], env=env, user=54321, capture_output=True).returncode
            == 0
        )
    except OSError:
        return False


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_user_without_a_name_and_a_home_installs_them(folder, wheels):
    """A user that is in no passwd file, and may write only to the output folder and to temporary files."""
    env = {"PATH": "/usr/bin:/bin", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "HOME": "/"}
    pythons = [sys.executable, shutil.which("python3", path=env["PATH"])]
    python = next((python for python in pythons if python and runs_pip(python, env)), None)
    if python is None:
        pytest.skip("no Python with pip that another user may run: they are all below /root")
    for path in folder.path.parents:
        if path.stat().st_mode & 0o777 == 0o700:
            path.chmod(0o755)
    (folder.path / "out").mkdir()
    os.chown(folder.path / "out", 54321, 0)
    folder.reference(USES, "f").set(requirements=["stepop_dep"])
    argv = folder.argv(python, receipt=str(folder.path / "out" / "receipt"))
    done = subprocess.run(
        argv, user=54321, group=0, extra_groups=[], env=env, capture_output=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_shim_of_uv_that_leads_to_none_is_left_alone(folder, env, tmp_path):
    shim = tmp_path / "shims" / "uv"
    shim.parent.mkdir()
    shim.write_text("#!/bin/sh\necho 'pyenv: uv: command not found' >&2\nexit 127\n")
    shim.chmod(0o755)
    env = {**env, "PATH": f"{shim.parent}:{PLAIN['PATH']}"}
    done = folder.reference(USES, "f").set(requirements=["stepop_dep"]).run(env=env)
    assert done.value() == ["1.0", "2.0"], done.stdout
    assert re.search("stepop: installed 2 packages in .* with pip: stepop_dep", done.stdout)


def test_steps_at_the_same_time_install_once(new_folder, env, tmp_path):
    folders = [new_folder().reference(USES, "f").set(requirements=["stepop_dep"]) for _ in range(4)]
    with ExitStack() as stack:
        options = {"env": env, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        running = [stack.enter_context(started(folder.argv(), **options)) for folder in folders]
        lines = [printed(process)[0] for process in running]
    assert [folder.finished(0).value() for folder in folders] == [["1.0", "2.0"]] * 4
    assert "".join(lines).count("stepop: installed 2 packages") == 1
    assert "".join(lines).count("stepop: requirements ready (cached)") == 3
    assert len(installed(tmp_path)) == 1


def test_an_install_that_is_killed_leaves_nothing_in_the_way(new_folder, env, wheels, tmp_path):
    """Killed in the middle, by whatever: the next step installs anew, and removes what was left."""
    slow = tmp_path / "bin" / "uv"
    slow.unlink(missing_ok=True)
    slow.write_text(
        '#!/bin/sh\n[ "$1" != --version ] || exit 0\n'
        'for t in "$@"; do case $t in */packages) touch "$t/half"; esac; done\nsleep 600\n'
    )
    slow.chmod(0o755)
    killed = new_folder().command("true").set(requirements=["stepop_base"])
    with started(killed.argv(), env=env, stdout=subprocess.PIPE, start_new_session=True):
        wait_until(
            lambda: list((tmp_path / "cache").glob("requirements/*/packages/half")), "half an installation"
        )
    slow.unlink()
    if env["INSTALLER"] == "uv":
        slow.symlink_to(UV)
    done = new_folder().command("true").set(requirements=["stepop_base"]).run(env=env)
    assert done.code == 0, done.stdout
    (path,) = installed(tmp_path)
    assert not (path / "half").exists()
    assert (path / "stepop_base.py").exists()


def test_being_stopped_while_installing_is_being_cancelled(folder, env, tmp_path):
    slow = tmp_path / "bin" / "uv"
    slow.unlink(missing_ok=True)
    slow.write_text(f"#!/bin/sh\n[ $1 = --version ] || {{ touch {tmp_path}/began; exec sleep 600; }}\n")
    slow.chmod(0o755)
    folder.command("true").set(requirements=["stepop_base"])
    with started(folder.argv(), env=env, stdout=subprocess.PIPE) as process:
        wait_until((tmp_path / "began").exists, "an installation")
        process.send_signal(signal.SIGTERM)
        ended(process)
    assert folder.finished(process.returncode).failure["category"] == "cancelled"
    assert installed(tmp_path) == [] or all("." in path.name for path in installed(tmp_path))


def test_an_index_with_a_password_is_not_told(folder, env):
    """From ``secrets=``: neither in the log nor on the command line of the installer."""
    (folder.path / "in" / protocol.SECRETS).write_text(
        json.dumps({"PIP_INDEX_URL": "http://u:pa55word@127.0.0.1:9/"})
    )
    folder.command("true").set(requirements=["stepop_missing"], secrets=["PIP_INDEX_URL"])
    env = {name: value for name, value in env.items() if name not in ("PIP_NO_INDEX", "PIP_FIND_LINKS")}
    env |= {"PIP_RETRIES": "0", "PIP_DEFAULT_TIMEOUT": "1", "UV_HTTP_RETRIES": "0"}
    with started(
        folder.argv(), env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        lines = set()
        while process.poll() is None:
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    lines.add(path.read_bytes())
                except OSError:
                    continue
            time.sleep(0.01)
        told = process.stdout.read()
    assert not [line for line in lines if b"pa55word" in line]
    assert "pa55word" not in told + json.dumps(folder.finished(64).failure)
    assert "could not be installed" in told


def test_a_long_installation_says_that_it_goes_on(env, tmp_path, wheels):
    """With the installer's last line, so that nobody takes the step for stuck."""
    code = (
        "import sys; from airflow_stepop.runner import requirements, meter; requirements.NOTE_S = 0.01; "
        f"requirements.provide(['stepop_base'], {str(tmp_path)!r}, meter.Meter())"
    )
    slow = tmp_path / "bin" / "uv"
    slow.unlink(missing_ok=True)
    slow.write_text(
        f"#!/bin/sh\n[ $1 = --version ] && exit\necho Fetching it\n"
        f"while [ ! -e {tmp_path}/noted ]; do sleep 0.1; done\n"
    )
    slow.chmod(0o755)
    options = {"env": env, "stdout": subprocess.PIPE, "text": True}
    with started([sys.executable, "-c", code], **options) as process:
        lines = iter(process.stdout.readline, "")
        note = next(line for line in lines if "Fetching it" in line)
        (tmp_path / "noted").touch()
        rest = list(lines)
    assert re.fullmatch(
        r"stepop: installing stepop_base with uv for \d+\.\d s now; its last line: Fetching it\n", note
    )
    assert rest[-1].startswith("stepop: installed 0 packages in ")
