"""Models and parts of models from the hub, here one on this machine."""

import json
import shutil

import huggingface_hub.constants as constants
import pytest
import torch
from fake_hub import fake_hub
from safetensors.torch import load_file, save_file

import limner
from helpers import make_limner
from limner.app.cli import main as cli


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with fake_hub(tmp_path / "cache", monkeypatch) as hub:
        yield hub


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two models with other weights."""
    folder = tmp_path_factory.mktemp("models")
    for seed in (1, 2):
        make_limner(seed).save_pretrained(folder / str(seed))
    return folder


def load(name="acme/tiny", **options):
    return limner.load(name, device="cpu", **options)


def is_model(model, seed):
    return torch.equal(model.mllm.queries.weight, make_limner(seed).mllm.queries.weight)


def test_a_hub_id_and_its_revisions(hub, folders):
    hub.models["acme/tiny"] = {"main": folders / "1", "v2": folders / "2"}
    model = load()
    assert is_model(model, 1) and model.name == "acme/tiny"
    assert "acme/tiny/stream.safetensors" in hub.downloads
    assert is_model(load(revision="v2"), 2)
    assert is_model(load(revision="main"), 1)


def test_files_that_are_not_the_models_are_not_downloaded(hub, folders, tmp_path):
    folder = shutil.copytree(folders / "1", tmp_path / "model")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    hub.models["acme/tiny"] = {"main": folder}
    load()
    assert len(hub.downloads) > 5 and not any(name.endswith(".bin") for name in hub.downloads)


def test_a_second_load_needs_no_hub(hub, folders, monkeypatch):
    hub.models["acme/tiny"] = {"main": folders / "1", "v2": folders / "2"}
    load()
    load(revision="v2")
    hub.downloads.clear()
    load()
    assert not hub.downloads
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert is_model(load(), 1) and is_model(load(revision="v2"), 2)
    with pytest.raises(ValueError, match=r"'acme/tiny' is neither .* the cache has no complete copy: go online once"):
        load(revision="v3")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.stop()
    assert is_model(load(), 1)
    with pytest.raises(ValueError, match=r"'acme/other' is neither .* the hub cannot be reached"):
        load("acme/other")


def test_a_branch_that_moved_is_loaded_anew(hub, folders):
    hub.models["acme/tiny"] = {"main": folders / "1"}
    assert is_model(load(), 1)
    hub.models["acme/tiny"] = {"main": folders / "2"}
    assert is_model(load(), 2)


def refused(words, name="acme/tiny", **options):
    with pytest.raises(ValueError, match=words) as caught:
        load(name, **options)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_what_the_hub_does_not_have_is_refused_in_one_line(hub, folders):
    hub.models["acme/tiny"] = {"main": folders / "1"}
    hub.models["acme/gated"] = {"main": folders / "1"}
    hub.gated.add("acme/gated")
    refused("the hub has no model of this name, or a private one, .*`hf auth login`", "acme/none")
    refused("its owner has to grant access: ask on its page", "acme/gated")
    refused("the hub has no revision 'v3' of it", revision="v3")
    refused("Cannot have --", "acme/t--y")
    hub.withheld.add("stream.safetensors")
    refused("404 Client Error.* Entry Not Found for url: http.*/stream.safetensors")
    refused("only models of the hub .* have revisions", "nano", revision="v2")
    refused("only models of the hub .* have revisions", str(folders / "1"), revision="v2")


def test_the_command_line_says_so_in_one_line(hub, capsys):
    assert cli.main(["info", "--model", "acme/none"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "the hub has no model of this name" in said


@pytest.mark.parametrize("file", ["config.json", "stream.safetensors", "llm/model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named_with_the_model(hub, folders, tmp_path, file):
    folder = shutil.copytree(folders / "1", tmp_path / "model")
    (folder / file).unlink()
    hub.models["acme/tiny"] = {"main": folder}
    refused(rf"'acme/tiny', as the hub gave it: .*{file.rsplit('/')[-1]}")


def test_parts_come_from_the_hub(hub, folders, tmp_path, monkeypatch):
    """A model's folder names its backbone and vision tower; they are found offline, too."""
    model = make_limner(1)
    model.save_pretrained(tmp_path / "model", sources={"llm": "acme/words", "vision": "acme/eye"})
    assert json.loads((tmp_path / "model/llm/source.json").read_text()) == {"source": "acme/words"}
    assert not list((tmp_path / "model/llm").glob("*.safetensors"))
    with pytest.raises(ValueError, match="'acme/words' is neither a folder nor a model that the hub gave"):
        load(tmp_path / "model")
    hub.models["acme/words"] = {"main": folders / "1/llm"}
    hub.models["acme/eye"] = {"main": folders / "1/vision"}
    for offline in (False, True):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        loaded = load(tmp_path / "model")
        for name, value in model.mllm.state_dict().items():
            assert torch.equal(loaded.mllm.state_dict()[name], value), name


@pytest.mark.parametrize("part", ["llm", "vision", "detokenizer/vae", "detokenizer/mmdit"])
def test_the_full_weights_are_fetched_and_a_variant_where_there_is_nothing_else(hub, folders, tmp_path, part):
    """As in diffusers' and transformers' repositories with `variant="fp16"`."""
    folder = shutil.copytree(folders / "1", tmp_path / "model")
    full = next((folder / part).glob("*.safetensors"))
    variant = full.with_name(f"{full.stem}.fp16.safetensors")
    save_file({name: value.half() for name, value in load_file(full).items()}, variant, metadata={"format": "pt"})
    for name in (
        f"{part}/pytorch_model.bin",
        f"{part}/flax_model.msgpack",
        "whole.safetensors",
        "onnx/model.safetensors",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not read")
    hub.models["acme/both"] = {"main": folder}
    assert is_model(load("acme/both"), 1)
    read = {f.removeprefix("acme/both/") for f in hub.downloads if f.endswith((".safetensors", ".bin", ".msgpack"))}
    there = {str(f.relative_to(folders / "1")) for f in (folders / "1").rglob("*.safetensors")}
    assert read == there
    hub.downloads.clear()
    load("acme/both", variant="fp16")
    assert [f for f in hub.downloads if f.endswith(".safetensors")] == [f"acme/both/{part}/{variant.name}"]
    only = shutil.copytree(folder, tmp_path / "only")
    (only / part / full.name).unlink()
    hub.models["acme/tiny"] = {"main": only}
    with pytest.warns(UserWarning, match=r"has no full weights, but the variant .*fp16.safetensors, which is read"):
        load()
    refused("no weights of the variant 'fp8'; it has fp16", variant="fp8")


def test_revisions_and_variants_on_the_command_line(hub, folders, tmp_path, capsys):
    hub.models["acme/tiny"] = {"main": folders / "1", "v2": folders / "2"}
    assert cli.main(["info", "acme/tiny", "--revision", "v2", "--device", "cpu"]) == 0
    assert cli.main(["info", "acme/tiny", "--revision", "v3"]) == 2
    assert cli.main(["info", "acme/tiny", "--variant", "fp16"]) == 2
    said = capsys.readouterr().err
    assert "no revision 'v3'" in said and "no weights of the variant 'fp16'; it has none" in said
