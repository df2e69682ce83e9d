"""Lists and tags of the SageMaker emulator."""

from __future__ import annotations

import time

import pytest

from tests.support.waiting import wait_until
from tests.unit.emulators.requests import refusal


@pytest.fixture
def many(jobs):
    """Twelve jobs that have ended, in the order of their creation: four failed."""
    jobs.service.do("plan", job="*", run=False)
    jobs.service.do("plan", job="bad-*", exit_code=1)
    names = [f"{'bad' if number % 3 == 0 else 'good'}-{number:02}" for number in range(12)]
    for name in names:
        jobs.create(TrainingJobName=name)
        jobs.service.wait_for(name, "Completed", "Failed")
    return names


def listed(client, **query):
    answer = client.list_training_jobs(**query)
    return [one["TrainingJobName"] for one in answer["TrainingJobSummaries"]], answer.get("NextToken")


def test_a_page_has_ten_jobs_and_a_token(jobs, many):
    first, token = listed(jobs.client)
    assert first == many[:10]
    rest, end = listed(jobs.client, NextToken=token)
    assert (rest, end) == (many[10:], None)
    pages = jobs.client.get_paginator("list_training_jobs").paginate(PaginationConfig={"PageSize": 5})
    found = [one["TrainingJobName"] for page in pages for one in page["TrainingJobSummaries"]]
    assert found == many


def test_a_token_keeps_the_query(jobs, many):
    query = {"NameContains": "good", "SortBy": "Name", "SortOrder": "Descending", "MaxResults": 5}
    first, token = listed(jobs.client, **query)
    second, _ = listed(jobs.client, NextToken=token, MaxResults=5)
    assert first + second == sorted((name for name in many if "good" in name), reverse=True)


def test_the_status_is_applied_after_paging(jobs, many):
    """Pages are short, or empty, and have a token nevertheless."""
    first, token = listed(jobs.client, StatusEquals="Failed", MaxResults=4)
    assert first == ["bad-00", "bad-03"]
    assert token
    assert listed(jobs.client, StatusEquals="Stopped", MaxResults=4)[0] == []
    assert listed(jobs.client, StatusEquals="Stopped", MaxResults=4)[1]


def test_times_select(jobs, many):
    jobs.service.do("settings", touch_after_end_s=0.0)
    client = jobs.client
    ended = client.describe_training_job(TrainingJobName=many[5])
    # boto3 sends whole seconds
    wait_until(
        time.time, "the next second", holds=lambda now: now > ended["LastModifiedTime"].timestamp() + 1
    )
    edge = int(time.time())
    last = jobs.create(TrainingJobName="good-last")
    jobs.service.wait_for(last, "Completed")
    for name in ("CreationTime", "LastModifiedTime"):
        assert last in listed(client, **{f"{name}After": edge, "MaxResults": 100})[0]
        assert many[5] not in listed(client, **{f"{name}After": edge, "MaxResults": 100})[0]
        assert many[5] in listed(client, **{f"{name}Before": edge, "MaxResults": 100})[0]


def test_a_job_comes_back_after_its_end(jobs):
    """LastModifiedTime moves once more, so that an incremental list has the job again."""
    jobs.service.do("settings", touch_after_end_s=1000.0)
    jobs.service.do("plan", job="*", run=False)
    name = jobs.create()
    ended = jobs.service.wait_for(name, "Completed")
    jobs.service.do("settings", touch_after_end_s=0.05)
    wait_until(
        lambda: jobs.client.list_training_jobs(NameContains=name)["TrainingJobSummaries"][0][
            "LastModifiedTime"
        ],
        "the summary to move",
        holds=lambda at: at > ended["LastModifiedTime"],
    )


def test_a_list_may_be_late(jobs):
    """A new job, and a new status, are in the list after a while only."""
    jobs.service.do("plan", job="*", run=False)
    jobs.service.do("settings", list_lag_s=1000.0)
    name = jobs.create()
    jobs.service.wait_for(name, "Completed")
    assert listed(jobs.client)[0] == []
    jobs.service.do("settings", list_lag_s=0.0)
    assert listed(jobs.client)[0] == [name]


def test_tags(jobs):
    jobs.service.do("plan", job="*", run=False)
    name = jobs.create(Tags=[{"Key": "stepop:batch", "Value": "1"}, {"Key": "who", "Value": "é"}])
    arn = jobs.client.describe_training_job(TrainingJobName=name)["TrainingJobArn"]
    jobs.client.add_tags(ResourceArn=arn, Tags=[{"Key": "who", "Value": "me"}, {"Key": "more", "Value": ""}])
    jobs.client.delete_tags(ResourceArn=arn, TagKeys=["stepop:batch"])
    tags = jobs.client.list_tags(ResourceArn=arn)["Tags"]
    assert {tag["Key"]: tag["Value"] for tag in tags} == {"who": "me", "more": ""}
    assert "Tags" not in jobs.client.describe_training_job(TrainingJobName=name)
    expected = ("ValidationException", "Requested resource not found.")
    assert refusal(jobs.client, "list_tags", ResourceArn=arn + "-x") == expected
