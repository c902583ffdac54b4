"""Shards: each example once an epoch, wherever a run begins again; what is broken is named, counted and left out."""

import io
import json
import tarfile

import pytest

from helpers import make_limner, picture
from limner.train.datasets.mixture import Mixture, load_sources
from limner.train.datasets.shards import INDEX_FILE, ShardSource, examples_of
from limner.train.loop import LoopConfig, fit


def write_tar(path, numbers, broken=()):
    with tarfile.open(path, "w") as archive:
        for number in numbers:
            out = io.BytesIO()
            picture(number).save(out, "PNG")
            data = out.getvalue()[: 40 if number in broken else None]
            for name, content in ((f"{number:04d}.png", data), (f"{number:04d}.txt", f"picture {number}".encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


@pytest.fixture
def folder(tmp_path):
    for shard, numbers in enumerate((range(5), range(5, 12), range(12, 13), range(13, 20), range(20, 23))):
        write_tar(tmp_path / f"{shard}.tar", numbers, broken=(7,))
    return tmp_path


def test_every_example_once_an_epoch_in_another_order_each_time(folder):
    shards = ShardSource(folder, shards_at_once=2)
    assert shards.counts == [5, 7, 1, 7, 3]
    epochs = [[shards.name(1, epoch * 23 + k) for k in range(23)] for epoch in range(3)]
    assert all(len(set(epoch)) == 23 for epoch in epochs) and epochs[0] != epochs[1] != epochs[2]
    first = {name.split(":")[0] for name in epochs[0][:5]}
    assert len(first) <= 2, "two shards at a time"
    assert [ShardSource(folder, shards_at_once=2).name(1, k) for k in (3, 40)] == [epochs[0][3], epochs[1][17]]
    assert (
        ShardSource(folder, shards_at_once=2).name(2, 3) != epochs[0][3]
        or ShardSource(folder).name(2, 4) != epochs[0][4]
    )


def test_a_stream_is_named_relative_or_whole_with_a_weight_or_without(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    for given, weight in ((folder.name, 1), (f"{folder.name}:0.5", 0.5), (str(folder), 1), (f"{folder}:2", 2)):
        ((source, share),) = load_sources([f"stream:{given}"], None, 1024, 0.8)
        assert source.total == 23 and share == weight


def test_the_index_is_made_again_when_a_shard_changes(folder):
    ShardSource(folder)
    saved = json.loads((folder / INDEX_FILE).read_text())
    (folder / INDEX_FILE).write_text(json.dumps(saved | {"counts": [1, 1, 1, 1, 1]}))
    assert ShardSource(folder).total == 5, "an index whose sizes hold is believed"
    write_tar(folder / "0.tar", range(2))
    examples_of.cache_clear()
    assert ShardSource(folder).counts == [2, 7, 1, 7, 3]


def test_broken_examples_are_left_out_and_counted(folder, tmp_path, capsys):
    model = make_limner()
    mixture = Mixture(load_sources([f"stream:{folder}"], model.encoder, 1024, 1.0), model.encoder, 4, 0, pool=2)
    batches = [mixture(step) for step in range(6)]
    left = [line for batch in batches for line in batch.left_out]
    assert left and all("0007" in line and "is a broken PNG" in line for line in left)
    assert sum(len(b.target) for b in batches) == 24 - len(left)
    from torch import nn

    module = nn.Linear(1, 1)
    config = LoopConfig(steps=6, batch_size=4, num_workers=0, save_every=6)
    fit("s", module, mixture, lambda batch, step: {"loss": module.weight.sum()}, config, tmp_path / "run")
    assert f"s: left out {left[0]}" in capsys.readouterr().out
    progress = json.loads((tmp_path / "run/checkpoints/00000006/progress.json").read_text())
    assert progress["left_out"] == len(left)


def test_where_every_conversation_of_a_batch_is_broken_others_stand_in(folder):
    model = make_limner()
    mixture = Mixture(load_sources([f"stream:{folder}"], model.encoder, 1024, 1.0), model.encoder, 1, 0, pool=6)
    batches = [mixture(step) for step in range(24)]
    left = [line for batch in batches for line in batch.left_out]
    assert 1 <= len(left) <= 2 and all("0007" in line for line in left)
    assert all(len(batch.target) == 1 for batch in batches)
    again = next(step for step, batch in enumerate(batches) if batch.left_out)
    assert mixture(again).left_out == left[:1]
    assert mixture(again).stream.input_ids.tolist() == batches[again].stream.input_ids.tolist()
    for path in folder.glob("*.tar"):
        write_tar(path, range(3), broken=range(3))
    examples_of.cache_clear()
    broken = Mixture(load_sources([f"stream:{folder}"], model.encoder, 1024, 1.0), model.encoder, 1, 0, pool=6)
    with pytest.raises(ValueError, match="every conversation of step 2 and of its pool is broken"):
        broken(2)


def test_too_many_broken_examples_stop_a_run(tmp_path):
    from torch import nn

    class Batch:
        left_out = ("x: broken",) * 3

    module = nn.Linear(1, 1)
    with pytest.raises(ValueError, match=r"12 of 16 examples are broken, more than 1%"):
        fit(
            "s",
            module,
            lambda step: Batch(),
            lambda batch, step: {"loss": module.weight.sum()},
            LoopConfig(steps=20, batch_size=4, num_workers=0),
            tmp_path,
        )


def test_what_is_no_stream(tmp_path):
    with pytest.raises(ValueError, match="holds no shards"):
        ShardSource(tmp_path)
    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(ValueError, match="no examples in 1 shards"):
        ShardSource(tmp_path)
