"""A chat is fed what is new in it, and answers as one that reads everything again."""

import gc
import random
import weakref

import pytest
import torch

from helpers import make_limner, make_stream, picture, psnr
from limner.inference.adapters import MAX_VIEWS, Adapter
from limner.inference.chat import Chat
from limner.inference.kept_conversations import KeptConversations
from limner.mllm.cache import StreamCache
from limner.mllm.decoding import Decoder
from limner.mllm.token_keys import common_length, rest_of, split_point, token_keys

TURN = {"max_new_tokens": 6, "max_images": 1, "num_inference_steps": 2}


@pytest.fixture(
    params=[{}, {"drawn_images": "queries"}, {"backbone": "gemma3_text"}], ids=["seen", "queries", "windows"]
)
def model(request):
    # more of a drawing's prompt than a turn is long: after a cut some of what is kept is read again
    return make_limner(prompt_tokens=40, shapes=((32, 32), (16, 32)), **request.param)


@pytest.fixture
def fed(monkeypatch):
    """Tokens of every forward of the backbone."""
    counts, plain = [], StreamCache.extend

    def extend(cache, embeds, *args, **options):
        counts.append(embeds.shape[0] * embeds.shape[1])
        return plain(cache, embeds, *args, **options)

    monkeypatch.setattr(StreamCache, "extend", extend)
    return counts


def scratch(model, **options):
    """A chat whose model reads everything at every turn."""
    chat = Chat(model, **options)
    stream = model.stream
    chat.model = type(
        "Forgetful",
        (),
        {"defaults": model.defaults, "allow_urls": (), "stream": lambda _, m, keep_cache, **o: stream(m, **o)},
    )()
    return chat


def same(one, other):
    assert one.text == other.text and one.finish_reason == other.finish_reason
    assert len(one.images) == len(other.images)
    assert all(psnr(a, b) >= 45 for a, b in zip(one.images, other.images, strict=True))


def test_a_chat_says_and_draws_what_it_would_from_scratch(model):
    """Twelve turns with pictures of both sides, taken back and asked again, under a history limit and with the seed changed."""
    rng, kept, plain = random.Random(3), Chat(model, **TURN), scratch(model, **TURN)
    for number in range(12):
        images = [picture(number)] if rng.random() < 0.3 else []
        options = {"seed": number, "history": rng.choice((0, 0, 2))}
        kept.options["images"] = plain.options["images"] = rng.choice(("auto", "force", "never"))
        text = "".join(rng.choice("abc def") for _ in range(rng.randint(1, 20))) + "?"
        same(kept.say(text, images, **options), plain.say(text, images, **options))
        if number % 4 == 1:
            kept.undo(), plain.undo()
        if number % 4 == 3:
            same(kept.retry(seed=99), plain.retry(seed=99))


def test_a_turn_costs_what_is_new_in_it(fed):
    model = make_limner(prompt_tokens=6)
    chat = Chat(model, **TURN, seed=1, images="never")
    costs = []
    for text in ("a first question that is rather long", "b", "c", "d"):
        fed.clear()
        chat.say(text)
        costs.append(fed[0])
    whole = len(model.encoder.encode(chat.messages).input_ids)
    overhead = len(model.encoder.encode("b", add_generation_prompt=True).input_ids)
    assert all(cost <= overhead + 8 for cost in costs[1:]) and whole > 4 * max(costs[1:])
    fed.clear()
    chat.retry()
    assert fed[0] <= overhead + 8
    chat.undo()
    fed.clear()
    chat.say("e")  # two turns back: the last hidden states are read again, and no more
    assert fed[0] <= overhead + 8 + model.config.prompt_tokens


def test_after_a_picture_the_next_turn_reads_neither_it_nor_its_plan_again(fed):
    model = make_limner(prompt_tokens=6)
    views, tower = [], model.mllm.vision_tower.forward
    model.mllm.vision_tower.forward = lambda pixels: views.append(len(pixels)) or tower(pixels)
    chat = Chat(model, **TURN, seed=1, images="force")
    chat.say("look", [picture(0)])
    assert views == [1, 1]  # the user's, and its own
    fed.clear()
    chat.options["images"] = "never"
    chat.say("and now?")
    assert views == [1, 1, 0] and fed[0] < 40


def test_what_was_read_by_other_weights_or_adapters_is_read_again(fed):
    model = make_limner()
    chat = Chat(model, **TURN, images="never")
    chat.say("a question")
    with torch.no_grad():
        model.mllm.llm.model.layers[0].mlp.down_proj.weight.mul_(1.5)
    plain = scratch(model, **TURN, images="never")
    plain.messages = list(chat.messages)
    fed.clear()
    reply = chat.say("b")
    assert fed[0] == len(model.encoder.encode(chat.messages[:3], add_generation_prompt=True).input_ids)
    same(reply, plain.say("b"))


