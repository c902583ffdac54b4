"""Visual tokens and announced queries in transformers' own generate(): the same grammar and the same features."""

import itertools
import re

import pytest
import torch

import limner
from helpers import DRAFTED, TOKENS, make_limner, picture
from limner.mllm.cache import StreamCache
from limner.mllm.picture_tokens import tokens_of
from limner.mllm.stream import collate

SHAPES = ((32, 32), (16, 32))
KINDS = {
    "both": {**TOKENS, "query_lengths": (1, 3, 4), "shapes": SHAPES},
    "codes beside all queries": TOKENS,
    "queries": {"query_lengths": (2, 4), "shapes": SHAPES},
    "seen as tokens": {**TOKENS, "seen_images": "tokens"},
}
CALLS = {
    "greedy": {},
    "sampling": {"do_sample": True, "temperature": 3.0, "num_return_sequences": 6},
    "beams": {"num_beams": 4, "num_return_sequences": 4},
    "sampled beams": {"do_sample": True, "temperature": 3.0, "num_beams": 4, "num_return_sequences": 4},
}
SHOWN = [
    {"role": "user", "content": [{"type": "image", "image": picture(1)}, {"type": "text", "text": "make it green"}]}
]
PROMPTS = ["draw something nice", SHOWN, "x"]


class Noise:
    """Scores under which what is out of place would come all the time."""

    def __init__(self, model, seed):
        self.generator = torch.Generator().manual_seed(seed)
        self.vocabulary = model.mllm.vocabulary

    def __call__(self, input_ids, scores):
        v, noise = self.vocabulary, 3 * torch.randn(scores.shape, generator=self.generator)
        noise[:, list(v.control)] += 6
        noise[:, [*v.shapes, *v.lengths, *v.begins.values()]] += 2
        noise[:, v.end_of_turn[0]] += 4
        return noise


def pattern(config):
    """What a returned sequence looks like, written down once more as a regular expression over the tokens' names."""
    shape = "(?:" + "|".join(f"<shape_{h}x{w}>" for h, w in config.shapes) + ")" if config.shapes else ""
    pictures = [f"<length_{k}><vis>(?:<vis_[0-9]+>){{{k}}}</img>" for k in config.visual_lengths]
    if config.seen_images == "features":
        slots = ["".join(f"<img_{i:05d}>" for i in range(k)) for k in config.query_lengths or (config.num_queries,)]
        heads = [f"<length_{k}>" for k in config.query_lengths] or [""]
        pictures += [f"{head}<img>{block}</img>" for head, block in zip(heads, slots, strict=True)]
    return re.compile(f"(?:W|{shape}(?:{'|'.join(pictures)}))*")


def names(model, ids):
    control = model.mllm.vocabulary.control
    return "".join(model.tokenizer.convert_ids_to_tokens(i) if i in control else "W" for i in ids)


def is_grammatical(written, config):
    """Whole, or cut by a limit: then something could follow that makes it whole."""
    if pattern(config).fullmatch(written):
        return True
    tokens = re.findall("<[^>]+>|W", written)
    lengths = config.lengths or (config.num_queries,)
    shapes = [f"<shape_{h}x{w}>" for h, w in config.shapes] or [""]
    blocks = [("<vis>", ["<vis_00000>"] * k, k) for k in config.visual_lengths]
    blocks += [("<img>", [f"<img_{i:05d}>" for i in range(k)], k) for k in lengths if k <= config.num_queries]
    for begin, block, k in blocks:
        for shape, announced in itertools.product(shapes, (f"<length_{k}>", "")):
            whole = [t for t in (shape, announced) if t] + [begin, *block, "</img>"]
            for cut in range(1, len(whole)):
                head = "".join(tokens[: max(0, len(tokens) - cut)])
                tail = tokens[len(tokens) - cut :]
                same = [t if not t.startswith("<vis_") else "<vis_00000>" for t in tail] == whole[:cut]
                if same and pattern(config).fullmatch(head + "".join(whole)):
                    return True
    return False


