"""Text as it comes: whole characters, stop strings, and in the end what the tokenizer makes of all ids."""

import random

import pytest

import limner
from helpers import byte_tokenizer, make_stream
from limner.mllm.text_stream import TextStream


@pytest.fixture(scope="module")
def nano():
    return limner.load("nano", device="cpu").tokenizer


@pytest.mark.parametrize("words", [True, False])
def test_the_pieces_are_the_text(nano, words):
    """Of words in several scripts, and of ids that make no characters."""
    rng = random.Random(1)
    for _ in range(300):
        text = "".join(chr(rng.choice((65, 0xAC00, 0x1F600, 0x4E00, 32)) + rng.randrange(20)) for _ in range(12))
        ids = nano.encode(text) if words else [rng.randrange(len(nano) - 200) for _ in range(12)]
        stream = TextStream(nano)
        pieces = [stream.add(token) for token in ids]
        rest, whole = stream.end()
        assert "".join(pieces) + rest == whole == nano.decode(ids).rstrip("\ufffd") and whole.ids == tuple(ids)
        assert not any("\ufffd" in piece for piece in pieces) or not words


def test_a_character_that_a_limit_cuts_is_left_out(nano):
    text = "잔디 위에 😀"
    ids = nano.encode(text)
    for count in range(1, len(ids) + 1):
        stream = TextStream(nano)
        given = "".join(stream.add(token) for token in ids[:count])
        rest, whole = stream.end()
        assert given + rest == whole and "\ufffd" not in whole and text.startswith(whole)
        assert whole.ids == tuple(ids[:count])
    assert whole == text


def test_a_stop_string_is_never_given_out_not_even_its_beginning():
    tokenizer = byte_tokenizer()
    for text in ("abcEND", "abEcENDxyz", "END", "EEND", "nothing"):
        stream = TextStream(tokenizer, ("END", "xyz"))
        given, cut = "", text.partition("END")[0]
        for token in tokenizer.encode(text):
            given += stream.add(token)
            assert cut.startswith(given)
            if stream.stopped:
                break
        assert stream.stopped == ("END" in text)
        rest, whole = stream.end()
        assert given + rest == whole == cut and hasattr(whole, "ids") == (not stream.stopped and "END" not in text)


def test_of_several_stop_strings_the_first_in_the_text_ends_it():
    tokenizer = byte_tokenizer()
    stream = TextStream(tokenizer, ("한", "ab"))
    given = "".join(stream.add(token) for token in tokenizer.encode("xab한"))
    assert given == "x" and stream.stopped and stream.end()[1] == "x"


def test_of_stop_strings_that_end_together_the_longer_one_counts():
    _, encoder = make_stream()
    stream = TextStream(encoder.tokenizer, ("bc", "abc"))
    given = "".join(stream.add(token) for token in encoder.text_ids("xabc"))
    assert stream.stopped and given + stream.end()[0] == "x"
