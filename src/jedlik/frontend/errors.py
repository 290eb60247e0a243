"""Refusals and faults as HTTP answers, in OpenAI's form, `{"error": {message, type, param, code}}`.

All routes but those of dialects with a form of their own answer so, and so does the HTTP server by itself.
"""

import msgspec

from jedlik.core.errors import Fault, FaultKind, RequestError

STATUS: dict[FaultKind, int] = {"invalid": 400, "overloaded": 429, "unavailable": 503, "timeout": 504, "internal": 500}
CODE: dict[FaultKind, str | None] = {
    "invalid": None,
    "overloaded": "overloaded",
    "unavailable": "unavailable",
    "timeout": "timeout",
    "internal": "internal",
}
TYPE: dict[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    408: "timeout_error",
    429: "rate_limit_error",
    500: "internal_error",
    503: "service_unavailable",
    504: "timeout_error",
}
DEFAULT_RETRY_S = 1.0
MOST_MESSAGE_CHARS, MOST_PARAM_CHARS = 2000, 300
"""Errors repeat what clients send; an answer stays small all the same."""
Headers = tuple[tuple[bytes, bytes], ...]
_json = msgspec.json.Encoder()


class HttpRefusal(RequestError):
    """A refusal whose status asks for headers: what is allowed, how to authenticate, what is accepted."""

    def __init__(self, message: str, *, param: str | None = None, code: str, status: int, headers: Headers) -> None:
        super().__init__(message, param=param, code=code, status=status)
        self.headers = headers


class ErrorReply(msgspec.Struct, frozen=True):
    """An HTTP answer that says what went wrong."""

    status: int
    body: bytes
    headers: Headers = ()


def error_object(status: int, message: str, param: str | None, code: str | None) -> dict[str, object]:
    """Return what stands under "error" in a body."""
    kind = TYPE.get(status, "invalid_request_error")
    shown = _short(message, MOST_MESSAGE_CHARS)
    return {"message": shown, "type": kind, "param": param and _short(param, MOST_PARAM_CHARS), "code": code}


def _short(text: str, most: int) -> str:
    """The beginning of a text, with lone surrogates escaped, since they cannot be sent as UTF-8."""
    shown = text if len(text) <= most else text[:most] + " ..."
    return shown.encode(errors="backslashreplace").decode()


def error_reply(error: RequestError | Fault) -> ErrorReply:
    """Return the answer to a request that is refused, or that failed before its first token."""
    if isinstance(error, Fault):
        status = STATUS[error.kind]
        return ErrorReply(status, _json.encode({"error": fault_object(error)}), _retry(status, error.retry_after_s))
    headers = error.headers if isinstance(error, HttpRefusal) else _retry(error.status, None)
    shown = error_object(error.status, str(error), error.param, error.code)
    return ErrorReply(error.status, _json.encode({"error": shown}), headers)


def fault_object(fault: Fault) -> dict[str, object]:
    """Return what stands under "error" when a stream breaks."""
    return error_object(STATUS[fault.kind], fault.message, fault.param, fault.code or CODE[fault.kind])


def _retry(status: int, after_s: float | None) -> Headers:
    """Retry-After counts whole seconds, rounded up; retry-after-ms is exact."""
    if status not in (429, 503, 504):
        return ()
    ms = max(1, round((DEFAULT_RETRY_S if after_s is None else after_s) * 1000))
    return (
        (b"retry-after", str(-(-ms // 1000)).encode()),
        (b"retry-after-ms", str(ms).encode()),
        (b"x-should-retry", b"true"),
    )