@pytest.mark.parametrize("kind", KINDS)
def test_every_sequence_of_random_scores_keeps_to_the_grammar(kind):
    """Sampling, beams, batches and limits, whatever the scores are."""
    model = make_limner(**KINDS[kind])
    plain = limner.PlainGeneration(model)
    count = whole = 0
    for seed, (call, limit) in enumerate(itertools.product((*CALLS, *CALLS), (9, 23))):
        modes = ("auto", *model.config.image_modes)
        inputs = plain.prepare(PROMPTS, image_mode=modes[seed % len(modes)])
        inputs["logits_processor"].insert(0, Noise(model, seed))
        torch.manual_seed(seed)
        output = plain.llm.generate(**inputs, max_new_tokens=limit, **CALLS[call])
        for ids in output.sequences.tolist():
            end = next((i for i, token in enumerate(ids) if token in plain.stop_ids), len(ids))
            ids = [*ids[:end], *([ids[end]] if ids[end : end + 1] == [plain.vocabulary.eoi] else [])]
            written = names(model, ids)
            assert is_grammatical(written, model.config), written
            count, whole = count + 1, whole + written.count("</img>")
    assert count >= 180 and whole > 60


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_features_and_pictures_are_those_of_the_emitted_ids(kind):
    """By the cache alone: the ids up to what begins the picture, then its queries in one forward or its codes."""
    model = make_limner(prompt_tokens=6, **KINDS[kind])
    plain, count = limner.PlainGeneration(model), 0
    mllm, vocabulary = plain.mllm, plain.vocabulary
    inputs = plain.prepare(PROMPTS)
    inputs["logits_processor"].insert(0, Noise(model, 5))
    torch.manual_seed(5)
    output = plain.llm.generate(**inputs, max_new_tokens=30, **CALLS["sampling"])
    each = len(output.sequences) // len(PROMPTS)
    replies = plain.replies(output, inputs, num_inference_steps=1, guidance_scale=1.0)
    for row, (ids, found) in enumerate(zip(output.sequences.tolist(), plain.features(output), strict=True)):
        drawn = plain._split(ids).pictures
        assert len(drawn) == len(found) == len(replies[row].images)
        for own, features, image in zip(drawn, found, replies[row].images, strict=True):
            k, mode = own.tokens.length, own.tokens.mode
            if mode == "tokens":
                codes = [i - vocabulary.codes.start for i in ids[own.boi + 1 : own.boi + 1 + k]]
                expected = mllm.visual_tokenizer.decode(torch.tensor([codes]))[0]
            else:
                batch = collate([inputs.encoded[row // each]], vocabulary, mllm.config)
                cache = StreamCache(mllm, 1)
                cache.extend(mllm.embed_stream(batch, mllm.vision_tower(batch.pixel_values)))
                begun = mllm.embed_emitted(torch.tensor([ids[: own.boi + 1]]))
                states = cache.extend(torch.cat([begun, mllm.queries.weight[None, :k]], 1))[:, -k:]
                padded = torch.nn.functional.pad(states, (0, 0, 0, mllm.config.num_queries - k))
                expected = mllm.query_features(padded, torch.tensor([k]))[0]
            torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)
            told = tokens_of(image, model.config)
            assert told == own.tokens if model.config.lengths_of(mode) else told is None
            count += 1
    assert count >= 8


def test_the_request_says_how_pictures_are_drawn():
    model = make_limner(**KINDS["both"])
    plain = limner.PlainGeneration(model)
    inputs = plain.prepare("x", images="force", image_mode="tokens", image_tokens=2, height=16, width=32)
    ids = plain.llm.generate(**inputs, max_new_tokens=9, do_sample=True).sequences[0].tolist()
    assert re.fullmatch("<shape_16x32><length_2><vis><vis_[0-9]+><vis_[0-9]+></img>", names(model, ids))
    with pytest.raises(ValueError, match="image_tokens is 3; a picture of this model can have 1, 2, 4"):
        plain.prepare("x", image_mode="tokens", image_tokens=3)


def test_a_model_that_drafts_its_tokens_draws_by_queries_here():
    """The draft is of each row, and generate() hands the output head nothing but hidden states."""
    plain = limner.PlainGeneration(make_limner(**DRAFTED))
    inputs = plain.prepare(["x", "y"], images="force")
    output = plain.llm.generate(**inputs, max_new_tokens=12, do_sample=True)
    replies = plain.replies(output, inputs, num_inference_steps=1)
    assert all(reply.images and tokens_of(reply.images[0], plain.config) is None for reply in replies)
    with pytest.raises(ValueError, match="samples visual tokens around a draft by its queries"):
        plain.prepare("x", image_mode="tokens")
