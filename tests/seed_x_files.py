"""SEED-X's files as they are released, at the reference's tiny sizes: what `limner convert` reads."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from limner.integrations.seed_x.conversion import SDXL, TOKENIZER, Sizes

DATA = Path(__file__).parent / "data"
AGENT = json.loads((DATA / "seed_x_agent.json").read_text())
SIZES = Sizes(image_size=56, vision_heads=4, heads=4, adapter_heads=4, drawing=(32, 32))


def reference(name: str) -> tuple[dict, dict]:
    """Weights and inputs/outputs of one reference file."""
    saved = load_file(DATA / f"{name}.safetensors")
    weights = {k.removeprefix("weights."): v for k, v in saved.items() if k.startswith("weights.")}
    return weights, {k.removeprefix("io."): v for k, v in saved.items() if k.startswith("io.")}


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, the reference's ids for the control tokens."""
    names = ["<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    names += [f"<unused_{i}>" for i in range(len(names), AGENT["ids"]["<img>"])]
    words = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, [], unk_token="<unk>"))
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    controls = sorted(AGENT["ids"], key=AGENT["ids"].get) + [f"<img_{i:05d}>" for i in range(AGENT["num_slots"])]
    words.add_special_tokens([AddedToken(name, normalized=False) for name in ("<unk>", "<s>", "</s>", *controls)])
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def llm_config() -> dict:
    return {**AGENT["llm"], "architectures": ["LlamaForCausalLM"], "torch_dtype": "float32"}


def write(folder: Path, sdxl: dict[int, object], model: str = "seed_x_i") -> Path:
    """``sdxl``: de-tokenizers by their UNet's channels, 4 and 8."""
    agent, _ = reference("seed_x_agent")
    if model == "seed_x":  # the resamplers of the reference's own files
        for part in ("input_resampler", "output_resampler"):
            agent |= {f"{part}.{name}": v for name, v in reference(part)[0].items()}
    llm = {name.removeprefix("llm."): v for name, v in agent.items() if name.startswith("llm.")}
    (folder / model / "llm").mkdir(parents=True)
    (folder / model / "agent").mkdir()
    (folder / model / "llm/config.json").write_text(json.dumps(llm_config()))
    if model == "seed_x_edit":  # everything in one file, over a backbone that it replaces
        torch.save({name: torch.zeros_like(v) for name, v in llm.items()}, folder / model / "llm/pytorch_model.bin")
        torch.save(agent, folder / model / "agent/pytorch_model.bin")
    else:
        names = sorted(llm)
        shards = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
        for shard, own in shards.items():
            torch.save({name: llm[name] for name in own}, folder / model / "llm" / shard)
        index = {"weight_map": {name: shard for shard, own in shards.items() for name in own}}
        (folder / model / "llm/pytorch_model.bin.index.json").write_text(json.dumps(index))
        rest = {name: v for name, v in agent.items() if not name.startswith("llm.")}
        torch.save(rest, folder / model / "agent/pytorch_model.bin")
    tokenizer().save_pretrained(folder / TOKENIZER)
    vision, _ = reference("qwen_vl_vision")
    (folder / "Qwen-VL-Chat").mkdir()
    chat = {f"transformer.visual.{name}": v for name, v in vision.items()} | {
        "transformer.wte.weight": torch.zeros(2, 2)
    }
    save_file(chat, folder / "Qwen-VL-Chat/model.safetensors")
    resampler, _ = reference("detokenizer_resampler")
    for stage, channels in (("first_stage", 4), ("second_stage", 8)):
        made = {f"resampler.{name}": v for name, v in resampler.items()}
        made |= {f"unet.{name}": v for name, v in sdxl[channels].unet.state_dict().items()}
        (folder / "seed_detokenizer" / stage).mkdir(parents=True)
        torch.save(made, folder / "seed_detokenizer" / stage / "pytorch_model.bin")
    base = folder / SDXL
    sdxl[4].unet.save_pretrained(base / "unet")
    sdxl[4].autoencoder.vae.save_pretrained(base / "vae")
    sdxl[4].scheduler.save_pretrained(base / "scheduler")
    return folder
