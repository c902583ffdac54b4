"""Pictures of visual tokens, and of as many queries as are announced: training, decoding and re-reading are one computation."""

import random
from dataclasses import replace

import pytest
import torch

from helpers import DRAFTED, TOKENS, make_stream, picture, play
from limner.mllm.cache import StreamCache
from limner.mllm.config import LimnerConfig
from limner.mllm.decoding import Decoder
from limner.mllm.decoding_options import DecodingOptions
from limner.mllm.events import PictureBegun, PictureDone
from limner.mllm.picture_grammar import picture_rules
from limner.mllm.picture_tokens import KEY, PictureTokens, tokens_of
from limner.mllm.stream import StreamModel, collate

SHAPES = ((32, 32), (16, 32))
BOTH = {**TOKENS, "query_lengths": (1, 3, 4), "shapes": SHAPES}
SEEN_AS_TOKENS = {**TOKENS, "seen_images": "tokens"}
KINDS = {
    "both": BOTH,
    "codes beside all queries": TOKENS,
    "codes after a draft": {**BOTH, **DRAFTED},
    "queries": {"query_lengths": (2, 4)},
    "plain": SEEN_AS_TOKENS,
}


def drawn(seed, **tokens):
    own = {"tokens": PictureTokens(**tokens)} if tokens else {}
    return {"type": "image", "image": picture(seed), **own}


def conversations(modes):
    """Of two drawings each, and pictures of the user."""
    lengths = {"queries": 3, "tokens": 2}
    said = {"type": "text", "text": "so"}
    first = [drawn(1, mode=modes[0], length=lengths[modes[0]]), said, drawn(2, mode=modes[1], length=4), said]
    second = [said, drawn(4, mode=modes[1], length=1)]
    shown = [{"type": "image", "image": picture(3)}, {"type": "text", "text": "again?"}]
    return [
        [{"role": "user", "content": "draw"}, {"role": "assistant", "content": first}],
        [{"role": "user", "content": shown}, {"role": "assistant", "content": second}],
    ]


