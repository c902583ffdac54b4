"""What a picture says of how it was drawn: written into PNG files, read with suspicion, enough to draw it again."""

import io
import json
import shlex
from dataclasses import replace

import pytest
from PIL import Image, PngImagePlugin

import limner
from helpers import make_limner, picture
from limner.inference.images import load_image
from limner.inference.output import png_bytes, save_image
from limner.inference.picture_metadata import KEY, PictureMetadata, read_metadata


@pytest.fixture(scope="module")
def model():
    return make_limner(shapes=((32, 32), (16, 32)))


@pytest.fixture(scope="module")
def nano():
    return limner.load("nano", device="cpu")


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        ("draw a red apple", {}),
        ("빨간 사과를 그려 줘", {"seed": 2**40 + 1}),
        ("draw a \ud83d blue car", {"num_inference_steps": 3, "sampler": "heun", "guidance_scale": 1 / 3}),
        ("a green cat", {"temperature": 0.7, "seed": 5, "top_p": 0.9, "stop": ("zzz", "q")}),
        ("a kite", {"num_inference_steps": 2, "guidance_interval": (0.1, 0.9), "height": 64, "width": 96}),
        ("a boat", {"num_inference_steps": 2, "images": "force", "adapters": {"student": 0.0}}),
    ],
)
def test_a_picture_is_drawn_again_from_its_file(nano, tmp_path, prompt, options):
    drawn = nano.generate(prompt, **{"max_images": 1, **options}).images[0]
    save_image(drawn, tmp_path / "x.PNG")
    said = read_metadata(tmp_path / "x.PNG")
    assert said.prompt == prompt and said.seed == options.get("seed", 0) and said.single_prompt
    again = nano.generate(said.prompt, seed=said.seed, adapters=said.adapters, **said.options).images[said.index]
    assert again.tobytes() == drawn.tobytes()
    assert read_metadata(again) == said, "and that says the same"


def test_it_says_what_was_asked_and_what_was_planned(nano):
    chat = nano.chat(seed=4)
    first = chat.say("draw a red apple on grass")
    said = read_metadata(first.images[0])
    assert (said.prompt, said.single_prompt, said.index, said.seed) == ("draw a red apple on grass", True, 0, 4)
    assert said.plan and said.plan == first.parts[0].strip() and said.model == "nano" and said.adapters == {}
    assert said.fingerprint == nano.adapters.fingerprint, "known, since nano comes with an adapter"
    assert said.options == {
        "height": 128,
        "width": 128,
        "num_inference_steps": 4,
        "guidance_scale": 1.0,
        "sampler": "euler",
    }, "of its student"
    second = read_metadata(chat.say("make it blue", num_inference_steps=3, guidance_scale=2.0).images[0])
    assert (second.prompt, second.single_prompt) == ("make it blue", False)
    assert second.options["num_inference_steps"] == 3 and second.options["guidance_scale"] == 2.0
    assert second.command() is None, "no single prompt draws it"


def test_a_forced_picture_has_its_command_too(nano):
    drawn = nano.generate("a boat", images="force", max_images=1, seed=5, num_inference_steps=2).images[0]
    said = read_metadata(drawn)
    assert "--max-new-tokens 1" in said.command() and "--images" not in said.command()
    options = {**said.options, "max_new_tokens": 1}
    del options["images"]
    assert nano.draw("a boat", seed=5, **options).images[0].tobytes() == drawn.tobytes()


def test_every_row_and_every_picture_has_its_own(model):
    replies = model.generate(["a", "b"], n=2, seed=[5, 8], images="force", max_images=2, max_new_tokens=40, history=2)
    said = [[read_metadata(image) for image in reply.images] for reply in replies]
    assert [(own[0].prompt, own[0].seed) for own in said] == [("a", 5), ("a", 6), ("b", 8), ("b", 9)]
    assert all([one.index for one in own] == list(range(len(own))) for own in said)
    assert said[0][0].fingerprint is None and {"max_images", "history"}.isdisjoint(said[0][0].options)


def test_it_is_text_that_other_programs_read(model):
    drawn = model.draw("draw a 고양이\nand a 猫", seed=3, num_inference_steps=2).images[0]
    with Image.open(io.BytesIO(png_bytes(drawn))) as image:
        assert isinstance(image.info[KEY], PngImagePlugin.iTXt) and json.loads(image.info[KEY])["seed"] == 3
        assert image.info["parameters"] == (
            "draw a 고양이\nand a 猫\nSteps: 2, Sampler: Euler, CFG scale: 2, Seed: 3, "
            f"Size: {drawn.width}x{drawn.height}, Model: limner, Version: limner {read_metadata(drawn).version}"
        )
        assert image.tobytes() == drawn.tobytes()


def test_it_is_left_out_where_it_is_not_wanted_and_of_other_formats(model, tmp_path):
    drawn = model.draw("a cat").images[0]
    plain = io.BytesIO()
    Image.frombytes("RGB", drawn.size, drawn.tobytes()).save(plain, "PNG")
    assert png_bytes(drawn, metadata=False) == plain.getvalue() != png_bytes(drawn)
    save_image(drawn, tmp_path / "x.png", metadata=False)
    assert (tmp_path / "x.png").read_bytes() == plain.getvalue()
    for name in ("x.jpg", "x.webp", "x.gif", "x.tiff", "x.bmp"):
        save_image(drawn, tmp_path / name)
        assert read_metadata(tmp_path / name) is None and b"a cat" not in (tmp_path / name).read_bytes()
    assert read_metadata(picture(0)) is None and png_bytes(picture(0)) == png_bytes(picture(0), metadata=False)


