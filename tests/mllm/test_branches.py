"""Training with branches and decoding with a cache are one computation."""

import pytest
import torch

from helpers import BACKBONES, make_stream, picture, play
from limner.mllm.cache import StreamCache
from limner.mllm.decoding_options import DecodingOptions
from limner.mllm.masks import check_backbone
from limner.mllm.stream import collate

CONVERSATIONS = [
    [
        {"role": "user", "content": "draw a cat and say so"},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Here: "},
                {"type": "image", "image": picture(1)},
                {"type": "text", "text": "a cat."},
                {"type": "image", "image": picture(2)},
                {"type": "text", "text": "again"},
            ],
        },
    ],
    [
        {"role": "user", "content": [{"type": "image", "image": picture(3)}, {"type": "text", "text": "again?"}]},
        {"role": "assistant", "content": [{"type": "image", "image": picture(4)}]},
        {"role": "user", "content": "now blue"},
        {"role": "assistant", "content": [{"type": "text", "text": "ok"}, {"type": "image", "image": picture(5)}]},
    ],
    [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}],
]


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.inference_mode()
def test_one_training_forward_equals_decoding_from_the_cache(backbone):
    model, encoder = make_stream(backbone, prompt_tokens=6)
    encoded = [encoder.encode(c, training=True) for c in CONVERSATIONS]
    batch = collate(encoded, model.vocabulary, model.config)
    output = model(batch)
    drawing = 0
    for row, e in enumerate(encoded):
        one = collate([e], model.vocabulary, model.config)
        features = model.get_image_features(model.vision_tower(one.pixel_values), None)
        embeds = model.build_inputs_embeds(one.input_ids, one.feature_index, features)
        for picture_ in (p for p in e.pictures if p.drawn):
            cache = StreamCache(model, 1)
            main = cache.extend(embeds[:, : picture_.boi_index + 1])
            torch.testing.assert_close(main[0], output.hidden[row, : picture_.boi_index + 1], atol=1e-5, rtol=1e-5)
            states = cache.extend(model.queries.weight[None], branch=model.config.num_queries)
            torch.testing.assert_close(states[0], output.query_states[drawing], atol=1e-5, rtol=1e-5)
            cache.crop(model.config.num_queries)
            rest = cache.extend(embeds[:, picture_.boi_index + 1 :])
            torch.testing.assert_close(
                rest[0], output.hidden[row, picture_.boi_index + 1 : len(e.input_ids)], atol=1e-5, rtol=1e-5
            )
            wanted = main[0, -6:]
            torch.testing.assert_close(output.prompt[drawing][-len(wanted) :], wanted, atol=1e-5, rtol=1e-5)
            drawing += 1
    assert drawing == 4


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.inference_mode()
def test_our_masks_are_the_models_own_where_there_are_no_branches(backbone):
    """Without pictures the main stream is plain causal text: transformers' own forward says the same."""
    model, encoder = make_stream(backbone)
    e = encoder.encode([{"role": "user", "content": "a text longer than any sliding window of these tests"}])
    ids = torch.tensor([e.input_ids])
    theirs = model.llm(input_ids=ids).logits
    output = model(collate([e], model.vocabulary, model.config))
    torch.testing.assert_close(model.logits(output.hidden), theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="torch computes it wrong on this CPU")
@pytest.mark.slow  # compiled for each shape
@pytest.mark.parametrize("backbone", ["qwen3", "gemma3_text", "mistral"])
@torch.inference_mode()
def test_flex_attention_equals_eager(backbone):
    """Main stream and branches in one forward, and queries over a cache that is cropped; windows are shorter than these."""
    model, encoder = make_stream(backbone, prompt_tokens=6)
    encoded = [encoder.encode(c, training=True) for c in CONVERSATIONS]
    batch = collate(encoded, model.vocabulary, model.config)
    count = batch.lengths[:, None] > torch.arange(batch.input_ids.shape[1])
    padded = collate(encoded, model.vocabulary, model.config, padding_side="left")

    def run(attention):
        model.llm.set_attn_implementation(attention)
        output = model(batch)
        cache = StreamCache(model, 3)
        embeds = model.build_inputs_embeds(
            padded.input_ids,
            padded.feature_index,
            model.get_image_features(model.vision_tower(padded.pixel_values), None),
        )
        main = cache.extend(embeds, batch.lengths.tolist())
        states = cache.extend(model.queries.weight.expand(3, -1, -1))
        cache.crop(model.config.num_queries)
        return output.hidden[count], output.query_states, main[count.flip(1)], states, cache.extend(embeds[:, :1])

    # torch 2.13 writes code for a CPU that does not compile where the size of a captured tensor is a symbol such as "ks18"
    # beside one called "ks1"
    with torch._dynamo.config.patch(automatic_dynamic_shapes=False):
        flexible = run("flex_attention")
    for flex, eager in zip(flexible, run("eager"), strict=True):
        assert flex.isfinite().all()
        torch.testing.assert_close(flex, eager, atol=1e-5, rtol=1e-5)


def test_a_backbone_s_attention_is_one_that_takes_our_masks():
    model, _ = make_stream("qwen3")
    model.llm.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="'flash_attention_2'; it can be sdpa, eager, flex_attention"):
        check_backbone(model.llm.config)


@pytest.mark.parametrize("backbone", ["qwen3", "gemma3_text", "mistral"])
@torch.inference_mode()
def test_rows_that_draw_at_different_moments_equal_rows_alone(backbone):
    """Conditions and everything after the pictures agree, whatever else the batch holds."""
    model, encoder = make_stream(backbone, prompt_tokens=6)
    prompts = ["a", "draw two things, and take your time", "what?"]
    scripts = ["xy@z@", "@", "abcdefg@hij"]  # @ is a picture

    def run(which):
        def draw(requests):
            return [picture(10 * which[r.row] + r.index) for r in requests]

        played = play(
            model,
            encoder,
            [prompts[i] for i in which],
            DecodingOptions(max_new_tokens=40),
            scripts=[scripts[i] for i in which],
            draw=draw,
        )
        seen: dict[int, list] = {}
        for r in played.requests:
            seen.setdefault(which[r.row], []).append((r.features, r.prompt, r.prompt_mask, r.index))
        return seen, {which[row]: values for row, values in played.logits.items()}

    together, logits = run([0, 1, 2])
    for i in range(3):
        alone, alone_logits = run([i])
        assert len(alone[i]) == len(together[i]) == scripts[i].count("@")
        for (a, ap, am, ai), (b, bp, bm, bi) in zip(alone[i], together[i], strict=True):
            assert ai == bi
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
            assert torch.equal(am, bm)
            torch.testing.assert_close(ap[am], bp[bm], atol=1e-5, rtol=1e-5)
        for a, b in zip(alone_logits[i], logits[i], strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
