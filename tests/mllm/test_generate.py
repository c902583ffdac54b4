"""The block path against transformers' own stepwise generate() with the forced grammar."""

import pytest
import torch
from transformers import LogitsProcessorList

from helpers import BACKBONES, make_stream, picture
from limner.mllm.decoding import Decoder, DecodingOptions
from limner.mllm.processor import ImageTokenLogitsProcessor


class _Likelier:
    """Pictures often enough to be tested."""

    def __init__(self, token):
        self.token = token

    def __call__(self, input_ids, scores):
        scores[:, self.token] += 6
        return scores


def stepwise(model, encoder, prompts, **options):
    """transformers' generate() on ids alone: the queries stand in the slots' rows of the embedding table."""
    put_queries_into_the_table(model)
    encoded = [encoder.encode(p, add_generation_prompt=True).input_ids for p in prompts]
    longest = max(map(len, encoded))
    ids = torch.tensor([[model.vocabulary.pad] * (longest - len(e)) + e for e in encoded])
    mask = torch.tensor([[0] * (longest - len(e)) + [1] * len(e) for e in encoded])
    processor = ImageTokenLogitsProcessor(model.vocabulary, model.config.num_queries, model.llm.config.vocab_size)
    output = model.llm.generate(
        ids,
        attention_mask=mask,
        return_dict_in_generate=True,
        logits_processor=LogitsProcessorList(
            [_Likelier((model.vocabulary.shapes or (model.vocabulary.boi,))[0]), processor]
        ),
        **options,
    )
    return output, longest


def put_queries_into_the_table(model):
    """Gemma scales what it looks up, so its rows hold the queries unscaled."""
    table = model.llm.get_input_embeddings()
    slots = torch.tensor(model.vocabulary.slots[: model.config.num_queries])
    with torch.no_grad():
        table.weight[slots] = model.queries.weight / getattr(table, "embed_scale", 1.0)


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.inference_mode()
def test_block_path_equals_stepwise_generate(backbone):
    """Query states to 1e-5, and in the "queries" mode the text after the picture, token by token."""
    model, encoder = make_stream(backbone, drawn_images="queries")
    prompts = ["draw something nice", "x", "and a longer one with many more letters"]
    found = {}

    def draw(requests):
        for r in requests:
            found[r.row] = r.features
        return [picture(i) for i, _ in enumerate(requests)]
        yield

    decoder = Decoder(model, encoder, DecodingOptions(images="force", max_images=1, max_new_tokens=12))
    encoded = [encoder.encode(p, add_generation_prompt=True) for p in prompts]
    runner = decoder.run(encoded, [0] * 3, draw)
    rows = finish(runner)
    n = model.config.num_queries
    for i, prompt in enumerate(prompts):
        ids = [*encoded[i].input_ids, model.vocabulary.boi]
        output = stepwise_from(model, ids, n + 1 + 12)
        # hidden state of slot k is the last one of the step that fed it
        states = torch.stack([step[-1][0, -1] for step in output.hidden_states[1 : n + 1]])
        features = model.output_resampler(states[None])[0]
        torch.testing.assert_close(found[i], features, atol=1e-5, rtol=1e-5)
        after = output.sequences[0, len(ids) :].tolist()
        assert after[: n + 1] == [*model.vocabulary.slots[:n], model.vocabulary.eoi]
        theirs = after[n + 1 :]
        ours = list(rows[i].parts[1].ids) if len(rows[i].parts) > 1 else []
        if rows[i].finish_reason == "stop":
            ours.append(model.vocabulary.end_of_turn[0])
        assert ours == theirs[: len(ours)] and len(theirs) in (len(ours), 12), prompt


def stepwise_from(model, ids, new_tokens):
    put_queries_into_the_table(model)
    vocabulary = model.vocabulary
    processor = ImageTokenLogitsProcessor(vocabulary, model.config.num_queries, model.llm.config.vocab_size)
    output = model.llm.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=new_tokens,
        logits_processor=LogitsProcessorList([processor, _Never(vocabulary.boi)]),
        do_sample=False,
        return_dict_in_generate=True,
        output_hidden_states=True,
        eos_token_id=list(vocabulary.end_of_turn),
    )
    return output


class _Never:
    """max_images=1 for transformers' side: its prompt ends in the one BOI."""

    def __init__(self, boi):
        self.boi = boi

    def __call__(self, input_ids, scores):
        return scores.index_fill(1, torch.tensor([self.boi]), float("-inf"))


def finish(runner):
    while True:
        try:
            next(runner)
        except StopIteration as stopped:
            return stopped.value


@pytest.mark.parametrize("shapes", [(), ((32, 32), (16, 32))])
@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True, "temperature": 3.0},
        {"num_beams": 3, "do_sample": False},
        {"do_sample": True, "num_beams": 2},
    ],
)
@torch.inference_mode()
def test_plain_generate_keeps_the_grammar(shapes, options):
    model, encoder = make_stream("qwen3", shapes=shapes)
    v, n = model.vocabulary, model.config.num_queries
    output, start = stepwise(model, encoder, ["a", "bcd", "efghi", "j"], max_new_tokens=40, **options)
    pictures_seen = 0
    for row in output.sequences[:, start:].tolist():
        pictures_seen += check_grammar(row, v, n)
    assert pictures_seen > 0


def check_grammar(row, v, n):
    """No slot outside a picture, every picture whole unless cut at the very end; returns the pictures."""
    chain = [*v.slots[:n], v.eoi]
    i, count = 0, 0
    while i < len(row):
        token = row[i]
        if v.shapes and token == v.boi:
            assert i and row[i - 1] in v.shapes, "BOI without its shape"
        if token in v.shapes and i + 1 < len(row):
            assert row[i + 1] == v.boi, "a shape without BOI"
        if token == v.boi:
            got = row[i + 1 : i + 1 + len(chain)]
            assert got == chain[: len(got)], "a broken picture"
            i += len(got)
            count += 1
        else:
            assert token not in (*v.slots, v.eoi, v.patch, v.end_patch), "a slot outside a picture"
        i += 1
    return count
