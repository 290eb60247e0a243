"""A text may be cut where tokenisation provably restarts: its token ids stay the same.

Two kinds of place:

1. In front of a special token that no other added token overlaps. Added tokens are split off before anything else, so
   whatever stands left of such a token is tokenised as if the text ended there.
2. Between a letter and one of `AFTER`, for byte-level BPE with a pre-tokeniser in `KNOWN`. Proof: in each of these
   patterns only \\p{L}-classes match letters, and every alternative that goes on after a letter goes on with letters
   (or, o200k, an apostrophe), so no match covers a letter and one of `AFTER`: a match ends there. No pattern looks
   behind, so the right part is matched as if the text began there; the only look-ahead, (?!\\S) after white space, sees
   at most the letter. NFC neither composes nor reorders across such a border. BPE works inside one match.
3. Between anything but white space and a space, for the same tokenizers, if no added token has such a place inside,
   begins or ends with white space, or takes any away from its neighbours. Proof: a space that is not the first
   character of a match stands, in each pattern, behind white space only. The rest as for 2.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

AFTER = " \n。，"
"""Characters of which none is a letter, a digit, a mark or an apostrophe; none composes with what is before it."""
LETTERS = "A-Za-zÀ-ÖØ-öø-ʯͰ-ͳΑ-Ρα-ωА-яא-תء-غف-يঅ-ঌक-हก-ฮぁ-ゖァ-ヺ一-龥가-힣"
"""Letters by every Unicode version in use, which end no sequence that NFC would change."""
BORDER = f"(?<=[{LETTERS}])(?=[{AFTER}])"
_border = re.compile(BORDER)

_CONTRACTIONS = r"'s|'t|'re|'ve|'m|'ll|'d"
_PUNCTUATION = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
KNOWN = frozenset(
    {
        rf"{_CONTRACTIONS}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+",  # GPT-2
        rf"(?i:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_PUNCTUATION}",  # Llama 3, cl100k
        rf"(?i:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_PUNCTUATION}",  # Qwen 2, 2.5, 3
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SUFFIX}"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",  # o200k
    }
)
STRETCH = 1 << 13
"""Characters that are looked through at once."""
LONGEST_MARKER = 64
Json = Mapping[str, object]


def _objects(value: object) -> list[Json]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _field(spec: Json, name: str) -> Json:
    value = spec.get(name)
    return value if isinstance(value, dict) else {}


def _splits_at_borders(step: Json) -> bool | None:
    """True: always ends a piece at a border. False: harmless there. None: nothing is known."""
    kind = step.get("type")
    if kind == "Digits":
        return False
    if kind == "ByteLevel" and step.get("add_prefix_space") is False:
        return step.get("use_regex", True) is True
    pattern = _field(step, "pattern").get("Regex")
    if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert") and pattern in KNOWN:
        return True
    return None


def _plain_model(model: Json) -> bool:
    return model.get("type") == "BPE" and not model.get("dropout")


def _safe_normalizer(normalizer: object) -> bool:
    return normalizer is None or (isinstance(normalizer, dict) and normalizer.get("type") == "NFC")


def restarts_at_borders(spec: Json) -> bool:
    """Whether `spec` (the content of tokenizer.json) is of the kind proven above."""
    pre = _field(spec, "pre_tokenizer")
    steps = _objects(pre.get("pretokenizers")) if pre.get("type") == "Sequence" else [pre]
    verdicts = [_splits_at_borders(step) for step in steps]
    return (
        _plain_model(_field(spec, "model"))
        and _safe_normalizer(spec.get("normalizer"))
        and None not in verdicts
        and True in verdicts
        and not any(_border.search(text) for text in _contents(spec))
    )


def restarts_at_spaces(spec: Json) -> bool:
    """Whether `spec` is of the kind that place 3 above is proven for."""
    contents = list(_contents(spec))
    return (
        restarts_at_borders(spec)
        and not _reaching(spec)
        and not any(text != text.strip() or re.search(r"\S ", text) for text in contents)
    )


def _reaching(spec: Json) -> bool:
    """Whether an added token looks at, or takes away, what is beside it."""
    flags = ("lstrip", "rstrip", "single_word")
    return any(token.get(flag) for token in _objects(spec.get("added_tokens")) for flag in flags)


def _contents(spec: Json) -> Iterator[str]:
    for token in _objects(spec.get("added_tokens")):
        yield str(token.get("content", ""))


def markers(spec: Json, most: int = 512) -> list[str]:
    """Special tokens in front of which a text may be cut: whole matches that no other added token reaches into."""
    added = _objects(spec.get("added_tokens"))
    if _reaching(spec):
        return []
    contents = [text for text in _contents(spec) if text]
    tails = {text[at:] for text in contents for at in range(1, len(text))}
    inner = "\0".join(text[1:] for text in contents)
    special = [str(token["content"]) for token in added if token.get("special") and token.get("content")][:most]
    return [m for m in special if m not in inner and not any(m[:n] in tails for n in range(1, len(m) + 1))]


def marker_pattern(contents: Iterable[str]) -> re.Pattern[str] | None:
    """Finds the next marker; None if there is none to find."""
    found = sorted(contents, key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, found))) if found else None


class Cuts:
    """Cuts texts: greedily from the left, so that texts with equal beginnings get equal pieces.

    Pieces have at least `shortest` and, where borders are proven and near, about `longest` characters.
    """

    def __init__(self, spec: Json, shortest: int = 128, longest: int = 512) -> None:
        self._marker = marker_pattern(markers(spec))
        self._border = _border if restarts_at_borders(spec) else None
        self._shortest, self._longest = shortest, longest

    @property
    def none(self) -> bool:
        """Whether there is nothing to cut at."""
        return self._marker is None and self._border is None

    def pieces(self, text: str) -> Iterator[str]:
        """The text in order, cut; one empty piece for an empty text."""
        return (piece for piece in self.looked_at(text) if piece is not None)

    def looked_at(self, text: str) -> Iterator[str | None]:
        """`pieces`, with None after each stretch without a place to cut at. Linear: no stretch is searched twice."""
        start, at = 0, self._shortest
        border, clear = -1, 0
        while at < len(text):
            stop, least = min(at + STRETCH, len(text)), start + self._longest
            if border < least and max(least, clear) < stop:
                border = self._after(text, max(least, clear), stop)
                clear = stop if border < 0 else border
            end = self._marked(text, at, border if least <= border else stop)
            if end < stop:
                yield text[start:end]
                start, at = end, end + self._shortest
            else:
                yield None
                at = stop
        yield text[start:] if start else text

    def _after(self, text: str, least: int, stop: int) -> int:
        """The first border from `least` on, or -1."""
        found = None if self._border is None else self._border.search(text, least, stop)
        return found.start() if found else -1

    def _marked(self, text: str, least: int, end: int) -> int:
        """The first marker from `least` on, or `end`."""
        found = None if self._marker is None else self._marker.search(text, least, end + LONGEST_MARKER)
        return min(found.start(), end) if found else end
