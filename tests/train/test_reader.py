"""The reader: what it is taught, and that it can be."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers import kl_autoencoder
from limner.detokenizer.autoencoder import to_pixels
from limner.evaluation.reader import LETTERS, Reader, ReaderConfig
from limner.train.loop import LoopConfig
from limner.train.stages.reader import ReaderStage, counts, letter_columns, losses, make_batch
from limner.world.scene import render
from limner.world.signs import sign_scene


def test_batches_spell_their_words():
    stage = ReaderStage(loop=LoopConfig(batch_size=6))
    batch, again, other = (make_batch(stage, 0, step) for step in (0, 0, 1))
    assert batch["pixels"].shape[0] == 6 == len(batch["targets"])
    assert batch["targets"].shape[1] == batch["pixels"].shape[3 if batch["pixels"].shape[1] == 3 else 2] // 2
    assert batch["targets"].max() <= len(LETTERS)
    assert all(torch.equal(batch[k], again[k]) for k in batch) and not torch.equal(other["targets"], batch["targets"])


def test_every_letter_has_its_columns_where_it_stands():
    rng = random.Random(1)
    for _ in range(100):
        scene = sign_scene(rng, held_out=rng.random() < 0.5)
        kept = torch.unique_consecutive(letter_columns(scene))
        assert "".join(LETTERS[i - 1] for i in kept.tolist() if i) == scene.things[0].words, (
            "greedy reading of the truth"
        )
    letter = replace(scene, things=(replace(scene.things[0], words="I"),))
    bare = replace(scene, things=(replace(scene.things[0], words=""),))
    ink = (np.asarray(render(letter)) != np.asarray(render(bare))).any((0, 2)).nonzero()[0]
    assert abs(letter_columns(letter).nonzero().float().mean() * 2 + 1 - (ink[0] + ink[-1] + 1) / 2) <= 1.5


@pytest.mark.slow
def test_it_learns_to_read_one_sign(tmp_path):
    torch.manual_seed(0)
    stage = ReaderStage(blur_rate=0, autoencoder_rate=0, warp_rate=0)
    rng = random.Random(2)
    while len((scene := sign_scene(rng)).things[0].words) != 3 or scene.height != 128 or scene.width != 128:
        pass
    word, image = scene.things[0].words, render(scene)
    reader = Reader(ReaderConfig(16, 2))
    pixels = torch.from_numpy(np.array(image))[None]
    targets = letter_columns(scene)[None]
    batch = {"pixels": pixels, "targets": targets, "counts": counts(targets)}
    optimizer = torch.optim.AdamW(reader.parameters(), 5e-3)
    for step in range(150):
        optimizer.zero_grad()
        losses(reader, kl_autoencoder((8, 16), 4, 2), stage, 0, batch, step)["loss"].backward()
        optimizer.step()
    assert reader.read([image]) == [word] and reader(to_pixels(pixels)).shape == (1, 64, 1 + len(LETTERS))
    reader.save_pretrained(tmp_path / "r")
    assert Reader.from_pretrained(tmp_path / "r").config == reader.config
    with pytest.raises(ValueError, match="no reader in"):
        Reader.from_pretrained(tmp_path / "none")
