"""Errors in the forms of Cloud Storage: XML for its XML API, JSON for the other Google APIs.

Sources: https://docs.cloud.google.com/storage/docs/xml-api/reference-status and error texts that users of
the service have reported.
"""

from __future__ import annotations

import json
from xml.sax.saxutils import escape


class ApiError(Exception):
    """An error that the service answers with.

    :param details: text of the element ``Details``, which the service adds to many errors
    """

    def __init__(self, status: int, code: str, message: str, details: str = "") -> None:
        super().__init__(f"{status} {code}: {message} {details}")
        self.status, self.code, self.message, self.details = status, code, message, details

    def as_xml(self) -> bytes:
        details = f"<Details>{escape(self.details)}</Details>" if self.details else ""
        text = f"<Code>{escape(self.code)}</Code><Message>{escape(self.message)}</Message>{details}"
        return f"<?xml version='1.0' encoding='UTF-8'?><Error>{text}</Error>".encode()

    def as_json(self) -> bytes:
        """Return the error in the form of https://google.aip.dev/193."""
        error = {"code": self.status, "message": self.details or self.message, "status": self.code}
        return json.dumps({"error": error}).encode()


class LostAnswerError(Exception):
    """The connection ends without an answer."""


def no_such_bucket() -> ApiError:
    return ApiError(404, "NoSuchBucket", "The specified bucket does not exist.")


def no_such_key(bucket: str, name: str) -> ApiError:
    where = f"No such object: {bucket}/{name}"
    return ApiError(404, "NoSuchKey", "The specified key does not exist.", where)


def no_such_upload() -> ApiError:
    return ApiError(404, "NoSuchUpload", "The requested upload was not found.")


def precondition_failed() -> ApiError:
    text = "At least one of the pre-conditions you specified did not hold."
    return ApiError(412, "PreconditionFailed", text)


def invalid_argument(details: str) -> ApiError:
    return ApiError(400, "InvalidArgument", "Invalid argument.", details)


def denied(who: str, permission: str) -> ApiError:
    kind = "bucket" if ".buckets." in permission or permission.endswith(".list") else "object"
    details = f"{who} does not have {permission} access to the Google Cloud Storage {kind}."
    details += f" Permission '{permission}' denied on resource (or it may not exist)."
    return ApiError(403, "AccessDenied", "Access denied.", details)


def bad_token() -> ApiError:
    return ApiError(401, "AuthenticationRequired", "Authentication required.", "Invalid Credentials")
