"""Messages, pictures, seeds, options and devices in the forms in which people hold them: read, or refused by what works."""

import base64
import copy
import io
import random

import numpy as np
import pytest
import torch

import limner
from helpers import make_limner, picture
from limner.inference.devices import check_device, check_devices
from limner.inference.generation_config import GenerationConfig
from limner.inference.inputs import as_batch, load_message_images, seeds_per_row
from limner.inference.precision import check_dtype

SHORT = {"images": "never", "max_new_tokens": 2}
SHOWN = picture(3)
TEXT = {"type": "text", "text": "what do you see?"}


@pytest.fixture(scope="module")
def model():
    return make_limner(shapes=((32, 32), (16, 32)))


def png(image=SHOWN) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


ENCODED = base64.b64encode(png()).decode()
URI = f"data:image/png;base64,{ENCODED}"
PARTS = [
    {"type": "image", "image": SHOWN},
    {"type": "image", "image": np.asarray(SHOWN)},
    {"type": "image", "image": torch.from_numpy(np.asarray(SHOWN).copy()).permute(2, 0, 1)},
    {"type": "image", "image": png()},
    {"type": "image", "image": io.BytesIO(png())},
    {"type": "image", "image": URI},
    {"type": "image", "url": URI},
    {"type": "image", "path": "shown.png"},
    {"type": "image", "base64": ENCODED},
    {"type": "image", "base64": URI},
    {"type": "image", "image": "shown.png", "text": None},
    {"type": "image_url", "image_url": {"url": URI, "detail": "auto"}},
    {"type": "image_url", "image_url": URI},
    {"type": "input_image", "image_url": URI, "detail": "low"},
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ENCODED}},
    {"type": "image", "source": {"type": "url", "url": URI}},
    {"image": "shown.png"},
    SHOWN,
]
TEXTS = ["what?", {"type": "text", "text": "what?"}, {"type": "input_text", "text": "what?"}, {"text": "what?"}]
TEXTS += [{"type": "text", "text": "what?", "image": None}, {"type": "text", "text": np.str_("what?")}]


@pytest.mark.parametrize("part", PARTS)
def test_a_picture_in_every_form_of_a_part(part, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    SHOWN.save("shown.png")
    (message,) = load_message_images([{"role": "user", "content": [part, TEXT]}])
    read, text = message["content"]
    assert set(read) == {"type", "image"} and read["type"] == "image" and read["image"].tobytes() == SHOWN.tobytes()
    assert text == TEXT


def test_texts_and_contents_in_every_form():
    for text in TEXTS:
        (message,) = load_message_images([{"role": "user", "content": [text]}])
        assert message["content"] == [{"type": "text", "text": "what?"}]
    for content in (SHOWN, PARTS[0], (PARTS[0],)):
        (message,) = load_message_images([{"role": "user", "content": content}])
        assert message["content"][0]["image"].tobytes() == SHOWN.tobytes()
    dumped = {"role": "assistant", "content": "yes", "refusal": None, "annotations": [], "tool_calls": None}
    assert load_message_images([dumped])


def user(*content):
    return [{"role": "user", "content": list(content)}]


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (None, "a prompt, a list of messages"),
        (b"hello", "a prompt, a list of messages"),
        (3, "a prompt, a list of messages"),
        (SHOWN, "a prompt, a list of messages"),
        ({"hello"}, "a prompt, a list of messages"),
        (np.array("hello"), "a prompt, a list of messages"),
        ({"messages": user("hello")}, r"generate\(example\[.messages.\]\)"),
        (["hello", SHOWN], "a picture is a part of a message"),
        ([None], "not of NoneType"),
        ([["hello"]], "message 0 must be a dict"),
        ([("user", "hello")], "message 0 must be a dict"),
        ([{"from": "human", "value": "hello"}], "with the keys role and content"),
        ([{"role": "tool", "content": "hello"}], "roles are system, user, assistant"),
        ([{"role": "human", "content": "hello"}], "human is user here"),
        ([{"role": "developer", "content": "hello"}], "developer is system here"),
        ([{"role": None, "content": "hello"}], "has role None"),
        ([{"role": ["user"], "content": "hello"}], r"has role \['user'\]"),
        ([{"role": "user", "content": "hello", "name": "Bob"}], "message 0 has 'name' beside role and content"),
        ([{"role": "user", "content": None}], "content must be a string or a list of parts, not NoneType"),
        ([{"role": "user", "content": 3}], "not int"),
        ([{"role": "user", "content": []}], "message 0 is empty"),
        (user("  "), "message 0 is empty"),
        (user(None), "a part must be"),
        (user({"type": "text", "text": 3}), "a part must be"),
        (user({"type": "video", "video": "a.mp4"}), "a part must be"),
        (user({"type": "image", "image": None}), "a part must be"),
        (user({"type": "image", "image": SHOWN, "url": "a.png"}), "a part must be"),
        (user({"type": "input_image", "file_id": "file-1"}), "a part must be"),
        (user({"type": "image", "image": SHOWN, "weight": 2}), "message 0: .*unknown field 'weight'"),
        (user({"type": "image_url", "image_url": {}}), "a picture is a path"),
        (user({"type": "image", "image": [SHOWN]}), "a picture is a path"),
        (user({"type": "image", "base64": "@@@"}), "is broken"),
    ],
)
def test_what_is_no_conversation_is_refused(model, messages, said):
    for ask in (model.generate, model.stream, model.draw):
        with pytest.raises(ValueError, match=said):
            ask(messages)


