"""The wire between Airflow and the step: versions, file names, environment names, exit codes.

This module is the only place where they are written down; the host imports them from here.
Renaming one breaks steps in flight, so :data:`PROTOCOL` rises with any change.

Input folder::

    step.pyz         the runner (this package and cloudpickle, as a zipapp)
    manifest.json    what to run; its SHA-256 travels in the job request itself
    locations.json   part name -> relative or absolute path, or URL, of the whole part; or a list of
                     [path or URL, offset, size]; optional; not trusted: parts are checked
    uploads.json     where segments go when no folder leads to the store; optional:
                     {"urls": {piece: pre-signed URL}, "headers": {...}, "least_bytes": n, "most_bytes": n}
    checkpoint.json  where the checkpoint is kept when no folder leads to the store; optional; removed before
                     the step starts: {"get": [{"url": pre-signed URL, "uri": its name}],
                     "put": pre-signed URL, "headers": {...}, "key": hex, "most_bytes": n}
    secrets.json     name -> value of each secret that the manifest names; removed before the step starts
    frames.key       32 bytes; there when an outcome that does not fit into the receipt is to be printed
    <part>           the parts the manifest names, each with its SHA-256 and size

Output folder::

    outcome.json     what happened; its SHA-256 is the receipt
    <segment>        bytes of values that are too large for outcome.json

The files of addresses may be compressed with gzip: pre-signed URLs are long and much alike. They are
secrets.

A *value entry* (JSON) is how any value is written down, on both ways::

    {"codec": "json|bytes|bytearray|numpy|arrow|arrow_batch|pickle|file",
     "segments": [{"sha256": hex, "size": bytes, "data": base64}
                  | {"sha256": hex, "size": bytes, "name": part}
                  | {"sha256": hex, "size": bytes, "pieces": [{"name": piece, "offset": n, "size": bytes}]}]}

The *receipt* is one line of JSON on the channel that the step's storage cannot forge::

    {"protocol": 1, "digest": sha256 of outcome.json, "size": bytes,
     "outcome": base64 of outcome.json, if it fits}
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
CODE = "code.zip"

# files of the output folder
OUTCOME = "outcome.json"

# before the receipt when it is a line of the log (``--receipt -``); look for it anywhere in the line, because
# the step may have printed something without a line end
RECEIPT_PREFIX = "STEPOP-RECEIPT "
# before each line of the log that carries a piece of the outcome; see frames.py
FRAME_PREFIX = "STEPOP-FRAME "
# longest receipt in bytes, with prefix and line end, unless --receipt-limit says otherwise; what a
# termination message holds
RECEIPT_LIMIT = 4096

# environment of the step
ENV_JOB = "STEPOP_JOB"  # the job's name
ENV_NONCE = "STEPOP_NONCE"  # secret-free random id of this generation; also how leftover processes are found
ENV_CACHE = "STEPOP_CACHE"  # set by whoever makes the image, or by env=: where requirements are kept
ENV_CHECKPOINT = "STEPOP_CHECKPOINT_DIR"  # what an earlier try has left; ``--checkpoint DIR``, or CHECKPOINT
ENV_DEBUG = "STEPOP_DEBUG"  # not empty and not 0: every phase is logged with its time
ENV_WORK = "STEPOP_WORK"  # the step's scratch folder: code, inputs, current directory

NOWHERE = "-"  # ``--segments -``: no folder leads to the store, and nothing larger than an outcome comes back

# exit codes of the runner; the outcome, not the code, says what happened
EXIT_OK = 0
EXIT_STEP_FAILED = 1  # the step failed and the outcome says how
EXIT_REFUSED = (
    64  # the runner refused to start the step (protocol, digest, Python version); the outcome says why
)
EXIT_NO_OUTCOME = 74  # the outcome could not be written anywhere but, perhaps, to the receipt

# values at most this large (encoded) are carried inside outcome.json instead of a segment file
INLINE_VALUE_BYTES = 48 * 1024

# the code archive unpacks to no more than this
CODE_BYTES = 64 * 1024 * 1024

# codecs that can be read without running anybody's code
DATA_CODECS = frozenset({"json", "bytes", "bytearray", "numpy", "arrow", "arrow_batch", "file"})
BYTES_CODECS = frozenset({"bytes", "file"})  # of them, those whose value is the bytes themselves
