"""No reply holds bytes that are no UTF-8, whatever the logits are."""

import itertools
import random

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from helpers import byte_tokenizer, make_limner
from limner.mllm.utf8 import BROKEN, BYTE_TRANSITIONS, WHOLE, states_after, utf8_table


def is_prefix(data: bytes) -> bool:
    """Whether some characters are spelled by bytes that begin with these, as Python's decoder has it."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return True


def test_the_states_are_those_of_python_s_decoder():
    edges = [0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC, 0xED, 0xEE]
    edges += [0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF]
    for count in (1, 2, 3):
        for values in itertools.product(edges, repeat=count):
            state = WHOLE
            for byte in values:
                state = BYTE_TRANSITIONS[state, byte]
            data = bytes(values)
            assert (state != BROKEN) == is_prefix(data), data
            if state != BROKEN:
                assert (state == WHOLE) == (data.decode("utf-8", "ignore").encode() == data)
    rng = random.Random(1)
    kinds = [
        lambda: rng.randrange(0x80),
        lambda: rng.randrange(0x800),
        lambda: 0xAC00 + rng.randrange(999),
        lambda: 0x1F600,
    ]
    text = "".join(chr(rng.choice(kinds)()) for _ in range(300))
    tokens = [text.encode()[i : i + 3] for i in range(0, 900, 3)]
    after = states_after(tokens)
    state = WHOLE
    for place in range(len(tokens)):
        state = after[state, place]
        assert state != BROKEN


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_replies_of_random_logits_are_whole_characters(temperature, monkeypatch):
    model = make_limner()
    generator = torch.Generator().manual_seed(3)

    def logits(hidden):
        scores = torch.randn(*hidden.shape[:-1], len(model.tokenizer), generator=generator)
        scores[..., 128:256] += 3.0  # bytes that are no ASCII
        return scores

    monkeypatch.setattr(model.mllm, "logits", logits)
    replies = model.generate(["a", "b", "c"], images="never", max_new_tokens=200, temperature=temperature)
    for reply in replies:
        assert "\ufffd" not in reply.text and len(reply.text) > 20
        assert any(ord(character) > 0x7FF for character in reply.text)


def test_a_reply_ends_and_draws_between_characters_alone():
    tokenizer = byte_tokenizer()
    table = utf8_table(tokenizer)
    letter = tokenizer.convert_tokens_to_ids("a")
    (first,) = (n for n in range(len(tokenizer)) if table.following[WHOLE, n] == 4)  # 0xE0
    forbidden = table.forbidden(len(tokenizer) + 3)
    within = table.following[WHOLE, first]
    assert forbidden[within, tokenizer.eos_token_id] and not forbidden[WHOLE, tokenizer.eos_token_id]
    assert forbidden[within, letter] and not forbidden[WHOLE, letter]
    assert (~forbidden[within]).sum() == 0xBF - 0xA0 + 1, "the second byte of a character"
    assert forbidden[within, -3:].all() and not forbidden[WHOLE, -3:].any(), "columns of no token"
    assert forbidden.shape == (BROKEN, len(tokenizer) + 3) and forbidden.dtype == np.bool_


def test_tokens_that_are_no_bytes_are_left_alone():
    words = Tokenizer(models.WordLevel({"a": 0, "é": 1, "[UNK]": 2}, unk_token="[UNK]"))
    assert utf8_table(PreTrainedTokenizerFast(tokenizer_object=words)) is None
