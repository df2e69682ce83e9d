"""Makes the times of Airflow's context what they are in Airflow. Left out if the step asks for none."""

from __future__ import annotations

from datetime import datetime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


class Moment(datetime):
    """A ``datetime`` that says what it is not: a ``pendulum.DateTime``. It is pickled as a ``datetime``."""

    def __getattr__(self, name: str) -> NoReturn:
        if name[:2] == "__":
            raise AttributeError(name)
        raise AttributeError(
            f"this time is a datetime.datetime and has no {name!r}: the times of Airflow's context are "
            "pendulum.DateTime objects only if the step's Python has pendulum; add "
            "requirements=['pendulum'], or use an image that has it"
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        return datetime, super().__reduce_ex__(protocol)[1]


def moment(value: datetime) -> datetime:
    """Return a time as a ``pendulum.DateTime`` if pendulum is here, else as a :class:`Moment`."""
    try:
        import pendulum  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return Moment.fromisoformat(value.isoformat())
    if value.utcoffset():
        return pendulum.instance(value)  # type: ignore[no-any-return, unused-ignore]
    return pendulum.instance(value.replace(tzinfo=None), "UTC")  # type: ignore[no-any-return, unused-ignore]
