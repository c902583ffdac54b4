"""Words in plain type: against the world's own letters, and inside a whole model."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import ImageFont

import limner
from helpers import make_limner
from limner.detokenizer.glyph_images import MAX_COLUMNS, GlyphImageConfig, GlyphImages, plain_type
from limner.detokenizer.glyphs import GlyphConfig
from limner.detokenizer.guidance import Guidance
from limner.detokenizer.mmdit_detokenizer import GuidedVelocity, guided_velocities
from limner.train.datasets.mixture import Mixture, WorldSource
from limner.train.distill import DistillConfig, prepare_student, student_losses
from limner.train.objective import JointObjective
from limner.train.recipe import extend_model, load_recipe
from limner.train.recipe_options import Recipe
from limner.train.stages.joint_options import JointStage
from limner.train.trainable import TrainableModel
from limner.train.warm_start import check_model_options
from limner.world.sampling import rng_for
from limner.world.scene import Scene, Thing, render
from limner.world.signs import random_word, sign_scene

ASKED = {"images": "force", "max_images": 1, "max_new_tokens": 2, "num_inference_steps": 2}


def images(**changes):
    torch.manual_seed(0)
    return GlyphImages(
        GlyphImageConfig(**({"feature_width": 16, "feature_tokens": 4, "patch": 16, "image_width": 32} | changes))
    )


def model(taught=True):
    made = make_limner(prompt_tokens=6).requires_grad_(False)
    torch.manual_seed(1)
    made.detokenizer.add_glyph_images(8, made.config.feature_tokens)
    if taught:
        torch.nn.init.normal_(made.detokenizer.glyph_images.embed.weight)
    return made


def drawn(made, text):
    return made.generate(text, **ASKED).images[0].tobytes()


@pytest.mark.parametrize("size", [(128, 128), (96, 160)])
def test_plain_type_covers_the_letters_of_the_world_s_signs(size):
    for number in range(8):
        rng = rng_for(0, number, "plain type")
        scene = dataclasses.replace(sign_scene(rng), height=size[0], width=size[1])
        thing = scene.things[0]
        blank = dataclasses.replace(scene, things=(dataclasses.replace(thing, words=""),))
        letters = np.abs(np.asarray(render(scene), float) - np.asarray(render(blank), float)).max(2)
        features, box = torch.zeros(1, 4, 16), torch.tensor([scene.text_box()])
        ink = images().layout([(thing.words,)], features, box).draw(*size)[0].detach().numpy()
        likeness = np.corrcoef(ink.ravel(), letters.ravel())[0, 1]
        assert likeness > 0.85, (thing, likeness)


def test_lines_are_centred_long_ones_cut_and_unknown_characters_left_empty():
    two = plain_type(("AAAA", "AA"))
    upper, lower = two[:48], two[48:]
    for line in (upper, lower):
        inked = (line > 0.5).nonzero()[:, 1]
        assert abs((inked.min() + inked.max() + 1) / 2 - two.shape[1] / 2) <= 1
    assert 0.4 < lower.sum() / upper.sum() < 0.6
    assert not plain_type(("茶한",)).any() and plain_type(("茶A",))[:, 48:].any()
    layout = images().layout([("A" * 100,), ()], torch.zeros(2, 4, 16))
    assert layout.cells.tolist() == [[MAX_COLUMNS, 1], [0, 1]]
    assert not layout.draw(32, 32)[1].any()
    same = images(capitals=True).layout([("open",), ("OPEN",)], torch.zeros(2, 4, 16)).ink
    assert torch.equal(same[0], same[1]) and not torch.equal(same[0], plain_type(("open",)))


def test_ink_does_not_depend_on_the_batch_and_is_only_in_its_box():
    made, boxes = images(), torch.tensor([[0.1, 0.2, 0.6, 0.4], [0.0, 0.0, 1.0, 1.0]])
    features = torch.zeros(2, 4, 16)
    together = made.layout([("OPEN",), ("LONGER", "TWO")], features, boxes).draw(64, 128)
    alone = made.layout([("OPEN",)], features[:1], boxes[:1]).draw(64, 128)
    torch.testing.assert_close(together[:1], alone, atol=1e-4, rtol=0)
    rows, columns = (alone[0] > 0.5).nonzero().unbind(1)
    assert rows.min() >= 12 and rows.max() <= 26 and columns.min() >= 12 and columns.max() <= 77
    assert columns.max() - columns.min() > 40, "it fills the box"


def test_a_new_part_changes_no_picture_and_a_taught_one_only_those_with_words(tmp_path):
    plain, fresh, taught = make_limner(prompt_tokens=6).requires_grad_(False), model(taught=False), model()
    assert drawn(fresh, 'a "CAT"') == drawn(plain, 'a "CAT"')
    assert drawn(taught, "a cat") == drawn(plain, "a cat")
    assert drawn(taught, 'a "CAT"') != drawn(plain, 'a "CAT"') and drawn(taught, 'a "CAT"') != drawn(taught, 'a "DOG"')
    taught.save_pretrained(tmp_path / "m")
    assert drawn(limner.load(tmp_path / "m"), 'a "CAT"') == drawn(taught, 'a "CAT"')
    (tmp_path / "m/detokenizer/glyph_images/config.json").unlink()
    with pytest.raises(ValueError, match="glyph_images"):
        limner.load(tmp_path / "m")


def test_drawings_with_and_without_words_share_a_batch():
    made = model().detokenizer
    for layer in (made.mmdit.proj_out, made.mmdit.modulation_out):
        torch.nn.init.normal_(layer.weight)
    side = 32 // made.autoencoder.downsample_factor
    x, times = torch.ones(1, made.autoencoder.channels, side, side), torch.tensor([1.0, 0.0])

    def guided(*words):
        condition = made.condition(torch.ones(1, 4, 16), torch.ones(1, 6, 32), torch.ones(1, 6).bool(), [words])
        return GuidedVelocity(made.mmdit, made.place_glyphs(condition, 32, 32), Guidance(2.0), times, torch.float32)

    drawings = [(guided(*words), x, 1.0) for words in (("A",), (), ("B",))]
    alone = [guided_velocities([drawing])[0] for drawing in drawings]
    for one, together in zip(alone, guided_velocities(drawings), strict=True):
        torch.testing.assert_close(together, one, atol=1e-4, rtol=1e-4)
    assert not torch.equal(alone[0], alone[2])


def test_without_its_context_a_picture_has_no_words():
    made = model().detokenizer
    features = torch.ones(2, 4, 16)
    condition = made.condition(features, torch.ones(2, 6, 32), torch.ones(2, 6).bool(), [("A",), ("B",)])
    dropped = made.place_glyphs(condition.without_context(torch.tensor([True, False])), 32, 32)
    assert not dropped.image_bias[0].any() and dropped.image_bias[1].any()
    guided = GuidedVelocity(made.mmdit, dropped, Guidance(2.0), torch.tensor([1.0, 0.0]), torch.float32)
    x = torch.zeros(2, made.autoencoder.channels, 32 // made.autoencoder.downsample_factor, 8)[
        ..., : 32 // made.autoencoder.downsample_factor
    ]
    bias = guided.inputs(x, 1.0)[4]
    assert torch.equal(bias[:2], dropped.image_bias) and not bias[2:].any()
    assert guided_velocities([(guided, x, 1.0)])[0].shape == x.shape


def test_the_layout_learns_from_told_boxes_and_from_the_flow_where_none_is_told():
    made = make_limner(prompt_tokens=6, shapes=((128, 128), (96, 160), (160, 96)))
    made.detokenizer.mmdit.config.position_table = 32
    made.detokenizer.add_glyph_images(8, made.config.feature_tokens)
    for layer in (made.detokenizer.glyph_images.embed, made.detokenizer.mmdit.proj_out):
        torch.nn.init.normal_(layer.weight, std=0.1)
    stage = JointStage(flow_samples=1, context_dropout=0.0)
    objective = JointObjective(TrainableModel(made.mllm, made.detokenizer), stage, 0)
    batch = Mixture([(WorldSource(("sign",)), 1.0)], made.encoder, 4, 0, pool=1)(0)
    assert len(batch.text_boxes) == len(batch.target) and batch.text_boxes.isfinite().any()
    head = made.detokenizer.glyph_images.box[-1].bias

    def learned(name, boxes):
        made.zero_grad()
        losses = objective(dataclasses.replace(batch, text_boxes=boxes), 0)
        losses[name].backward()
        return 0.0 if head.grad is None else float(head.grad.abs().sum())

    untold = torch.full_like(batch.text_boxes, float("nan"))
    assert learned("layout", batch.text_boxes) > 0 and learned("flow", batch.text_boxes) == 0
    assert learned("layout", untold) == 0 and learned("flow", untold) > 0


def test_a_recipe_s_warm_start_gains_the_layout(tmp_path):
    made = make_limner(prompt_tokens=6, max_references=2)
    before = drawn(made, 'a "CAT"')
    less = ["glyphs.width=0", "backbone.num_hidden_layers=2"]
    extend_model(made, load_recipe("nano", [*less, "glyphs.layout_width=8"]))
    sizes = made.detokenizer.glyph_images.config
    assert sizes.layout_width == 8 and sizes.capitals and drawn(made, 'a "CAT"') == before
    made.save_pretrained(tmp_path / "m")
    given = ["warm_start", "glyphs.layout_width", "glyphs.capitals"]
    check_model_options(
        Recipe(warm_start=str(tmp_path / "m"), glyphs=GlyphConfig(layout_width=8, capitals=True)), given
    )
    with pytest.raises(ValueError, match=r"glyphs.layout_width is 16; the warm start .* brings its own, 8"):
        check_model_options(Recipe(warm_start=str(tmp_path / "m"), glyphs=GlyphConfig(layout_width=16)), given[:2])


def test_a_font_of_ones_own_goes_with_the_model(tmp_path):
    file = tmp_path / "own.ttf"
    file.write_bytes(ImageFont.load_default(10).font_bytes)
    made = make_limner(prompt_tokens=6)
    less = ["glyphs.width=0", "backbone.num_hidden_layers=2", "glyphs.layout_width=8"]
    extend_model(made, load_recipe("nano", [*less, f"glyphs.font={file}"]))
    made.save_pretrained(tmp_path / "m")
    again = limner.load(tmp_path / "m").detokenizer.glyph_images
    assert again.font == file.read_bytes() and torch.equal(plain_type(("A1",), again.font), plain_type(("A1",)))
    for broken in (tmp_path / "m/detokenizer/glyph_images/font.ttf", file):
        broken.write_bytes(b"no font")
    with pytest.raises(ValueError, match=r"font\.ttf: no font that can be read"):
        limner.load(tmp_path / "m")
    with pytest.raises(ValueError, match=r"own\.ttf: no font that can be read"):
        extend_model(make_limner(prompt_tokens=6), load_recipe("nano", [*less, f"glyphs.font={file}"]))


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="layout_width is 0; it must be at least 1"):
        images(layout_width=0)
    made = model().detokenizer
    made.glyph_images.config.patch = 5
    with pytest.raises(ValueError, match=r"glyph images of patch and image_width \(5, "):
        type(made)(made.adapter, made.mmdit, made.autoencoder, glyph_images=made.glyph_images)


def test_a_scene_says_where_its_words_stand():
    word = random_word(rng_for(0, 0, "w"), 4)
    cat, sign = Thing("cat", "red", "small", 0.2, 0.2), Thing("sign", "blue", "large", 0.5, 0.5, word)
    assert Scene((cat,)).text_box() is None
    left, top, right, bottom = Scene((cat, sign)).text_box()
    assert (
        (left + right) / 2 == pytest.approx(0.5)
        and right - left == pytest.approx(2 * 0.88 * 0.45)
        and top < 0.5 < bottom
    )


def test_a_student_is_taught_with_the_words():
    made = model()
    torch.nn.init.normal_(made.detokenizer.mmdit.proj_out.weight)
    torch.nn.init.normal_(made.detokenizer.mmdit.modulation_out.weight)
    made.detokenizer.mmdit.config.position_table = 32
    config = DistillConfig(steps=1, teacher_steps=2, rank=2)
    prepare_student(made, config)
    batch = Mixture([(WorldSource(("sign",)), 1.0)], made.encoder, 2, 0, pool=1)(0)
    trainable = TrainableModel(made.mllm, made.detokenizer)
    losses = [
        student_losses(trainable, config, 1.0, dataclasses.replace(batch, glyph_text=text), 0)["loss"].item()
        for text in (batch.glyph_text, [("XYZ",)] * len(batch.target), [()] * len(batch.target))
    ]
    assert len(set(losses)) == 3
