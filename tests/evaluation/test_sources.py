"""What steers a drawing, as a measure and as something that training can watch."""

import numpy as np
import pytest
import torch

import limner
from limner.evaluation import sources, world
from limner.evaluation.judge import Judge


@pytest.fixture(scope="module")
def nano():
    return limner.load("nano", device="cpu")


def test_sources_are_left_out_within_and_heard_again_afterwards(nano):
    asked = ["a photo of a red cat", "a photo of two dogs"]
    before = nano.draw(asked, seed=[0, 1])
    replies = sources.draw_from_each(nano, asked, seed=[0, 1])
    assert [len(reply.images) for reply in replies] == [3, 3]
    for alone, reply in zip(before, replies, strict=True):
        both, queries, prompt = (np.asarray(picture).astype(int) for picture in reply.images)
        assert (both == np.asarray(alone.images[0])).all()
        assert abs(queries - both).max() > 20 < abs(prompt - both).max() and (queries != prompt).any()
    assert nano.draw(asked, seed=[0, 1])[0].images[0].tobytes() == before[0].images[0].tobytes()


def test_nothing_of_a_source_that_is_left_out_is_heard(nano):
    adapter = nano.detokenizer.adapter
    own = adapter.config.num_tokens
    states = torch.randn(1, 16, adapter.config.feature_width), torch.randn(1, 24, adapter.config.prompt_width)
    glyphs = torch.randn(1, 3, adapter.config.glyph_width), torch.ones(1, 3, dtype=torch.bool)
    given = [t.to(next(adapter.parameters()).dtype) if t.is_floating_point() else t for t in (*states, *glyphs)]
    heard = (given[0], given[1], torch.ones(1, 24, dtype=torch.bool), *given[2:])
    with sources.heard(nano, queries=True, prompt=False), torch.no_grad():
        condition = adapter(*heard)
    assert (
        condition.context_mask[:, :own].all() and not condition.context_mask[:, own:].any() and condition.pooled.any()
    )
    with sources.heard(nano, queries=False, prompt=True), torch.no_grad():
        condition = adapter(*heard)
    assert not condition.context_mask[:, :own].any() and condition.context_mask[:, own:].all()
    assert not condition.pooled.any()
    with pytest.raises(KeyError), sources.heard(nano, queries=False, prompt=False):
        raise KeyError
    with torch.no_grad():
        assert adapter(*heard).context_mask.all()


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
