"""``limner info``: what a model is made of."""

from __future__ import annotations

from .model import Limner


def describe_model(model: Limner) -> str:
    """Parts, parameters, sizes and defaults, one a line."""
    mllm, detokenizer = model.mllm, model.detokenizer
    parts = {
        f"backbone ({mllm.llm.config.model_type})": [mllm.llm],
        f"eye ({mllm.eye.model.config.model_type})": [mllm.eye],
        "queries and resamplers": [mllm.queries, mllm.input_resampler, mllm.output_resampler],
        "conditioning adapter": [detokenizer.adapter],
        "MM-DiT": [detokenizer.mmdit],
        f"autoencoder ({type(detokenizer.autoencoder.vae).__name__})": [detokenizer.autoencoder],
    }
    counts = {name: sum(p.numel() for part in own for p in part.parameters()) for name, own in parts.items()}
    config, parameter = mllm.config, next(mllm.parameters())
    shapes = ", ".join(f"{h}x{w}" for h, w in config.shapes or (config.default_size,))
    step = detokenizer.multiple
    lines = [f"{model.name}: {sum(counts.values()) / 1e6:.1f} M parameters, {parameter.dtype}, {parameter.device}".replace(
        "torch.", "")]  # fmt: skip
    lines += [f"  {name:30} {count / 1e6:8.2f} M" for name, count in counts.items()]
    lines += [
        f"  queries a drawing              {config.num_queries}, drawn images are {config.drawn_images}",
        f"  shapes the model picks         {shapes} (others: multiples of {step} pixels)",
        f"  references a drawing sees      {config.max_references}",
        f"  steps, guidance                {model.defaults.num_inference_steps}, {model.defaults.guidance_scale}",
    ]
    return "\n".join(lines)
