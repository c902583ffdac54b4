"""Halves on devices of their own, the half that rests, weights of fewer bits."""

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import limner
from helpers import make_limner, psnr
from limner.app.cli import main as cli
from limner.inference.model_folders import embedded, find_model
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


@pytest.fixture
def offloaded(monkeypatch):
    """A model with its half in host memory, and a list of what is moved where: there is no device here to move to."""
    model, moves = make_limner(), []
    offload = model.offload = ModelOffload(model.mllm, model.detokenizer)
    assert offload.devices["detokenizer"].type == "cpu"
    offload.devices = {"mllm": "gpu", "detokenizer": "gpu"}
    for name, half in offload.halves.items():
        monkeypatch.setattr(half, "to", lambda place, name=name: moves.append((name, str(place))))
    return model, moves


AWAY, BACK = [("mllm", "cpu"), ("detokenizer", "gpu")], [("detokenizer", "cpu"), ("mllm", "gpu")]


def test_the_half_that_waits_is_in_host_memory_and_replies_are_the_same(offloaded):
    model, moves = offloaded
    plain = make_limner().generate("a cat", **OPTIONS)
    again = model.generate("a cat", **OPTIONS)
    assert moves == AWAY + BACK
    assert plain.text == again.text and plain.images[0].tobytes() == again.images[0].tobytes()


def test_requests_of_an_offloaded_model_take_turns(offloaded):
    """One that is held in its drawing is in nobody's way, and goes on where it was; one that is left leaves nothing."""
    model, moves = offloaded
    plain = model.generate("a cat", **OPTIONS).images[0].tobytes()
    moves.clear()
    held = model.stream("a cat", **OPTIONS)
    assert any(type(event).__name__ == "PictureStep" for event in held)
    assert moves == AWAY
    assert model.generate("a cat", **OPTIONS).images[0].tobytes() == plain
    assert moves == AWAY + BACK + AWAY + BACK
    rest = [event.image.tobytes() for event in held if type(event).__name__ == "PictureDone"]
    assert rest == [plain] and moves == (AWAY + BACK) * 2, "it was drawn beside the other"
    left = model.stream("a cat", **OPTIONS)
    assert any(type(event).__name__ == "PictureStep" for event in left)
    left.close()
    with ThreadPoolExecutor(3) as pool:
        drawn = list(pool.map(lambda _: model.generate("a cat", **OPTIONS).images[0].tobytes(), range(3)))
    assert drawn == [plain] * 3 and copy.deepcopy(model.offload).resident == "mllm"


@pytest.mark.slow  # `make test-slow` installs bitsandbytes, which would slow every other start
@pytest.mark.parametrize(("bits", "share", "close"), [(8, 0.6, 0.03), (4, 0.4, 0.3)])
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
    options = {"max_images": 1, "num_inference_steps": 3, "guidance_scale": 2.0}
    drawn = [m.generate("draw a red apple", seed=1, **options).images[0] for m in (full, small, small)]
    assert psnr(*drawn[:2]) > 20 and psnr(*drawn[1:]) == 99
    assert psnr(copy.deepcopy(small).generate("draw a red apple", seed=1, **options).images[0], drawn[2]) == 99
    if bits == 8:
        with pytest.raises(ValueError, match="in training mode"):
            small.train().generate("draw a red apple")
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


def test_a_folder_called_like_an_embedded_model(tmp_path, monkeypatch):
    """One that holds a model goes first, as any path does; pictures, an adapter or a file of that name hide nothing."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "nano"
    folder.touch()
    assert find_model("nano") == embedded("nano")
    folder.unlink()
    folder.mkdir()
    assert find_model("nano") == embedded("nano") and find_model("./nano") == find_model(Path("nano")) == Path("nano")
    (folder / "config.json").touch()
    assert find_model("nano") == Path("nano")
    with pytest.raises(ValueError, match="name is empty"):
        find_model("")
