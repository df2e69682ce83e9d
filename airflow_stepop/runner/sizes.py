"""Numbers of bytes for people. The runner, the supervisor of local jobs and Airflow's side use it."""


def shown_size(count: float) -> str:
    """Return a number of bytes for people, with three significant digits: ``"1.21 GiB"``."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 999.5:  # it would be rounded to four digits
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:,.0f} PiB" if count >= 999.5 else f"{count:.3g} PiB"
