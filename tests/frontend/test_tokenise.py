"""Cut tokenisation equals plain tokenisation, whatever the text; what is not proven is not cut."""

import re
import unicodedata

import pytest
from frontend_world import PRE, SPECIAL, byte_level, sentence_piece, spec_of, word_piece
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers, processors

from jedlik.core.tokens import pack, unpack
from jedlik.frontend.text.cuts import AFTER, LETTERS, Cuts, markers, restarts_at_borders, restarts_at_spaces
from jedlik.frontend.text.samples import SAMPLES
from jedlik.frontend.text.tokenise import PieceCache, Tokeniser, TooLong
from jedlik.frontend.text.words import WORD, Words

TOKENIZERS = {kind: byte_level(kind) for kind in PRE}
OTHERS = {"sentence_piece": sentence_piece(), "word_piece": word_piece()}
ALL = TOKENIZERS | OTHERS
WORDS = sorted({word for text in SAMPLES for word in re.split(r"(\s+)", text) if word})
GLUE = [
    " ",
    "  ",
    "\n",
    "\r\n",
    "\n\n",
    "\t",
    "。",
    "，",
    "\u00a0",
    "'s",
    "'",
    "123",
    "e\u0301",
    "\u0301",
    "",
    *SPECIAL,
    "<tool>",
]
TEXTS = st.lists(st.one_of(st.sampled_from(WORDS), st.sampled_from(GLUE), st.text(max_size=6)), max_size=60).map(
    "".join
)


def often(kind: str) -> Tokeniser:
    """A tokeniser that cuts at every chance."""
    tokeniser = Tokeniser(ALL[kind], spec_of(ALL[kind]))
    tokeniser._cuts = Cuts(spec_of(ALL[kind]), shortest=1, longest=1)
    return tokeniser


@pytest.mark.parametrize("kind", sorted(PRE))
@given(text=TEXTS)
def test_cut_equals_plain(kind: str, text: str) -> None:
    tokeniser = often(kind)
    assert unpack(tokeniser.encode(text)) == TOKENIZERS[kind].encode(text, add_special_tokens=False).ids
    tokeniser.check()


@pytest.mark.parametrize("kind", sorted(PRE))
@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
def test_words_equal_plain(kind: str, texts: list[str]) -> None:
    tokenizer = TOKENIZERS[kind]
    assert restarts_at_spaces(spec_of(tokenizer))
    words = Words(lambda each: [pack(tokenizer.encode(text, add_special_tokens=False).ids) for text in each])
    for text in [*texts, *texts]:
        assert "".join(WORD.findall(text)) == text
        assert unpack(words.encode(text)) == tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
def test_no_words_where_added_tokens_reach_out(flag: str) -> None:
    tokenizer = byte_level("gpt2")
    tokenizer.add_tokens([AddedToken("<mask>", **{flag: True})])
    assert not restarts_at_spaces(spec_of(tokenizer))


def test_no_words_where_an_added_token_has_a_space() -> None:
    tokenizer = byte_level("gpt2")
    tokenizer.add_tokens([AddedToken("<| mask")])
    assert not restarts_at_spaces(spec_of(tokenizer))


@pytest.mark.parametrize("kind", sorted(OTHERS))
@given(text=TEXTS)
def test_cut_at_special_tokens_equals_plain(kind: str, text: str) -> None:
    for name in ("<s>", "</s>", "[CLS]"):
        text = text.replace(SPECIAL[1], name)
    assert unpack(often(kind).encode(text)) == OTHERS[kind].encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("kind", sorted(PRE))
def test_long_real_text_in_pieces(kind: str) -> None:
    text = " ".join(SAMPLES) * 40
    tokeniser = Tokeniser(TOKENIZERS[kind], spec_of(TOKENIZERS[kind]))
    assert tokeniser.cut
    assert tokeniser.encode(text) == pack(tokeniser.plain(text)) == tokeniser.encode(text)
    assert sum(1 for _ in Cuts(spec_of(TOKENIZERS[kind])).pieces(text)) > 10


def test_equal_beginnings_give_equal_pieces() -> None:
    cuts = Cuts(spec_of(TOKENIZERS["smollm"]))
    prefix = "word " * 4000
    one, other = list(cuts.pieces(prefix + "a b c")), list(cuts.pieces(prefix + "something else"))
    assert one[:-1] == other[:-1]
    assert len(one) >= 9


