"""Errors of the API, as gRPC statuses. No client may depend on their texts."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import Message
from grpclib import GRPCError, Status
from grpclib.encoding.base import StatusDetailsCodecBase
from modal_proto import api_pb2


class DetailsCodec(StatusDetailsCodecBase):
    """Writes the details of an error as the client reads them: in a message ``RPCStatus``."""

    def encode(self, status: Status, message: str | None, details: Sequence[Message] | None) -> bytes:
        written = api_pb2.RPCStatus(code=status.value, message=message or "")
        for detail in details or ():
            written.details.add().Pack(detail, type_url_prefix="type.modal.com/")
        return bytes(written.SerializeToString())

    def decode(self, status: Status, message: str | None, data: bytes) -> None:
        raise NotImplementedError("a server writes details, and reads none")


def invalid(message: str) -> GRPCError:
    return GRPCError(Status.INVALID_ARGUMENT, message)


def not_found(message: str) -> GRPCError:
    return GRPCError(Status.NOT_FOUND, message)


def already_exists(message: str) -> GRPCError:
    return GRPCError(Status.ALREADY_EXISTS, message)


def conflict(message: str) -> GRPCError:
    """Return the error for a state that forbids the request."""
    return GRPCError(Status.FAILED_PRECONDITION, message)


def unauthenticated(message: str) -> GRPCError:
    return GRPCError(Status.UNAUTHENTICATED, message)


def not_emulated(what: str) -> GRPCError:
    """Return an error of the emulator itself, which no client can take for an answer of the service."""
    return GRPCError(Status.UNIMPLEMENTED, f"the emulator does not know {what}")
