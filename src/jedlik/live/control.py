"""What a gateway and the supervisor say to each other, on a socket of the private run directory.

Up: who speaks, what it sees of demand and workers, what its clients ask of the planner. Down: roles to be changed, and
answers. Frames are those of `core/wire`; a message that does not fit raises WireError.
"""

import msgspec

from jedlik.core.effects import ChangeRole
from jedlik.core.events import Hold, Reported, Scale
from jedlik.core.ids import GatewayId
from jedlik.core.wire import decoded, frame

SOCKET = "control"
"""Its name in the run directory."""


class Greeting(msgspec.Struct, frozen=True, tag="greeting"):
    """The first thing a gateway says."""

    gateway: GatewayId


class Plan(msgspec.Struct, frozen=True, tag="plan"):
    """What is planned, and why?"""


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """To be answered with the same number."""

    number: int
    question: Plan | Scale | Hold


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """Either what was asked for, or why not."""

    number: int
    value: bytes = b""
    """JSON."""
    refusal: str | None = None


Upward = Greeting | Reported | Ask
Downward = ChangeRole | Answer
_encoder = msgspec.msgpack.Encoder()
_upward: msgspec.msgpack.Decoder[Upward] = msgspec.msgpack.Decoder(Upward)
_downward: msgspec.msgpack.Decoder[Downward] = msgspec.msgpack.Decoder(Downward)


def encode(message: Upward | Downward) -> bytes:
    """The whole frame."""
    return frame(_encoder.encode(message))


def decode_upward(body: bytes | memoryview) -> Upward:
    """Raises WireError."""
    return decoded(_upward, body, "a gateway")


def decode_downward(body: bytes | memoryview) -> Downward:
    """Raises WireError."""
    return decoded(_downward, body, "the supervisor")
