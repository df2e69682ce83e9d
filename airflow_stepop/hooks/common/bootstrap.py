"""Starts ``step.pyz`` only if it has the bytes that were sent.

``step.pyz`` lies in a bucket, and it is the program that checks the manifest. So the job's request has the
SHA-256 of ``step.pyz``, too. A writer of the bucket cannot change the request::

    python3 -u -c BOOTSTRAP DIR/step.pyz SHA256 run --in DIR ...

:func:`.runner_command.runner_argv` builds this command.

1. :data:`BOOTSTRAP` reads ``step.pyz`` once and compares the SHA-256. If it differs, nothing of the file
   runs: the command prints one line to standard error and ends with exit code 74 (``EXIT_NO_OUTCOME``).
2. A zip file may begin with other bytes. ``step.pyz`` begins with :data:`PROLOGUE`, which BOOTSTRAP runs.
3. The prologue writes the checked bytes to a local copy, and imports the runner from this copy. ``step.pyz``
   is not read again, so a later change of the file has no effect.

The copy is in memory (memfd_create(2)). Its path is below ``/proc/<pid>/fd``, where child processes of the
step find it, too. A system without one of these gets a temporary file, which stays behind.
"""

from __future__ import annotations

# At most 256 characters, because SageMaker refuses a longer ContainerEntrypoint or argument:
# https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_AlgorithmSpecification.html
# One line without ' $ \ and `, because a shell, a template or JSON would have to escape these. The current
# folder leaves sys.path before hashlib is imported, because it may be the folder with step.pyz.
BOOTSTRAP = (
    "import sys;p=sys.path;p[:]=filter(None,p);import hashlib;a=sys.argv;"
    'b=open(a[1],"rb").read();hashlib.sha256(b).hexdigest()==a[2]or '
    'sys.exit(print("stepop: step.pyz was changed after it was sent",file=sys.stderr)or 74);'
    'exec(b[:b.find(b"PK")])'
)

# BOOTSTRAP has set a, b, p and sys, and ends the prologue at the first PK, with which a zip file begins
PROLOGUE = """\
import os, zipimport
try:
    f = os.memfd_create("step.pyz")
    n = "/proc/%d/fd/%d" % (os.getpid(), f)
    os.stat(n)
except (AttributeError, OSError):
    import tempfile
    f, n = tempfile.mkstemp(".pyz")
while b:
    b = b[os.write(f, b):]
a[:3] = a[1:2]
p.insert(0, n)
exec(zipimport.zipimporter(n).get_code("__main__"))
"""
