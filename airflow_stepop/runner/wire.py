"""The JSON documents between Airflow and the runner, as types. :mod:`.protocol` says what each is for.

Imported for type checkers only, on both sides: the zipapp leaves this module out.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

Usage = dict[str, float]  # what a step has used, by name: seconds (wall_s), bytes (peak_memory_bytes)
Ranges = list[list[Any]]  # a part that lies in several places: [path or URL, offset, size] of each
Locations = dict[str, str | Ranges]  # ``locations.json``: where each part is


class Piece(TypedDict):
    """Bytes of a segment that lies in several objects of the store, in order."""

    name: str
    offset: int
    size: int


class Location(TypedDict, total=False):
    """Where the bytes of a segment are; exactly one field is there."""

    data: str
    name: str
    pieces: list[Piece]


class Checked(TypedDict):
    """What a reader checks bytes against."""

    sha256: str
    size: int


class Segment(Checked, Location):
    """One row of bytes of a value."""


class Entry(TypedDict):
    """A value entry."""

    codec: str
    segments: list[Segment]
    about: NotRequired[str]  # what the value is, for people: pandas.DataFrame 2000 x 13
    pickled: NotRequired[str]  # of a result, which parts only pickle can hold: ['model'] is forests.Forest


class Function(TypedDict):
    """The function of a step: ``module`` and ``qualname`` of a function by reference, else its ``entry``.

    A function by reference may have an ``entry``, too: what the arguments need of the DAG file.
    """

    by: Literal["reference", "value"]
    module: NotRequired[str]
    qualname: NotRequired[str]
    entry: NotRequired[Entry]


class Command(TypedDict):
    """The command of a step."""

    argv: list[str]
    inputs: dict[str, Entry]
    outputs: list[str]
    workdir: str | None


class Manifest(TypedDict, total=False):
    """``manifest.json``. It is put together from parts; ``read_manifest`` checks which fields are there."""

    protocol: int
    job: str
    nonce: str
    kind: Literal["function", "command"]
    python: str | None
    split: str
    discard_result: bool
    refs: list[Entry]
    parts: dict[str, Segment]  # without a location
    # what the runner prepares; what the step does not need is left out
    secrets: list[str]  # variables
    secret_references: dict[str, str]  # those of them that lie in a cloud's own service -> reference
    requirements: list[str]
    checkpoint: bool
    # of a command
    command: Command
    # of a function
    main_module: str
    function: Function
    args: list[Entry]
    argument_names: list[str]
    kwargs: dict[str, Entry]
    moments: list[str]  # the kwargs that are times of Airflow's context; left out if there are none


class Returned(TypedDict, total=False):
    """The outcome's fields of a function: its ``value``, or ``split`` and ``values``."""

    value: Entry | None
    split: str | None
    values: dict[str, Entry] | list[Entry] | None


class Raised(TypedDict):
    """An exception of the step; see ``exception_data.py``."""

    type: str
    module: str
    qualname: str
    message: str
    traceback: list[str]
    mro: list[str]
    args: list[list[str]] | None  # [codec, text] of each
    attributes: dict[str, list[str]]
    cause: Raised | None
    context: Raised | None
    notes: list[str]
    exceptions: list[Raised]
    exit_code: int | None


class Failure(TypedDict, total=False):
    """The fields of ``airflow_stepop.failure.Failure``; only the first two are always there."""

    category: str
    summary: str
    native_reason: str
    exit_code: int | None
    hint: str
    exception: Raised | None
    log_tail: list[str]
    has_succeeded: bool  # never written by the runner


class Outcome(TypedDict):
    """``outcome.json``."""

    protocol: int
    job: str
    nonce: str
    status: Literal["success", "failure"]
    value: Entry | None
    split: str | None
    values: dict[str, Entry] | list[Entry] | None
    outputs: dict[str, Entry]
    failure: Failure | None
    usage: Usage


class Receipt(TypedDict, total=False):
    """The runner's last line; ``outcome`` is the outcome as base64, if it fits. Its readers check it."""

    protocol: int
    digest: str
    size: int
    outcome: str


class Uploads(TypedDict):
    """``uploads.json``; ``outcome`` is the pre-signed URL of an outcome that returns through the store."""

    urls: dict[str, str]
    headers: dict[str, str]
    least_bytes: int
    most_bytes: int
    outcome: NotRequired[str]


class Started(TypedDict):
    """``started.json``: where the marker of the start-once guard is; see ``once.py``."""

    put: str
    get: str
    headers: NotRequired[dict[str, str]]
    create_only: NotRequired[dict[str, str]]


class Snapshot(TypedDict):
    """One place where a checkpoint may be."""

    url: str
    uri: str


class _EarlierKeys(TypedDict, total=False):
    earlier_keys: list[str]  # they verify what was saved before ``key`` came, and sign nothing


class _Sync(TypedDict, total=False):
    sync: str  # mount that must be committed after each save


class Checkpoint(_EarlierKeys, _Sync):
    """``checkpoint.json``."""

    get: list[Snapshot]
    put: str
    headers: dict[str, str]
    key: str
    most_bytes: int
