"""Results that somebody changes before they are read. Loading one of them leaves a mark."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pickle
import sqlite3
import zlib
from pathlib import Path

from airflow.sdk import DAG, get_current_context, task

from airflow_stepop.stores.configured import default_store

MARKS = os.environ.get("STEPOP_TEST_MARKS", "/nonexistent")
HOME = Path(os.environ.get("AIRFLOW_HOME", "/nonexistent"))


def explode(name, ballast):
    with open(f"{MARKS}/{name}.exploded", "a") as file:
        file.write("loaded\n")
    return ballast


class Bomb:
    """Leaves a mark where it is loaded."""

    def __init__(self, name, size):
        self.name, self.ballast = name, b"x" * size

    def __reduce__(self):
        return explode, (self.name, self.ballast)


class Attack:
    """What an attacker would write."""

    def __init__(self, name):
        self.name = name

    def __reduce__(self):
        return exec, (f"open('{MARKS}/{self.name}.exploded', 'w')",)


# -- tampering


def segment_of(producer):
    producer = producer.replace("_", "-")
    paths = [path for path in default_store().list("results/_/integrity") if path.endswith(".bin")]
    found = [path for path in paths if f"/{producer}-" in path.split("/integrity/")[-1]]
    assert len(found) == 1, (producer, found)
    return found[0]


def read(path):
    store = default_store()
    return store.read(path, store.size_of(path))


def write(path, data):
    default_store().put(path, bytes(data))


def flip(producer):
    path = segment_of(producer)
    data = read(path)
    data[len(data) // 2] ^= 1
    write(path, data)


def truncate(producer):
    path = segment_of(producer)
    write(path, read(path)[:-1])


def extend(producer):
    path = segment_of(producer)
    write(path, read(path) + b"x")


def replace(producer):
    path = segment_of(producer)
    write(path, pickle.dumps(Attack(producer)).ljust(len(read(path)), b"\0"))


def remove(producer):
    default_store().delete(segment_of(producer))


def swap(producer):
    """The same size, from the same step, in another place."""
    path = segment_of(producer)
    other = read(segment_of("swapped_other_made"))
    assert len(read(path)) == len(other)
    write(path, other)


def edit(producer, change):
    """Change the XCom as whoever may write to the database can."""
    run_id = get_current_context()["run_id"]
    where = "where dag_id = 'integrity' and run_id = ? and task_id = ? and key = 'return_value'"
    with sqlite3.connect(HOME / "airflow.db") as database:
        ((value,),) = database.execute(f"select value from xcom {where}", (run_id, producer)).fetchall()
        reference = json.loads(value)
        reference["__data__"] = edited(reference["__data__"], change)
        database.execute(f"update xcom set value = ? {where}", (json.dumps(reference), run_id, producer))


def edited(data, change):
    """Return the fields of a reference after a change; ``reference`` holds three of them."""
    entry, host, mac = json.loads(zlib.decompress(base64.b64decode(data["reference"])))
    fields = {**data, "entry": entry, "host": host, "mac": mac}
    change(fields)
    hidden = [fields.pop(name) for name in ("entry", "host", "mac")]
    return {**fields, "reference": base64.b64encode(zlib.compress(json.dumps(hidden).encode())).decode()}


def inline(codec, data):
    digest = hashlib.sha256(data).hexdigest()
    segment = {"sha256": digest, "size": len(data), "data": base64.b64encode(data).decode()}
    return {"codec": codec, "segments": [segment]}


def edit_entry(producer):
    edit(producer, lambda ref: ref.update(entry=inline("pickle", pickle.dumps(Attack(producer)))))


def edit_place(producer):
    """A file of the store that other steps wrote: the digest in the reference is edited with it."""
    data = pickle.dumps(Attack(producer))
    write("parts/evil.bin", data)
    segment = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "name": "evil.bin"}
    entry = {"codec": "pickle", "segments": [segment]}
    edit(producer, lambda ref: ref.update(entry=entry, base_uri=default_store().uri("parts")))


def edit_base_uri(producer):
    edit(producer, lambda ref: ref.update(base_uri=ref["base_uri"].replace("/results/", "/parts/")))


def drop_signature(producer):
    edit(producer, lambda ref: ref.update(mac=""))


def point_outside(producer):
    """Bytes need no signature, but they have to come from the store."""
    data = Path("/etc/hostname").read_bytes()
    segment = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "name": "hostname"}
    entry = {"codec": "bytes", "segments": [segment]}
    edit(producer, lambda ref: ref.update(entry=entry, base_uri="file:///etc", host="", mac=""))


def climb_outside(producer):
    data = b"secret"
    (HOME / "secret.txt").write_bytes(data)
    segment = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "name": "../../../secret.txt"}
    entry = {"codec": "bytes", "segments": [segment]}
    base_uri = default_store().uri("parts")
    edit(producer, lambda ref: ref.update(entry=entry, base_uri=base_uri, host="", mac=""))


def unsigned_data(producer):
    edit(producer, lambda ref: ref.update(entry=inline("bytes", b"data"), base_uri="", host="", mac=""))


def damaged_data(producer):
    entry = inline("bytes", b"data")
    entry["segments"][0]["sha256"] = "0" * 64
    edit(producer, lambda ref: ref.update(entry=entry, base_uri="", host="", mac=""))


def unknown_codec(producer):
    edit(producer, lambda ref: ref.update(entry=inline("yaml", b"data"), base_uri="", host="", mac=""))


def newer_version(producer):
    run_id = get_current_context()["run_id"]
    with sqlite3.connect(HOME / "airflow.db") as database:
        where = "where dag_id = 'integrity' and run_id = ? and task_id = ?"
        database.execute(
            f"update xcom set value = replace(value, '\"__version__\": 1', '\"__version__\": 2') {where}",
            (run_id, producer),
        )


LARGE, SMALL = 100_000, 10
CASES = {
    "flipped": (flip, LARGE),
    "truncated": (truncate, LARGE),
    "extended": (extend, LARGE),
    "replaced": (replace, LARGE),
    "removed": (remove, LARGE),
    "swapped": (swap, LARGE),
    "edited_entry": (edit_entry, SMALL),
    "edited_place": (edit_place, LARGE),
    "edited_base_uri": (edit_base_uri, LARGE),
    "unsigned": (drop_signature, SMALL),
    "unsigned_large": (drop_signature, LARGE),
    "outside": (point_outside, SMALL),
    "climbing": (climb_outside, SMALL),
    "damaged_data": (damaged_data, SMALL),
    "unknown_codec": (unknown_codec, SMALL),
    "newer_version": (newer_version, SMALL),
    "unsigned_data": (unsigned_data, SMALL),
    "untouched": (lambda producer: None, LARGE),
}


@task.remote_step
def make(name, size):
    return Bomb(name, size)


@task
def tamper(case, producer):
    CASES[case][0](producer)


@task
def here(found):
    return repr(found)[:20]


@task.remote_step
def there(found):
    return repr(found)[:20]


with DAG("integrity", schedule=None, default_args={"retries": 0}):
    other = make.override(task_id="swapped_other_made")("swapped_other", LARGE)
    for case, (_, size) in CASES.items():
        made = make.override(task_id=f"{case}_made")("swapped_owner" if case == "swapped" else case, size)
        changed = tamper.override(task_id=f"{case}_tampered")(case, f"{case}_made")
        [made, other] >> changed
        changed >> here.override(task_id=f"{case}_here")(made)
        changed >> there.override(task_id=f"{case}_there")(made)
