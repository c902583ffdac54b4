"""Words as bytes: against transformers' own ByT5 tokenizer and encoder, and inside a whole model."""

import dataclasses
import math

import pytest
import torch
from transformers import ByT5Tokenizer, T5Config, T5EncoderModel, T5ForConditionalGeneration

import limner
from helpers import make_limner
from limner.detokenizer.glyphs import MAX_BYTES, PAD, GlyphConfig, GlyphEncoder, byte_ids, byte_positions
from limner.train.datasets.mixture import Mixture, WorldSource
from limner.train.objective import JointObjective
from limner.train.stages.joint_options import JointStage
from limner.train.trainable import TrainableModel

CONFIG = GlyphConfig(width=16, layers=2, heads=2, mlp_width=32)
ASKED = {"images": "force", "max_images": 1, "max_new_tokens": 2, "num_inference_steps": 2}


def model(writes=True):
    made = make_limner(prompt_tokens=6).requires_grad_(False)
    if writes:
        torch.manual_seed(1)
        made.detokenizer.add_glyph_encoder(GlyphEncoder.from_config(CONFIG))
    return made


def taught(made):
    """With a projection that is not the fresh one."""
    torch.nn.init.normal_(made.detokenizer.adapter.glyph_proj.weight)
    return made


def drawn(made, text):
    return made.generate(text, **ASKED).images[0].tobytes()


@pytest.mark.parametrize("word", ["OPEN", "a b", "커피", "naïve 茶"])
def test_bytes_as_byt5_has_them(word):
    own = ByT5Tokenizer()(word).input_ids
    assert byte_ids([[word]]).tolist() == [own]
    assert byte_ids([[word, "x"], []]).tolist() == [own + ByT5Tokenizer()("x").input_ids, [PAD] * (len(own) + 2)]


def test_what_is_too_long_is_cut_and_nothing_is_one_masked_token():
    assert byte_ids([["x" * 300]]).shape == (1, MAX_BYTES)
    assert byte_ids([[], []]).tolist() == [[PAD], [PAD]]
    features, mask = GlyphEncoder.from_config(CONFIG)([[], []])
    assert features.shape == (2, 1, 16) and not mask.any() and features.isfinite().all()


def test_features_are_transformers_own_and_do_not_depend_on_the_batch():
    torch.manual_seed(0)
    glyphs = GlyphEncoder.from_config(CONFIG).eval()
    given = ByT5Tokenizer()("OPEN", return_tensors="pt")
    expected = glyphs.encoder(**given).last_hidden_state
    features, mask = glyphs([["OPEN"], ["much longer"], []])
    assert mask.sum(1).tolist() == [5, 12, 0]
    torch.testing.assert_close(features[0, :5] - table(glyphs, "OPEN"), expected[0], atol=1e-5, rtol=1e-5)