def test_one_message_or_many(model):
    one = {"role": "user", "content": "hello"}
    alone = model.generate("hello", **SHORT).text
    assert all(model.generate(m, **SHORT).text == alone for m in (one, [one], (one,), np.str_("hello")))
    for many in (("hello", "ho"), np.array(["hello", "ho"]), iter(["hello", "ho"]), [[one], "ho"]):
        assert model.generate(many, **SHORT)[0].text == alone
    assert as_batch(["a"]) == (["a"], False) and as_batch("a") == (["a"], True)


def test_seeds():
    for seed in (3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3)):
        assert seeds_per_row(seed, 2) == [3, 3]
        assert all(type(own) is int for own in seeds_per_row(seed, 2))
    for seeds in ([5, 6], (5, 6), range(5, 7), np.arange(5, 7), torch.arange(5, 7), [np.int32(5), torch.tensor(6)]):
        assert seeds_per_row(seeds, 2) == [5, 6]
    for wrong in (
        None,
        3.0,
        np.float32(3),
        "3",
        b"3",
        True,
        float("nan"),
        [3.5, 1],
        [None, 1],
        random.Random,
        {5, 6},
        {5: 6},
    ):
        with pytest.raises(ValueError, match="seed"):
            seeds_per_row(wrong, 2)
    with pytest.raises(ValueError, match="seed is a generator"):
        seeds_per_row(torch.Generator(), 2)
    with pytest.raises(ValueError, match="3 seeds for 2 conversations"):
        seeds_per_row(np.arange(3), 2)


def test_a_seed_of_numpy_draws_what_the_number_does(model):
    drawing = {"images": "force", "max_images": 1, "max_new_tokens": 1, "num_inference_steps": 1}
    plain = model.generate("a", seed=5, **drawing).images[0]
    other = {name: np.int64(value) if isinstance(value, int) else value for name, value in drawing.items()}
    for seed in (np.int64(5), [5], torch.tensor(5)):
        assert model.generate("a", seed=seed, **other).images[0].tobytes() == plain.tobytes()
    several = model.generate(["b", "a"], seed=np.arange(4, 6), **drawing)
    assert np.abs(np.asarray(several[1].images[0]).astype(int) - np.asarray(plain)).max() <= 2
    assert len(model.generate("a", n=np.int64(2), **SHORT)) == 2
    for n in (None, 2.0, "2", True, 0):
        with pytest.raises(ValueError, match="n is"):
            model.generate("a", n=n, **SHORT)


