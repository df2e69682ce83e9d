"""The way into a container: Python's standard library alone, and never imported by the emulator.

``python -I -S inside.py run SPEC NETWORK`` dies with the emulator. It makes a user, mount, UTS and pid
namespace (and a network namespace where NETWORK is ``none``), as ``unshare --map-root-user --kill-child
--mount-proc`` does, which however loses the exit code of a container that SIGKILL ended. A child in them
lays the job's folders over /opt and /tmp, and becomes the entrypoint. As in a container, the entrypoint is
process 1 then: SIGTERM without a handler has no effect on it, and all other processes end with it. ``python
-I -S inside.py probe`` tries the namespaces.
"""

import ctypes
import json
import os
import signal
import sys

MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (
    1 << 17,
    1 << 26,
    1 << 28,
    1 << 29,
    1 << 30,
)
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
    folders = {"/opt": opt, "/tmp": tmp}
    for source, target in spec["mounts"]:  # below /opt or /tmp: nothing else of the host is touched
        top = target[:4]
        inner = os.path.join(folders[top] or top, os.path.relpath(target, top))
        os.makedirs(inner, exist_ok=True)
        bind(source, inner)
    lay_over("/opt", opt, False)
    if tmp:
        lay_over("/tmp", tmp, True)
    check(libc.sethostname(spec["hostname"].encode(), len(spec["hostname"])), "sethostname")
    os.chdir("/")


def die_with_parent():
    check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")


def separate(network):
    """Make the namespaces. The user of this process is root in them, and nobody else exists."""
    uid, gid = os.geteuid(), os.getegid()
    kinds = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWPID
    check(libc.unshare(kinds if network else kinds | CLONE_NEWNET), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)
    die_with_parent()
    check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "make / private")


def in_child(act):
    """Fork into the pid namespace, call ``act`` there, and return the exit code as docker has it."""
    pid = os.fork()
    if pid:
        status = os.waitpid(pid, 0)[1]
        return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    try:
        die_with_parent()
        check(libc.mount(b"proc", b"/proc", b"proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, None), "mount /proc")
        act()
    except FileNotFoundError:
        os._exit(NOT_FOUND)
    except OSError as error:
        print(f"the emulator cannot make the container: {error}", file=sys.stderr, flush=True)
        os._exit(BROKEN)
    os._exit(0)


def become(spec):
    enter(spec)
    for name in ("SIGPIPE", "SIGXFSZ"):  # Python ignores them, and a program would inherit that
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    try:
        os.execvpe(spec["argv"][0], spec["argv"], spec["env"])
    except PermissionError:
        os._exit(NOT_EXECUTABLE)


def main(word, path="", network=""):
    parent = os.getppid()
    die_with_parent()
    if os.getppid() != parent:
        return BROKEN
    spec = {}
    if word == "run":
        with open(path, encoding="utf-8") as file:
            spec = json.load(file)
    try:
        separate(network != "none")
    except OSError as error:
        print(f"the emulator cannot make namespaces: {error}", file=sys.stderr)
        return BROKEN
    return in_child(lambda: become(spec) if spec else None)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