def table(glyphs, *words):
    """What is added to a row's features, written out: sines and cosines from the start and to the end."""
    half = glyphs.width // 2
    rows = []
    for word in words:
        for at in range(len(word) + 1):
            angles = [[place / 10000 ** (2 * k / half) for k in range(half // 2)] for place in (at, len(word) - at)]
            rows.append([f(a) for side in angles for f in (math.sin, math.cos) for a in side])
    return torch.tensor(rows)


def test_where_a_letter_stands_is_told_from_both_ends_of_its_word():
    start, end = byte_positions([["OPEN", "A1"], [], ["é"]], 9)
    assert start.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 0], [0] * 9, [0, 1, 2, 0, 0, 0, 0, 0, 0]]
    assert end.tolist() == [[4, 3, 2, 1, 0, 2, 1, 0, 0], [0] * 9, [2, 1, 0, 0, 0, 0, 0, 0, 0]]
    assert byte_positions([["x" * 300]], MAX_BYTES)[1][0, -1] == 300 - MAX_BYTES + 1
    glyphs = GlyphEncoder.from_config(CONFIG).eval()
    same = glyphs([["AAAA"]])[0][0]
    assert (same[0] - same[1]).abs().max() > 0.1 and (same[1] - same[2]).abs().max() > 0.1


def test_a_whole_byt5_drops_in_and_another_t5_does_not(tmp_path):
    made = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    whole = T5ForConditionalGeneration(T5Config(vocab_size=384, tie_word_embeddings=False, **made)).eval()
    whole.save_pretrained(tmp_path / "byt5")
    glyphs = GlyphEncoder.from_pretrained(tmp_path / "byt5").eval()
    given = ByT5Tokenizer()("OPEN", return_tensors="pt")
    expected = whole.encoder(**given).last_hidden_state + table(glyphs, "OPEN")
    torch.testing.assert_close(glyphs([["OPEN"]])[0], expected)
    T5EncoderModel(T5Config(vocab_size=100, **made)).save_pretrained(tmp_path / "t5")
    with pytest.raises(ValueError, match="a vocabulary of 100; glyphs are bytes, ByT5's 384"):
        GlyphEncoder.from_pretrained(tmp_path / "t5")


def test_a_model_that_learns_to_write_draws_the_rest_as_before():
    plain, writes = model(writes=False), model()
    assert drawn(writes, "a cat") == drawn(plain, "a cat")
    taught(writes)
    assert drawn(writes, "a cat") == drawn(plain, "a cat"), "nothing quoted: nothing to attend to"
    assert drawn(writes, 'a "cat"') != drawn(plain, 'a "cat"')
    one, other = (
        writes.detokenizer.condition(torch.ones(1, 4, 16), torch.ones(1, 6, 32), torch.ones(1, 6).bool(), [[w]])
        for w in ("OPEN", "SHUT")
    )
    assert not torch.equal(one.context, other.context) and torch.equal(one.context[:, :10], other.context[:, :10])


def test_saved_and_loaded_it_writes_the_same(tmp_path):
    writes = taught(model())
    writes.save_pretrained(tmp_path / "m")
    again = limner.load(tmp_path / "m")
    assert drawn(again, 'a "cat"') == drawn(writes, 'a "cat"') != drawn(model(writes=False), 'a "cat"')
    (tmp_path / "m/detokenizer/glyphs/config.json").unlink()
    with pytest.raises(ValueError, match="glyphs"):
        limner.load(tmp_path / "m")


def test_the_flow_teaches_the_glyphs_and_only_where_something_is_written():
    made = make_limner(prompt_tokens=6, shapes=((128, 128), (96, 160), (160, 96)))
    made.detokenizer.mmdit.config.position_table = 32
    made.detokenizer.add_glyph_encoder(GlyphEncoder.from_config(CONFIG))
    taught(made)
    trainable, stage = TrainableModel(made.mllm, made.detokenizer), JointStage(flow_samples=1, context_dropout=0.0)
    batch = Mixture([(WorldSource(("draw",)), 1.0)], made.encoder, 4, 0, pool=1)(0)
    assert batch.glyph_text == [()] * len(batch.target)
    first = made.detokenizer.glyphs.encoder.shared.weight

    def learned(words):
        made.zero_grad()
        JointObjective(trainable, stage, 0)(dataclasses.replace(batch, glyph_text=words), 0)["flow"].backward()
        return 0.0 if first.grad is None else float(first.grad.abs().sum())

    assert learned(batch.glyph_text) == 0 and learned([("OPEN",)] * len(batch.target)) > 0


def test_widths_that_do_not_fit_are_refused():
    for width, heads in ((16, 3), (6, 2)):
        with pytest.raises(ValueError, match=f"a multiple of 4 and of its {heads} heads"):
            GlyphEncoder.from_config(GlyphConfig(width=width, heads=heads))
    made = model()
    with pytest.raises(ValueError, match="glyphs of width 0, the adapter takes 16"):
        type(made.detokenizer)(made.detokenizer.adapter, made.detokenizer.mmdit, made.detokenizer.autoencoder)
    with pytest.raises(ValueError, match="so the glyphs' features are needed"):
        made.detokenizer.adapter(torch.ones(1, 4, 16), torch.ones(1, 6, 32), torch.ones(1, 6).bool())
