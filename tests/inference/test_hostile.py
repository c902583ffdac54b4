"""Checkpoints that mean harm: refused with a reason, nothing executed, nothing allocated."""

import json
import pickle
import resource
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import limner
from helpers import make_limner
from limner.app.cli import main as cli


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    make_limner().save_pretrained(folder)
    return folder


@pytest.fixture
def model(good, tmp_path):
    return shutil.copytree(good, tmp_path / "model")


class Code:
    """Would leave a file behind if it were ever run."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


def refused(folder, capsys, *words):
    """By the Python interface and, in one line, by the command line."""
    with pytest.raises(ValueError) as error:
        limner.load(folder, device="cpu")
    for word in words:
        assert word in str(error.value), str(error.value)
    assert cli.main(["describe", str(folder / "none.png"), "--model", str(folder)]) == 2
    capsys.readouterr()
    assert cli.main(["info", "--model", str(folder)]) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err and any(line.startswith("limner: ") for line in err.splitlines())


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("part", ["llm", "vision", "detokenizer/vae", "detokenizer/mmdit", "detokenizer/adapter"])
def test_code_named_by_a_configuration(model, capsys, part):
    (model / part / "evil.py").write_text("raise SystemExit('it ran')")
    edit(model / part / "config.json", auto_map={"AutoModel": "evil.Model", "AutoModelForCausalLM": "evil.Model"})
    refused(model, capsys, "names code of its own to run")


@pytest.mark.parametrize("part", ["llm", "vision", "detokenizer/vae", "detokenizer/mmdit", "detokenizer/adapter"])
def test_a_pickle_in_place_of_the_weights(model, capsys, tmp_path, part):
    mark = tmp_path / "it-ran"
    weights = next((model / part).glob("*.safetensors"))
    weights.unlink()
    for name in ("pytorch_model.bin", "diffusion_pytorch_model.bin", weights.name):
        (model / part / name).write_bytes(pickle.dumps({"x": Code(mark)}))
    refused(
        model, capsys, "cannot be read" if "detokenizer/m" not in part and "adapter" not in part else str(model / part)
    )
    assert not mark.exists()


@pytest.mark.parametrize(
    "part",
    [
        "llm/model",
        "vision/model",
        "stream",
        "detokenizer/mmdit/model",
        "detokenizer/adapter/model",
        "detokenizer/vae/diffusion_pytorch_model",
    ],
)
@pytest.mark.parametrize("kept", [0, 7, 200, -50])
def test_truncated_weights(model, capsys, part, kept):
    path = model / f"{part}.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    refused(model, capsys, str(model))


def test_a_tensor_of_a_million_million_elements(model, capsys):
    header = {"x": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}
    for part in ("llm/model", "stream", "detokenizer/mmdit/model"):
        path = model / f"{part}.safetensors"
        kept, text = path.read_bytes(), json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 64)
        refused(model, capsys, str(model))
        path.write_bytes(struct.pack("<Q", 2**60) + text)  # a header longer than the file
        refused(model, capsys, str(model))
        path.write_bytes(kept)


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("llm", {"hidden_size": 10**6, "head_dim": 10**5}),
        ("llm", {"vocab_size": 10**9}),
        ("vision", {"hidden_size": 10**6}),
        ("detokenizer/mmdit", {"width": 10**6}),
        ("detokenizer/adapter", {"width": 10**6}),
        ("detokenizer/vae", {"block_out_channels": [10**6, 10**6]}),
    ],
)
def test_a_configuration_that_asks_for_a_million_million_weights(model, capsys, part, changes):
    edit(model / part / "config.json", **changes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(model, capsys, str(model / part))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # KB


@pytest.mark.parametrize(
    "part",
    ["llm/model", "vision/model", "stream", "detokenizer/mmdit/model", "detokenizer/vae/diffusion_pytorch_model"],
)
def test_keys_that_are_paths_and_keys_that_are_missing(model, capsys, part):
    path = model / f"{part}.safetensors"
    weights = load_file(path)
    save_file(weights | {"../../../etc/cron.d/x": torch.zeros(1)}, path, metadata={"format": "pt"})
    refused(model, capsys, "../../../etc/cron.d/x")
    some = sorted(name for name in weights if "embed_tokens" not in name)[0]
    save_file({name: value for name, value in weights.items() if name != some}, path, metadata={"format": "pt"})
    refused(model, capsys, some)


def test_an_index_that_leaves_the_folder(model, capsys, tmp_path):
    outside = tmp_path / "outside.safetensors"
    shutil.copyfile(model / "llm/model.safetensors", outside)
    names = load_file(outside)
    (model / "llm/model.safetensors").unlink()
    (model / "llm/model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, "../../outside.safetensors")})
    )
    refused(model, capsys, "not a file of this folder")


@pytest.mark.parametrize(
    "path",
    [
        "config.json",
        "llm/config.json",
        "generation_config.json",
        "detokenizer/mmdit/config.json",
        "detokenizer/scheduler/config.json",
        "tokenizer.json",
    ],
)
@pytest.mark.parametrize("text", ["", "{", "[]", '{"colour": 1}'])
def test_broken_json(model, capsys, path, text):
    (model / path).write_text(text)
    refused(model, capsys)


@pytest.mark.parametrize(
    "path",
    [
        "config.json",
        "llm",
        "vision",
        "stream.safetensors",
        "detokenizer/mmdit",
        "detokenizer/vae",
        "detokenizer/scheduler",
        "generation_config.json",
        "tokenizer.json",
    ],
)
def test_a_part_that_is_missing(model, capsys, path):
    gone = model / path
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    refused(model, capsys, str(model))
