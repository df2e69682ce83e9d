"""Requests to the SageMaker API of one region, and the meaning of its errors. Called by the hook.

Sources: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateTrainingJob.html and the pages of
the other operations beside it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_stepop.core.signing_key import Purpose, sign, why_refused
from airflow_stepop.hooks.common.api_errors import ApiError, Trouble, or_none
from airflow_stepop.hooks.common.rate_limit import RateLimit
from airflow_stepop.hooks.common.submission import found_within
from airflow_stepop.hooks.sagemaker.failures import classified
from airflow_stepop.hooks.sagemaker.model import refused_values

if TYPE_CHECKING:
    from airflow_stepop.connections.aws_clients import AwsClients

Json = dict[str, Any]
log = logging.getLogger(__name__)

LISTS_PER_S = 1.8  # the service's limit is 2, of the account and region
DESCRIBES_PER_S = 8.0  # the limit is not documented; pollers of many jobs meet one
PAGE = 100  # jobs in a page of a list, the most that the service gives
NAME_PART = "s-"  # every job's name begins with it: see core/naming.py
SHOWN_S = 10.0  # so long at most, a submit waits until DescribeTrainingJob finds the new job
NO_JOB = f"{NAME_PART}check-000000000000"  # a name that no job has
# tag of a job whose step was collected: the record stays. Its value is a signature of the job's ARN
DELETED_TAG = "stepop-deleted"
TAG_VALUE = 256  # longest value of a tag

# https://docs.aws.amazon.com/sagemaker/latest/APIReference/CommonErrors.html
_TROUBLES = {
    "ResourceInUse": Trouble.CONFLICT,
    "ResourceLimitExceeded": Trouble.QUOTA,
    "LimitExceededException": Trouble.QUOTA,
    "ResourceNotFound": Trouble.NOT_FOUND,
    "ResourceNotFoundException": Trouble.NOT_FOUND,
    "NoSuchEntity": Trouble.NOT_FOUND,
    "ThrottlingException": Trouble.TRANSIENT,
    "Throttling": Trouble.TRANSIENT,
    "RequestLimitExceeded": Trouble.TRANSIENT,
    "TooManyRequestsException": Trouble.TRANSIENT,
    "InternalFailure": Trouble.TRANSIENT,
    "InternalServerError": Trouble.TRANSIENT,
    "InternalServerException": Trouble.TRANSIENT,
    "ServiceUnavailable": Trouble.TRANSIENT,
    "ServiceUnavailableException": Trouble.TRANSIENT,
    "RequestTimeout": Trouble.TRANSIENT,
    "RequestExpired": Trouble.TRANSIENT,  # the clocks differ, or the request was on its way for long
    "AccessDenied": Trouble.DENIED,
    "AccessDeniedException": Trouble.DENIED,
    "NotAuthorized": Trouble.DENIED,
    "UnrecognizedClientException": Trouble.DENIED,
    "InvalidClientTokenId": Trouble.DENIED,
    "InvalidSignatureException": Trouble.DENIED,
    "SignatureDoesNotMatch": Trouble.DENIED,
    "MissingAuthenticationToken": Trouble.DENIED,
    "OptInRequired": Trouble.DENIED,
    # The next request takes the credentials anew: see AwsClients
    "ExpiredTokenException": Trouble.TRANSIENT,
    "ExpiredToken": Trouble.TRANSIENT,
    "ValidationException": Trouble.INVALID,
    "ValidationError": Trouble.INVALID,
    "SerializationException": Trouble.INVALID,
    "InvalidParameterException": Trouble.INVALID,
}
THROTTLED = frozenset(
    {"ThrottlingException", "Throttling", "RequestLimitExceeded", "TooManyRequestsException"}
)
# The caller is known and lacks a permission. Other kinds of DENIED, such as an expired token, pass
FORBIDDEN = frozenset({"AccessDenied", "AccessDeniedException"})
# Texts of a ValidationException for a job that does not exist: SageMaker has no error code for it
_UNKNOWN_JOB = ("Requested resource not found", "Could not find")
# Beginning of the ValidationException for the stop of a job that has ended
_IS_OVER = "The request was rejected because the training job is in status"


def api_error(error: Exception) -> ApiError:
    """Classify an error of botocore: see :class:`ApiError`."""
    answer = getattr(error, "response", None)
    if isinstance(answer, Mapping):
        return _answered(answer)
    module, name = type(error).__module__, type(error).__name__
    if module.startswith("botocore.") or module.startswith(("urllib3.", "http.client")):
        kind = _WITHOUT_ANSWER.get(name, Trouble.OTHER)
        return ApiError(kind, str(error), name)
    if isinstance(error, (ConnectionError, TimeoutError)):
        return ApiError(Trouble.TRANSIENT, str(error) or name, name)
    return ApiError(Trouble.OTHER, str(error))


def submit_error(error: Exception) -> ApiError:
    """Classify an error of a submit: the limit of requests per second is a quota, which is waited for.

    The message also says what to do about a refusal whose text is known.
    """
    found = api_error(error)
    if found.code in THROTTLED:
        found = replace(found, kind=Trouble.QUOTA)
    if found.kind in (Trouble.TRANSIENT, Trouble.CONFLICT, Trouble.OTHER):
        return found
    failure = classified(found.message)
    hint = failure.hint if failure is not None else ""
    return replace(found, message=f"{found.message.rstrip('. ')}. What to do: {hint}") if hint else found


# Errors of botocore without an answer of the service
_WITHOUT_ANSWER = {
    "ConnectTimeoutError": Trouble.TRANSIENT,
    "ConnectionClosedError": Trouble.TRANSIENT,
    "ConnectionError": Trouble.TRANSIENT,
    "EndpointConnectionError": Trouble.TRANSIENT,
    "HTTPClientError": Trouble.TRANSIENT,
    "IncompleteReadError": Trouble.TRANSIENT,
    "ProxyConnectionError": Trouble.TRANSIENT,
    "ReadTimeoutError": Trouble.TRANSIENT,
    "ResponseStreamingError": Trouble.TRANSIENT,
    "CredentialRetrievalError": Trouble.TRANSIENT,  # the token service or the machine's metadata is away
    "MetadataRetrievalError": Trouble.TRANSIENT,
    "NoCredentialsError": Trouble.DENIED,
    "PartialCredentialsError": Trouble.DENIED,
    "TokenRetrievalError": Trouble.DENIED,
    "ParamValidationError": Trouble.INVALID,
    "InvalidEndpointDiscoveryConfigurationError": Trouble.INVALID,
}


def _answered(answer: Mapping[str, Any]) -> ApiError:
    found = answer.get("Error") or {}
    code, message = str(found.get("Code", "")), str(found.get("Message", ""))
    http_status = (answer.get("ResponseMetadata") or {}).get("HTTPStatusCode") or 0
    kind = _TROUBLES.get(code, Trouble.OTHER)
    if kind is Trouble.INVALID and message.startswith(_UNKNOWN_JOB):
        kind = Trouble.NOT_FOUND
    elif kind is Trouble.OTHER and http_status >= 500:
        kind = Trouble.TRANSIENT
    elif kind is Trouble.OTHER and http_status == 403:
        kind = Trouble.DENIED
    return ApiError(kind, message or code, code)


class TrainingJobs:
    """The training jobs of one account and region.

    :param clients: of the connection and the region
    """

    def __init__(self, clients: AwsClients) -> None:
        self.clients = clients
        # Keys of two accounts on one host share a limit, and only wait a little longer
        self._lists = RateLimit(f"sagemaker-list-{clients.region}", LISTS_PER_S)
        self._describes = RateLimit(f"sagemaker-describe-{clients.region}", DESCRIBES_PER_S, burst=10)

    @property
    def _client(self) -> Any:
        return self.clients.client("sagemaker")

    def create(self, request: Json) -> str:
        """Create a job and return its ARN. The request is sent once: see :func:`create_once`.

        :raises ClientError: the answer of the service
        """
        client = self.clients.client("sagemaker", is_sent_once=True)
        return str(client.create_training_job(**request)["TrainingJobArn"])

    def wait_until_shown(self, name: str) -> Json | None:
        """Wait until the service finds a new job, and return its record.

        Another process would take a job that it misses for lost. An error here is none of the submit, because
        the job was created; then the method returns ``None``.
        """
        try:
            return found_within(lambda: self.describe(name), SHOWN_S)
        except Exception as error:  # noqa: BLE001, RUF100
            log.debug("Could not look for the new job %s: %s", name, error)
            return None

    def check_request(self, request: Json) -> None:
        """Check a request against the limits of the vendor's model. No request is sent.

        :raises StepConfigError: names every field that the service would refuse
        """
        model = self._client.meta.service_model
        refused_values(model.operation_model("CreateTrainingJob").input_shape, request)

    def describe(self, name: str) -> Json | None:
        """Return the record of a job; ``None`` if the service has no job of this name."""
        self._describes.wait()
        return or_none(
            api_error,
            lambda: dict(self._client.describe_training_job(TrainingJobName=name)),
            Trouble.NOT_FOUND,
        )

    def changed_since(self, since: float | None) -> Iterator[Json]:
        """Yield the summaries of all jobs of this package that changed after ``since``, newest first.

        A summary has the state of a job, and not the reason of a failure. ``StatusEquals`` is not used: the
        service applies it to a page that it has read, so that pages come back short.

        :param since: seconds since the epoch, by the clock of the service; ``None``: from the beginning
        """
        after = {} if since is None else {"LastModifiedTimeAfter": datetime.fromtimestamp(since, UTC)}
        yield from self._pages(NAME_PART, after)

    def created_since(self, since: float, name_part: str = NAME_PART) -> Iterator[Json]:
        """Yield the summaries of the jobs whose name contains ``name_part``, newest first.

        :param since: seconds since the epoch
        """
        yield from self._pages(name_part, {"CreationTimeAfter": datetime.fromtimestamp(since, UTC)})

    def _pages(self, name_part: str, filters: Json) -> Iterator[Json]:
        # An explicit order: the service's pages contradict each other about the default
        asked: Json = {"SortBy": "CreationTime", "SortOrder": "Descending", "MaxResults": PAGE}
        token: Json = {}
        while True:
            self._lists.wait()
            answer = self._client.list_training_jobs(NameContains=name_part, **asked, **filters, **token)
            yield from answer["TrainingJobSummaries"]
            if not answer.get("NextToken"):
                return
            token = {"NextToken": answer["NextToken"]}

    def stop(self, name: str) -> None:
        """Ask the service to stop a job. A job that has ended or does not exist is no error."""
        try:
            self._client.stop_training_job(TrainingJobName=name)
        except Exception as error:
            found = api_error(error)
            if found.kind is not Trouble.NOT_FOUND and not found.message.startswith(_IS_OVER):
                raise

    def tags(self, arn: str) -> dict[str, str]:
        """Return the tags of a job."""
        found: dict[str, str] = {}
        token: Json = {}
        while True:
            answer = self._client.list_tags(ResourceArn=arn, **token)
            found |= {tag["Key"]: tag["Value"] for tag in answer["Tags"]}
            if not answer.get("NextToken"):
                return found
            token = {"NextToken": answer["NextToken"]}

    def mark_as_deleted(self, arn: str) -> None:
        """Mark a job as deleted, with a tag.

        The record itself stays, and its name stays taken. A freed name could let a delayed create of a worker
        that died start the step again.
        """
        value = _tag_text(sign(Purpose.DELETION, arn.encode()))
        self._client.add_tags(ResourceArn=arn, Tags=[{"Key": DELETED_TAG, "Value": value}])

    def is_marked(self, arn: str) -> bool:
        """Return whether somebody has marked a job as deleted, perhaps not this deployment.

        The marks of earlier versions are not signed.
        """
        return self._mark(arn) is not None

    def is_deleted(self, arn: str) -> bool:
        """Return whether this deployment called :meth:`mark_as_deleted`.

        ``False`` if the tags must not be read. The mark of somebody else does not count, because it would
        make the result of a job be lost.
        """
        mark = self._mark(arn)
        return mark is not None and not why_refused(Purpose.DELETION, arn.encode(), mark)

    def _mark(self, arn: str) -> str | None:
        tags = or_none(api_error, lambda: self.tags(arn), Trouble.DENIED, Trouble.NOT_FOUND)
        return (tags or {}).get(DELETED_TAG)


def _tag_text(text: str) -> str:
    """Return a text that the value of a tag may be. A signature may end with the name of a host."""
    return re.sub(r"[^\w .:/=+\-@]", "_", text, flags=re.ASCII)[:TAG_VALUE]
