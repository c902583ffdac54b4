"""`limner eval tokens`: reconstructions, drawings by numbers of tokens, diversity, what features say of prefixes."""

import json
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from helpers import TOKENS, make_limner, picture
from limner.app.cli import main as cli
from limner.evaluation import tokens
from limner.evaluation.geneval_cases import mixed_cases
from limner.evaluation.tasks import drawing
from limner.mllm.picture_tokens import tokens_of
from limner.world.scene import render


@pytest.fixture(scope="module")
def model():
    made = make_limner(**TOKENS, query_lengths=(2, 4), prompt_tokens=6)
    mmdit = made.detokenizer.mmdit
    mmdit.config = replace(mmdit.config, position_table=16)  # the world's pictures are larger than those of other tests
    return made


@pytest.mark.slow
def test_the_command_measures_and_plots(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("limner.app.cli.options.Loading.load", lambda self: model)
    options = ["--limit", "2", "--steps", "1", "--out", str(tmp_path)]
    assert cli.main(["eval", "tokens", *options]) == 0
    results = {row["name"]: row for row in json.loads((tmp_path / "results.json").read_text())["scores"]}
    draws = {f"draw/{mode}" for mode in ("tokens/1", "tokens/2", "tokens/4", "queries/2", "queries/4")}
    kinds = {f"{kind}/{mode}/{n}" for kind in ("chosen", "all") for mode in ("tokens", "queries") for n in (1, 6)}
    again = {f"reconstruct/{what}" for what in ("features", 1, 2, 4)}
    assert set(results) == draws | kinds | again | {"diverse/tokens", "diverse/queries"}
    assert results["all/tokens/6"]["tokens"] == 4 == results["all/queries/1"]["tokens"]
    assert results["chosen/tokens/1"]["tokens"] in (1, 1.5, 2, 2.5, 3, 4)
    assert 0 < results["diverse/tokens"]["diversity"] < 2 and results["diverse/tokens"]["n"] == 8
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert set(figures["cosine"]) == {"1", "2", "4"} and figures["pictures"] == 10
    assert [(rise["from"], rise["to"]) for rise in figures["rises"]] == [(1, 2), (2, 4)]
    assert 0 < figures["codebook_used"] <= 1
    assert set(figures["needed"]) == {"0.8", "0.85", "0.9", "0.95"} and set(figures["needed"]["0.9"]) == {"1", "6"}
    assert figures["draw/tokens"]["4"]["seconds"] >= 0 and figures["reconstruct"]["4"]["n"] == 2
    assert "<svg" in (tmp_path / "tokens.svg").read_text() and "cosine at   4 tokens" in capsys.readouterr().out
    assert cli.main(["eval", "tokens", *options, "--only", "draw/tokens/4"]) == 0
    assert cli.main(["eval", "tokens", "--seeds", "2", "--out", str(tmp_path)]) == 2
    assert "tokens takes one picture" in capsys.readouterr().err


def test_drawings_have_as_many_tokens_as_asked_for(model):
    for mode, length in (("tokens", 1), ("tokens", 4), ("queries", 2), ("queries", 4)):
        (reply,) = tokens.drawing_task(mode, length, 1, drawing(1)).generate_batch(model, 0)
        said = tokens_of(reply.images[0], model.config)
        assert (said.mode, said.length) == (mode, length)


@pytest.mark.parametrize("temperature", [0.0, 5.0])
def test_visual_tokens_are_sampled_at_the_temperature_asked_for(model, temperature):
    """The likeliest codes have no seed, those of a high temperature have."""
    task = tokens.all_tasks(model, 4, 1, temperature)["diverse/tokens"]()
    task = replace(task, generate=partial(task.generate, image_tokens=4))
    said = {tokens_of(reply.images[0], model.config).codes for reply in task.generate_batch(model, 0)}
    assert (len(said) == 1) == (temperature == 0.0)


def test_a_temperature_of_other_suites_is_refused(capsys):
    assert cli.main(["eval", "world", "--image-temperature", "0.5"]) == 2
    assert "--image-temperature is for tokens" in capsys.readouterr().err


def test_a_reconstruction_is_drawn_from_the_prefix_alone(model):
    """From all codes or from the features that they decode to, and not from what the picture has beyond them."""
    images = [picture(i, (128, 128)) for i in range(2)]
    features = tokens.picture_features(model, images)
    codes = model.mllm.visual_tokenizer.encode(features)
    decoded = model.mllm.visual_tokenizer.decode(codes[:, :2])
    torch.testing.assert_close(tokens.decode_prefix(model, features, 2), decoded)
    task = tokens.reconstructing_task(2, 2, 1)
    shown = [prompt[0]["content"][0]["image"] for prompt in task.prompts]
    drawn = tokens.draw_features(
        model, tokens.decode_prefix(model, tokens.picture_features(model, shown), 2), shown, [0, 1], 1
    )
    assert [r.images[0].tobytes() for r in task.generate_batch(model, 0)] == [image.tobytes() for image in drawn]
    own = tokens.draw_features(model, tokens.pooled(model, features), images, [0, 1], 1)
    assert all(a.tobytes() != b.tobytes() for a, b in zip(own, drawn, strict=True))


def test_figures_are_those_by_hand(model):
    figures = tokens.reconstruction_figures(model, 20)
    features = tokens.picture_features(model, [render(case.scene) for case in mixed_cases(20)])
    target = tokens.pooled(model, features)
    cosines = {
        k: F.cosine_similarity(tokens.decode_prefix(model, features, k), target, dim=-1).mean(1) for k in (1, 2, 4)
    }
    for k, values in cosines.items():
        assert figures["cosine"][str(k)] == pytest.approx(values.mean().item(), abs=1e-5)
    rise = (cosines[4] - cosines[2]).double()
    half = 1.96 * rise.std().item() / 20**0.5
    assert figures["rises"][1]["low"] == pytest.approx(rise.mean().item() - half, abs=1e-5)
    used = len(model.mllm.visual_tokenizer.encode(features).unique()) / 24
    assert figures["codebook_used"] == pytest.approx(used)


def test_the_tokens_that_are_needed_rise_with_the_closeness(model, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(tokens, "CLOSENESS", (-1.0, 0.0, 1.0))
        figures = tokens.needed_figures(model, 6)
    assert figures["-1.0"] == {"1": 1.0, "6": 1.0} and figures["1.0"] == {"1": 4.0, "6": 4.0}
    assert all(1 <= value <= 4 for value in figures["0.0"].values())


def test_differences_of_pictures_are_means_over_pairs():
    same = torch.randn(1, 4, 8).expand(3, -1, -1)
    assert tokens.mean_difference(same) == pytest.approx(0, abs=1e-6)
    two = torch.stack([torch.ones(2, 3), torch.cat([torch.ones(1, 3), -torch.ones(1, 3)])])
    assert tokens.mean_difference(two) == pytest.approx(1.0)
    assert tokens.mean_difference(torch.stack([two[0], two[0], two[1]])) == pytest.approx(2 / 3)


def test_scenes_have_so_many_things():
    for things in (1, tokens.MANY):
        scenes = tokens.scenes_of(things, 5)
        assert {len(scene.things) for scene in scenes} == {things} and scenes == tokens.scenes_of(things, 5)
        assert Counter((scene.height, scene.width) for scene in scenes) == {(128, 128): 5}


def test_a_model_of_queries_alone_has_what_there_is():
    plain = make_limner()
    assert list(tokens.all_tasks(plain, 4, 1)) == ["draw/queries/4", "diverse/queries"]
