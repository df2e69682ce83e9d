"""Steps that print what no log likes, in worker and trigger."""

from __future__ import annotations

from airflow.sdk import DAG, task


def write(data: bytes) -> None:
    import os

    while data:
        data = data[os.write(1, data) :]


with DAG("prints", schedule=None, default_args={"retries": 0}):
    for deferrable in (False, True):
        suffix = "deferred" if deferrable else "waiting"

        @task.remote_step(deferrable=deferrable, task_id=f"flood_{suffix}")
        def flood():
            line = b"line %07d of a log that nobody will ever read to its end\n"
            block = b"".join(line % n for n in range(1000))
            for _ in range(2000):  # 120 MB
                write(block)
            print("the very last line")
            return "done"

        flood()

        @task.remote_step(deferrable=deferrable, task_id=f"odd_{suffix}")
        def odd():
            write(b"a line of ten megabytes: " + b"x" * 10_000_000 + b"\n")
            write(b"not utf-8: \xff\xfe\xc3\n")
            write(b"\x1b[31mred\x1b[0m \x1b[2K\x1b[1Aand nothing moves\n")
            write(b"nul \x00 and bell \x07\n")
            write(b"separators \xe2\x80\xa8 and \xc2\x85 and \x0c\n")
            for percent in range(101):
                write(b"\r%3d%%|%s|" % (percent, b"#" * 50))
            write(b"\nno end of line")
            return "done"

        odd()

        @task.remote_step(deferrable=deferrable, task_id=f"fails_{suffix}")
        def fails():
            write(b"before\x00\x1b[2J\n" + b"y" * 5_000_000 + b"\nlast words\n")
            raise ValueError("a message with \x00 and \x1b[2J in it")

        fails()

        @task.remote_step(deferrable=deferrable, task_id=f"silent_{suffix}")
        def silent():
            return "done"

        silent()
