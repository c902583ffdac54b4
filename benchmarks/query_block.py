"""One forward over N queries against N forced steps of transformers' generate(): `python benchmarks/query_block.py`.

A fresh Qwen3 of about 57 M parameters, N = 64, fp32, one row, a prompt of 64 tokens already in the cache of
both sides. The stepwise side is what a plain `generate()` with `ImageTokenLogitsProcessor` does per picture.
"""

from __future__ import annotations

import argparse
import time

import torch
from transformers import DynamicCache, LogitsProcessorList, Qwen3Config, Qwen3ForCausalLM

from limner.mllm.config import LimnerConfig
from limner.mllm.picture_grammar import PictureGrammar
from limner.mllm.processor import ImageTokenLogitsProcessor
from limner.mllm.vocabulary import Vocabulary

N, PROMPT, VOCABULARY = 64, 64, 8192


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=16,
        num_attention_heads=8,
        num_key_value_heads=8,
        head_dim=64,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config).to(getattr(torch, options.dtype)).eval()
    slots = tuple(range(100, 100 + N))
    vocabulary = Vocabulary(boi=10, eoi=11, patch=12, end_patch=13, slots=slots, shapes=(), end_of_turn=(1,), pad=0)
    processor = ImageTokenLogitsProcessor(PictureGrammar(LimnerConfig(num_queries=N), vocabulary), VOCABULARY)
    prompt = torch.randint(200, VOCABULARY, (1, PROMPT))
    prompt[0, -1] = vocabulary.boi
    embeds = model.get_input_embeddings()
    queries = embeds.weight[list(slots)][None].detach()
    print(
        f"backbone {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M, N = {N}, {options.dtype}, "
        f"{torch.get_num_threads()} threads"
    )

    def filled() -> DynamicCache:
        cache = DynamicCache()
        model(prompt[:, :-1], past_key_values=cache, use_cache=True)
        return cache

    @torch.inference_mode()
    def block() -> tuple[float, torch.Tensor]:
        cache = filled()
        start = time.perf_counter()
        inputs = torch.cat([embeds(prompt[:, -1:]), queries], dim=1)
        hidden = model.model(inputs_embeds=inputs, past_key_values=cache, use_cache=True).last_hidden_state[:, 1:]
        cache.crop(-N)
        return time.perf_counter() - start, hidden

    @torch.inference_mode()
    def stepwise() -> tuple[float, torch.Tensor]:
        cache = filled()
        start = time.perf_counter()
        out = model.generate(
            prompt,
            past_key_values=cache,
            max_new_tokens=N + 1,
            do_sample=False,
            output_hidden_states=True,
            return_dict_in_generate=True,
            logits_processor=LogitsProcessorList([processor]),
        )
        seconds = time.perf_counter() - start
        return seconds, torch.stack([step[-1][:, -1] for step in out.hidden_states[1 : N + 1]], dim=1)

    block(), stepwise()
    times = [(block(), stepwise()) for _ in range(options.runs)]
    difference = (times[0][0][1] - times[0][1][1]).abs().max()
    a, b = (sorted(t[i][0] for t in times)[len(times) // 2] for i in (0, 1))
    print(f"largest difference of the query states: {difference:.1e}")
    print(f"block {a * 1e3:.1f} ms, stepwise {b * 1e3:.1f} ms (medians of {options.runs})")
    print(f"ratio: {b / a:.1f}x")


if __name__ == "__main__":
    main()
