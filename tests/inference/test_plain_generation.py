"""transformers' own generate(), token by token, against the block path, which runs a picture's queries in one forward."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import limner
from helpers import BACKBONES, make_limner, picture
from limner.inference import plain_generation
from limner.inference.adapters import Adapter
from limner.inference.offload import ModelOffload
from limner.mllm.cache import StreamCache
from limner.mllm.picture_grammar import PictureGrammar, PictureRules
from limner.mllm.processor import ImageTokenLogitsProcessor
from limner.mllm.stream import collate

SHAPES = ((32, 32), (16, 32))
CALLS = {
    "greedy": {},
    "sampling": {"do_sample": True, "temperature": 2.0, "num_return_sequences": 2},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "sampled beams": {"do_sample": True, "temperature": 2.0, "num_beams": 2},
}
SHOWN = [
    {"role": "user", "content": [{"type": "image", "image": picture(1)}, {"type": "text", "text": "make it green"}]}
]
PROMPTS = ["draw something nice", SHOWN, "x"]


class Likelier:
    """Pictures often enough to be tested, and none at once."""

    def __init__(self, model, boost=5.0):
        vocabulary = model.mllm.vocabulary
        self.begin, self.boost = (vocabulary.shapes or (vocabulary.boi,))[0], boost

    def __call__(self, input_ids, scores):
        scores[:, self.begin] += self.boost if input_ids.shape[1] > 1 else -100
        return scores


def block_path(mllm, encoded, ids):
    """Image features (feature_tokens, width) of the picture that ``ids``, emitted after a conversation, end before, with all
    its queries in one forward; and the last hidden states (tokens, width) up to its BOI."""
    n, vocabulary = mllm.config.num_queries, mllm.vocabulary
    batch = collate([encoded], vocabulary, mllm.config)
    seen = mllm.get_image_features(mllm.vision_tower(batch.pixel_values), batch.view_positions)
    queries = mllm.queries.weight
    emitted = [
        queries[vocabulary.slots.index(i)] if i in vocabulary.slots else mllm.embed_tokens(torch.tensor(i)) for i in ids
    ]
    cache = StreamCache(mllm, 1)
    prompt = cache.extend(mllm.build_inputs_embeds(batch.input_ids, batch.feature_index, seen))
    states = cache.extend(torch.cat([torch.stack(emitted), queries])[None], branch=n)
    return mllm.output_resampler(states[:, -n:])[0], torch.cat([prompt[0], states[0, :-n]])


def check_features(plain, prompts, **options):
    """Every picture's features are the block path's after the same ids; returns how many there were."""
    inputs = plain.prepare(prompts)
    inputs["logits_processor"].append(Likelier(plain.model, options.pop("boost", 5.0)))
    output = plain.llm.generate(**inputs, **options)
    vocabulary, n = plain.vocabulary, plain.config.num_queries
    each = len(output.sequences) // len(prompts)
    count = 0
    for row, (ids, found) in enumerate(zip(output.sequences.tolist(), plain.features(output), strict=True)):
        assert check_grammar(ids, vocabulary, n) == len(found)
        begins = [i for i, token in enumerate(ids) if token == vocabulary.boi][: len(found)]
        for begin, features in zip(begins, found, strict=True):
            expected, _ = block_path(plain.mllm, inputs.encoded[row // each], ids[: begin + 1])
            torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)
            count += 1
    return count


def check_grammar(ids, vocabulary, n):
    """No slot outside a picture, every picture whole unless a limit cut it; returns the whole ones."""
    block = [vocabulary.boi, *vocabulary.slots[:n], vocabulary.eoi]
    i, count = 0, 0
    while i < len(ids):
        if ids[i] == vocabulary.boi:
            got = ids[i : i + len(block)]
            assert got == block[: len(got)], "a broken picture"
            assert not vocabulary.shapes or ids[i - 1] in vocabulary.shapes, "BOI without its shape"
            i += len(got)
            count += len(got) == len(block)
            continue
        assert ids[i] not in (*vocabulary.slots, vocabulary.eoi, vocabulary.patch, vocabulary.end_patch)
        if ids[i] in vocabulary.shapes and i + 1 < len(ids):
            assert ids[i + 1] == vocabulary.boi, "a shape without BOI"
        i += 1
    return count


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("backbone", BACKBONES)
@torch.inference_mode()
def test_features_are_the_block_paths(backbone, call):
    plain = limner.PlainGeneration(make_limner(backbone=backbone, shapes=SHAPES))
    assert check_features(plain, PROMPTS, max_new_tokens=24, **CALLS[call]) >= 2


@pytest.mark.parametrize("call", CALLS)
@torch.inference_mode()
def test_features_of_every_picture_where_queries_stay_in_the_stream(call):
    plain = limner.PlainGeneration(make_limner(drawn_images="queries"))
    assert check_features(plain, PROMPTS, max_new_tokens=40, boost=9.0, **CALLS[call]) >= 6


@pytest.fixture(scope="module")
def nano():
    return limner.load("nano", device="cpu", dtype="float32")


@pytest.mark.parametrize("call", CALLS)
def test_nanos_features_are_the_block_paths(nano, call):
    content = [{"type": "image", "image": picture(1, (128, 128))}, {"type": "text", "text": "make it green"}]
    prompts = ["draw a red apple", [{"role": "user", "content": content}], "a photo of two blue cars, a wide picture"]
    with torch.inference_mode():
        assert check_features(limner.PlainGeneration(nano), prompts, boost=2.0, **CALLS[call]) >= 3


@pytest.fixture
def drawn(monkeypatch):
    """Requests that pictures are drawn from."""
    requests = []
    build = plain_generation.build_condition

    def recorded(detokenizer, group, *rest):
        requests.extend(group)
        return build(detokenizer, group, *rest)

    monkeypatch.setattr(plain_generation, "build_condition", recorded)
    return requests


def psnr(a, b):
    error = np.mean((np.asarray(a, dtype=float) - np.asarray(b, dtype=float)) ** 2)
    return 99.0 if error == 0 else 10 * np.log10(255**2 / error)


def check_replies(model, prompts, adapters=None, **options):
    """Greedy replies are those of `Limner.generate` up to where a "seen" model stops; returns them."""
    plain = limner.PlainGeneration(model, adapters)
    inputs = plain.prepare(prompts, **options)
    drawing = {"seed": [4, 5, 6], "num_inference_steps": 2, "image_guidance_scale": 1.5}
    replies = plain.replies(plain.llm.generate(**inputs, max_new_tokens=60), inputs, **drawing)
    expected = model.generate(prompts, adapters=adapters, max_new_tokens=12, temperature=0, **drawing, **options)
    for reply, other in zip(replies, expected, strict=True):
        assert reply.images and other.images
        for ours, theirs in zip(reply.parts, other.parts, strict=False):
            if isinstance(theirs, str):
                assert ours.ids[: len(theirs.ids)] == theirs.ids
            else:
                assert ours.size == theirs.size and psnr(ours, theirs) >= 45
    return replies, expected


@pytest.mark.parametrize("size", [{}, {"height": 16, "width": 24}])
@pytest.mark.parametrize("prompt_tokens", [0, 6, 300])
def test_replies_of_a_seen_model(prompt_tokens, size):
    model = make_limner(prompt_tokens=prompt_tokens, shapes=SHAPES)
    replies, _ = check_replies(model, PROMPTS, images="force", **size)
    assert all(len(reply.parts) == 1 and reply.finish_reason == "length" for reply in replies)


def test_replies_of_a_model_that_keeps_its_queries(drawn):
    """Text after a picture, later pictures, and what they refer to."""
    model = make_limner(prompt_tokens=6, drawn_images="queries", shapes=SHAPES)
    model.encoder.utf8 = None  # transformers' generate() lets through what is no UTF-8
    row = model.mllm.llm.get_output_embeddings().weight
    with torch.no_grad():  # pictures more often
        row[model.mllm.vocabulary.shapes[0]] = 2.5 * row[model.mllm.vocabulary.shapes[0]]
    replies, expected = check_replies(model, PROMPTS, images="force")
    assert any(isinstance(part, str) for reply in expected for part in reply.parts[1:])
    assert max(len(reply.images) for reply in expected) > 1
    later = [request for request in drawn if request.index]
    assert later
    for request in later:
        images = replies[request.row].images[: request.index]
        shown = [SHOWN[0]["content"][0]["image"]] if request.row == 1 else []
        assert request.previous_images == [*reversed(images), *shown]


def test_nanos_replies_are_those_of_generate(nano):
    """Pictures of several sizes in a batch, one of them after a user's picture, and a reply without one."""
    content = [{"type": "image", "image": picture(1, (128, 128))}, {"type": "text", "text": "make it green"}]
    prompts = ["draw a red apple, a wide picture", [{"role": "user", "content": content}], "draw a cat", "hello"]
    plain = limner.PlainGeneration(nano)
    inputs = plain.prepare(prompts)
    replies = plain.replies(plain.llm.generate(**inputs), inputs, seed=3)
    expected = nano.generate(prompts, max_images=1, seed=3)
    assert [len(reply.images) for reply in replies] == [1, 1, 1, 0] and replies[0].images[0].size == (160, 96)
    for reply, other in zip(replies, expected, strict=True):
        assert reply.text == other.text
        assert all(psnr(a, b) >= 45 for a, b in zip(reply.images, other.images, strict=True))
    assert [reply.finish_reason for reply in replies] == ["length", "length", "length", "stop"]


