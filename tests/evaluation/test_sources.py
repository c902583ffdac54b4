"""What steers a drawing, as a measure and as something that training can watch."""

import numpy as np
import pytest
import torch

import limner
from helpers import make_limner
from limner.detokenizer.glyphs import GlyphConfig, GlyphEncoder
from limner.evaluation import sources, world
from limner.evaluation.judge import Judge


@pytest.fixture(scope="module")
def nano():
    return limner.load("nano", device="cpu")


@pytest.fixture(scope="module")
def both_sources():
    """A model, untrained, that also draws from the prompt's hidden states, and whose weights are no zeros."""
    model = make_limner(prompt_tokens=24, shapes=((32, 32),))
    model.detokenizer.add_glyph_encoder(GlyphEncoder.from_config(GlyphConfig(width=16, heads=2)))
    for parameter in model.detokenizer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_sources_are_left_out_within_and_heard_again_afterwards(both_sources):
    def drawn():
        replies = both_sources.draw(["a photo of a red cat", "a photo of two dogs"], seed=[0, 1])
        return [reply.images[0].tobytes() for reply in replies]

    before, alone = drawn(), {}
    for name, (queries, prompt) in sources.SOURCES.items():
        with sources.heard(both_sources, queries, prompt):
            alone[name] = drawn()
    assert alone["both"] == before == drawn()
    for both, queries, prompt in zip(*alone.values(), strict=True):
        assert len({both, queries, prompt}) == 3


def test_nano_draws_from_its_queries_alone(nano):
    before = nano.draw("a photo of a red cat", seed=0).images[0]
    (reply,) = sources.draw_from_each(nano, ["a photo of a red cat"], seed=[0])
    both, queries, prompt = (np.asarray(picture).astype(int) for picture in reply.images)
    assert (both == np.asarray(before)).all() and (queries == both).all() and abs(prompt - both).max() > 20


def test_nothing_of_a_source_that_is_left_out_is_heard(both_sources):
    adapter = both_sources.detokenizer.adapter
    own = adapter.config.num_tokens
    states = torch.randn(1, 4, adapter.config.feature_width), torch.randn(1, 24, adapter.config.prompt_width)
    glyphs = torch.randn(1, 3, adapter.config.glyph_width), torch.ones(1, 3, dtype=torch.bool)
    heard = (*states, torch.ones(1, 24, dtype=torch.bool), *glyphs)
    with sources.heard(both_sources, queries=True, prompt=False), torch.no_grad():
        condition = adapter(*heard)
    assert (
        condition.context_mask[:, :own].all() and not condition.context_mask[:, own:].any() and condition.pooled.any()
    )
    with sources.heard(both_sources, queries=False, prompt=True), torch.no_grad():
        condition = adapter(*heard)
    assert not condition.context_mask[:, :own].any() and condition.context_mask[:, own:].all()
    assert not condition.pooled.any()
    with pytest.raises(KeyError), sources.heard(both_sources, queries=False, prompt=False):
        raise KeyError
    with torch.no_grad():
        assert adapter(*heard).context_mask.all()


@pytest.mark.slow
def test_shares_of_the_queries_alone_and_of_both(nano):
    judge = Judge.from_pretrained(world.JUDGE_FOLDER)
    task = sources.queries_task(6, steps=4)
    score = task.run(nano, judge)
    assert score.name == "queries alone" and score.total == 6 and score.extra["both"] >= 4 / 6
    assert score.extra["of_both"] == pytest.approx(score.correct / 6 / score.extra["both"])
    nano.train()
    try:
        assert sources.queries_and_both(nano, judge, 6, steps=4) == (score.correct / 6, score.extra["both"])
        assert nano.training and nano.detokenizer.training
    finally:
        nano.eval()