@pytest.mark.parametrize(
    ("changes", "modes"),
    [
        (BOTH, ("queries", "tokens")),
        ({**BOTH, **DRAFTED}, ("queries", "tokens")),
        ({**BOTH, **DRAFTED}, ("tokens", "tokens")),
        (SEEN_AS_TOKENS, ("tokens", "tokens")),
    ],
)
@pytest.mark.parametrize("backbone", ["qwen3", "gemma3_text"])
@torch.inference_mode()
def test_one_training_forward_equals_decoding_code_by_code(backbone, changes, modes):
    """The logits of every code, its features, and the words after it: from the cache, one code at a time."""
    model, encoder = make_stream(backbone, prompt_tokens=6, **changes)
    encoded = [encoder.encode(c, training=True) for c in conversations(modes)]
    batch = collate(encoded, model.vocabulary, model.config)
    output = model(batch)
    features = model.drawing_features(batch, output)
    towers = model.vision_tower(batch.pixel_values)
    drawing = sampled = 0
    for row, e in enumerate(encoded):
        one = collate([e], model.vocabulary, model.config)
        embeds = model.embed_stream(one, model.vision_tower(one.pixel_values))
        for own in (p for p in e.pictures if p.drawn):
            begin, tokens = own.boi_index, own.tokens
            cache = StreamCache(model, 1)
            main = cache.extend(embeds[:, : begin + 1])
            if tokens.mode == "tokens":
                codes = model.encode_views(towers[batch.token_view[sampled]][None])[0]
                assert torch.equal(codes, output.codes[sampled]) and batch.token_drawing[sampled] == drawing
                state, number = main[:, -1], 0
                if model.draft is not None:
                    queries = cache.extend(model.queries.weight[None], branch=4)
                    state, drafted = queries[:, -1], model.output_resampler(queries)
                    torch.testing.assert_close(drafted[0], output.draft_features[sampled], atol=1e-5, rtol=1e-5)
                while True:
                    learned = model.code_logits(output.code_states[sampled, number])
                    wanted = model.logits(state)[0, model.vocabulary.codes.start : model.vocabulary.codes.stop]
                    torch.testing.assert_close(learned, wanted, atol=1e-5, rtol=1e-5)
                    if number + 1 == tokens.length:
                        break
                    state = cache.extend(model.embed_codes(codes[number])[None, None], branch=1)[:, -1]
                    number += 1
                (seen,) = model.decode_codes([codes[: tokens.length].tolist()])
                if fed := model.config.draft_queries + tokens.length - 1:
                    cache.crop(fed)
                sampled += 1
            else:
                states = cache.extend(model.queries.weight[None, : tokens.length], branch=tokens.length)
                padded = torch.nn.functional.pad(states, (0, 0, 0, model.config.num_queries - tokens.length), value=7.0)
                (seen,) = model.query_features(padded, torch.tensor([tokens.length]))
                cache.crop(tokens.length)
            torch.testing.assert_close(features[drawing], seen, atol=1e-5, rtol=1e-5)
            rest = cache.extend(embeds[:, begin + 1 :])
            wanted = output.hidden[row, begin + 1 : len(e.input_ids)]
            torch.testing.assert_close(rest[0], wanted, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(output.prompt[drawing][-len(main[0, -6:]) :], main[0, -6:], atol=1e-5, rtol=1e-5)
            drawing += 1
    assert drawing == 3 and sampled == sum(p.tokens.mode == "tokens" for e in encoded for p in e.pictures if p.drawn)


def grammatical_logits(model, noise):
    """Random logits under which pictures come often, and what is out of place would come all the time."""
    vocabulary = model.vocabulary

    def logits(hidden):
        scores = 3 * torch.randn(hidden.shape[0], model.llm.config.vocab_size, generator=noise)
        scores[:, list(vocabulary.control)] += 6
        scores[:, [*vocabulary.shapes, *vocabulary.lengths, *vocabulary.begins.values()]] += 2
        scores[:, vocabulary.end_of_turn[0]] += 6
        return scores

    return logits


@pytest.mark.parametrize("kind", KINDS)
def test_hundreds_of_replies_of_random_logits_hold_only_whole_pictures(kind):
    """With sampling, guidance, limits and every option: text has no control token, a picture's tokens are those it announced."""
    model, encoder = make_stream("qwen3", prompt_tokens=4, **KINDS[kind])
    config, vocabulary, rng = model.config, model.vocabulary, random.Random(0)
    counts = dict.fromkeys(config.image_modes, 0)
    for batch in range(40):
        mode = rng.choice(("auto", *config.image_modes))
        modes = config.image_modes if mode == "auto" else (mode,)
        allowed = sorted({k for m in modes for k in config.lengths_of(m) or (config.num_queries,)})
        options = DecodingOptions(
            max_new_tokens=rng.randint(1, 12),
            max_images=rng.randint(1, 3),
            images=rng.choice(("auto", "force", "never")),
            temperature=rng.choice((0.0, 1.0, 5.0)),
            image_temperature=rng.choice((0.0, 1.0)),
            image_top_k=rng.choice((0, 5)),
            token_guidance_scale=rng.choice((1.0, 1.0, 3.0)),
            image_mode=mode,
            image_tokens=rng.choice((None, *allowed)),
            **rng.choice(({}, {"height": 32, "width": 32})),
        )
        model.logits = grammatical_logits(model, torch.Generator().manual_seed(batch))
        played = play(model, encoder, ["a", "bc", "d" * 9, "e"], options, [batch, 1, 2, 3])
        assert len(played.rows) == 4
        for row in played.rows:
            images = [part for part in row.parts if not isinstance(part, str)]
            texts = [part for part in row.parts if isinstance(part, str)]
            assert not vocabulary.control.intersection(t for text in texts for t in text.ids)
            assert len(images) <= options.max_images and (options.images != "never" or not images)
            assert options.images != "force" or images
            for image in images:
                tokens = tokens_of(image, config)
                if tokens is None:  # it always has all queries
                    assert "queries" in modes and not config.query_lengths and options.image_tokens in (None, 4)
                    counts["queries"] += 1
                    continue
                assert tokens.mode in modes and options.image_tokens in (None, tokens.length)
                assert len(tokens.codes) == (tokens.length if tokens.mode == "tokens" else 0)
                counts[tokens.mode] += 1
        begun = [(e.row, e.index, e.size) for e in played.events if isinstance(e, PictureBegun)]
        done = [(e.row, e.index, e.image.size[::-1]) for e in played.events if isinstance(e, PictureDone)]
        assert sorted(begun) == sorted(done)
    assert all(count > 25 for count in counts.values())


def reread(encoder, model, row, prompt):
    content = [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image", "image": p} for p in row.parts]
    talk = [{"role": "user", "content": prompt}, {"role": "assistant", "content": content}]
    again = encoder.encode(talk)
    batch = collate([again], model.vocabulary, model.config)
    towers = model.vision_tower(batch.pixel_values)
    hidden = StreamCache(model, 1).extend(model.embed_stream(batch, towers))
    end = max(i for i, token in enumerate(again.input_ids) if token in model.vocabulary.end_of_turn)
    return again, model.logits(hidden[:, end - 1])[0], model(batch).prompt


class Script:
    """Chooses what was scripted, "@" for a picture, of which the model decides all else."""

    def __init__(self, monkeypatch, scripts):
        self.left, self.logits = [list(script) for script in scripts], {}
        choose = Decoder.choose

        def chosen(decoder, rows, logits):
            made = choose(decoder, rows, logits)
            for i, (row, own) in enumerate(zip(rows, logits, strict=True)):
                if not row.lead:
                    self.logits[row.index] = own.clone()
                    made[i] = self.next_of(decoder, self.left[row.index])
            return made

        monkeypatch.setattr(Decoder, "choose", chosen)

    def next_of(self, decoder, script):
        if not script:
            return decoder.vocabulary.end_of_turn[0]
        letter = script.pop(0)
        announced = decoder.vocabulary.shapes or decoder.vocabulary.lengths
        return announced[-1] if letter == "@" else decoder.encoder.text_ids(letter)[0]


@pytest.mark.parametrize("changes", [BOTH, TOKENS, DRAFTED, SEEN_AS_TOKENS])
@torch.inference_mode()
def test_words_after_a_picture_equal_reading_the_conversation_again(changes, monkeypatch):
    """The picture keeps its codes and their number: in a batch whose rows draw at other moments, with guidance or without."""
    for scale in (1.0, 2.5):
        model, encoder = make_stream("qwen3", prompt_tokens=16, **changes)
        scripts, prompts = ["ab@c@d", "@xyz", "longer@"], ["draw", "two things", "x"]
        script = Script(monkeypatch, scripts)
        options = DecodingOptions(
            max_new_tokens=20, image_mode="tokens", token_guidance_scale=scale, image_top_k=20, temperature=0.0
        )
        played = play(model, encoder, prompts, options, [3, 4, 5])
        for row, prompt in zip(played.rows, prompts, strict=True):
            again, logits, prompts_read = reread(encoder, model, row, prompt)
            kinds = [p.tokens.mode for p in again.pictures]
            assert kinds == ["tokens"] * scripts[row.index].count("@")
            torch.testing.assert_close(logits, script.logits[row.index], atol=1e-5, rtol=1e-5)
            for request in (r for r in played.requests if r.row == row.index):
                wanted = prompts_read[request.index][request.prompt_mask]
                torch.testing.assert_close(request.prompt[request.prompt_mask], wanted, atol=1e-5, rtol=1e-5)
                codes = again.pictures[request.index].tokens.codes
                torch.testing.assert_close(request.features, model.decode_codes([codes])[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("changes", [TOKENS, DRAFTED])
@torch.inference_mode()
def test_a_row_samples_the_same_codes_alone_and_in_company(changes, monkeypatch):
    """With guidance, whose rows share the cache; and the prompt that the picture is drawn from is the same."""
    scripts, prompts, seeds = ["ab@c@", "@xy", "longer words@"], ["draw", "two things", "x"], [3, 4, 5]
    model, encoder = make_stream("qwen3", prompt_tokens=6, **changes)
    options = DecodingOptions(max_new_tokens=20, image_mode="tokens", image_tokens=4, token_guidance_scale=2.0)

    def run(which):
        with monkeypatch.context() as patches:
            Script(patches, [scripts[i] for i in which])
            played = play(model, encoder, [prompts[i] for i in which], options, [seeds[i] for i in which])
        found = {}
        for request in played.requests:
            found.setdefault(which[request.row], []).append((request.features, request.prompt[request.prompt_mask]))
        return found

    together = run([0, 1, 2])
    for i in range(3):
        for own, other in zip(run([i])[i], together[i], strict=True):
            for a, b in zip(own, other, strict=True):
                torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("changes", [TOKENS, DRAFTED])
@torch.inference_mode()
def test_guidance_moves_codes_away_from_an_empty_request(changes, monkeypatch):
    """By hand: the logits after the conversation, and after the chat template around nothing, with the same codes."""
    model, encoder = make_stream("qwen3", shapes=SHAPES, **changes)
    seen = []
    plain = Decoder.choose
    monkeypatch.setattr(
        Decoder,
        "choose",
        lambda d, rows, logits: seen.append((list(rows[0].codes), logits.clone())) or plain(d, rows, logits),
    )
    options = DecodingOptions(
        images="force", max_images=1, image_mode="tokens", image_tokens=4, token_guidance_scale=3.0
    )
    (row,) = play(model, encoder, ["a red cat"], options, [1]).rows
    codes = tokens_of(row.parts[0], model.config).codes
    vocabulary = model.vocabulary
    lead = [vocabulary.shapes[0], vocabulary.lengths[2], vocabulary.vis]
    lead[0] = vocabulary.shapes[SHAPES.index(row.parts[0].size[::-1])]
    made = []
    for prompt in (encoder.encode("a red cat", add_generation_prompt=True), encoder.empty_prompt()):
        before = model.embed_tokens(torch.tensor([[*prompt.input_ids, *lead]]))
        queries = model.queries.weight[None, : model.config.draft_queries]
        whole = torch.cat([before, queries, model.embed_codes(torch.tensor([codes[:-1]]))], dim=1)
        states = StreamCache(model, 1).extend(whole)
        logits = model.logits(states[0, -4:])
        if model.draft is not None:
            drafted = model.output_resampler(states[:, -7:-3])
            logits[:, vocabulary.codes.start : vocabulary.codes.stop] += model.draft_logits(drafted)[0]
        made.append(logits)
    sampled = [logits[0] for own, logits in seen if len(seen) and logits.shape[0] == 1][3:7]
    torch.testing.assert_close(torch.stack(sampled), made[1] + 3 * (made[0] - made[1]), atol=1e-4, rtol=1e-4)
    text = encoder.tokenizer.decode(encoder.empty_prompt().input_ids)
    assert text == encoder.tokenizer.apply_chat_template(
        [{"role": "user", "content": ""}], tokenize=False, add_generation_prompt=True, images="auto", boxes=False
    )


def test_codes_stay_with_the_picture_and_not_with_what_is_made_of_it():
    image, tokens = picture(1), PictureTokens("tokens", 2, (3, 23))
    config = make_stream("qwen3", **TOKENS)[0].config
    tokens.attach(image, 24)
    assert tokens_of(image, config) == tokens_of(image.copy(), config) == tokens
    assert tokens_of(image.resize((16, 16)), config) is None and image.resize((16, 16)).info[KEY]
    assert tokens_of(image, replace(config, visual_codes=25)) is None  # another codebook
    assert tokens_of(image, replace(config, visual_lengths=(1, 4))) is None
    for broken in (
        "[]",
        "{}",
        "no JSON",
        "[" * 10**5,
        image.info[KEY].replace("23", "24"),
        image.info[KEY].replace("3,", "[],"),
    ):
        image.info[KEY] = broken
        assert tokens_of(image, config) is None


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        ({}, {"image_mode": "tokens"}, "this model draws by queries, not by tokens"),
        (SEEN_AS_TOKENS, {"image_mode": "queries"}, "this model draws by tokens, not by queries"),
        (TOKENS, {"image_tokens": 3}, "image_tokens is 3; a picture of this model can have 1, 2, 4 of them"),
        (BOTH, {"image_tokens": 2, "image_mode": "queries"}, r"can have 1, 3, 4 of them with image_mode 'queries'"),
        ({}, {"image_tokens": 3}, "a picture of this model can have 4 of them"),
    ],
)
def test_pictures_that_the_model_does_not_draw_are_refused(changes, options, said):
    config = make_stream("qwen3", **changes)[0].config
    with pytest.raises(ValueError, match=said):
        picture_rules(DecodingOptions(**options), config)


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (("tokens", 3), "a picture of 3 tokens: this model draws by 1, 2, 4 of them"),
        (("tokens", 2, (1, 24)), "code 24 is not in the codebook: its codes are 0 to 23"),
        (("tokens", 2, (1,)), "1 codes for a picture of 2 tokens"),
        (("queries", 2), "a picture of 2 queries: this model draws by 4 of them"),
        (("words", 2), "draws by queries or tokens, not by words"),
    ],
)
def test_a_message_cannot_say_what_the_model_does_not_draw(tokens, said):
    encoder = make_stream("qwen3", **TOKENS)[1]
    part = {"type": "image", "image": picture(1), "tokens": PictureTokens(*tokens)}
    with pytest.raises(ValueError, match=said):
        encoder.encode([{"role": "user", "content": "x"}, {"role": "assistant", "content": [part]}])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"visual_codes": 8}, "visual_codes is 8 and visual_lengths are (): give both"),
        ({"query_lengths": (4, 2)}, "query_lengths are (4, 2); they must rise"),
        ({"query_lengths": (1, 2)}, "the last must be num_queries, 64"),
        ({"seen_images": "tokens"}, "visual_codes is 0"),
        ({**TOKENS, "seen_images": "tokens", "tile_grids": ((1, 2),)}, "neither queries nor tiles"),
        ({**TOKENS, "drawn_images": "queries"}, "every picture has all queries"),
        ({"draft_by_queries": True}, "draft_by_queries is for models that draw by visual tokens"),
        ({**DRAFTED, "seen_images": "tokens"}, "draft_by_queries is for models that draw by visual tokens and see"),
        ({"seen_images": "words"}, "it can be features or tokens"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(changes, said):
    with pytest.raises(ValueError) as refused:
        LimnerConfig(**changes)
    assert said in str(refused.value)


def test_a_backbone_without_room_and_a_tokenizer_that_is_missing_are_refused():
    model = make_stream("qwen3", **TOKENS)[0]
    parts = model.vision_tower, model.config, model.vocabulary
    with pytest.raises(ValueError, match="visual_codes of the config is 24, and there is no visual tokenizer"):
        StreamModel(model.llm, *parts)
    other = replace(model.config, visual_lengths=(1, 2))
    with pytest.raises(
        ValueError, match="the last of visual_lengths of the config is 2, and the visual tokenizer has 4"
    ):
        StreamModel(model.llm, model.vision_tower, other, model.vocabulary, model.visual_tokenizer)
    with pytest.raises(ValueError, match="visual_codes of the config is 0, and the visual tokenizer has 24"):
        StreamModel(*make_parts(), model.visual_tokenizer)
    model.llm.resize_token_embeddings(model.vocabulary.codes.start + 5)
    with pytest.raises(ValueError, match="have the ids 271 to 294, and the backbone has 276 embeddings: resize"):
        StreamModel(model.llm, *parts, model.visual_tokenizer)


def test_a_draft_needs_a_tokenizer_of_image_features():
    model = make_stream("qwen3", **TOKENS)[0]
    drafted = replace(model.config, draft_by_queries=True)
    with pytest.raises(ValueError, match="draft_by_queries needs a visual tokenizer that encodes image features"):
        StreamModel(model.llm, model.vision_tower, drafted, model.vocabulary, model.visual_tokenizer)


def make_parts():
    """Of a model without visual tokens."""
    plain = make_stream("qwen3")[0]
    return plain.llm, plain.vision_tower, plain.config, plain.vocabulary
