"""The wire: AWS JSON 1.1 (``X-Amz-Target``) and the query protocol (``Action=``), over HTTP/1.1."""

from __future__ import annotations

import calendar
import json
import re
import time
import traceback
import uuid
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

from tests.emulators.sagemaker.control import Control
from tests.emulators.sagemaker.errors import ApiError, not_emulated
from tests.emulators.sagemaker.faults import LostAnswerError
from tests.emulators.sagemaker.forwarding import LOGS, TOKEN, Answer, forwarded, log_answer
from tests.emulators.sagemaker.iam import credential
from tests.emulators.sagemaker.model import has_operation, service
from tests.emulators.sagemaker.operations import Call, Operations
from tests.emulators.sagemaker.other_services import Ecr, Query, Quotas, xml
from tests.emulators.sagemaker.secrets_manager import PREFIX as SECRETS
from tests.emulators.sagemaker.secrets_manager import secret_answer, token_of
from tests.emulators.sagemaker.validation import check_request
from tests.emulators.sagemaker.world import World

JSON_TYPE = "application/x-amz-json-1.1"
IAM_XML = "https://iam.amazonaws.com/doc/2010-05-08/"


def snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class Server(ThreadingHTTPServer):
    """Serves one world."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, world: World, host: str, port: int) -> None:
        super().__init__((host, port), Handler)
        self.world, self.control, self.query = world, Control(world), Query(world)
        # prefix of X-Amz-Target -> (botocore's name of the service, the object that answers)
        self.targets: dict[str, tuple[str, Any]] = {
            service(name).metadata["targetPrefix"]: (name, answers)
            for name, answers in (
                ("sagemaker", Operations(world)),
                ("ecr", Ecr(world)),
                ("service-quotas", Quotas(world)),
            )
        }
        world.address = f"http://{host}:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # one packet for one answer
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The Date header shows the clock of the service."""
        skew = self.server.world.settings.clock_skew_s
        return super().date_time_string((time.time() if timestamp is None else timestamp) + skew)

    def do_GET(self) -> None:
        if self.path == "/_control":
            self._answer(200, json.dumps(self.server.world.report()), "application/json")
        elif self.path.startswith("/_credentials/"):
            name = self.path.rpartition("/")[2]
            self._answer(200, json.dumps(self._credentials(name)), "application/json")
        else:
            self._answer(404, "", "text/plain")

    def _credentials(self, role: str) -> dict[str, str]:
        """Return the role's credentials for a container; their keys are those of the S3 server."""
        s3 = self.server.world.s3
        until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
        keys = (s3.key, s3.secret) if s3 else ("none", "none")
        return {
            "AccessKeyId": keys[0],
            "SecretAccessKey": keys[1],
            "Token": token_of(role),
            "Expiration": until,
        }

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/_control":
            self._control(body)
        elif "X-Amz-Target" in self.headers:
            self._json(body)
        else:
            self._query(body)

    def _control(self, body: bytes) -> None:
        try:
            report = self.server.control.run(json.loads(body))
        except (ValueError, TypeError, KeyError) as error:
            self._answer(400, json.dumps({"error": str(error)}), "application/json")
        else:
            self._answer(200, json.dumps(report), "application/json")

    def _json(self, body: bytes) -> None:
        prefix, _, operation = self.headers["X-Amz-Target"].partition(".")
        name, answers = self.server.targets.get(prefix, ("", None))
        try:
            if prefix == LOGS:
                result: Any = log_answer(self.server.world, operation, self.headers, body)
            elif prefix == SECRETS:
                result = secret_answer(self.server.world, operation, self.headers, body)
            elif not answers and prefix != "SageMaker":
                result = forwarded(self.server.world, self.headers, body)
            else:
                result = self._carried_out(name or "sagemaker", answers, operation, body)
        except LostAnswerError:
            self._hang_up(operation)
        except ApiError as error:
            self.server.world.faults.count(operation, error.code)
            modelled = bool(name) and error.code in service(name).shape_names
            told = {"__type": error.code, "Message" if modelled else "message": error.message}
            self._answer(error.status, json.dumps(told), JSON_TYPE)
        else:
            self._tell(operation, result)

    def _tell(self, operation: str, result: Any) -> None:
        """Answer with a result: nothing, JSON, or what came from a server behind."""
        if isinstance(result, Answer):
            self.server.world.faults.count(operation, str(result.status))
            self._answer(result.status, result.body, result.content_type)
        else:
            self.server.world.faults.count(operation, "200")
            self._answer(200, "" if result is None else json.dumps(result), JSON_TYPE)

    def _carried_out(self, name: str, answers: Any, operation: str, body: bytes) -> Any:
        """Check a request in the order of the service's layers, and carry it out."""
        world = self.server.world
        method = getattr(answers, snake(operation), None) if operation[:1].isupper() else None
        if not has_operation(name, operation):
            raise ApiError("UnknownOperationException", "")
        if method is None:
            raise not_emulated(operation)
        world.faults.strike(operation, after=False)
        caller = world.iam.caller(self.headers.get("Authorization"), self.headers.get(TOKEN))
        self._check_date()
        world.faults.limit(operation, world.settings.rates)
        try:
            request = json.loads(body or b"{}")
        except ValueError:
            raise ApiError("SerializationException", "") from None
        check_request(name, operation, request)
        region = credential(self.headers["Authorization"])[2]
        try:
            result = method(Call(caller, region, request))
        except (ApiError, LostAnswerError):
            raise
        except Exception as error:
            traceback.print_exc()
            raise ApiError("InternalFailure", f"the emulator failed: {error!r}", 500) from error
        world.faults.strike(operation, after=True)
        return result

    def _check_date(self) -> None:
        """A signature is valid for five minutes around the clock of the service."""
        sent = self.headers.get("X-Amz-Date")
        if not sent:
            return
        settings = self.server.world.settings
        now = time.time() + settings.clock_skew_s
        at = calendar.timegm(time.strptime(sent, "%Y%m%dT%H%M%SZ"))
        edge = settings.signature_tolerance_s
        if abs(now - at) <= edge + 1:  # the header has whole seconds
            return
        words = "Signature expired: {} is now earlier than {} ({} - 5 min.)"
        if at > now:
            words, edge = "Signature not yet current: {} is still later than {} ({} + 5 min.)", -edge
        told = words.format(sent, _stamp(now - edge), _stamp(now))
        raise ApiError("InvalidSignatureException", told)

    def _query(self, body: bytes) -> None:
        form = dict(parse_qsl(body.decode(), keep_blank_values=True))
        action = form.get("Action", "")
        world = self.server.world
        try:
            result = self._queried(action, form, body)
        except LostAnswerError:
            self._hang_up(action)
        except ApiError as error:
            code = error.code.removesuffix("Exception") if "AccessDenied" in error.code else error.code
            world.faults.count(action, code)
            status = 403 if code == "AccessDenied" else error.status
            told = {
                "Error": {"Type": "Sender", "Code": code, "Message": error.message},
                "RequestId": uuid.uuid4(),
            }
            self._answer(status, f'<ErrorResponse xmlns="{IAM_XML}">{xml(told)}</ErrorResponse>', "text/xml")
        else:
            if isinstance(result, Answer):
                self._tell(action, result)
                return
            world.faults.count(action, "200")
            inner = {f"{action}Result": result, "ResponseMetadata": {"RequestId": uuid.uuid4()}}
            text = f'<{action}Response xmlns="{IAM_XML}">{xml(inner)}</{action}Response>'
            self._answer(200, text, "text/xml")

    def _queried(self, action: str, form: dict[str, str], body: bytes) -> Any:
        world = self.server.world
        method = getattr(self.server.query, snake(action), None) if action[:1].isupper() else None
        if method is None:
            answer = forwarded(world, self.headers, body)
            told = world.iam.sessions.issued(answer.body, world.settings.session_s)
            return replace(answer, body=told)
        world.faults.strike(action, after=False)
        caller = world.iam.caller(self.headers.get("Authorization"), self.headers.get(TOKEN))
        return method(Call(caller, credential(self.headers["Authorization"])[2], form))

    def _hang_up(self, operation: str) -> None:
        self.server.world.faults.count(operation, "lost")
        self.close_connection = True

    def _answer(self, status: int, body: str, content_type: str) -> None:
        data = body.encode()
        self.send_response(status)
        self.send_header("x-amzn-RequestId", str(uuid.uuid4()))
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _stamp(seconds: float) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(seconds))
