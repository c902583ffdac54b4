"""``keep="exact"``: what an edit does not change is the edited picture's, bit for bit."""

import numpy as np
import pytest
import torch
from PIL import Image

import limner
from limner.app.cli import main as cli
from limner.inference import scheduler
from limner.inference.kept_pixels import changed_part
from limner.mllm.events import PictureDone
from limner.world.scene import Scene, Thing, render

STEPS = {"num_inference_steps": 4}


@pytest.fixture(scope="module")
def nano():
    return limner.load("nano", device="cpu")


@pytest.fixture(scope="module")
def shown():
    return render(Scene((Thing("cat", "red", "medium", 0.26, 0.5), Thing("bus", "green", "medium", 0.74, 0.5))))


def message(picture, words):
    return [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": words}]}]


def test_noise_is_no_change_and_a_change_is_taken_with_a_soft_edge():
    rng = np.random.default_rng(0)
    before = torch.full((128, 192, 3), 120, dtype=torch.uint8)
    noisy = (before + torch.from_numpy(rng.integers(-15, 16, before.shape))).to(torch.uint8)
    assert not changed_part(before, noisy).any()
    noisy[40:60, 100:130, 2] += 60
    weights = changed_part(before, noisy)
    assert weights[40:60, 100:130].eq(1).all(), "all of what has changed"
    beyond = weights.clone()
    beyond[40 - 8 : 60 + 8, 100 - 8 : 130 + 8] = 0
    assert not beyond.any(), "and nothing far from it: the window reaches 2 pixels, it grows by 4, the edge is 2"
    assert weights.gt(0).logical_and(weights.lt(1)).any()
    noisy[80:100, 20:40, 1] += 16
    assert changed_part(before, noisy).equal(weights), "a weaker difference elsewhere was not asked for"
    noisy[50:100, 40:100, 1] += 16
    assert changed_part(before, noisy)[80:100, 20:40].eq(1).all(), "one that reaches the change belongs to it"
    assert not changed_part(before, before + 11).any() and changed_part(before, before + 14).eq(1).all()


def test_what_an_edit_does_not_change_stays_bit_for_bit(nano, shown):
    told = []
    request = message(shown, "make the cat yellow")
    drawn = nano.generate(request, **STEPS).images[0]
    reply = nano.generate(request, keep="exact", callback=told.append, **STEPS)
    kept, before = np.asarray(reply.images[0]), np.asarray(shown)
    same = (kept == before).all(-1)
    assert same.mean() > 0.7 > (np.asarray(drawn) == before).all(-1).mean()
    assert same[:, 80:].mean() > 0.7 and same[:10].all(), "the bus and the ground"
    red, yellow = before[64, 34].astype(int), kept[64, 34].astype(int)
    assert red[0] > red[1] + 80 and yellow[1] > yellow[2] + 80, "the cat"
    (done,) = [event for event in told if isinstance(event, PictureDone)]
    assert done.image.tobytes() == reply.images[0].tobytes()


def test_a_chat_goes_on_from_the_kept_picture(nano):
    chat = nano.chat(keep="exact", **STEPS)
    cat = render(Scene((Thing("cat", "red", "medium", 0.26, 0.5),)))
    first = chat.say("make it blue", images=[cat]).images[0]
    second = chat.say("add a yellow bus").images[0]
    same = (np.asarray(first) == np.asarray(second)).all(-1)
    assert same[:, :40].mean() > 0.5 and not same[:, 80:].all()
    assert nano.chat(keep="exact", **STEPS).say("draw a red cat").images, "nothing is edited, nothing is kept"


def test_the_answer_has_the_size_of_the_picture(nano):
    wide = render(Scene((Thing("cat", "red", "medium", 0.5, 0.5),), height=96, width=160))
    assert nano.edit(wide, "make it blue", keep="exact", num_inference_steps=1).images[0].size == (160, 96)
    with pytest.raises(ValueError, match=r"edited, which is 96 x 160, and the answer is to be 128 x 128: scale the"):
        nano.edit(wide, "make it blue", keep="exact", height=128, width=128)
    with pytest.raises(ValueError, match="cannot draw 100 x 100 pixels"):
        nano.edit(wide.resize((100, 100)), "make it blue", keep="exact")
    with pytest.raises(ValueError, match="keep is 'all'; it can be model or exact"):
        nano.edit(wide, "make it blue", keep="all")


def test_a_mask_settles_what_is_kept(nano, shown, monkeypatch):
    monkeypatch.setattr(scheduler, "with_kept_pixels", None)  # which is never called
    box = (70, 30, 120, 100)
    plain, exact = (
        nano.edit(shown, "fill the grey part with a yellow bus", box, keep=keep, **STEPS).images[0]
        for keep in ("model", "exact")
    )
    assert plain.tobytes() == exact.tobytes()
    chat = nano.chat(keep="exact", **STEPS)
    assert chat.say("fill the grey part with a yellow bus", [shown], box).images


def test_the_command_takes_it_where_a_picture_is_edited(shown, tmp_path, capsys):
    shown.save(tmp_path / "cat.png")
    out = tmp_path / "blue.png"
    options = ["--steps", "4", "--keep", "exact", "-o", str(out)]
    assert cli.main(["edit", str(tmp_path / "cat.png"), "make the cat blue", *options]) == 0
    assert (np.asarray(Image.open(out)) == np.asarray(shown)).all(-1).mean() > 0.5
    assert cli.main(["draw", "a red cat", *options]) == 2
    assert "--keep" in capsys.readouterr().err
