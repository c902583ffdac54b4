"""Pictures of sampled visual tokens through the whole model: folder, engine, chat, files, interrupts."""

import json
import random
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from streams import finish, in_a_random_order

import limner
from helpers import DRAFTED, TOKENS, is_empty, make_limner, picture, psnr, stream_config, tiny_visual_tokenizer
from limner.inference.build import add_picture_tokens
from limner.inference.chat import Chat
from limner.inference.drawing import begin_drawing
from limner.inference.engine import Engine
from limner.inference.generation_config import GenerationConfig
from limner.inference.images import load_image
from limner.inference.info import describe_model
from limner.inference.model import Limner
from limner.inference.output import save_image
from limner.inference.requests import RowGroup
from limner.mllm import decoding
from limner.mllm.cache import StreamCache
from limner.mllm.decoding import Decoder
from limner.mllm.events import PictureDone, PictureStep
from limner.mllm.picture_tokens import KEY, tokens_of
from limner.mllm.rows import DrawRequest
from limner.mllm.stream import StreamModel
from limner.mllm.token_keys import replies_end, token_keys

BOTH = {**TOKENS, "query_lengths": (1, 3, 4), "shapes": ((32, 32), (16, 32)), "prompt_tokens": 6}
SEEN_AS_TOKENS = {**TOKENS, "seen_images": "tokens", "prompt_tokens": 6}
SHOWN = [{"role": "user", "content": [{"type": "image", "image": picture(1)}, {"type": "text", "text": "hello"}]}]
GUIDED = {
    "images": "force",
    "max_images": 2,
    "token_guidance_scale": 2.0,
    "image_mode": "tokens",
    "num_inference_steps": 2,
}


@pytest.fixture(
    scope="module",
    params=[BOTH, {**BOTH, **DRAFTED}, SEEN_AS_TOKENS],
    ids=["seen as features", "drafted by queries", "seen as tokens"],
)
def model(request):
    return make_limner(**request.param)


def codes_of(reply, model):
    return [tokens_of(image, model.config) for image in reply.images]


def test_a_folder_holds_its_visual_tokenizer(model, tmp_path):
    model.save_pretrained(tmp_path / "m")
    loaded = limner.load(tmp_path / "m", device="cpu", dtype="float32")
    replies = [m.generate(SHOWN, seed=3, **GUIDED) for m in (model, loaded)]
    assert replies[0].parts[0].tobytes() == replies[1].parts[0].tobytes()
    assert codes_of(replies[0], model) == codes_of(replies[1], model) and codes_of(replies[0], model)[0].codes
    told = describe_model(loaded)
    assert re.search(r"visual tokenizer +0\.0\d M", told) and "1, 2, 4, of 24 codes" in told
    assert ("drafted by the queries" in told) == ("draft of visual tokens" in told) == model.config.draft_by_queries
    config = json.loads((tmp_path / "m/config.json").read_text())
    for changes, said in (
        ({"visual_codes": 8}, r"visual_codes of the config is 8, and the visual tokenizer has 24"),
        ({"visual_lengths": [1, 2]}, r"the last of visual_lengths of the config is 2, and the visual tokenizer has 4"),
    ):
        (tmp_path / "m/config.json").write_text(json.dumps(config | changes))
        with pytest.raises(ValueError, match=said):
            limner.load(tmp_path / "m")
    (tmp_path / "m/config.json").write_text(json.dumps(config))
    (tmp_path / "m/visual_tokenizer").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="has 24 visual codes, and there is no folder visual_tokenizer"):
        limner.load(tmp_path / "m")


def ask(rng, model):
    """Arguments of `Limner.stream`."""
    mode = rng.choice(("auto", *model.config.image_modes))
    shown = [{"type": "image", "image": picture(rng.randint(0, 9))}] if rng.random() < 0.3 else []
    said = "".join(rng.choice("abc def ") for _ in range(rng.randint(1, 20))) + "x"
    return {
        "messages": [{"role": "user", "content": [*shown, {"type": "text", "text": said}]}],
        "seed": rng.randint(0, 10**6),
        "images": rng.choice(("auto", "force", "force")),
        "max_images": rng.randint(1, 2),
        "max_new_tokens": rng.randint(1, 8),
        "num_inference_steps": rng.randint(1, 2),
        "image_mode": mode,
        "image_tokens": rng.choice((None, 4)),
        "image_temperature": rng.choice((0.0, 1.0)),
        "image_top_k": rng.choice((0, 5)),
        "image_top_p": rng.choice((1.0, 0.8)),
        "token_guidance_scale": rng.choice((1.0, 3.0)),
        "partial_images": rng.choice((0, 2)),
        "temperature": rng.choice((0.0, 1.0)),
    }


