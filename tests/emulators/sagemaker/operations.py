"""The operations of the training-job API. Each has the caller, the region and the validated request."""

from __future__ import annotations

import base64
import json
import threading
from dataclasses import dataclass
from typing import Any

from tests.emulators.sagemaker import contradictions
from tests.emulators.sagemaker.errors import NOT_FOUND, ApiError, invalid
from tests.emulators.sagemaker.iam import Identity, require
from tests.emulators.sagemaker.jobs import Job, Json
from tests.emulators.sagemaker.lifecycle import Lifecycle
from tests.emulators.sagemaker.sync_checks import SyncChecks
from tests.emulators.sagemaker.world import World

DEFAULT_PAGE = 10
MOST_TAGS = 50


@dataclass(frozen=True)
class Call:
    """One request: who sends it, where, and what."""

    caller: Identity
    region: str
    body: Json


class Operations:
    """What the service does. A method's name is that of the operation in snake case."""

    def __init__(self, world: World) -> None:
        self._world = world

    def _arn(self, call: Call, name: str) -> str:
        return f"arn:aws:sagemaker:{call.region}:{self._world.settings.account}:training-job/{name}"

    def _require(self, call: Call, operation: str) -> Job:
        """Check the permission for one job, and return the job."""
        name = call.body["TrainingJobName"]
        known = self._world.jobs.get((call.region, name))
        tags = {f"aws:ResourceTag/{key}": value for key, value in known.tags.items()} if known else {}
        require(call.caller, f"sagemaker:{operation}", self._arn(call, name), tags)
        return self._world.job(call.region, name)

    def create_training_job(self, call: Call) -> Json:
        request = call.body
        arn, tags = self._arn(call, request["TrainingJobName"]), request.get("Tags", [])
        request_tags = {f"aws:RequestTag/{tag['Key']}": tag["Value"] for tag in tags}
        context = {**request_tags, "aws:TagKeys": [tag["Key"] for tag in tags]}
        require(call.caller, "sagemaker:CreateTrainingJob", arn, context)
        if tags:
            require(call.caller, "sagemaker:AddTags", arn, context)
        passed = {"iam:PassedToService": "sagemaker.amazonaws.com"}
        require(call.caller, "iam:PassRole", request["RoleArn"], passed)
        contradictions.check(request)
        contradictions.check_tags(tags)
        self._world.refuse_taken_name(call.region, request["TrainingJobName"])
        checks = SyncChecks(self._world, call.region, request)
        checks.run()
        job = Job(call.region, request, self._world.settings)
        with self._world.lock:
            checks.check_quota()
            self._world.add(job)
        job.thread = threading.Thread(target=Lifecycle(self._world, job).run, name=job.name, daemon=True)
        job.thread.start()
        return {"TrainingJobArn": job.arn}

    def describe_training_job(self, call: Call) -> Json:
        job = self._require(call, "DescribeTrainingJob")
        with job.changed:
            if job.misses:
                job.misses -= 1
                raise invalid(NOT_FOUND)
        return job.describe()

    def stop_training_job(self, call: Call) -> None:
        """200 and an empty body. A job that has ended is refused; one that is stopping is not."""
        job = self._require(call, "StopTrainingJob")
        with job.changed:
            if job.is_terminal or (job.stop_asked and job.settings.refuse_second_stop):
                text = "The request was rejected because the training job is in status"
                raise invalid(f"{text} {job.status}.")
            if not job.stop_asked:
                job.ask_to_stop()

    def delete_training_job(self, call: Call) -> None:
        job = self._require(call, "DeleteTrainingJob")
        pool = job.warm_pool() or {}
        if not job.is_terminal or pool.get("Status") == "Available":
            why = f"is in status {job.status}" if not job.is_terminal else "retains a warm pool"
            raise ApiError("ResourceInUse", f"The training job {job.arn} cannot be deleted: it {why}.")
        with self._world.lock:
            self._world.jobs.pop((call.region, job.name), None)

    def list_training_jobs(self, call: Call) -> Json:
        """StatusEquals is applied after paging, so pages can be short or empty and have a token."""
        require(call.caller, "sagemaker:ListTrainingJobs", "*")
        query = {**call.body}
        if token := query.pop("NextToken", ""):
            query = {**_decoded(token), **{key: query[key] for key in ("MaxResults",) if key in query}}
        begin, size = query.pop("begin", 0), query.get("MaxResults", DEFAULT_PAGE)
        summaries = [job.summary() for job in self._world.all_jobs() if job.region == call.region]
        found = [summary for summary in summaries if summary and _selected(summary, query)]
        order = query.get("SortOrder", self._world.settings.default_order)
        found.sort(key=_sort_key(query.get("SortBy", "CreationTime")), reverse=order == "Descending")
        page = found[begin : begin + size]
        answer: Json = {"TrainingJobSummaries": [one for one in page if _passes(one, query)]}
        if begin + size < len(found):
            answer["NextToken"] = _encoded({**query, "begin": begin + size})
        return answer

    def add_tags(self, call: Call) -> Json:
        require(call.caller, "sagemaker:AddTags", call.body["ResourceArn"])
        job, tags = self._world.job_of_arn(call.body["ResourceArn"]), call.body["Tags"]
        contradictions.check_tags(tags)
        with job.changed:
            merged = {**job.tags, **{tag["Key"]: tag["Value"] for tag in tags}}
            if len(merged) > MOST_TAGS:
                raise ApiError(
                    "ResourceLimitExceeded", f"A resource has at most {MOST_TAGS} tags"
                )  # inferred
            job.tags = merged
        return {"Tags": _tag_list(job)}

    def list_tags(self, call: Call) -> Json:
        require(call.caller, "sagemaker:ListTags", call.body["ResourceArn"])
        return {"Tags": _tag_list(self._world.job_of_arn(call.body["ResourceArn"]))}

    def delete_tags(self, call: Call) -> Json:
        require(call.caller, "sagemaker:DeleteTags", call.body["ResourceArn"])
        job = self._world.job_of_arn(call.body["ResourceArn"])
        with job.changed:
            job.tags = {key: value for key, value in job.tags.items() if key not in call.body["TagKeys"]}
        return {}


