"""The way into a sandbox: Python's standard library alone, and never imported by the emulator.

It runs as its neighbour of the SageMaker emulator does, with other mounts: a new root shows the files of this
host, a /tmp of its own, and the Volumes at their paths, wherever these are. Nothing is made on the host.
"""

import json
import os
import signal
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from sagemaker import inside as base  # noqa: TID253 - the neighbour, and not the SDK

MS_REMOUNT, MS_RDONLY = 32, 1
NEW, SCRATCH = "root", ".scratch"  # below the folder of the sandbox, and below the new root


class Root:
    """A root that is put together from mounts."""

    def __init__(self, folder):
        self.path = os.path.join(folder, NEW)
        self.made = {self.path}  # folders that are not the host's
        self.scratches = 0
        os.makedirs(self.path, exist_ok=True)
        self.tmpfs(self.path)
        os.mkdir(os.path.join(self.path, SCRATCH))

    def tmpfs(self, path):
        base.check(base.libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", 0, b"mode=755"), f"tmpfs {path}")

    def show(self, source, target):
        """Show a file, a folder or a link of the host at a path that does not exist yet."""
        if os.path.islink(source):
            os.symlink(os.readlink(source), target)
            return
        if os.path.isdir(source):
            os.mkdir(target)
        else:
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
        base.bind(source, target)

    def own(self, path):
        """Lay a folder of this root over one of the host. It shows what is there, and takes more."""
        self.scratches += 1
        scratch = os.path.join(self.path, SCRATCH, str(self.scratches))
        os.mkdir(scratch)
        self.tmpfs(scratch)
        for name in os.listdir(path) if os.access(path, os.R_OK | os.X_OK) else []:
            self.show(os.path.join(path, name), os.path.join(scratch, name))
        base.bind(scratch, path)
        self.made.add(path)

    def folder(self, path):
        """Make a folder and those above it, and return where it is."""
        here = self.path
        for part in [one for one in path.split("/") if one]:
            below = os.path.join(here, part)
            if os.path.islink(below):
                below = self.path + os.path.realpath(below.removeprefix(self.path))
            if not os.path.isdir(below):
                if here not in self.made:
                    self.own(here)
                os.mkdir(below)
                self.made.add(below)
            here = below
        return here

    def mount(self, source, path, read_only=False):
        target = self.folder(path)
        base.bind(source, target)
        if read_only:
            flags = base.MS_BIND | MS_REMOUNT | MS_RDONLY
            base.check(base.libc.mount(None, os.fsencode(target), None, flags, None), f"remount {target}")


def enter(spec):
    root = Root(spec["folder"])
    hidden = {"tmp"} if spec["private_tmp"] else set()
    for name in os.listdir("/"):
        if name not in hidden:
            root.show("/" + name, os.path.join(root.path, name))
    if spec["private_tmp"]:
        os.chmod(root.folder("/tmp"), 0o1777)
    root.own(root.folder("/root"))  # what a step writes into its home is not the host's
    root.mount(spec["own"], "/__modal")
    for path in spec["shared"]:
        root.mount(path, path)
    for source, path, read_only in spec["mounts"]:
        root.mount(source, path, read_only)
    sync = os.path.realpath(spec["sync"])
    base.bind(sync, root.path + "/__modal/real-sync")
    base.bind(os.path.join(spec["own"], "sync"), root.path + sync)
    workdir = root.folder(spec["workdir"])
    os.chroot(root.path)
    os.chdir(workdir.removeprefix(root.path) or "/")


def become(spec):
    enter(spec)
    for name in ("SIGPIPE", "SIGXFSZ"):  # Python ignores them, and a program would inherit that
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    try:
        os.environ["PATH"] = spec["env"].get("PATH", os.defpath)  # where execvpe looks
        os.execvpe(spec["argv"][0], spec["argv"], spec["env"])
    except OSError as error:
        with open("/__modal/init-failure", "w", encoding="utf-8") as file:
            file.write(f"exec: {spec['argv'][0]!r}: {error.strerror}")
        os._exit(base.NOT_FOUND)


def main(word, path="", network=""):
    parent = os.getppid()
    base.die_with_parent()
    if os.getppid() != parent:
        return base.BROKEN
    spec = {}
    if word == "run":
        with open(path, encoding="utf-8") as file:
            spec = json.load(file)
    try:
        base.separate(network != "none")
    except OSError as error:
        print(f"the emulator cannot make namespaces: {error}", file=sys.stderr)
        return base.BROKEN
    return base.in_child(lambda: become(spec) if spec else None)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