def test_a_request_in_any_company_answers_as_alone(model):
    """Words, codes and pictures, beside requests of other kinds that come and go."""
    rng, compared, drawn = random.Random(3), 0, 0
    for _ in range(8):
        asked = [ask(rng, model) for _ in range(rng.randint(2, 5))]
        replies, _ = in_a_random_order(model, rng, asked)
        assert is_empty(model.engine)
        for number, reply in ((number, own) for number, own in replies.items() if own is not None):
            alone = finish(model.stream(**asked[number]))
            assert alone.text == reply.text and codes_of(alone, model) == codes_of(reply, model)
            assert all(psnr(a, b) >= 45 for a, b in zip(alone.images, reply.images, strict=True))
            compared, drawn = compared + 1, drawn + len(reply.images)
    assert compared >= 15 and drawn >= 10


@pytest.mark.parametrize("changes", [TOKENS, DRAFTED, {**TOKENS, "seen_images": "tokens"}])
def test_a_picture_is_shown_after_each_prefix_of_its_visual_tokens(changes, monkeypatch):
    """Each is what those codes alone give, from the same noise; the picture itself stays what it is without them."""
    model = make_limner(**changes)
    asked = {**GUIDED, "max_images": 1, "image_tokens": 4, "seed": 3}
    plain, drawn, decode = model.generate(SHOWN, **asked), [], Decoder.decode_prefix
    monkeypatch.setattr(Decoder, "decode_prefix", lambda *args: [drawn.append(args[1].codes), decode(*args)][1])
    for count, lengths, steps in ((1, [2], []), (2, [1, 2], []), (3, [1, 2], [1]), (0, [], [])):
        events = list(model.stream(SHOWN, **asked, partial_images=count))
        shown = [event for event in events if isinstance(event, PictureStep) and event.image]
        assert [event.step for event in shown] == [0] * len(lengths) + steps
        assert drawn == [codes_of(plain, model)[0].codes[:length] for length in lengths]
        drawn.clear()
        (done,) = [event for event in events if isinstance(event, PictureDone)]
        assert psnr(done.image, plain.images[0]) >= 45 and codes_of(plain, model)[0].codes
        for event, length in zip(shown, lengths, strict=False):
            assert psnr(event.image, drawn_from(model, codes_of(plain, model)[0].codes[:length], seed=3)) >= 45
    assert is_empty(model.engine)


@torch.inference_mode()
def drawn_from(model, codes, seed):
    """The picture of these codes."""
    (features,) = model.mllm.decode_codes([codes])
    wanted = DrawRequest(0, 0, features, None, None, model.config.default_size, [picture(1)])
    drawing = begin_drawing(model.detokenizer, [wanted], model.config, GenerationConfig(num_inference_steps=2), [seed])
    while drawing.latents is None:
        model.detokenizer.advance([drawing])
    return Image.fromarray(model.detokenizer.decode(drawing)[0].numpy())


@pytest.mark.parametrize("metadata", [True, False])
def test_a_chat_goes_on_from_its_cache_and_from_its_file_with_the_same_codes(model, tmp_path, metadata):
    """What is kept, read again from scratch, and saved and loaded: one next reply."""
    options = {**GUIDED, "max_images": 1, "seed": 4, "max_new_tokens": 4}
    chat = model.chat(**options)
    first = chat.say("draw", images=[picture(1)])
    chat.say("now a blue one")
    chat.save(tmp_path / "chat.jsonl", metadata=metadata)
    messages = [dict(message) for message in chat.messages]
    kept = chat.say("and again", seed=7)
    fresh = model.generate([*messages, {"role": "user", "content": "and again"}], **{**options, "seed": 7})
    loaded = Chat.load(tmp_path / "chat.jsonl", model)
    own = [part["image"] for part in loaded.messages[1]["content"] if part["type"] == "image"]
    assert [tokens_of(image, model.config) for image in own] == codes_of(first, model) != [None]
    again = loaded.say("and again", seed=7)
    for other in (fresh, again):
        assert other.text == kept.text and codes_of(other, model) == codes_of(kept, model)
        assert psnr(other.images[0], kept.images[0]) >= 45


def test_a_chat_turn_after_a_picture_costs_what_is_new_in_it(model):
    chat = model.chat(**GUIDED, image_tokens=4, seed=4, max_new_tokens=4)
    chat.say("draw", images=[picture(1)])
    encoded = model.encoder.encode([*chat.messages, {"role": "user", "content": "more"}], add_generation_prompt=True)
    kept = model.engine.kept.longest(token_keys(encoded), model.adapters.view_with("mllm", ()))
    assert kept is not None and kept[0] >= replies_end(encoded) - 2, "but for the last word and the end of the turn"


