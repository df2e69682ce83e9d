"""An S3 server that accepts temporary credentials of the emulator's STS, and nothing else.

The S3 server behind knows one key and no session tokens. So :class:`SessionGate` checks key, token and
expiry, with the answers of AWS, and signs each request anew with the key of the server. It does not check the
client's own signature. Source: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
"""

from __future__ import annotations

from email.message import Message

from tests.emulators.sagemaker.forwarding import TOKEN
from tests.emulators.sagemaker.iam import credential
from tests.support.s3 import S3Server
from tests.support.s3_gate import Refused, S3Gate
from tests.support.sagemaker import SageMaker

_OF_A_SIGNATURE = ("authorization", "x-amz-date", TOKEN.lower(), "x-amz-content-sha256")


class SessionGate(S3Gate):
    """Forwards the requests of those who have assumed a role."""

    def __init__(self, service: SageMaker, s3: S3Server) -> None:
        super().__init__(s3.endpoint, "tests")
        self._service = service
        self._s3 = s3
        self.seen: set[str] = set()  # keys that were accepted
        self.refused: list[str] = []  # codes of the refusals

    def credentials_of(self, headers: Message) -> Refused | None:
        key = credential(headers["Authorization"])[0]
        tokens = self._service.report()["sessions"]
        if tokens.get(key) is not None and tokens[key] == headers[TOKEN]:
            self.seen.add(key)
            return None
        code = "ExpiredToken" if key in tokens and tokens[key] is None else "InvalidToken"
        self.refused.append(code)
        return (
            400,
            code,
            "The provided token has expired." if key in tokens else "The provided token is wrong.",
        )

    def signed(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> dict[str, str]:
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials

        lower = {name.lower(): value for name, value in headers.items()}
        kept = {name: value for name, value in lower.items() if name not in _OF_A_SIGNATURE}
        request = AWSRequest(method, f"http://{kept['host']}{path}", headers=kept, data=body)
        S3SigV4Auth(Credentials(self._s3.key, self._s3.secret), "s3", "us-east-1").add_auth(request)
        return dict(request.headers)