class Script:
    """Makes the model write these ids, then whatever it likes."""

    def __init__(self, ids):
        self.ids = ids

    def __call__(self, input_ids, scores):
        if input_ids.shape[1] < len(self.ids):
            scores = torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor(self.ids[input_ids.shape[1]]), 0.0)
        return scores


def test_words_to_be_written_in_a_picture(drawn):
    plain = limner.PlainGeneration(make_limner())
    inputs = plain.prepare(['a sign "OPEN"', "a sign"])
    for text in ("Here:", 'It says "HI":', ""):
        words = plain.model.encoder.text_ids(text)
        inputs["logits_processor"][1:] = [Script([*words, plain.vocabulary.boi])]
        replies = plain.replies(plain.llm.generate(**inputs, max_new_tokens=30), inputs, num_inference_steps=1)
        assert [reply.text for reply in replies] == [text, text]
    assert [request.glyph_text for request in drawn] == [("OPEN",), (), ("HI",), ("HI",), ("OPEN",), ()]


def test_pictures_of_one_reply(drawn):
    """Words count for the next picture only; references stand newest first."""
    plain = limner.PlainGeneration(make_limner(drawn_images="queries"))
    inputs = plain.prepare('a sign "OPEN"')
    vocabulary = plain.vocabulary
    block = [vocabulary.boi, *vocabulary.slots[:4], vocabulary.eoi]
    script = [*plain.model.encoder.text_ids('"HI"'), *block, *block, *plain.model.encoder.text_ids("or"), *block]
    inputs["logits_processor"].append(Script(script))
    (reply,) = plain.replies(plain.llm.generate(**inputs, max_new_tokens=len(script)), inputs, num_inference_steps=1)
    assert [part if isinstance(part, str) else "picture" for part in reply.parts] == [
        '"HI"',
        "picture",
        "picture",
        "or",
        "picture",
    ]
    assert [request.glyph_text for request in drawn] == [("HI",), ("OPEN",), ("OPEN",)]
    first, second, _ = reply.images
    assert [request.previous_images for request in drawn] == [[], [first], [second, first]]


