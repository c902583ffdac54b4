"""The options of a request: one frozen object, checked when it is made, the same names everywhere."""

import dataclasses
import json
import subprocess
import sys
from typing import get_type_hints

import pytest

import limner
from helpers import make_limner
from limner.detokenizer import samplers
from limner.detokenizer.drawing_options import SAMPLERS
from limner.inference.chat import Chat
from limner.inference.generation_config import GenerationConfig, GenerationOptions

WRONG = [
    ({"max_new_tokens": 0}, "max_new_tokens is 0"),
    ({"max_images": -1}, "max_images is -1"),
    ({"images": "always"}, "images is 'always'; it can be auto, force or never"),
    ({"temperature": -1.0}, "temperature -1.0"),
    ({"temperature": float("inf")}, "temperature inf"),
    ({"temperature": float("nan")}, "temperature nan"),
    ({"top_p": 0.0}, "top_p 0.0"),
    ({"stop": ""}, "empty stop string"),
    ({"height": 32}, "both height and width"),
    ({"num_inference_steps": 0}, "num_inference_steps is 0"),
    ({"guidance_scale": float("nan")}, "guidance scales nan"),
    ({"image_guidance_scale": -1.0}, "must be finite and not negative"),
    ({"guidance_interval": (0.9, 0.1)}, "guidance interval"),
    ({"sampler": "ddim"}, "no sampler 'ddim'; there are euler, heun, multistep"),
    ({"history": -1}, "history is -1"),
    ({"colour": "red"}, "unknown options colour; there are .*guidance_scale"),
]


def test_the_keyword_arguments_are_the_fields():
    fields = {field.name for field in dataclasses.fields(GenerationConfig)}
    assert set(get_type_hints(GenerationOptions)) == fields
    assert all(callable(samplers.sampler(name)) for name in SAMPLERS)


@pytest.mark.parametrize(("options", "said"), WRONG)
def test_what_makes_no_sense_is_refused_before_anything_happens(options, said):
    """By the object, by `stream` before the first event, and by a chat when it is made."""
    model = make_limner()
    for ask in (
        lambda: model.defaults.updated(options),
        lambda: model.stream("hello", **options),
        lambda: model.generate("hello", **options),
        lambda: Chat(model, **options),
    ):
        with pytest.raises(ValueError, match=said):
            ask()


def test_it_cannot_be_changed_and_None_changes_nothing():
    config = GenerationConfig(stop="end")
    assert config.stop == ("end",) and config.size is None
    assert config.updated({"height": 32, "width": 64, "top_k": None}).size == (32, 64)
    assert config.updated({name: None for name in GenerationOptions.__annotations__}) == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.top_k = 3


def test_the_folders_defaults_are_checked_and_only_they_count(tmp_path):
    """Not what the backbone's own folder says."""
    make_limner().save_pretrained(tmp_path)
    own = tmp_path / "generation_config.json"
    values = json.loads(own.read_text())
    backbone = tmp_path / "llm/generation_config.json"
    backbone.write_text(json.dumps(json.loads(backbone.read_text()) | {"temperature": 0.7, "max_new_tokens": 3}))
    own.write_text(json.dumps({"sampler": "heun", "guidance_interval": [0.1, 1.0]}))
    defaults = limner.load(tmp_path).defaults
    assert defaults == GenerationConfig(sampler="heun", guidance_interval=(0.1, 1.0))
    own.write_text(json.dumps(values | {"top_p": 2.0}))
    with pytest.raises(ValueError, match=r"generation_config\.json: .*top_p 2.0"):
        limner.load(tmp_path)


def test_history_shows_the_last_exchanges_only():
    model, seen = make_limner(), []
    encode = model.encoder.encode
    model.encoder.encode = lambda messages, **options: seen.append(messages) or encode(messages, **options)
    talk = [{"role": "system", "content": "be kind"}]
    for number in range(4):
        talk += [{"role": "user", "content": f"say {number}"}, {"role": "assistant", "content": "yes"}]
    talk.append({"role": "user", "content": "last"})
    for history in (None, 2, 9):
        model.generate(talk, history=history, images="never", max_new_tokens=1)
    assert [len(messages) for messages in seen] == [10, 6, 10]
    assert [m["content"] for m in seen[1]] == ["be kind", "say 2", "yes", "say 3", "yes", "last"]


def test_the_options_are_known_without_torch():
    code = "import sys, limner.inference.generation_config, limner.app.cli.options; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
