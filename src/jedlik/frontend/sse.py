"""Chunks of a streamed answer as server-sent events.

What all chunks of an answer share is formatted once; a chunk is then its prefix, one JSON string and its suffix.
"""

import msgspec

from jedlik.frontend.openai.replies import Envelope, Json

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"
_json = msgspec.json.Encoder()


def error_event(error: Json) -> bytes:
    """A failure in mid-stream; nothing may follow it."""
    return b"data: " + _json.encode({"error": error}) + b"\n\n"


class ChunkFormat:
    """Bytes of one answer's chunks. `usage` says whether chunks carry `usage: null`, because usage comes at the end."""

    def __init__(self, envelope: Envelope, usage: bool) -> None:
        kind = "chat.completion.chunk" if envelope.chat else "text_completion"
        head = _json.encode(
            {
                "id": envelope.id,
                "object": kind,
                "created": envelope.created,
                "model": envelope.model,
                "system_fingerprint": envelope.fingerprint,
            }
        )
        self._head = b"data: " + head[:-1] + b',"choices":['
        self._first = self._head + b'{"index":'
        self._chat = envelope.chat
        self._text = b',"delta":{"content":' if envelope.chat else b',"text":'
        self._end = b',"usage":null}\n\n' if usage else b"}\n\n"
        self._plain = (b"}" if envelope.chat else b"") + b',"logprobs":null,"finish_reason":null}]' + self._end

    def role(self, index: int) -> bytes:
        """The first chunk of a chat choice; completions have none."""
        if not self._chat:
            return b""
        return (
            self._first + b"%d" % index + b',"delta":{"role":"assistant","content":""}'
            b',"logprobs":null,"finish_reason":null}]' + self._end
        )  # fmt: skip

    def text(self, index: int, text: str, logprobs: Json | None = None) -> bytes:
        """New text of a choice."""
        if logprobs is None:
            return b"%b%d%b%b%b" % (self._first, index, self._text, _json.encode(text), self._plain)
        close = b"}" if self._chat else b""
        return (
            self._first + b"%d" % index + self._text + _json.encode(text) + close
            + b',"logprobs":' + _json.encode(logprobs) + b',"finish_reason":null}]' + self._end
        )  # fmt: skip

    def finish(self, index: int, reason: str, stop_reason: str | int | None) -> bytes:
        """The last chunk of a choice."""
        empty = b',"delta":{}' if self._chat else b',"text":""'
        return (
            self._first + b"%d" % index + empty + b',"logprobs":null,"finish_reason":' + _json.encode(reason)
            + b',"stop_reason":' + _json.encode(stop_reason) + b"}]" + self._end
        )  # fmt: skip

    @staticmethod
    def with_usage(chunk: bytes, used: Json) -> bytes:
        """A chunk (of a format without `usage`) that also says what was used so far; an empty one stays empty."""
        return chunk and chunk.removesuffix(b"}\n\n") + b',"usage":' + _json.encode(used) + b"}\n\n"

    def usage(self, used: Json) -> bytes:
        """The chunk without choices that ends an answer whose usage was asked for."""
        return self._head + b'],"usage":' + _json.encode(used) + b"}\n\n"