def test_codes_are_in_the_png_and_not_where_pixels_have_changed(model, tmp_path):
    reply = model.generate(SHOWN, seed=3, **GUIDED)
    (tokens, *_), image = codes_of(reply, model), reply.images[0]
    save_image(image, tmp_path / "a.png")
    assert tokens_of(load_image(tmp_path / "a.png"), model.config) == tokens
    image.putpixel((0, 0), (1, 2, 3))
    save_image(image, tmp_path / "b.png")
    assert KEY not in load_image(tmp_path / "b.png").info and b"limner_tokens" not in (tmp_path / "b.png").read_bytes()


def places():
    """Where an interrupt may come, and whether it does before the work there or after it."""
    return {
        "head": (StreamModel, "logits", False),
        "keys": (decoding, "append_keys", True),
        "choose": (Decoder, "choose", False),
        "guides": (Decoder, "prefill_guides", True),
        "drafts": (Decoder, "_with_drafts", True),
        "leave a group": (RowGroup, "take", False),
        "join": (StreamCache, "join", False),
        "codes": (StreamModel, "decode_codes", True),
        "blocks": (Decoder, "feed_blocks", True),
        "picture fed": (Decoder, "feed_images", True),
        "after a picture": (Engine, "_choose", False),
    }


@pytest.mark.parametrize("name", places())
def test_an_interrupt_anywhere_changes_nothing_for_the_others(model, monkeypatch, name):
    options = {**GUIDED, "seed": 1, "max_new_tokens": 4}
    plain, hits = finish(model.stream(SHOWN, **options)), 0
    for number in (1, 2, 5):
        other = model.stream(SHOWN, **options)
        next(other)
        target, attribute, after = places()[name]
        with monkeypatch.context() as patched:
            real, calls = getattr(target, attribute), []

            def call(*args, real=real, calls=calls, number=number, after=after):
                calls.append(1)
                made = real(*args) if after or len(calls) != number else None
                if len(calls) == number:
                    raise KeyboardInterrupt
                return made

            patched.setattr(target, attribute, call)
            try:
                model.generate("something else", **{**options, "seed": 5})
            except KeyboardInterrupt:
                hits += 1
        reply = finish(other)
        assert reply.text == plain.text and codes_of(reply, model) == codes_of(plain, model), number
        assert all(psnr(a, b) >= 45 for a, b in zip(reply.images, plain.images, strict=True))
        assert is_empty(model.engine)
    assert hits


def test_a_model_gets_tokens_of_its_own(tmp_path):
    """Its words and its pictures by all queries stay what they were: the new rows are beside the old ones."""
    plain = make_limner(prompt_tokens=6)
    options = {"seed": 3, "images": "force", "max_images": 1, "num_inference_steps": 1}
    before = plain.generate("draw", **options)
    tokenizer = tiny_visual_tokenizer(stream_config(**TOKENS))
    with pytest.raises(ValueError, match=r"the last must be num_queries, 4"):
        add_picture_tokens(plain, query_lengths=(1, 2))
    rows = plain.mllm.llm.get_input_embeddings().num_embeddings
    with pytest.raises(ValueError, match="draft_by_queries is for models that draw by visual tokens"):
        add_picture_tokens(plain, draft_by_queries=True)
    with pytest.raises(ValueError, match="needs a visual tokenizer that encodes image features"):
        add_picture_tokens(plain, tokenizer, draft_by_queries=True)
    assert plain.mllm.llm.get_input_embeddings().num_embeddings == rows
    made = add_picture_tokens(plain, tokenizer)
    assert (
        made.config.visual_lengths == (1, 2, 4) and made.mllm.vocabulary.codes.stop <= made.mllm.llm.config.vocab_size
    )
    after = made.generate("draw", image_mode="queries", **options)
    assert before.images[0].tobytes() == after.images[0].tobytes()
    assert (
        tokens_of(made.generate("draw", image_mode="tokens", image_tokens=2, **options).images[0], made.config).length
        == 2
    )
    made.save_pretrained(tmp_path / "m")
    assert Limner.from_pretrained(tmp_path / "m").config == made.config


@pytest.mark.parametrize("call", ["generate", "draw", "stream"])
def test_what_a_model_cannot_draw_is_refused_before_anything_happens(call):
    model = make_limner()
    with pytest.raises(ValueError, match="this model draws by queries, not by tokens"):
        getattr(model, call)("draw", image_mode="tokens")
    with pytest.raises(ValueError, match="image_tokens is 2; a picture of this model can have 4 of them"):
        getattr(model, call)("draw", image_tokens=2)


def test_the_example_of_the_documents(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (Path(limner.__file__).parent / "docs/visual-tokens.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(block, {})
    assert Limner.from_pretrained("nano-tokens").config.image_modes == ("queries", "tokens")
