"""How the error of a service's API reaches the caller."""

from __future__ import annotations

import pytest

from airflow_stepop.exceptions import PayloadError, QuotaError, StepConfigError
from airflow_stepop.hooks.common.api_errors import ApiError, Trouble, explained, or_none

TEXTS = {Trouble.QUOTA: "region x", Trouble.DENIED: "the role may not do this"}


class ServiceError(Exception):
    def __init__(self, kind):
        super().__init__("as the service says it")
        self.kind = kind


def classify(error):
    return ApiError(getattr(error, "kind", Trouble.OTHER), str(error))


@pytest.mark.parametrize(
    ("kind", "expected", "text"),
    [
        (Trouble.QUOTA, QuotaError, "region x: as the service says it"),
        (Trouble.DENIED, StepConfigError, "the role may not do this: as the service says it"),
        (Trouble.TRANSIENT, ServiceError, "as the service says it"),
        (Trouble.OTHER, ServiceError, "as the service says it"),
    ],
)
def test_an_error_with_a_text_becomes_an_error_of_this_package(kind, expected, text):
    with pytest.raises(expected) as caught, explained(classify, TEXTS):
        raise ServiceError(kind)
    assert str(caught.value) == text


def test_an_error_of_this_package_is_raised_unchanged():
    with pytest.raises(PayloadError), explained(lambda error: ApiError(Trouble.QUOTA, ""), TEXTS):
        raise PayloadError("x")


def test_the_named_kinds_of_error_give_none():
    def call(kind):
        raise ServiceError(kind)

    assert or_none(classify, lambda: 1) == 1
    assert or_none(classify, lambda: call(Trouble.CONFLICT), Trouble.NOT_FOUND, Trouble.CONFLICT) is None
    with pytest.raises(ServiceError):
        or_none(classify, lambda: call(Trouble.TRANSIENT), Trouble.NOT_FOUND)