def test_a_picture_that_is_read_loses_what_it_said(model):
    first = model.draw("a secret").images[0]
    for shown in (first, png_bytes(first)):
        assert not load_image(shown).info
        reply = model.edit(shown, "blue", mask=(0, 0, 8, 8))
        assert read_metadata(reply.images[0]).prompt == "blue" and b"secret" not in png_bytes(reply.images[0])
    assert read_metadata(first).prompt == "a secret", "the caller's own picture stays as it was"


def test_a_saved_chat_s_pictures_say_it(model, tmp_path):
    chat = model.chat(images="force", max_images=1, max_new_tokens=2)
    chat.say("draw", images=[picture(1)], mask=(0, 0, 9, 9))
    chat.save(tmp_path / "a.jsonl")
    assert [getattr(read_metadata(p), "prompt", None) for p in sorted(tmp_path.glob("*.png"))] == [None, "draw"]
    chat.save(tmp_path / "b.jsonl", metadata=False)
    assert not any(map(read_metadata, tmp_path.glob("b-*.png")))

    def infos(chat):
        return [part["image"].info for m in chat.messages for part in m["content"] if part["type"] == "image"]

    loaded = limner.Chat.load(tmp_path / "a.jsonl", model)
    assert infos(loaded) == infos(chat) and infos(loaded)[0] == {}, "a user's picture says nothing"
    (tmp_path / "a-02.png").write_bytes(file_with("{"))
    assert infos(limner.Chat.load(tmp_path / "a.jsonl", model)) == [{}, {}]
    chat.say("again", mask=(0, 0, 9, 9))
    assert infos(chat)[2] == {}, "nor does what is shown of a drawn one"
    shown = {"role": "user", "content": [{"type": "image", "image": chat.last_picture()}]}
    chat.messages[-2] = shown
    chat.save(tmp_path / "c.jsonl")
    names = [p["image"] for p in json.loads((tmp_path / "c.jsonl").read_text())["messages"][-2]["content"]]
    assert read_metadata(tmp_path / names[0]) is None


GOOD = PictureMetadata(
    "a cat",
    True,
    "",
    0,
    3,
    {"height": 32, "width": 48, "num_inference_steps": 2, "guidance_scale": 2.0, "sampler": "euler"},
    {},
    "tiny",
    None,
    "1",
)


def file_with(text: str | bytes, compressed: bool = False) -> bytes:
    texts, out = PngImagePlugin.PngInfo(), io.BytesIO()
    texts.add_itxt(KEY, text, zip=compressed)
    picture(0).save(out, "PNG", pnginfo=texts)
    return out.getvalue()


def changed(**values) -> str:
    return json.dumps({**json.loads(GOOD.to_json()), **values})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "3",
        "null",
        "[" * 100_000,
        "9" * 10_000,
        "{}",
        changed(format=2),
        changed(format=None),
        changed(more=1),
        changed(prompt=3),
        changed(seed="1"),
        changed(seed=True),
        changed(seed=1.5),
        changed(index=-1),
        changed(single_prompt=1),
        changed(adapters={"a": "much"}),
        changed(adapters=[]),
        changed(options={}),
        changed(options={**GOOD.options, "steps": 3}),
        changed(options={**GOOD.options, "height": None}),
        changed(options={**GOOD.options, "num_inference_steps": -1}),
        changed(options={**GOOD.options, "sampler": ["euler"]}),
        changed(adapters={"a": float("nan")}),
        changed(adapters={"a": 1}).replace('"a": 1', '"a": 1e999'),
        changed(prompt="x" * (1 << 24)),
    ],
)
def test_what_makes_no_sense_is_refused(text):
    with pytest.raises(ValueError, match="the picture: what it says under 'limner' is not how it was drawn"):
        read_metadata(file_with(text))


def test_only_what_is_small_and_a_picture_is_read(tmp_path):
    assert read_metadata(file_with(GOOD.to_json())) == GOOD
    with pytest.raises(ValueError, match="broken or cut short"):
        read_metadata(file_with(changed(prompt="x" * 30_000_000), compressed=True))  # 30 kB that would be 30 MB
    assert read_metadata(file_with(b"\xff\xfe")) is None, "a text that is not UTF-8 is none to Pillow"
    for source in (b"GIF89a", b"no picture", tmp_path, tmp_path / "gone.png"):
        with pytest.raises(ValueError, match=r"the picture|is a folder|no such file"):
            read_metadata(source)
    with pytest.raises(ValueError, match="is dict, not text"):
        image = picture(0)
        image.info[KEY] = {}
        read_metadata(image)


def test_the_command_is_quoted_and_holds_all_options():
    said = replace(
        GOOD,
        prompt='it\'s; $(a)\n"cat"',
        options={**GOOD.options, "stop": ("a b", "-c"), "guidance_interval": (0.1, 0.9)},
        adapters={"my cat": 0.5},
    )
    assert shlex.split(said.command()) == [
        *("limner", "draw", 'it\'s; $(a)\n"cat"', "--model", "tiny", "--seed", "3", "--size", "32x48", "--steps", "2"),
        *("--guidance", "2.0", "--sampler", "euler", "--stop", "a b", "--stop=-c", "--guidance-interval", "0.1", "0.9"),
        *("--adapter", "my cat:0.5"),
    ]
    words = shlex.split(replace(GOOD, prompt="-40 degrees", seed=-4).command())
    assert words[-2:] == ["--", "-40 degrees"] and "--seed=-4" in words
    for other in ({"index": 1}, {"single_prompt": False}, {"options": {**GOOD.options, "boxes": True}}):
        assert replace(GOOD, **other).command() is None
    assert "\nseed" not in replace(GOOD, prompt="x\nseed: 5").describe(), "words do not look like options"
