"""What was precomputed is what the encoders give; training on it gives the same losses and never runs them."""

import pytest
import torch

from helpers import make_limner, picture
from limner.app.cli.main import main
from limner.train import frozen_encoders as frozen_module
from limner.train.datasets.check import check
from limner.train.datasets.mixture import ExampleSource, Mixture
from limner.train.datasets.readers import read
from limner.train.frozen_encoders import EncoderCache, FrozenEncoders, encoders_fingerprint, precompute
from limner.train.objective import JointObjective
from limner.train.stages.joint_options import JointStage
from limner.train.trainable import TrainableModel


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for index in range(5):
        picture(index, (40, 40) if index % 2 else (20, 40)).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"picture {index}")
    return folder


@pytest.mark.parametrize("changes", [{}, {"tile_grids": ((1, 2), (2, 1))}])
def test_training_reads_what_was_precomputed(data, tmp_path, changes):
    model = make_limner(shapes=((32, 32), (16, 32)), **changes)
    examples = check(read(data), model.encoder, 1024).examples
    assert precompute(model, examples, tmp_path / "store", batch_size=2) >= 10
    store = EncoderCache(tmp_path / "store", encoders_fingerprint(model))
    mixture = Mixture([(ExampleSource(examples, 0.5), 1.0)], model.encoder, 4, 0, pool=2)
    mixture.keys = True
    for step in range(2):
        losses = []
        for ahead in (None, store):
            trainable = TrainableModel(model.mllm, model.detokenizer)
            trainable.frozen_encoders.cache = ahead
            if ahead:
                trainable.frozen_encoders.vision_tower = trainable.frozen_encoders.autoencoder.encode = (
                    None  # must not be run
                )
                trainable.frozen_encoders.vision_tower = NotRun(model.mllm.vision_tower)
            values = JointObjective(trainable, JointStage(), 0)(mixture(step), 0)
            losses.append({k: float(v.detach()) for k, v in values.items()})
            if ahead:
                del trainable.frozen_encoders.autoencoder.encode
                assert trainable.frozen_encoders.misses == 0
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)


class NotRun:
    """Knows its precision, and nothing else."""

    def __init__(self, eye):
        self.parameters = eye.parameters

    def __call__(self, *_):
        raise AssertionError("the eye was run")


def test_what_is_not_there_is_computed_and_counted(data, tmp_path):
    model = make_limner()
    examples = check(read(data), model.encoder, 1024).examples
    precompute(model, examples[:2], tmp_path / "store")
    frozen = FrozenEncoders(
        model.mllm.vision_tower,
        model.detokenizer.autoencoder,
        EncoderCache(tmp_path / "store", encoders_fingerprint(model)),
    )
    mixture = Mixture([(ExampleSource(examples, 0.5), 1.0)], model.encoder, 5, 0, pool=1)
    mixture.keys = True
    batch = mixture(0)
    with torch.no_grad():
        out = frozen.features(batch.views(), batch.view_keys)
        assert torch.equal(out, model.mllm.vision_tower(batch.views())) and frozen.misses > 0


def test_other_encoders_and_other_folders_are_refused(data, tmp_path):
    model = make_limner()
    examples = check(read(data), model.encoder, 1024).examples
    precompute(model, examples, tmp_path / "store")
    with pytest.raises(ValueError, match="another vision tower or autoencoder"):
        EncoderCache(tmp_path / "store", encoders_fingerprint(make_limner(seed=3)))
    with pytest.raises(ValueError, match="nothing precomputed"):
        EncoderCache(tmp_path, encoders_fingerprint(model))
    with pytest.raises(ValueError, match="not empty"):
        precompute(model, examples, tmp_path / "store")


def test_a_stopped_one_goes_on_and_a_file_cut_short_is_named_before_training(data, tmp_path, monkeypatch):
    model = make_limner()
    examples = check(read(data), model.encoder, 1024).examples
    monkeypatch.setattr(frozen_module, "TENSORS_PER_FILE", 2)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    count = precompute(model, examples, whole, batch_size=1)
    real, written = frozen_module.save_file, []

    def stops(tensors, path):
        real(tensors, path)
        written.append(path)
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(frozen_module, "save_file", stops)
    with pytest.raises(KeyboardInterrupt):
        precompute(model, examples, cut, batch_size=1)
    (cut / ".00001.7.new.safetensors").write_bytes(b"half")
    with pytest.raises(ValueError, match="limner precompute was stopped; the same command goes on with it"):
        EncoderCache(cut, encoders_fingerprint(model))
    with pytest.raises(ValueError, match="was begun with another vision tower"):
        precompute(make_limner(seed=3), examples, cut)
    assert precompute(model, examples, cut, batch_size=1) == count
    one, two = (EncoderCache(folder, encoders_fingerprint(model)) for folder in (whole, cut))
    assert one.places == two.places and all(torch.equal(one[name], two[name]) for name in one.places)
    assert {path.name for path in cut.iterdir()} == {path.name for path in whole.iterdir()}
    first = sorted(whole.glob("0*.safetensors"))[0]
    first.write_bytes(first.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"00000\.safetensors cannot be read: .*; precompute into a new folder"):
        EncoderCache(whole, encoders_fingerprint(model))


def test_the_command_line(data, tmp_path, capsys):
    make_limner().save_pretrained(tmp_path / "base")
    out = str(tmp_path / "out")
    assert main(["precompute", str(data), "-o", out, "--model", str(tmp_path / "base"), "--device", "cpu"]) == 0
    assert "tensors; train with STAGE.precomputed=" in capsys.readouterr().out


def test_a_picture_that_comes_again_is_not_encoded_again(data, monkeypatch):
    """As long as there is room for what was made of it."""
    model = make_limner()
    examples = check(read(data), model.encoder, 1024).examples
    mixture = Mixture([(ExampleSource(examples, 1.0), 1.0)], model.encoder, 3, 0, pool=1)
    mixture.keys = True
    made = FrozenEncoders(model.mllm.vision_tower, model.detokenizer.autoencoder)
    seen = []
    with torch.no_grad(), monkeypatch.context() as patched:
        patched.setattr(
            made, "vision_tower", lambda pixels: seen.append(len(pixels)) or model.mllm.vision_tower(pixels)
        )
        made.vision_tower.parameters = model.mllm.vision_tower.parameters
        for room, expected in ((2**28, [3, 2]), (0, [3, 3, 3])):  # five pictures, three a batch
            patched.setattr(frozen_module, "MEMORY_BYTES", room)
            seen.clear()
            made.memory.clear()
            for step in range(3):
                batch = mixture(step)
                out = made.features(batch.views(), batch.view_keys)
                assert torch.allclose(out, model.mllm.vision_tower(batch.views()), atol=1e-6)
            assert seen == expected and (not made.memory or room)
