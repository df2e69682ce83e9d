"""Lets the assertions of the shipped suite explain themselves."""

import sys

import pytest

if "airflow_stepop.testing" not in sys.modules:
    pytest.register_assert_rewrite("airflow_stepop.testing")
