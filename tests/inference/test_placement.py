"""Halves on devices of their own, the half that rests, weights of fewer bits."""

import pytest
import torch

import limner
from helpers import make_limner
from limner.app.cli import main as cli
from limner.inference.offload import ModelOffload
from limner.inference.quantize import linear_layers, quantize

OPTIONS = {"images": "force", "max_images": 1, "max_new_tokens": 3, "seed": 3}


@pytest.fixture(scope="module")
def nano():
    return limner.load("nano", device="cpu")


def test_each_half_on_its_own_device():
    model = limner.load("nano", device={"mllm": "cpu", "detokenizer": "meta"})
    assert model.mllm.device.type == "cpu" and next(model.detokenizer.parameters()).device.type == "meta"
    for device, words in (
        ({"mllm": "cpu"}, "no device for detokenizer"),
        ({"eye": "cpu"}, "a device for 'eye'"),
        ({}, "a device for 'nothing'"),
        ("cpux", "no such device"),
    ):
        with pytest.raises(ValueError, match=words):
            limner.load("nano", device=device)
    assert cli.main(["info", "--device", "cpu,meta"]) == 0
    assert cli.main(["info", "--device", "cpu,cpu,cpu"]) == 2


def test_the_half_that_rests_is_in_host_memory_and_replies_are_the_same(monkeypatch):
    model = make_limner()
    plain = model.generate("a cat", **OPTIONS)
    seen = []
    offload = model.offload = ModelOffload(model.mllm, model.detokenizer)
    assert offload.detokenizer_device.type == "cpu"
    offload.mllm_device, offload.detokenizer_device = "writer", "painter"  # there is no device here to move to

    for name, half in (("mllm", model.mllm), ("detokenizer", model.detokenizer)):
        monkeypatch.setattr(half, "to", lambda place, name=name: seen.append((name, str(place))))
    again = model.generate("a cat", **OPTIONS)
    assert seen == [("mllm", "cpu"), ("detokenizer", "painter"), ("detokenizer", "cpu"), ("mllm", "writer")]
    assert plain.text == again.text and plain.images[0].tobytes() == again.images[0].tobytes()


def test_a_drawing_that_is_stopped_leaves_the_halves_where_they_were(monkeypatch):
    model, seen = make_limner(), []
    model.offload = ModelOffload(model.mllm, model.detokenizer)
    monkeypatch.setattr(model.mllm, "to", lambda place: seen.append(str(place)))
    events = model.stream("a cat", **OPTIONS)
    for event in events:
        if type(event).__name__ == "PictureStep":
            break
    events.close()
    assert seen == ["cpu", "cpu"]  # away and back


@pytest.mark.slow  # `make test-slow` installs bitsandbytes, which would slow every other start
@pytest.mark.parametrize(("bits", "share", "close"), [(8, 0.6, 0.02), (4, 0.4, 0.3)])
def test_fewer_bits_take_less_memory_and_say_nearly_the_same(nano, bits, share, close):
    small = limner.load("nano", device="cpu", dtype="bfloat16", bits=bits)
    full = limner.load("nano", device="cpu", dtype="bfloat16")
    assert not list(linear_layers(small))  # all of them were replaced

    def size(model):
        own = (model.mllm.llm.base_model.layers, model.detokenizer.mmdit.blocks)
        return sum(p.numel() * p.element_size() for part in own for p in part.parameters())

    assert size(small) < share * size(full)
    x = torch.randn(1, 5, 256, dtype=torch.bfloat16)
    with torch.no_grad():
        ours, theirs = (m.mllm.llm.base_model.layers[0].mlp(x) for m in (small, full))
    assert (ours - theirs).norm() / theirs.norm() < close
    assert small.generate("draw a red apple", seed=1, max_images=1).images[0].size == (128, 128)
    with pytest.raises(ValueError, match="are not saved"):
        small.save_pretrained("never")
    with pytest.raises(ValueError, match="merge it first"):
        small.load_adapter("never")
    with pytest.raises(ValueError, match=f"weights of {bits} bits already"):
        quantize(small, bits)


def test_bits_and_offload_that_make_no_sense():
    with pytest.raises(ValueError, match="weights of 3 bits; they can have 8 or 4"):
        limner.load("nano", device="cpu", bits=3)
    with pytest.raises(ValueError, match="choose one of the two"):
        limner.load("nano", device="cpu", bits=8, offload=True)
