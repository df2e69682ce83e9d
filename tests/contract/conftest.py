"""Lets the assertions of the shipped suite explain themselves."""

import pytest

pytest.register_assert_rewrite("airflow_stepop.testing")
