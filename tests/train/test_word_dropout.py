import torch

from helpers import make_limner
from limner.mllm.encoding import IGNORE_INDEX
from limner.train.datasets.mixture import Mixture, WorldSource
from limner.train.word_dropout import apply_word_dropout


def test_only_what_is_said_about_a_picture_shown_slips():
    model = make_limner(shapes=((128, 128), (96, 160), (160, 96)))
    batch = Mixture([(WorldSource(("describe", "draw")), 1.0)], model.encoder, 12, 3, pool=1)(0).stream
    words = model.mllm.vocabulary
    made = apply_word_dropout(batch, words, 0.5, 0)
    changed = made.input_ids != batch.input_ids
    control = torch.isin(batch.input_ids, torch.tensor(sorted(words.control.union(words.end_of_turn))))
    assert changed.any() and not changed[batch.labels == IGNORE_INDEX].any() and not changed[control].any()
    assert not changed[batch.drawing_row].any(), "a plan is what its drawing is made from"
    assert torch.equal(made.labels, batch.labels)
    spoken = (batch.labels != IGNORE_INDEX) & ~control
    spoken[batch.drawing_row] = False
    assert 0.3 < changed.sum() / spoken.sum() < 0.6
    assert torch.equal(apply_word_dropout(batch, words, 0.5, 0).input_ids, made.input_ids)
    assert not torch.equal(apply_word_dropout(batch, words, 0.5, 1).input_ids, made.input_ids)
    assert torch.equal(apply_word_dropout(batch, words, 0.0, 0).input_ids, batch.input_ids)
