"""The crash table in the documentation is the one that this session has measured."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.chaos.crashes.crash_table import PAGE, table_of
from tests.support.needs import IS_CI

HERE = Path(__file__).parent


def is_written(request):
    return request.config.getoption("--write-crash-table", default=False)


def is_whole(request):
    """Return whether this session can have measured every row.

    The short form measures only some, and so does a run without PostgreSQL.
    """
    seen = {item.path for item in request.session.items}
    option = request.config.option
    if not (option.long or os.environ.get("STEPOP_LONG")):
        return False
    is_complete = not option.keyword and not option.deselect and set(HERE.glob("test_crash_*.py")) <= seen
    return is_complete and (IS_CI or is_written(request))


def test_the_page_shows_what_was_measured(request, table):
    """Every measured row must be in the page. After a whole run, the page must have no other rows."""
    if not table.rows:
        pytest.skip("no crash was part of this session")
    if is_written(request):
        assert is_whole(request), "a part of the rows cannot become the page"
        assert not request.session.testsfailed, "the page shows what must be, and not what has failed"
        table.write()
    shown = table_of(PAGE.read_text())
    missing = [str(row) for row in table.rows if str(row) not in shown]
    assert not missing, f"run make crashes: {PAGE} does not show\n" + "\n".join(missing)
    if is_whole(request):
        assert shown == table.text().strip(), f"{PAGE} has rows that no test has measured: run make crashes"