@pytest.mark.slow
def test_adapters_that_are_gone_are_held_by_no_conversation(fed):
    """Each turn has other weights of its adapter: their views are a few at any time, and go on being of use."""
    model = make_limner()
    change = {"mllm.queries.weight": torch.ones_like(model.mllm.queries.weight)}
    model.adapters.loaded["own"] = Adapter("own", 0.0, differences=change)
    chat, views = Chat(model, **TURN, images="never"), []
    for number in range(2 * MAX_VIEWS):
        chat.say("a question", adapters={"own": 1.0 + number})
        views.append(weakref.ref(model.engine.kept.kept[-1].cache.model))
    fed.clear()
    chat.say("b", adapters={"own": 1.0 + number})
    assert fed[0] < 60 < len(model.encoder.encode(chat.messages).input_ids)
    gc.collect()
    assert sum(view() is not None for view in views) <= MAX_VIEWS
    model.delete_adapter("own")
    chat.say("c")
    gc.collect()
    assert not any(view() for view in views)


def test_a_picture_that_was_changed_in_place_is_another_one(fed):
    model = make_limner()
    image = picture(0)
    message = {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "what is it?"}]}
    messages = [message, {"role": "assistant", "content": "a cat"}, {"role": "user", "content": "sure?"}]
    options = {**TURN, "images": "never"}
    list(model.stream(messages, keep_cache=True, **options))
    fed.clear()
    list(model.stream(messages, keep_cache=True, **options))
    whole = len(model.encoder.encode(messages).input_ids)
    assert fed[0] < whole - 12
    image.paste((255, 0, 0), (0, 0, 32, 32))
    fed.clear()
    list(model.stream(messages, keep_cache=True, **options))
    assert fed[0] >= whole - 12, "all but what stands before the picture"


def test_a_first_question_that_is_asked_again_is_fed_as_the_first_time(fed):
    """So that its picture is the same, bit for bit."""
    model = make_limner()
    counts = []
    for _ in range(3):
        fed.clear()
        list(model.stream("a question", keep_cache=True, **TURN))
        counts.append(fed[0])
    assert counts == [len(model.encoder.encode("a question", add_generation_prompt=True).input_ids)] * 3


def test_without_being_asked_nothing_is_kept(fed):
    model = make_limner()
    model.generate("a question", **TURN)
    assert not model.engine.kept.kept


def cache_of(model, text, encoder):
    encoded = encoder.encode(text)
    keys = token_keys(encoded)
    return keys, Decoder(model, encoder).prefill([encoded], keys=[keys])[0]


@torch.inference_mode()
def test_the_oldest_go_first_and_the_last_one_stays_whatever_its_length():
    model, encoder = make_stream()
    kept, keys = KeptConversations(2 * len(cache_of(model, "a" * 20, encoder)[0])), {}
    for text in ("a" * 20, "b" * 20, "c" * 20):
        keys[text], cache = cache_of(model, text, encoder)
        kept.store(cache)
    assert len(kept.kept) == 2
    (length, found), begin = kept.longest(keys["c" * 20], model), common_length(keys["a" * 20], keys["b" * 20])
    assert length == found.columns == len(keys["c" * 20]) and kept.longest(keys["a" * 20], model)[0] == begin
    long_keys, cache = cache_of(model, "d" * 200, encoder)
    kept.store(cache)
    assert len(kept.kept) == 1 and kept.longest(long_keys, model)[0] == len(long_keys)
    nothing = KeptConversations(0)
    nothing.store(cache)
    assert not nothing.kept and nothing.longest(long_keys, model) is None


def test_a_conversation_is_not_split_between_the_features_of_a_view():
    model, encoder = make_stream()
    content = [{"type": "text", "text": "ab"}, {"type": "image", "image": picture(0)}, {"type": "text", "text": "cd"}]
    encoded = encoder.encode([{"role": "user", "content": content}])
    (start, _), tokens = encoded.views[0], model.config.image_tokens
    points = [split_point(encoded, wanted) for wanted in range(start - 1, start + tokens + 2)]
    assert points == [start - 1, *[start] * tokens, start + tokens, start + tokens + 1]
    rest = rest_of(encoded, start)
    assert (
        rest.views[0][0] == 0
        and rest.input_ids == encoded.input_ids[start:]
        and len(rest.labels) == len(rest.input_ids)
    )
    assert not rest_of(encoded, start + tokens).views


def test_the_same_question_again_is_answered_where_no_hidden_states_are_kept():
    """All of the conversation is in the cache; the last token is fed again for its logits."""
    chat = Chat(make_limner(), **TURN, images="never")
    first = chat.say("a question")
    same(chat.retry(), first)


def test_after_a_cut_a_drawing_has_all_of_its_prompt(monkeypatch):
    model, prompts, plain = make_limner(prompt_tokens=60), [], Decoder.feed_queries

    def seen(decoder, rows, cache):
        asked = plain(decoder, rows, cache)
        prompts.append((asked[0].prompt, asked[0].prompt_mask))
        return asked

    monkeypatch.setattr(Decoder, "feed_queries", seen)
    chat, forgetful = Chat(model, **TURN, images="force"), scratch(model, **TURN, images="force")
    for one in (chat, forgetful):
        for text in ("a question that is long enough for its prompt", "b"):
            one.say(text)
        one.undo()
        one.say("c")
    (kept, mask), (wanted, wanted_mask) = prompts[2], prompts[5]
    assert torch.equal(mask, wanted_mask) and mask.all()
    torch.testing.assert_close(kept, wanted, atol=1e-4, rtol=1e-4)
