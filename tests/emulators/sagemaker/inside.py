"""The way into a container: Python's standard library alone, and never imported by the emulator.

``python -I -S inside.py launch SPEC COMMAND...`` dies with the emulator and becomes COMMAND, which is
``unshare``. ``python -I -S inside.py enter SPEC`` runs in the new namespaces as process 1, lays the job's
folders over /opt and /tmp, and becomes the entrypoint. As in a container, the entrypoint is process 1 then:
SIGTERM without a handler has no effect on it, and all other processes end with it.
"""

import ctypes
import json
import os
import signal
import sys

MS_BIND, MS_REC = 4096, 16384
PR_SET_PDEATHSIG = 1
NOT_FOUND, NOT_EXECUTABLE, BROKEN = 127, 126, 125
libc = ctypes.CDLL(None, use_errno=True)


def check(result, what):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def bind(source, target):
    check(
        libc.mount(os.fsencode(source), os.fsencode(target), None, MS_BIND | MS_REC, None), f"mount {target}"
    )


def lay_over(path, folder, hidden):
    """Show ``folder`` at ``path``. What ``path`` has stays visible, unless it is hidden."""
    for entry in [] if hidden else os.scandir(path):
        target = os.path.join(folder, entry.name)
        if os.path.lexists(target):
            continue
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), target)
        elif entry.is_dir():
            os.mkdir(target)
            bind(entry.path, target)
        else:
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
            bind(entry.path, target)
    bind(folder, path)


def enter(spec):
    opt, tmp = spec["opt"], spec["tmp"]
    os.makedirs(os.path.join(opt, "ml"))
    bind(spec["ml"], os.path.join(opt, "ml"))
    lay_over("/opt", opt, False)
    for source, target in spec["mounts"]:
        os.makedirs(target, exist_ok=True)
        bind(source, target)
    if tmp:
        for shared in spec["shared"]:
            inner = os.path.join(tmp, os.path.relpath(shared, "/tmp"))
            os.makedirs(inner, exist_ok=True)
            bind(shared, inner)
        lay_over("/tmp", tmp, True)
    check(libc.sethostname(spec["hostname"].encode(), len(spec["hostname"])), "sethostname")
    os.chdir("/")


def main(word, path, command):
    if word == "launch":
        parent = os.getppid()
        check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
        if os.getppid() != parent:
            sys.exit(BROKEN)
        os.execv(command[0], command)
    with open(path, encoding="utf-8") as file:
        spec = json.load(file)
    try:
        enter(spec)
    except OSError as error:
        print(f"the emulator cannot make the container: {error}", file=sys.stderr)
        sys.exit(BROKEN)
    for name in ("SIGPIPE", "SIGXFSZ"):  # Python ignores them, and a program would inherit that
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    try:
        os.execvpe(spec["argv"][0], spec["argv"], spec["env"])
    except FileNotFoundError:
        sys.exit(NOT_FOUND)
    except OSError:
        sys.exit(NOT_EXECUTABLE)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
