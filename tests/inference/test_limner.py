"""What a user touches: generate, stream, chat, save and load, and what bad input gets."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import limner
from helpers import make_limner, picture
from limner.detokenizer.drawing_options import DrawingOptions
from limner.inference.drawing import begin_drawing
from limner.inference.images import load_image
from limner.inference.reply import Reply
from limner.mllm.cache import StreamCache
from limner.mllm.decoding import Decoder, DrawRequest
from limner.mllm.events import Finished, PictureBegun, PictureDone, PictureStep, TextPiece


@pytest.fixture(scope="module")
def model():
    return make_limner(prompt_tokens=6, shapes=((32, 32), (16, 32)))


def psnr(a, b):
    error = np.mean((np.asarray(a, dtype=float) - np.asarray(b, dtype=float)) ** 2)
    return 99.0 if error == 0 else 10 * np.log10(255**2 / error)


def test_same_request_and_seed_same_picture_alone_and_in_any_batch(model):
    prompts = ["draw a cat", "x", "something much longer than the others, in many words", "draw a cat"]
    options = {"images": "force", "max_images": 1, "seed": 3}
    alone = model.generate("draw a cat", **options)
    again = model.generate("draw a cat", **options)
    assert alone.images[0].tobytes() == again.images[0].tobytes() and alone.text == again.text
    together = model.generate(prompts, **options)
    assert len(together) == 4
    for i in (0, 3):
        assert psnr(together[i].images[0], alone.images[0]) >= 45 and together[i].text == alone.text
    assert model.generate("draw a cat", **{**options, "seed": 4}).images[0].tobytes() != alone.images[0].tobytes()


def test_n_replies_take_rising_seeds(model):
    replies = model.generate("a", images="force", n=2, seed=5, max_images=1)
    one = model.generate("a", images="force", seed=6, max_images=1)
    assert psnr(replies[1].images[0], one.images[0]) >= 45


def test_each_conversation_of_a_batch_can_have_a_seed_of_its_own(model):
    replies = model.generate(["a", "a"], images="force", seed=[5, 6], max_images=1)
    one = model.generate("a", images="force", seed=6, max_images=1)
    assert psnr(replies[1].images[0], one.images[0]) >= 45
    assert replies[0].images[0].tobytes() != replies[1].images[0].tobytes()
    with pytest.raises(ValueError, match="1 seeds for 2 conversations"):
        model.generate(["a", "b"], seed=[1])


def test_draw_gives_each_prompt_a_picture_after_what_the_model_said(model, monkeypatch):
    asked = []
    plain = model.generate

    def unwilling(messages, **options):
        """Leaves the first of a batch without a picture."""
        asked.append((list(messages), options))
        replies = plain(messages, **{"images": "force", **options})
        if len(asked) == 1:
            replies[0] = Reply(["I can't."], "stop")
        return replies

    monkeypatch.setattr(model, "generate", unwilling)
    replies = model.draw(["a", "b"], seed=[5, 6], max_new_tokens=3, height=32, width=32)
    first, second = asked
    assert first[0] == ["a", "b"] and "images" not in first[1] and first[1]["seed"] == [5, 6]
    assert second[0] == ["a"] and second[1]["images"] == "force" and second[1]["seed"] == [5]
    assert [len(reply.images) for reply in replies] == [1, 1] and replies[0].parts[0] == "I can't."
    forced = plain("a", images="force", max_images=1, max_new_tokens=1, seed=5, height=32, width=32)
    assert psnr(replies[0].images[0], forced.images[0]) >= 45
    for settled in ("n", "images", "max_images"):
        with pytest.raises(ValueError, match=f"draw takes no {settled}"):
            model.draw("a", **{settled: 2})


def test_several_replies_read_the_conversation_once(model, monkeypatch):
    """The same words and, to 45 dB, the same pictures as one by one."""
    content = [{"type": "image", "image": picture(0)}, {"type": "text", "text": "change it"}]
    messages = [{"role": "user", "content": content}]
    options = {"temperature": 1.0, "max_new_tokens": 6, "images": "force", "max_images": 1}
    alone = [model.generate(messages, seed=seed, **options) for seed in (4, 5, 6)]
    views, rows, encoded = [], [], []
    tower, backbone, encode = model.mllm.vision_tower.forward, model.mllm.backbone, model.encoder.encode
    monkeypatch.setattr(model.mllm.vision_tower, "forward", lambda p: views.append(len(p)) or tower(p))
    monkeypatch.setattr(model.mllm, "backbone", lambda e, *rest: rows.append(len(e)) or backbone(e, *rest))
    monkeypatch.setattr(model.encoder, "encode", lambda m, **more: encoded.append(m) or encode(m, **more))
    together = model.generate(messages, seed=4, n=3, **options)
    assert len(encoded) == 1 and views[0] == 1 and rows[:2] == [1, 3]
    for one, other in zip(alone, together, strict=True):
        assert one.text == other.text and psnr(one.images[0], other.images[0]) >= 45
    assert len({reply.text for reply in together}) > 1
    options = {"temperature": 1.0, "max_new_tokens": 6, "images": "never"}
    four = model.generate(["hello", "good night"], seed=[1, 7], n=2, **options)
    each = [
        model.generate(p, seed=s, **options)
        for p, s in zip(["hello"] * 2 + ["good night"] * 2, (1, 2, 7, 8), strict=True)
    ]
    assert [reply.text for reply in four] == [reply.text for reply in each]


def test_noise_is_of_the_seed_and_the_pictures_place_in_its_reply(model, monkeypatch):
    seen, begin = [], model.detokenizer.begin

    def recorded(*args, seeds, **options):
        seen.append(seeds)
        return begin(*args, seeds=seeds, **options)

    monkeypatch.setattr(model.detokenizer, "begin", recorded)
    features = torch.randn(4, model.detokenizer.adapter.config.feature_width)
    prompt = torch.randn(6, model.detokenizer.adapter.config.prompt_width), torch.ones(6, dtype=torch.bool)
    requests = [DrawRequest(row, index, features, *prompt, (32, 32), []) for row, index in ((0, 2), (1, 0))]
    begin_drawing(model.detokenizer, requests, model.config, DrawingOptions(num_inference_steps=1), [5, 6])
    assert seen == [[(5, 2), (6, 0)]]


def test_sizes(model):
    reply = model.generate("a", images="force", max_images=1, height=24, width=48)
    assert reply.images[0].size == (48, 24)
    assert model.generate("a", images="force", max_images=1).images[0].size in ((32, 32), (32, 16))
    with pytest.raises(ValueError, match="both height and width"):
        model.generate("a", height=32)
    with pytest.raises(ValueError, match="multiples of 8"):
        model.generate("a", height=33, width=32)


def test_events_tell_the_whole_reply(model):
    events = list(model.stream("a", images="force", max_images=1, max_new_tokens=4, num_inference_steps=2))
    kinds = [type(e) for e in events]
    assert kinds[:4] == [PictureBegun, PictureStep, PictureStep, PictureDone] and kinds[-1] is Finished
    reply = model.generate("a", images="force", max_images=1, max_new_tokens=4, num_inference_steps=2)
    assert "".join(e.text for e in events if isinstance(e, TextPiece)).strip() == reply.text
    with pytest.raises(ValueError, match="unknown options colour"):
        next(model.stream("a", colour=1))


def test_a_drawing_that_is_left_stops(model):
    stream = model.stream("a", images="force", num_inference_steps=500)
    for event in stream:
        if isinstance(event, PictureStep):
            break
    stream.close()
    assert event.step < 400


def test_a_long_chat_shows_the_model_its_end(model, monkeypatch):
    given = []
    original = type(model).stream
    monkeypatch.setattr(type(model), "stream", lambda self, m, **o: given.append(len(m)) or original(self, m, **o))
    events = []
    chat = model.chat(history=2, images="never", max_new_tokens=2, callback=events.append)
    for _ in range(4):
        chat.say("hello")
    assert sum(type(event).__name__ == "Finished" for event in events) == 4
    assert given == [1, 3, 5, 5] and len(chat.messages) == 8 and chat.forgotten == 1
    chat.clear()
    chat.messages.append({"role": "system", "content": [{"type": "text", "text": "be brief"}]})
    for _ in range(4):
        chat.say("hello")
    assert given[-4:] == [2, 4, 6, 6] and chat.forgotten == 1, "what was said before all else is shown always"
    chat.clear()
    chat.say("hello")
    assert given[-1] == 1 and chat.forgotten == 0
    # as many as fit beside the reply, where no number is set
    whole = model.chat(images="never", max_new_tokens=2)
    for _ in range(3):
        whole.say("hello")
    assert given[-1] == 5
    fits = len(model.encoder.encode(whole.messages[:5], add_generation_prompt=True).input_ids) + 2
    monkeypatch.setattr(model.mllm.llm.config, "max_position_embeddings", fits)
    whole.say("hello")
    assert given[-2:] == [7, 5] and whole.forgotten == 1 and len(whole.messages) == 8
    whole.say("hello")
    assert given[-2:] == [7, 5] and whole.forgotten == 2, "what did not fit is not tried again"
    whole.undo()
    assert whole.dropped == 1
    before = list(whole.messages)
    with pytest.raises(ValueError, match="this model holds"):
        whole.say("hello " * fits)
    assert whole.messages == before
    with pytest.raises(ValueError, match="history is -1"):
        model.chat(history=-1)


def test_pictures_of_a_reply_count_as_what_the_conversation_holds(model, monkeypatch):
    """They take positions, too: one that is sure to come must fit, one more than fits ends the reply."""
    room = model.engine.image_positions
    prompt = len(model.encoder.encode("hi", add_generation_prompt=True).input_ids)
    longest, extend = [0], StreamCache.extend

    def watched(self, *given, **named):
        hidden = extend(self, *given, **named)
        longest[0] = max(longest[0], *self.lengths)
        return hidden

    monkeypatch.setattr(StreamCache, "extend", watched)
    monkeypatch.setattr(model.mllm.llm.config, "max_position_embeddings", prompt + 3 + room - 1)
    with pytest.raises(ValueError, match=f"and its picture {room}; this model holds"):
        model.generate("hi", images="force", max_new_tokens=3)
    monkeypatch.setattr(model.mllm.llm.config, "max_position_embeddings", prompt + 3 + room)

    def choose(self, rows, logits):
        """Pictures as long as there may be some, and no words."""
        return [(self.vocabulary.end_of_turn if r.num_images == 3 else self.begin_image_ids)[0] for r in rows]

    monkeypatch.setattr(Decoder, "choose", choose)
    (finished,) = [e for e in model.stream("hi", max_images=3, max_new_tokens=3) if isinstance(e, Finished)]
    assert finished.reason == "length" and prompt < longest[0] <= prompt + 3 + room


def test_chat_remembers_undoes_retries_and_saves(model, tmp_path):
    chat = model.chat(images="force", max_images=1, max_new_tokens=3)
    first = chat.say("draw", images=[picture(1)])
    assert len(chat.messages) == 2
    second = chat.say("again")
    assert len(chat.messages) == 4 and second.images[0].tobytes() != first.images[0].tobytes()
    said = chat.messages[-1]["content"]
    chat.undo()
    for _ in chat.stream("again"):
        pass
    streamed = chat.messages[-1]["content"]
    # streamed or not, history keeps the ids that were written
    assert [getattr(p.get("text"), "ids", None) for p in streamed] == [
        getattr(p.get("text"), "ids", None) for p in said
    ]
    chat.undo()
    assert len(chat.messages) == 2
    third = chat.say("again")
    assert third.images[0].tobytes() == second.images[0].tobytes()
    other = chat.retry(seed=9)
    assert other.images[0].tobytes() != third.images[0].tobytes() and len(chat.messages) == 4
    path = chat.save(tmp_path / "talk.jsonl")
    saved = json.loads(path.read_text())["messages"]
    assert [m["role"] for m in saved] == ["user", "assistant", "user", "assistant"]
    shown = saved[0]["content"][0]
    assert shown["type"] == "image" and Image.open(tmp_path / shown["image"]).size == (32, 32)
    # the file is a training example and a prompt alike
    reloaded = [
        {
            **m,
            "content": [
                {**p, "image": str(tmp_path / p["image"])} if p["type"] == "image" else p for p in m["content"]
            ],
        }
        for m in saved
    ]
    assert model.generate([*reloaded, {"role": "user", "content": "x"}], max_new_tokens=2, images="never").images == []
    before = list(chat.messages)
    with pytest.raises(ValueError, match=r"nowhere\.png"):
        chat.say("x", images=["nowhere.png"])
    assert chat.messages == before
    chat.undo(), chat.undo()
    with pytest.raises(ValueError, match="nothing to undo"):
        chat.undo()


def test_save_and_load_round_trip(model, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path / "m")
    again = limner.load(tmp_path / "m", device="cpu")
    monkeypatch.chdir(tmp_path / "m")
    assert limner.load(".", device="cpu").name == again.name == "m"
    a, b = (m.generate("draw", images="force", max_images=1, seed=2) for m in (model, again))
    assert a.images[0].tobytes() == b.images[0].tobytes() and a.text == b.text
    names = {p.name for p in (tmp_path / "m").iterdir()}
    assert {"config.json", "llm", "vision", "detokenizer", "stream.safetensors", "tokenizer.json"} <= names
    assert not [p for p in (tmp_path / "m").rglob("*") if p.suffix in (".bin", ".pt", ".pkl")]


def test_loading_what_does_not_fit_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="unknown model 'giga'"):
        limner.load("giga")
    with pytest.raises(ValueError, match="no such model folder"):
        limner.load("./nowhere/at/all")
    with pytest.raises(ValueError, match="holds no Limner model"):
        limner.load(tmp_path)
    model.save_pretrained(tmp_path / "m")
    config = json.loads((tmp_path / "m/config.json").read_text())
    (tmp_path / "m/config.json").write_text(json.dumps(config | {"num_queries": 3}))
    with pytest.raises(ValueError, match=r"does not fit config.json: queries\.weight"):
        limner.load(tmp_path / "m")
    (tmp_path / "m/config.json").write_text(json.dumps(config | {"surprise": 3}))
    with pytest.raises(ValueError, match="unknown config keys surprise"):
        limner.load(tmp_path / "m")


@pytest.mark.parametrize(
    ("messages", "options", "words"),
    [
        ([{"role": "user", "content": " "}], {}, "message 0 is empty"),
        ("", {}, "prompt is empty"),
        ("  \n", {}, "prompt is empty"),
        ([], {}, "no messages"),
        ("x" * 100_000, {}, "this model holds 1024"),
        ("x", {"num_inference_steps": -1}, "at least 1"),
        ("x", {"guidance_scale": -2.0}, "negative"),
        ("x", {"sampler": "magic"}, "no sampler"),
        ("x", {"n": 0}, "n is 0"),
        (["x", {"role": "user", "content": "y"}], {}, "mixture"),
        ("x", {"images": "perhaps"}, "auto, force or never"),
    ],
)
def test_requests_that_make_no_sense_are_refused(model, messages, options, words):
    with pytest.raises(ValueError, match=words):
        model.generate(messages, **options)


def test_pictures_of_every_kind(tmp_path):
    rgba = Image.new("RGBA", (8, 4), (255, 0, 0, 0))
    assert load_image(rgba).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("RGB", (8, 4), (10, 200, 30)).quantize(4)
    assert load_image(palette).mode == "RGB"
    turned = Image.new("RGB", (8, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert load_image(tmp_path / "turned.jpg").size == (4, 8)
    grey16 = Image.fromarray(np.full((4, 4), 65535, dtype=np.uint16))
    assert load_image(grey16).getpixel((0, 0)) == (255, 255, 255)


def test_bad_pictures_are_refused(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("hello")
    picture(0, (64, 64)).save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    for name, words in {
        "none.png": "no such file",
        "empty.png": "0 bytes",
        "text.png": "not a picture",
        "cut.png": "cut short",
        "huge.png": "more than the limit|more pixels than the limit",
        ".": "a folder",
    }.items():
        with pytest.raises(ValueError, match=words):
            load_image(tmp_path / name)


def test_references_are_the_newest_pictures_first():
    """A drawing's references are the pictures before its BOI, at most max_references."""
    from limner.inference import drawing

    model = make_limner()
    asked = []
    original = drawing.build_condition

    def spy(detokenizer, group, config, size):
        asked.append([request.previous_images[: config.max_references] for request in group])
        return original(detokenizer, group, config, size)

    drawing.build_condition = spy
    try:
        shown = [picture(1), picture(2), picture(3)]
        content = [{"type": "image", "image": image} for image in shown]
        model.generate([{"role": "user", "content": content}], images="force", max_images=1, max_new_tokens=1)
    finally:
        drawing.build_condition = original
    assert [image.tobytes() for image in asked[0][0]] == [shown[2].tobytes(), shown[1].tobytes()]


def test_importing_limner_is_quick_and_light():
    import subprocess
    import sys

    code = (
        "import time; t = time.perf_counter(); import limner, sys; d = time.perf_counter() - t; "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules; print(d)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(out.stdout) < 0.5


def test_gradients_are_off_and_modes_left_alone(model):
    model.generate("a", max_new_tokens=1, images="never")
    assert torch.is_grad_enabled() and not model.training
