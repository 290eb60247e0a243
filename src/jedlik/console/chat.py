"""`jedlik chat`: a conversation in the terminal, streamed. Standard library only: it starts at once."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TextIO
from unicodedata import combining, east_asian_width

from jedlik.core.errors import ConfigError, PeerError
from jedlik.net.http_client import ERRORS, HttpClient, Reply, message
from jedlik.serve.listening import at, url

TIMEOUT_S = 300.0
HELP = "/reset forgets the conversation, /quit or Ctrl-D leaves, Ctrl-C stops an answer."


class ChatServer:
    """The client's side of an OpenAI-compatible server."""

    def __init__(self, host: str, port: int, api_key: str | None) -> None:
        self._address = at(host, port)
        self._client = HttpClient(url(host, port), api_key, TIMEOUT_S)

    def first_model(self) -> str:
        """Return the first model of /v1/models. Raises ConfigError if nobody answers or no model is ready."""
        try:
            reply = self._client.get("/v1/models")
        except OSError as error:
            raise ConfigError(
                f"no server answers on {self._address} ({error}): "
                "start one with `jedlik serve smollm2-135m`, or name its --port"
            ) from error
        if reply.status != 200:
            raise _refusal(reply)
        models = json.loads(reply.body)["data"]
        if not models:
            raise ConfigError("the server has no model yet: its workers are still loading; try again in a moment")
        return str(models[0]["id"])

    def stream(self, body: Mapping[str, object]) -> Iterator[str]:
        """Yield the text of an answer, piece by piece. Raises PeerError with the server's message."""
        for data in self._client.events("/v1/chat/completions", {**body, "stream": True}, _refusal):
            yield from _deltas(json.loads(data))


class ChatSession:
    """A conversation: its messages so far, and how the next answer is asked for."""

    def __init__(self, server: ChatServer, model: str, system: str | None, options: Mapping[str, object]) -> None:
        self._server = server
        self.model = model
        self._first = [{"role": "system", "content": system}] if system else []
        self._options = options
        self._messages = list(self._first)

    def reset(self) -> None:
        self._messages = list(self._first)

    def ask(self, text: str, show: Callable[[str], None]) -> None:
        """Run one turn. A turn that fails is forgotten; an answer stopped with Ctrl-C is kept as far as it came."""
        self._messages.append({"role": "user", "content": text})
        answer: list[str] = []
        try:
            for piece in self._server.stream({"model": self.model, "messages": self._messages, **self._options}):
                answer.append(piece)
                show(piece)
        except KeyboardInterrupt:
            show(" [stopped]")
        except Exception:
            self._messages.pop()
            raise
        self._messages.append({"role": "assistant", "content": "".join(answer)})


def converse(conversation: ChatSession) -> None:
    """Read lines until Ctrl-D or /quit."""
    print(f"{conversation.model}. {HELP}")
    while True:
        try:
            text = input("\n> ").strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\n" + HELP)
            continue
        if text == "/quit":
            return
        if text == "/reset":
            conversation.reset()
            print("forgotten")
        elif text.startswith("/"):
            print(HELP)
        elif text:
            _turn(conversation, text)


def _turn(conversation: ChatSession, text: str) -> None:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    shown = Wrapped(sys.stdout, width)
    try:
        conversation.ask(text, shown.write)
    except (PeerError, *ERRORS) as error:
        print(f"\n[no answer: {error}]", file=sys.stderr)
    shown.finish()
    print()


class Wrapped:
    """Text that comes in pieces, broken between words where a line would be wider than a terminal.

    The last word may go on: it is shown when it has ended. White space at a break is dropped. A word that is wider than
    the terminal is left to it, and between wide characters (CJK) any place is good. `width` None: all as it comes.
    """

    def __init__(self, out: TextIO, width: int | None) -> None:
        self._out = out
        self._width = width
        self._column = 0
        self._space = self._word = ""

    def write(self, piece: str) -> None:
        if self._width is None:
            self._out.write(piece)
        for char in piece if self._width else "":
            if char == "\n":
                self._end_word()
                self._out.write(char)
                self._column, self._space = 0, ""
            elif char.isspace():
                self._end_word()
                self._space += char
            else:
                wide = cells(char) == 2
                if wide:
                    self._end_word()
                self._word += char
                if wide:
                    self._end_word()
        self._out.flush()

    def finish(self) -> None:
        """Show the last word."""
        self._end_word()
        self._out.flush()

    def _end_word(self) -> None:
        if not self._word or self._width is None:
            return
        width = cells(self._space + self._word)
        if self._column and self._column + width > self._width:
            self._out.write("\n")
            self._column, self._space, width = 0, "", cells(self._word)
        self._out.write(self._space + self._word)
        self._column = (self._column + width - 1) % self._width + 1
        self._space = self._word = ""


def cells(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)


def _deltas(chunk: dict[str, object]) -> Iterator[str]:
    error = chunk.get("error")
    if isinstance(error, dict):
        raise PeerError(str(error.get("message")))
    choices = chunk.get("choices")
    for choice in choices if isinstance(choices, list) else []:
        content = choice.get("delta", {}).get("content")
        if content:
            yield content


def _refusal(reply: Reply) -> PeerError:
    return PeerError(message(reply.body))
