"""What the judge learns on."""

import numpy as np
import pytest
import torch

from limner.evaluation.geneval_cases import SIDES, halve
from limner.evaluation.judge import Judge, JudgeConfig
from limner.train.stages.augmentation import elastic_warp
from limner.train.stages.judge import JudgeStage, make_batch, run_judge
from limner.world import sampling
from limner.world.scene import Scene, Thing, render


def test_bending_moves_every_point_a_little():
    """A ramp tells by its values where a point came from."""
    torch.manual_seed(0)
    ramp = torch.linspace(-1, 1, 96).expand(4, 3, 64, 96).clone()
    torch.testing.assert_close(elastic_warp(ramp, 0.0), ramp, atol=1e-5, rtol=0)
    for amount in (0.5, 2.0):
        moved = ((elastic_warp(ramp, amount) - ramp)[..., 12:-12] * 95 / 2).abs()  # in pixels, away from the edges
        assert 0.5 * amount < moved.mean() < 4 * amount
        assert not torch.equal(moved[0], moved[1]), "every picture its own way"


@pytest.mark.parametrize("side", SIDES)
def test_half_of_a_thing_is_gone_and_the_rest_stays(side):
    thing, other = Thing("cat", "red", "medium", 0.26, 0.5), Thing("dog", "blue", "medium", 0.74, 0.5)
    scene = Scene((thing, other), "grass")
    whole, cut = np.asarray(render(scene), int), np.asarray(halve(scene, thing, side), int)
    without = np.asarray(render(Scene((other,), "grass")), int)
    shown = np.abs(whole - without).sum(-1) > 30
    kept = shown & (np.abs(cut - whole).sum(-1) < 30)
    assert 0.2 < kept.sum() / shown.sum() < 0.8
    assert np.array_equal(cut[:, 70:], whole[:, 70:])


def test_a_featured_thing_stands_in_a_third_of_the_pictures(tmp_path):
    at = sampling.NAMES.index("zebra")

    def share(stage):
        shown = 0
        for step in range(20):
            centres = make_batch(stage, 0, step)["centres"]
            shown += len({int(row[0]) for row in centres if row[3] == at})
        return shown / (20 * stage.loop.batch_size)

    assert share(JudgeStage(cut_rate=0.0)) < 0.06
    assert 0.27 < share(JudgeStage(cut_rate=0.0, featured_object="zebra")) < 0.42
    with pytest.raises(ValueError, match="featured_object is 'unicorn'"):
        run_judge(JudgeStage(featured_object="unicorn"), None, 0, tmp_path, torch.device("cpu"), torch.float32)


def test_a_wider_judge_sees_what_it_saw():
    torch.manual_seed(0)
    judge = Judge(JudgeConfig(16, 1, objects=5, colors=10, backgrounds=3)).eval()
    wider = judge.with_classes(8, 4).eval()
    pixels = torch.rand(2, 3, 32, 32)
    (cells, ground), (more_cells, more_ground) = judge(pixels), wider(pixels)
    assert more_cells.shape[1] == 1 + 8 + 10 and more_ground.shape == (2, 4)
    torch.testing.assert_close(torch.cat([more_cells[:, :6], more_cells[:, 9:]], 1), cells)
    torch.testing.assert_close(more_ground[:, :3], ground)
    with pytest.raises(ValueError, match="this judge has 5, 3"):
        judge.with_classes(4, 3)