def test_kinds_are_recognised() -> None:
    assert all(restarts_at_borders(spec_of(tokenizer)) for tokenizer in TOKENIZERS.values())
    assert not any(restarts_at_borders(spec_of(tokenizer)) for tokenizer in OTHERS.values())
    assert markers(spec_of(TOKENIZERS["gpt2"])) == list(SPECIAL)


def test_what_is_not_proven_is_not_cut_at_borders() -> None:
    for change in ("normalizer", "pattern", "added", "prefix"):
        tokenizer = byte_level("llama3", vocab=300)
        if change == "normalizer":
            tokenizer.normalizer = normalizers.Lowercase()
        elif change == "pattern":
            tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+ \w+"), "isolated")
        elif change == "added":
            tokenizer.add_tokens([AddedToken("two words", normalized=False)])
        else:
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        assert not restarts_at_borders(spec_of(tokenizer)), change


def test_special_tokens_that_overlap_or_strip_are_no_markers() -> None:
    def spec(*contents: str, lstrip: bool = False) -> dict[str, object]:
        return {"added_tokens": [{"content": c, "special": True, "lstrip": lstrip} for c in contents]}

    assert markers(spec("<a>", "<b>")) == ["<a>", "<b>"]
    assert markers(spec("x<a>", "<a>")) == ["x<a>"]
    assert markers(spec("[<", "<a>")) == ["[<"]
    assert markers(spec("aba")) == []
    assert markers(spec("<a>", lstrip=True)) == []


def test_a_tokenizer_that_fails_its_self_check_is_not_cut() -> None:
    spec = spec_of(TOKENIZERS["gpt2"])
    joined = byte_level("gpt2", vocab=300)
    joined.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+ \w+|."), "isolated")
    joined.train_from_iterator(SAMPLES)
    assert not Tokeniser(joined, spec).cut


def test_every_border_letter_is_one_and_stays_under_nfc() -> None:
    letters = re.compile(f"[{LETTERS}]")
    for letter in map(chr, range(0x10000)):
        if letters.match(letter):
            assert unicodedata.category(letter).startswith("L"), hex(ord(letter))
            for after in AFTER:
                assert unicodedata.normalize("NFC", "e" + letter + after + "a") == "e" + letter + after + "a"


def test_limit_stops_early() -> None:
    tokeniser = Tokeniser(TOKENIZERS["smollm"], spec_of(TOKENIZERS["smollm"]))
    with pytest.raises(TooLong):
        tokeniser.encode("word " * 10_000, limit=100)
    with pytest.raises(TooLong):
        tokeniser.encode("word " * 10_000_000, limit=100)
    assert len(unpack(tokeniser.encode("word", limit=100))) <= 100


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(UnicodeError):
        Tokeniser(TOKENIZERS["smollm"], spec_of(TOKENIZERS["smollm"])).encode("a\ud800")


def test_budget_drops_the_least_recently_used() -> None:
    cache = PieceCache(budget_bytes=3 * 300)
    for name in "abc":
        cache.put(name, b"1234")
    assert cache.get("a") == b"1234"
    cache.put("d", b"1234")
    cache.check()
    assert [name for name in "abcd" if cache.get(name)] == ["a", "c", "d"]


def test_long_texts_are_tokenised_in_steps() -> None:
    tokeniser = Tokeniser(TOKENIZERS["smollm"], spec_of(TOKENIZERS["smollm"]))
    text = " ".join(SAMPLES) * 10
    assert sum(1 for _ in tokeniser.steps(text)) > 3
    assert unpack(tokeniser.encode(text)) == tokeniser.plain(text)
    with pytest.raises(TooLong):
        list(tokeniser.steps("other " * 10_000, limit=100))


def test_what_the_post_processor_adds_is_added_once() -> None:
    tokenizer = byte_level("llama3", vocab=400)
    bos = tokenizer.token_to_id(SPECIAL[0])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SPECIAL[0]} $A", special_tokens=[(SPECIAL[0], bos)]
    )
    tokeniser = Tokeniser(tokenizer, spec_of(tokenizer))
    text = " ".join(SAMPLES)
    assert unpack(tokeniser.encode(text, special=True)) == tokenizer.encode(text).ids
    assert unpack(tokeniser.encode(text)) == tokenizer.encode(text).ids[1:]
    assert unpack(tokeniser.encode("", special=True)) == [bos]
