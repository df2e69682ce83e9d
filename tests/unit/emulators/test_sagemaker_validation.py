"""The validation against the vendor's model, without a server."""

from __future__ import annotations

import pytest

from tests.emulators.sagemaker.errors import ApiError
from tests.emulators.sagemaker.model import service
from tests.emulators.sagemaker.patterns import compiled, matches
from tests.emulators.sagemaker.validation import check_request


@pytest.mark.parametrize(
    ("pattern", "value", "expected"),
    [
        (".*", "a b", True),
        (".*", "a\nb", False),
        (".*", "a\rb", False),
        (".*", "a\u0085b", False),
        (r"[\S\s]*", "a\nb", True),
        ("[a-z]+", "abc\n", False),  # the whole value must match
        ("[a-z]+$", "abc\n", False),
        (r"\d+", "٣", False),  # digits and letters of classes are those of ASCII, as in Java
        (r"[\p{L}\p{Z}\p{N}_.:/=+\-@]*", "é 中 ٣ :/=+-@", True),
        (r"[\p{L}\p{Z}\p{N}_.:/=+\-@]*", "a!", False),
        (r"arn:[\p{Alnum}\-]+", "arn:aws-cn", True),
        (r"[.]", "a", False),
    ],
)
def test_patterns_are_those_of_java(pattern, value, expected):
    assert matches(pattern, value) is expected


def test_every_pattern_of_the_training_jobs_is_understood():
    """A pattern that cannot be expressed would let everything pass."""

    def walk(shape, seen):
        if shape.name not in seen:
            seen.add(shape.name)
            inner = list(getattr(shape, "members", {}).values())
            inner += [getattr(shape, name) for name in ("member", "key", "value") if hasattr(shape, name)]
            if pattern := shape.metadata.get("pattern"):
                assert compiled(pattern), pattern
            for one in inner:
                walk(one, seen)
        return seen

    model = service("sagemaker")
    for operation in ("CreateTrainingJob", "ListTrainingJobs", "AddTags", "DescribeTrainingJob"):
        assert walk(model.operation_model(operation).input_shape, set())


def failures(operation, body):
    try:
        check_request("sagemaker", operation, body)
    except ApiError as error:
        return error.message
    return ""


def test_the_words_of_aws():
    """As services with the same framework answer, so that messages for people can be tried."""
    tags = {"ResourceArn": "arn:aws:sagemaker:us-east-1:123456789012:training-job/x", "Tags": []}
    assert failures("AddTags", tags) == ""
    tags["Tags"] = [{"Key": "", "Value": "v"}, {"Key": "k"}]
    assert failures("AddTags", tags) == (
        "2 validation errors detected: "
        "Value '' at 'tags.1.member.key' failed to satisfy constraint: "
        "Member must have length greater than or equal to 1; "
        "Value null at 'tags.2.member.value' failed to satisfy constraint: Member must not be null"
    )
    assert failures("ListTrainingJobs", {"MaxResults": 0, "StatusEquals": "Done"}) == (
        "2 validation errors detected: "
        "Value '0' at 'maxResults' failed to satisfy constraint: "
        "Member must have value greater than or equal to 1; "
        "Value 'Done' at 'statusEquals' failed to satisfy constraint: Member must satisfy enum value set: "
        "[InProgress, Completed, Failed, Stopping, Stopped, Deleting]"
    )
    assert failures("ListTrainingJobs", {"NextToken": []}) == "Start of list found where not expected"


def test_lengths_are_those_of_java():
    """A character outside the basic plane counts twice, as in Java."""
    keys = {"ResourceArn": "arn:aws:sagemaker:us-east-1:123456789012:x"}
    letter = "\U00020000"
    assert failures("DeleteTags", {**keys, "TagKeys": [letter * 64]}) == ""
    assert "less than or equal to 128" in failures("DeleteTags", {**keys, "TagKeys": [letter * 65]})
