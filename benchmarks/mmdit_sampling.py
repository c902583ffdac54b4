"""Our sampling loop against diffusers' SD3 transformer and scheduler with the same weights.

`python benchmarks/mmdit_sampling.py`: nano's sizes, 28 guided steps, in what the machine computes faster (bf16 or fp32), eager
and, with --compile, compiled by block. diffusers' side is the loop of `StableDiffusion3Pipeline` without its text encoders
and autoencoder.
"""

from __future__ import annotations

import argparse
import time

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

from limner.detokenizer import flow, samplers
from limner.detokenizer.condition import Condition
from limner.detokenizer.guidance import Guidance
from limner.detokenizer.mmdit import MMDiT
from limner.detokenizer.mmdit_detokenizer import GuidedVelocity
from limner.inference import precision
from limner.integrations.sd3.layouts import config_from_diffusers, weights_from_diffusers

STEPS, SCALE = 28, 4.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compile", action="store_true", help="also compare both sides compiled by block")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--size", type=int, default=16, help="latents a side")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(0)
    heads = options.width // 64
    theirs = SD3Transformer2DModel(
        sample_size=options.size,
        patch_size=2,
        in_channels=16,
        num_layers=options.depth,
        attention_head_dim=64,
        num_attention_heads=heads,
        joint_attention_dim=512,
        caption_projection_dim=options.width,
        pooled_projection_dim=512,
        out_channels=16,
        pos_embed_max_size=64,
        qk_norm="rms_norm",
    ).eval()
    for name, parameter in theirs.named_parameters():
        if parameter.ndim >= 2 and "pos_embed" not in name:
            torch.nn.init.normal_(parameter, std=0.02)
    config = config_from_diffusers(theirs.config)
    ours = MMDiT(config).eval()
    ours.load_state_dict(weights_from_diffusers(theirs.state_dict(), config))
    dtype = precision.choose_dtype("cpu")
    ours.to(dtype), theirs.to(dtype)
    context, pooled = torch.randn(1, 77, 512), torch.randn(1, 512)
    noise = torch.randn(1, 16, options.size, options.size)
    print(
        f"{sum(p.numel() for p in ours.parameters()) / 1e6:.0f} M parameters, {(options.size // 2) ** 2} image tokens, "
        f"{STEPS} guided steps, {dtype}, {torch.get_num_threads()} threads"
    )

    @torch.inference_mode()
    def limner() -> torch.Tensor:
        mask = torch.ones(1, 77, dtype=torch.bool)
        # diffusers' unconditional pass has a context of its own: zeros, attended to
        negative = torch.zeros_like(context[0]), torch.zeros_like(pooled[0])
        condition = Condition(context, mask, pooled, negative=negative)
        times = flow.inference_timesteps(STEPS)
        velocity = GuidedVelocity(ours, condition, Guidance(SCALE), times, dtype)
        return samplers.integrate(samplers.euler(noise, times), velocity)

    @torch.inference_mode()
    def diffusers() -> torch.Tensor:
        scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
        # their default times end at 1/1000; these are ours
        scheduler.set_timesteps(sigmas=flow.inference_timesteps(STEPS)[:-1].tolist())
        both = torch.cat([torch.zeros_like(context), context]).to(dtype)
        pooled_both = torch.cat([torch.zeros_like(pooled), pooled]).to(dtype)
        x = noise
        for t in scheduler.timesteps:
            out = theirs(x.to(dtype).repeat(2, 1, 1, 1), both, pooled_both, t.expand(2), return_dict=False)[0].float()
            plain, full = out.chunk(2)
            x = scheduler.step(plain + SCALE * (full - plain), t, x, return_dict=False)[0]
        return x

    def compare(label: str) -> None:
        a, b = limner(), diffusers()  # also the warm-up
        difference = float((a - b).norm() / b.norm())
        seconds: dict[str, list[float]] = {"limner": [], "diffusers": []}
        for _ in range(options.runs):  # taken in turns, so that a busy machine is busy for both
            for name, run in (("limner", limner), ("diffusers", diffusers)):
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
        x, y = (sorted(seconds[name])[options.runs // 2] for name in ("limner", "diffusers"))
        print(
            f"{label}: limner {x:.2f} s, diffusers {y:.2f} s, latents differ by {difference:.1e} relative, "
            f"ratio: {y / x:.2f}x",
            flush=True,
        )

    compare("eager")
    if options.compile:
        for block in ours.blocks:
            block.compile()
        for block in theirs.transformer_blocks:
            block.compile()
        compare("compiled by block")


if __name__ == "__main__":
    main()
