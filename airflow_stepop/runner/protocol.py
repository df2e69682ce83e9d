"""The protocol between Airflow and the runner: version, file names, environment variables, exit codes.

These names are defined only in this module; the worker and the hooks import them from here. A renamed
constant breaks running steps, so every change must increase :data:`PROTOCOL`.

Input folder::

    step.pyz         the runner: this package and cloudpickle, as a zipapp
    manifest.json    describes the step; the command line of the runner contains its SHA-256
    locations.json   part name -> path (relative or absolute) or URL of the whole part; or a list of
                     [path or URL, offset, size]; optional; not trusted, since the runner checks all parts
    uploads.json     where the runner writes segments if the job cannot reach the store's folder; optional:
                     {"urls": {piece: pre-signed URL}, "headers": {...}, "least_bytes": n, "most_bytes": n}
    checkpoint.json  where the runner keeps the checkpoint if the job cannot reach the store's folder;
                     optional; removed before the step starts:
                     {"get": [{"url": pre-signed URL, "uri": its name}], "put": pre-signed URL,
                     "headers": {...}, "key": hex, "most_bytes": n}. Instead of a URL, the absolute path of a
                     file in a folder that the service copies to a bucket, and brings back at a restart; or of
                     a mount, and then "sync" may name the mount, which is committed after each save
    started.json     where the marker of the start-once guard is, if it is not in a folder; optional:
                     {"put": pre-signed URL, "get": pre-signed URL, "headers": {...},
                     "create_only": {...}, by default {"If-None-Match": "*"}}
    secrets.json     name -> value of each secret that the manifest names without a reference; removed before
                     the step starts
    frames.key       32 bytes; present if the runner must print an outcome that does not fit into the receipt
    <part>           the parts that the manifest names, each with its SHA-256 and size. The file has the name
                     or the SHA-256 of the part
    <name>.sealed    an encrypted file, if the command line has ``--seal KEY``. The runner then reads no plain
                     file but step.pyz, manifest.json, locations.json and the parts, which need no trust

Output folder::

    outcome.json     the result or the failure; its SHA-256 is in the receipt
    <segment>        bytes of values that are too large for outcome.json

``locations.json``, ``uploads.json``, ``checkpoint.json`` and ``started.json`` may be compressed with gzip,
because pre-signed URLs are long and similar. Pre-signed URLs are secrets.

A *value entry* (JSON) describes a value, both in the manifest and in the outcome::

    {"codec": "json|bytes|bytearray|numpy|arrow|arrow_batch|pickle|file",
     "about": what the value is, for people; optional,
     "segments": [{"sha256": hex, "size": bytes, "data": base64}
                  | {"sha256": hex, "size": bytes, "name": part}
                  | {"sha256": hex, "size": bytes, "pieces": [{"name": piece, "offset": n, "size": bytes}]}]}

The *receipt* is one line of JSON. Write access to the step's storage is not enough to forge a receipt::

    {"protocol": 1, "digest": sha256 of outcome.json, "size": bytes,
     "outcome": base64 of outcome.json, if it fits,
     "mac": 32 hex digits, with ``--sign 1``: made with the key of ``--seal``, see sealing.py}

The *marker* of the start-once guard (:mod:`.once`) is an object or a file named ``started``::

    {"job": the service's own id of the job that runs the step, "nonce": STEPOP_NONCE,
     "attempt": number of starts of this job; a file has always 1, and the files started.2, started.3,
     ... beside it count the further starts,
     "run": random id of one start}

The *failure file* (``--failure FILE``) of a step that failed has the receipt without the outcome on its first
line, with the field ``exit_code`` if the step has one, and ``category: summary`` on the second, at most 900
characters in all. If there is no ``outcome.json``, it has ``category: summary`` only.
"""

from __future__ import annotations

PROTOCOL = 1

# files of the input folder
RUNNER = "step.pyz"
MANIFEST = "manifest.json"
LOCATIONS = "locations.json"
UPLOADS = "uploads.json"
CHECKPOINT = "checkpoint.json"
SECRETS = "secrets.json"
FRAMES = "frames.key"
STARTED_TABLE = "started.json"
CODE = "code.zip"
SEALED = ".sealed"  # ending of the name of an encrypted file; see sealing.py

# files of the output folder
OUTCOME = "outcome.json"

STARTED = "started"  # marker of the start-once guard: JSON with the service's own id of the job; see once.py

# prefix of the receipt when it is a line of the log (``--receipt -``); a reader must search the whole line,
# because the step may have printed text without a line end
RECEIPT_PREFIX = "STEPOP-RECEIPT "
# prefix of each log line that contains a piece of the outcome; see frames.py
FRAME_PREFIX = "STEPOP-FRAME "
# before a log line of the step's ``logging``, "WARNING:name: text"; terminals do not show it
LEVEL_MARK = "\x1f"
# default of --receipt-limit: longest receipt in bytes, with prefix and line end; the limit of a Kubernetes
# termination message
RECEIPT_LIMIT = 4096

# environment of the step
ENV_JOB = "STEPOP_JOB"  # the job's name
ENV_NONCE = "STEPOP_NONCE"  # random id of this job, not a secret; leftover processes are found by it
ENV_CACHE = "STEPOP_CACHE"  # folder for installed requirements; set by the image or by env=
ENV_ATTEMPT = (
    "STEPOP_ATTEMPT"  # number of this start of the job, from 1 on, where the runner or the backend counts
)
ENV_CHECKPOINT = "STEPOP_CHECKPOINT_DIR"  # the step's checkpoint folder; ``--checkpoint DIR`` or CHECKPOINT
ENV_DEBUG = "STEPOP_DEBUG"  # not empty and not 0: the runner logs every phase with its time
ENV_THREAD_GRACE = "STEPOP_THREAD_GRACE"  # seconds that threads may go on after the step's function has ended
ENV_WORK = "STEPOP_WORK"  # the step's scratch folder: code, inputs, current directory

NOWHERE = "-"  # ``--segments -``: there is no folder for segments; every value must fit into the outcome

# exit codes of the runner; read the outcome, not the exit code, to learn how the step ended
EXIT_OK = 0
EXIT_STEP_FAILED = 1  # the step failed and the outcome says how
EXIT_REFUSED = (
    64  # the runner refused to start the step (protocol, digest, Python version); the outcome has the reason
)
EXIT_DUPLICATE = 65  # another job of the service runs the step: this one ran nothing; see once.py
EXIT_NO_OUTCOME = 74  # outcome.json or the receipt could not be written; a receipt may contain the outcome

# outcome.json contains values up to this size (encoded); a larger value becomes a segment
INLINE_VALUE_BYTES = 48 * 1024

OUTCOME_BYTES = 8 << 20  # largest outcome.json
OUTCOME_VALUES_BYTES = 1 << 20  # of all values inside one outcome.json; further ones become segments

# largest unpacked size of the code archive
CODE_BYTES = 64 * 1024 * 1024

# codecs whose decoding runs no user code
DATA_CODECS = frozenset({"json", "bytes", "bytearray", "numpy", "arrow", "arrow_batch", "file"})
BYTES_CODECS = frozenset({"bytes", "file"})  # codecs whose value is the bytes themselves


def is_plain_text(text: str) -> bool:
    """Return whether databases, messages and environments can hold ``text``: no NUL, and no surrogate."""
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)