def _tag_list(job: Job) -> list[Json]:
    return [{"Key": key, "Value": value} for key, value in job.tags.items()]


def _selected(summary: Json, query: Json) -> bool:
    """Return whether a job is one of those that are paged."""
    created, modified = summary["CreationTime"], summary["LastModifiedTime"]
    endless = float("inf")
    return (
        query.get("NameContains", "") in summary["TrainingJobName"]
        and query.get("CreationTimeAfter", -endless) < created < query.get("CreationTimeBefore", endless)
        and query.get("LastModifiedTimeAfter", -endless)
        < modified
        < query.get("LastModifiedTimeBefore", endless)
    )


def _passes(summary: Json, query: Json) -> bool:
    """Return whether a job of the page is shown."""
    pool = summary.get("WarmPoolStatus", {}).get("Status")
    return (
        query.get("StatusEquals", summary["TrainingJobStatus"]) == summary["TrainingJobStatus"]
        and query.get("WarmPoolStatusEquals", pool) == pool
        and "TrainingPlanArnEquals" not in query
    )


def _sort_key(sort_by: str) -> Any:
    field = {"Name": "TrainingJobName", "Status": "TrainingJobStatus"}.get(sort_by, sort_by)
    return lambda summary: (summary[field], summary["CreationTime"], summary["TrainingJobName"])


def _encoded(state: Json) -> str:
    return base64.urlsafe_b64encode(json.dumps(state).encode()).decode()


def _decoded(token: str) -> Json:
    try:
        state = json.loads(base64.urlsafe_b64decode(token))
    except ValueError:
        raise invalid("Invalid NextToken.") from None  # inferred
    return dict(state)