GOOD = [
    {"height": np.int64(16), "width": torch.tensor(32)},
    {
        "guidance_scale": np.float32(2),
        "image_guidance_scale": 2,
        "temperature": torch.tensor(0.5),
        "top_p": np.array(0.5),
    },
    {"guidance_interval": np.array([0, 1]), "stop": np.array(["x", "y"]), "boxes": np.bool_(False)},
    {"temperature": None, "top_k": None, "stop": None, "height": None, "width": None},
    {"stop": "x", "sampler": np.str_("heun"), "images": np.str_("never")},
]
WRONG = [
    ({"height": "512", "width": "512"}, "height is '512'; it must be a whole number"),
    ({"height": 512.0, "width": 512.0}, "height is 512.0; it must be a whole number"),
    ({"height": (64, 64), "width": 64}, r"height is \(64, 64\)"),
    ({"height": 0, "width": 64}, "cannot draw 0 x 64 pixels"),
    ({"height": -64, "width": -64}, "cannot draw -64 x -64 pixels"),
    ({"size": (64, 64)}, "size is height and width"),
    ({"num_inference_steps": "4"}, "num_inference_steps is '4'"),
    ({"num_inference_steps": True}, "num_inference_steps is True"),
    ({"max_new_tokens": float("inf")}, "max_new_tokens is inf"),
    ({"guidance_scale": "4"}, "guidance_scale is '4'; it must be a number"),
    ({"guidance_scale": [1, 2]}, r"guidance_scale is \[1, 2\]"),
    ({"guidance_scale": np.array([1, 2])}, "guidance_scale is array"),
    ({"guidance_scale": np.float32("nan")}, "guidance scales nan"),
    ({"image_guidance_scale": float("inf")}, "inf must be finite"),
    ({"guidance_interval": 0.5}, "guidance_interval is 0.5; it must be two numbers"),
    ({"guidance_interval": (0, 0.5, 1)}, "it must be two numbers"),
    ({"guidance_interval": (float("nan"), 1)}, "guidance interval"),
    ({"top_p": float("nan")}, "top_p nan"),
    ({"temperature": "1"}, "temperature is '1'"),
    ({"top_k": 3.5}, "top_k is 3.5"),
    ({"stop": 3}, "stop is 3; it must be a string or a list of strings"),
    ({"stop": [3]}, r"stop is \[3\]"),
    ({"stop": b"x"}, "stop is b'x'"),
    ({"images": [SHOWN]}, "pictures to look at are parts of the messages"),
    ({"images": True}, "images is True"),
    ({"boxes": "yes"}, "boxes is 'yes'; it must be True or False"),
    ({"history": 1.5}, "history is 1.5"),
    ({"sampler": 3}, "sampler is 3"),
    ({"max_tokens": 3}, "max_tokens is max_new_tokens"),
    ({"num_steps": 3}, "num_steps is num_inference_steps"),
    ({"cfg_scale": 3}, "cfg_scale is guidance_scale"),
    ({"guidence_scale": 3}, "guidence_scale is guidance_scale"),
    ({"negative_prompt": "x"}, "say in the prompt"),
    ({"do_sample": True}, "do_sample is temperature"),
    ({"generator": None}, "generator is seed"),
]


@pytest.mark.parametrize("options", GOOD)
def test_numbers_of_numpy_and_torch_are_numbers(model, options):
    config = GenerationConfig().updated(options)
    assert type(config.guidance_scale) is float and type(config.top_k) is int
    assert config.size in (None, (16, 32)) and all(type(each) is str for each in config.stop)
    assert model.generate("a", **{**SHORT, "num_inference_steps": 1, **options})


@pytest.mark.parametrize(("options", "said"), WRONG)
def test_an_option_that_is_none_is_refused_by_name(model, options, said):
    for ask in (model.generate, model.stream, model.draw):
        if ask != model.draw or "images" not in options:
            with pytest.raises(ValueError, match=said):
                ask("hello", **options)
    with pytest.raises(ValueError, match=said):
        model.chat(**options)


def test_other_arguments(model):
    for callback in (3, "print"):
        with pytest.raises(ValueError, match="callback is"):
            model.generate("a", callback=callback, **SHORT)
    for adapters, said in (
        ("x", "not as 'x'"),
        (["x"], "adapters are given with their weights"),
        ({"x": 1}, "no adapter 'x'"),
    ):
        with pytest.raises(ValueError, match=said):
            model.generate("a", adapters=adapters, **SHORT)
    with pytest.raises(ValueError, match="seed is None"):
        model.chat(seed=None)