def test_each_returned_sequence_has_a_seed_of_its_own():
    model = make_limner()
    plain = limner.PlainGeneration(model)
    inputs = plain.prepare(["a", "b"], images="force")
    output = plain.llm.generate(**inputs, do_sample=True, num_return_sequences=2)
    replies = plain.replies(output, inputs, seed=[4, 7])
    for i, (prompt, seed) in enumerate((("a", 4), ("a", 5), ("b", 7), ("b", 8))):
        expected = model.generate(prompt, images="force", max_images=1, seed=seed).images[0]
        assert [psnr(reply.images[0], expected) >= 45 for reply in replies] == [k == i for k in range(4)]


@pytest.mark.parametrize("prompt_tokens", [6, 300])
@torch.inference_mode()
def test_prompt_states_are_the_block_paths(drawn, prompt_tokens):
    plain = limner.PlainGeneration(make_limner(prompt_tokens=prompt_tokens))
    inputs = plain.prepare(PROMPTS)
    inputs["logits_processor"].append(Likelier(plain.model, 9.0))
    output = plain.llm.generate(**inputs, num_beams=2, num_return_sequences=2, max_new_tokens=24)
    plain.replies(output, inputs, num_inference_steps=1)
    assert len({request.row // 2 for request in drawn}) == 3
    for request in drawn:
        ids = output.sequences[request.row].tolist()
        encoded = inputs.encoded[request.row // 2]
        _, states = block_path(plain.mllm, encoded, ids[: ids.index(plain.vocabulary.boi) + 1])
        states = states[-prompt_tokens:]
        assert request.prompt.shape == (prompt_tokens, plain.mllm.width)
        assert request.prompt_mask.tolist() == [False] * (prompt_tokens - len(states)) + [True] * len(states)
        torch.testing.assert_close(request.prompt[request.prompt_mask], states, atol=1e-5, rtol=1e-5)


def test_states_of_padding_that_are_nan_do_not_reach_a_picture(drawn):
    """As some kernels give them where a row may attend to nothing."""
    plain = limner.PlainGeneration(make_limner(prompt_tokens=300))
    inputs = plain.prepare(PROMPTS, images="force")
    output = plain.llm.generate(**inputs)
    output.hidden_states[0][-1][~inputs["attention_mask"].bool()] = torch.nan
    plain.replies(output, inputs, num_inference_steps=1)
    assert len(drawn) == 3 and all(request.prompt.isfinite().all() for request in drawn)


def test_adapters_act_in_it():
    model = make_limner(prompt_tokens=6).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    differences = {
        "mllm.queries.weight": torch.randn(model.mllm.queries.weight.shape, generator=generator),
        "mllm.boi_delta": torch.randn((2, model.mllm.width), generator=generator),
        "detokenizer.mmdit.proj_out.weight": torch.randn((16, 32), generator=generator),
    }
    model.adapters.loaded["own"] = Adapter("own", 0.0, differences=differences)
    check_replies(model, PROMPTS, images="force")
    check_replies(model, PROMPTS, adapters={"own": 1.0}, images="force")
    base, adapted = limner.PlainGeneration(model), limner.PlainGeneration(model, {"own": 1.0})
    boi = torch.tensor([[model.mllm.vocabulary.boi]])
    found = [plain.llm(boi).logits for plain in (base, adapted)]
    view = model.adapters.view("mllm", {"own": 1.0})
    hidden = view.backbone(view.embed_tokens(boi), None, torch.zeros(1, 1, dtype=torch.long))
    torch.testing.assert_close(found[1], view.logits(hidden))
    assert (found[0] - found[1]).abs().max() > 1e-3
    with torch.inference_mode():
        assert check_features(adapted, PROMPTS, max_new_tokens=24, num_beams=2) >= 2
    with pytest.raises(ValueError, match="no adapter 'other'"):
        limner.PlainGeneration(model, {"other": 1.0})


def test_the_model_is_left_as_it_was_and_its_rows_of_slots_are_not_read():
    model = make_limner()
    with torch.no_grad():
        model.mllm.llm.get_input_embeddings().weight[list(model.mllm.vocabulary.slots)] = torch.nan
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stop, embeddings = model.mllm.llm.generation_config.eos_token_id, model.mllm.llm.get_input_embeddings()
    plain = limner.PlainGeneration(model)
    with torch.inference_mode():
        assert check_features(plain, PROMPTS, max_new_tokens=24, boost=9.0) >= 2
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value.nan_to_num(), after[name].nan_to_num()) for name, value in before.items())
    assert model.mllm.llm.generation_config.eos_token_id == stop
    assert model.mllm.llm.get_input_embeddings() is embeddings
    owned = {parameter.data_ptr() for parameter in model.parameters()}
    assert all(parameter.data_ptr() in owned for parameter in plain.llm.parameters())


@pytest.mark.parametrize("drawn_images", ["seen", "queries"])
def test_a_picture_ends_the_reply_of_a_seen_model(drawn_images):
    plain = limner.PlainGeneration(make_limner(drawn_images=drawn_images))
    output = plain.llm.generate(**plain.prepare("a", images="force"), max_new_tokens=12)
    ids, v = output.sequences[0].tolist(), plain.vocabulary
    assert ids[:6] == [v.boi, *v.slots[:4], v.eoi] and (len(ids) == 6) == (drawn_images == "seen")


def test_options_reach_the_template_and_the_shape_token():
    model = make_limner(shapes=SHAPES)
    model.tokenizer.chat_template += "{{ images }}"
    plain = limner.PlainGeneration(model)
    for size, token in zip(SHAPES, plain.vocabulary.shapes, strict=True):
        inputs = plain.prepare("a", images="force", height=size[0], width=size[1])
        assert plain.llm.generate(**inputs).sequences[0, 0] == token
        assert model.encoder.tokenizer.decode(inputs.encoded[0].input_ids).endswith("force")
    inputs = plain.prepare("a", images="never")
    assert model.encoder.tokenizer.decode(inputs.encoded[0].input_ids).endswith("never")
    inputs["logits_processor"].append(Likelier(model, 9.0))
    assert plain.vocabulary.shapes[0] not in plain.llm.generate(**inputs, max_new_tokens=24).sequences


def test_limits_and_ends():
    plain = limner.PlainGeneration(make_limner(shapes=SHAPES))
    assert plain.llm.generation_config.max_new_tokens == 8 + 4 + 3
    inputs = plain.prepare("a", images="force")
    for tokens, pictures in ((6, 0), (7, 1)):  # shape, BOI, four slots, EOI
        output = plain.llm.generate(**inputs, max_new_tokens=tokens)
        (reply,) = plain.replies(output, inputs, num_inference_steps=1)
        assert (len(reply.parts), reply.finish_reason) == (pictures, "length")
        assert [len(f) for f in plain.features(output)] == [pictures]
    end = plain.vocabulary.end_of_turn[0]
    assert plain.llm.generation_config.pad_token_id == plain.vocabulary.pad
    text = plain.model.encoder.text_ids("hello")
    found = plain._split([*text, end, plain.vocabulary.pad, end])
    assert found.parts == ["hello"] and found.parts[0].ids == tuple(text) and found.finish_reason == "stop"
    assert plain._split(text).finish_reason == "length"


def test_what_makes_no_sense_is_refused():
    model = make_limner()
    plain = limner.PlainGeneration(model)
    inputs = plain.prepare(["a", "b"], images="force")
    output = plain.llm.generate(**inputs, max_new_tokens=6)
    with pytest.raises(ValueError, match="2 sequences are not those of 3 prompts"):
        plain.replies(output, plain.prepare(["a", "b", "c"]))
    with pytest.raises(ValueError, match="temperature is no option of drawing"):
        plain.replies(output, inputs, temperature=1)
    with pytest.raises(ValueError, match="no hidden states"):
        plain.features(plain.llm.generate(**inputs, max_new_tokens=6, output_hidden_states=False))
    with pytest.raises(ValueError, match="10 ids of 6 steps"):
        plain.features(plain.llm.generate(torch.tensor([[5, 6, 7, 8]]), max_new_tokens=6, eos_token_id=None))
    with pytest.raises(ValueError, match="multiples of 8"):
        plain.prepare("a", height=33, width=32)
    with pytest.raises(ValueError, match="images"):
        plain.prepare("a", images="perhaps")
    most = 1024 - len(inputs.encoded[0].input_ids)  # "a" and no room for a token
    plain.prepare("a" * most)
    with pytest.raises(ValueError, match="this model holds 1024"):
        plain.prepare("a" * (most + 1))
    model.bits = 8
    with pytest.raises(ValueError, match="8 bits"):
        limner.PlainGeneration(model)
    model.bits, model.offload = None, ModelOffload(model.mllm, model.detokenizer)
    with pytest.raises(ValueError, match="offload"):
        limner.PlainGeneration(model)


@pytest.mark.parametrize("shapes", [(), SHAPES])
def test_the_processor_at_the_first_token_and_later(shapes):
    mllm = make_limner(shapes=shapes, num_queries=2).mllm
    vocabulary, grammar = mllm.vocabulary, PictureGrammar(mllm.config, mllm.vocabulary)
    size = max(vocabulary.control) + 2
    begin = set(vocabulary.shapes or [vocabulary.boi])
    never = {*vocabulary.slots, vocabulary.eoi, vocabulary.patch, vocabulary.end_patch, *({vocabulary.boi} - begin)}
    everything = set(range(size))

    def allowed(ids, images="auto", **rules):
        processor = ImageTokenLogitsProcessor(grammar, size, images, PictureRules(**rules))
        ids = torch.tensor(ids, dtype=torch.long).reshape(1, -1)
        return set(processor(ids, torch.randn(1, size))[0].isfinite().nonzero()[:, 0].tolist())

    assert allowed([]) == allowed([3]) == allowed([vocabulary.eoi]) == everything - never
    assert allowed([], images="force") == begin and allowed([3], images="force") == everything - never
    assert allowed([], images="never") == allowed([3], images="never") == everything - never - begin
    for token in vocabulary.shapes:
        assert allowed([token]) == {vocabulary.boi}
    chain = [vocabulary.boi, *vocabulary.slots[:2], vocabulary.eoi]
    for token, following in itertools.pairwise(chain):
        assert allowed([3, token]) == {following}
    if shapes:
        assert allowed([], images="force", shape=1) == {vocabulary.shapes[1]}
        assert allowed([3], shape=1) == everything - never - {vocabulary.shapes[0]}


def test_the_example_of_the_documents(nano):
    page = (Path(limner.__file__).parent / "docs/python.md").read_text()
    section = page.partition("## `generate()` of transformers\n")[2].partition("\n## ")[0]
    scope = {"limner": limner, "model": nano}
    for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        exec(block, scope)
    assert len(scope["replies"]) == 4 and all(reply.images for reply in scope["replies"])
    assert [tuple(f.shape) for f in scope["features"]] == [(1, 16, 192)] * 4
