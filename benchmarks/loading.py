"""Host memory while a model loads, against the size of its checkpoint: `python benchmarks/loading.py [--gb 2]`.

Makes a synthetic checkpoint of random bf16 weights in a temporary folder, loads it in a process of its own and watches
that process's anonymous memory (file-backed pages are left out: they are the file's, not copies).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch


def anonymous() -> int:
    """Bytes of this process's anonymous memory."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("no RssAnon in /proc/self/status: this measurement needs Linux")


def make(folder: Path, gb: float) -> None:
    """A backbone with half of the bytes, an MM-DiT with the rest; an eye and an autoencoder as small as the tests'."""
    from transformers import AutoConfig, AutoModelForCausalLM

    import limner
    from limner.detokenizer.condition import AdapterConfig, ConditioningAdapter
    from limner.detokenizer.mmdit import MMDiT
    from limner.detokenizer.mmdit_config import MMDiTConfig
    from limner.detokenizer.mmdit_detokenizer import MMDiTDetokenizer
    from limner.inference.model import Limner
    from limner.mllm.stream import StreamModel

    nano = limner.load("nano", device="cpu")
    torch.set_default_dtype(torch.bfloat16)
    width = 1024
    layers = max(1, round(gb * 0.5e9 / 2 / (width * 256 * 4 * 2 + 3 * width * 4 * width)))
    config = AutoConfig.for_model(
        "qwen3",
        vocab_size=len(nano.tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
    )
    backbone = AutoModelForCausalLM.from_config(config)
    backbone.generation_config.eos_token_id = nano.mllm.vocabulary.end_of_turn[0]
    stream = StreamModel(backbone, nano.mllm.vision_tower, nano.config, nano.mllm.vocabulary)
    depth = max(1, round(gb * 0.5e9 / 2 / (36 * width * width)))
    vae = nano.detokenizer.autoencoder
    mmdit = MMDiT(
        MMDiTConfig(
            latent_channels=vae.channels,
            width=width,
            depth=depth,
            heads=16,
            context_width=width,
            pooled_width=width,
            position_table=64,
            position_base=16,
        )
    )
    adapter = ConditioningAdapter(
        AdapterConfig(
            nano.mllm.vision_tower.width,
            num_tokens=16,
            width=256,
            depth=2,
            heads=4,
            context_width=width,
            pooled_width=width,
        )
    )
    model = Limner(stream, MMDiTDetokenizer(adapter, mmdit, vae), nano.tokenizer).to(torch.bfloat16)
    model.save_pretrained(folder)


def load(folder: Path) -> None:
    import limner

    import_all = limner.load("nano", device="cpu")  # every import that loading needs
    del import_all
    before, peak, done = anonymous(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, anonymous())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    model = limner.load(folder, device="cpu", dtype="bfloat16")
    seconds = time.perf_counter() - start
    peak = max(peak, anonymous())
    done.set()
    watcher.join()
    stored = sum(f.stat().st_size for f in folder.rglob("*.safetensors"))
    assert sum(p.numel() * p.element_size() for p in model.parameters()) >= 0.99 * stored
    print(f"checkpoint {stored / 1e9:.2f} GB, loaded in {seconds:.1f} s")
    print(f"peak of anonymous memory above that after imports: {(peak - before) / 1e9:.2f} GB")
    print(f"ratio: {(peak - before) / stored:.2f}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--gb", type=float, default=2.0)
    options.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.load:
        load(chosen.load)
        return
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), chosen.gb)
        subprocess.run([sys.executable, __file__, "--load", folder], check=True)


if __name__ == "__main__":
    main()