def test_a_chat_is_shown_one_picture_or_many(model, tmp_path):
    SHOWN.save(tmp_path / "shown.png")
    path = tmp_path / "shown.png"
    one = [SHOWN, path, str(path), URI, np.asarray(SHOWN), png(), io.BytesIO(png())]
    many = [[SHOWN], (path,), iter([SHOWN]), (image for image in [SHOWN])]
    with path.open("rb") as file:
        for images in (*one, *many, file):
            chat = model.chat(**SHORT)
            chat.say("what?", images)
            assert [part["type"] for part in chat.messages[0]["content"]] == ["image", "text"]
            assert chat.messages[0]["content"][0]["image"].tobytes() == SHOWN.tobytes()
    for text, images, said in (
        (None, (), "a message is a string"),
        (["a"], (), "a message is a string"),
        ("a", 3, "a picture is a path"),
        ("a", [None], "a picture is a path"),
        (" ", None, "say something or show a picture"),
    ):
        with pytest.raises(ValueError, match=said):
            chat.say(text, images)
    assert len(chat.messages) == 2


def test_what_is_handed_over_is_not_changed(model):
    array = np.asarray(SHOWN).copy()
    messages = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": [SHOWN, {"type": "image", "image": array}, {"type": "image_url", "image_url": {"url": URI}}]},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": ["what?"]},
    ]  # fmt: skip
    options = {"stop": ["x"], "guidance_interval": [0, 1], "adapters": {}, "seed": [3]}
    before = copy.deepcopy((messages, options, array))
    model.generate(messages, **options, **SHORT)
    model.draw(messages, **options, height=16, width=32, num_inference_steps=1, max_new_tokens=1)
    chat = model.chat(**options, **SHORT)
    chat.say("a", images=(shown := [SHOWN]))
    assert messages[1]["content"][1]["image"] is array and (array == before[2]).all() and shown == [SHOWN]
    messages[1]["content"][1] = before[0][1]["content"][1] = None
    assert (messages, options) == before[:2]


def test_devices_and_precisions_as_people_name_them():
    cpu = torch.device("cpu")
    assert check_device("cpu") == check_device(cpu) == cpu and check_device("cpu:0").type == "cpu"
    assert check_devices({"mllm": cpu, "detokenizer": None}, ("mllm", "detokenizer")) == {
        "mllm": cpu,
        "detokenizer": "auto",
    }
    assert check_devices(None, ("a", "b")) == check_devices("auto", ("a", "b")) == {"": "auto"}
    for wrong in ("gpu", "CUDA", "cuda:99", 99, -1, True, 3.5, ["cpu"], b"cpu", "", "cpu,cpu"):
        with pytest.raises(ValueError, match=r"no such device: .*; this machine has cpu"):
            check_device(wrong)
    names = {"bfloat16": ("bf16", torch.bfloat16), "float16": ("fp16", "half", "torch.float16", np.float16)}
    names |= {"float32": ("fp32", "float", torch.float32, np.dtype("float32")), "auto": (None, "auto")}
    for name, given in names.items():
        assert {check_dtype(each) for each in given} == {name}
    for wrong in ("fp8", torch.float64, 32, "", torch.int8):
        with pytest.raises(ValueError, match=r"dtype is .* it can be auto, float32, bfloat16 or float16"):
            check_dtype(wrong)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"device": "gpu"}, "no such device"),
        ({"device": {"eye": "cpu"}}, "a device for 'eye'"),
        ({"device": {"mllm": "cpu"}}, "no device for detokenizer"),
        ({"dtype": "fp8"}, "dtype is 'fp8'"),
        ({"bits": 3}, "weights of 3 bits"),
        ({"bits": "4"}, "weights of 4 bits"),
        ({"offload": "yes"}, "offload is 'yes'"),
        ({"model": None}, "a model is an embedded name"),
        ({"model": ["nano"]}, "a model is an embedded name"),
    ],
)
def test_what_cannot_be_is_refused_before_a_model_is_loaded(options, said, monkeypatch):
    monkeypatch.setattr("limner.inference.model.Limner.from_pretrained", lambda *_: pytest.fail("loaded"))
    with pytest.raises(ValueError, match=said):
        limner.load(**{"model": "nano", **options})


def test_a_model_on_a_device_object():
    model = limner.load("nano", device={"mllm": torch.device("cpu"), "detokenizer": "cpu"}, dtype="fp32")
    assert model.mllm.llm.dtype == torch.float32
    assert limner.load("nano", device=torch.device("cpu"), dtype=None).mllm.device.type == "cpu"
