"""Checkpoints that mean harm: refused with a reason, nothing executed, nothing allocated."""

import json
import os
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
from limner.inference import adapter_files, lora

CARD, LORA = adapter_files.CARD, "llm/adapter_config.json"


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


def one_line(error) -> str:
    said = str(error.value)
    assert said.isprintable() and len(said) < 1000, said
    return said


@pytest.mark.parametrize(
    "path", ["config.json", "llm/generation_config.json", "tokenizer_config.json", "stream.safetensors"]
)
@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "folder"])
def test_what_is_no_regular_file_is_not_waited_for(model, path, kind):
    (model / path).unlink()
    make = {"pipe": os.mkfifo, "device": lambda p: p.symlink_to("/dev/zero"), "loop": lambda p: p.symlink_to(p.name)}
    make.get(kind, os.mkdir)(model / path)
    if kind in ("loop", "folder") and path.endswith("_config.json"):
        return  # as if these, which need not be there, were not
    with pytest.raises(ValueError, match=r"regular file|no such file|no config\.json|cannot be read"):
        limner.load(model, device="cpu")


@pytest.mark.parametrize(
    ("path", "changes", "words"),
    [
        ("config.json", {"num_queries": "4"}, "num_queries is '4', which is no int"),
        ("config.json", {"max_references": True}, "max_references is True"),
        ("config.json", {"shapes": [[32, None]]}, "shapes is"),
        ("config.json", {"plan_share": float("nan")}, "plan_share is nan"),
        ("generation_config.json", {"temperature": float("inf")}, "temperature is inf"),
        ("generation_config.json", {"num_inference_steps": 2.5}, "num_inference_steps is 2.5"),
        ("detokenizer/mmdit/config.json", {"depth": None}, "depth is None"),
        ("detokenizer/scheduler/config.json", {"trained_tokens": "16"}, "trained_tokens is '16'"),
        ("detokenizer/scheduler/config.json", {"base_shift": -1}, "base_shift -1 be above 0"),
        ("detokenizer/vae/limner.json", {"unshuffle": 1}, "gives 3 channels"),
        ("detokenizer/vae/limner.json", {"\x1b[31munshuffle": 2}, "unknown keys"),
        ("llm/config.json", {"num_hidden_layers": "two"}, "num_hidden_layers"),
        ("llm/config.json", {"rope_parameters": 3}, "llm cannot be read"),
        (
            "llm/config.json",
            {"attn_implementation": "owner/kernel"},
            "names code of its own to run (attn_implementation)",
        ),
        ("llm/config.json", {"_attn_implementation": "owner/kernel:run"}, "names code of its own to run"),
        (
            "vision/config.json",
            {"text_config": {"auto_map": {"AutoModel": "evil.Model"}}},
            "names code of its own to run",
        ),
    ],
)
def test_values_of_a_wrong_type_or_place(model, path, changes, words):
    edit(model / path, **changes)
    with pytest.raises(ValueError) as error:
        limner.load(model, device="cpu")
    assert words in one_line(error)


def test_json_that_no_parser_takes(model):
    whole = (model / "generation_config.json").read_text()
    for text in ("[" * 100_000, '{"history": ' + "9" * 5000 + "}", whole.encode("utf-16")):
        (model / "generation_config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(ValueError, match=r"generation_config\.json is not JSON"):
            limner.load(model, device="cpu")


def test_names_that_steer_a_terminal(model):
    path = model / "stream.safetensors"
    save_file({**load_file(path), "\x1b[2J\nevil" + "x" * 10_000: torch.zeros(1)}, path)
    with pytest.raises(ValueError) as error:
        limner.load(model, device="cpu")
    assert r"\x1b[2J\nevil" in one_line(error)


def test_a_tokenizer_with_more_tokens_than_the_backbone(model):
    values = json.loads((model / "tokenizer.json").read_text())
    token = {**values["added_tokens"][0], "id": 10_000, "content": "new"}
    (model / "tokenizer.json").write_text(json.dumps(values | {"added_tokens": [*values["added_tokens"], token]}))
    with pytest.raises(ValueError, match="embeddings"):
        limner.load(model, device="cpu")


def test_a_tokenizer_that_its_library_panics_at(model):
    edit(model / "tokenizer.json", normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"})
    with pytest.raises(ValueError, match="is no tokenizer"):
        limner.load(model, device="cpu")


@pytest.fixture(scope="module")
def tiny():
    return make_limner()


@pytest.fixture
def adapter(tiny, tmp_path):
    import peft

    module = make_limner().mllm.llm
    tuner = lora.inject(module, {"a": peft.LoraConfig(r=2, lora_alpha=2, target_modules="all-linear")})
    weights = (tuner.peft_config["a"], adapter_files.lora_state(tuner, "a"))
    adapter_files.save(tmp_path / "adapter", {"llm": weights}, {}, ("tiny", tiny.adapters.fingerprint), {})
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    ("path", "changes", "words"),
    [
        (CARD, {"made": []}, "made is []"),
        (CARD, {"made": {"student_steps": "four"}}, "student_steps is 'four'"),
        (CARD, {"made": {"student_steps": 10**9}}, "it can be 1 to 1000"),
        (CARD, {"base": None}, "base is None"),
        (CARD, {"base_fingerprint": 3}, "base_fingerprint is 3"),
        (CARD, {"base_fingerprint": "\x1b[2Jx", "base": "a\nb"}, "is an adapter for"),
        (CARD, {"parts": ["llm", "llm"]}, "a part is named twice"),
        (CARD, {"parts": [["llm"]]}, "cannot be read"),
        (CARD, {"modules_to_save": "queries"}, "not a list of names"),
        *((LORA, {"init_lora_weights": kind}, "changes the base too") for kind in ("pissa", "olora")),
        (LORA, {"megatron_config": {"a": 1}, "megatron_core": "limner_evil"}, "adapter_config.json"),
        (LORA, {"layer_replication": [[0, 2], [0, 2]]}, "layer_replication is"),
        (LORA, {"trainable_token_indices": [0]}, "trainable_token_indices is"),
        (LORA, {"modules_to_save": ["lm_head"]}, "modules_to_save is"),
        (LORA, {"r": 10**9}, "it must be 1 to"),
        (LORA, {"rank_pattern": {".*": "8"}}, "a rank is"),
        (LORA, {"lora_alpha": float("nan")}, "finite numbers"),
        (LORA, {"lora_alpha": "8"}, "finite numbers"),
        (LORA, {"target_modules": "((.*)*)*x"}, "may take for ever"),
        (LORA, {"alpha_pattern": {"(a+)+$": 1}}, "may take for ever"),
        (LORA, {"target_modules": 3}, "names of modules"),
        (LORA, {"\x1b[2J": 3}, "cannot be read by peft"),
    ],
)
def test_an_adapter_that_is_more_than_its_weights(tiny, adapter, path, changes, words):
    edit(adapter / path, **changes)
    with pytest.raises(ValueError) as error:
        tiny.load_adapter(adapter)
    assert words in one_line(error)
    tiny.adapters.__dict__.pop("fingerprint")
    assert not tiny.adapters.loaded and tiny.adapters.fingerprint == make_limner().adapters.fingerprint


def test_the_adapter_is_sound(tiny, adapter):
    assert tiny.load_adapter(adapter) == "adapter"
    tiny.delete_adapter("adapter")
