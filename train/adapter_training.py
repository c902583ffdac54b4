"""Training of an adapter: LoRA and a few whole modules learn inside a model, in place (a copy would double what a large
model takes), in a folder of their own. Fine-tuning and distillation share it."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor

from ..detokenizer.detokenizer import NotFiniteError
from ..evaluation.sheet import save_sheet
from ..inference import adapter_files, lora, precision
from ..inference.model import Limner
from ..inference.output import check_folder, os_errors, write_text
from ..inference.progress import ProgressBar
from . import parallel
from .datasets.mixture import Mixture
from .loop import LoopConfig
from .resume import LOCK_FILE, SETTINGS_FILE, check_outside, check_same_run, run_settings
from .trainable import has_prefix

RUN_FOLDER = "run"
"""Folder inside the adapter's for checkpoints, log and metrics."""


class AdapterTraining:
    """While it lasts only the adapter requires a gradient; afterwards, with `remove`, the model's modules are its own again.

    ``configs`` are peft's, by part ("llm", "mmdit"); ``modules_to_save`` names small parts that learn whole
    (`adapter_files.MODULES_TO_SAVE`). Raises ValueError for a part that the model lacks.
    """

    def __init__(
        self, model: Limner, name: str, configs: Mapping[str, LoraConfig], modules_to_save: Sequence[str] = ()
    ) -> None:
        self.model, self.name = model, name
        mllm = model.mllm
        modules = {"llm": mllm.llm, "mmdit": getattr(model.detokenizer, "mmdit", None)}
        for part in configs:
            if modules[part] is None:
                raise ValueError(f"this model has no {part!r} for LoRA; it has llm")
        _ = model.adapters.fingerprint  # of the model without what is put in now
        self.tuners = {part: lora.inject(modules[part], {name: config}) for part, config in configs.items()}
        if "boi" in modules_to_save:
            mllm.add_boi_delta()
        prefixes = [adapter_files.MODULES_TO_SAVE[part] for part in modules_to_save]
        self.base: dict[str, Tensor] = {}
        """What the parameters that learn whole were before"""
        for key, parameter in model.named_parameters():
            whole = any(has_prefix(key, prefix) for prefix in prefixes)
            parameter.requires_grad_(whole or f".lora_A.{name}." in key or f".lora_B.{name}." in key)
            if whole:
                self.base[key] = parameter.detach().clone()

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The base again, at the base's cost; what learns and what does not stays as it is."""
        parameters = dict(self.model.named_parameters())
        learned = {key: parameters[key].detach().clone() for key in self.base}
        self._set(0.0, self.base)
        try:
            yield
        finally:
            self._set(1.0, learned)

    @torch.no_grad()
    def _set(self, weight: float, values: Mapping[str, Tensor]) -> None:
        for tuner in self.tuners.values():
            lora.set_scale(tuner.model, {self.name: weight})
        parameters = dict(self.model.named_parameters())
        for key, value in values.items():
            parameters[key].copy_(value)

    def save(self, folder: Path, learned: Mapping[str, Tensor], made: Mapping[str, Any]) -> None:
        """``learned`` are the values that the parameters which learned whole have in the end, by name."""
        weights = {
            part: (t.peft_config[self.name], adapter_files.lora_state(t, self.name)) for part, t in self.tuners.items()
        }
        differences = {key: learned[key].float() - base.float() for key, base in self.base.items()}
        base = (self.model.name, self.model.adapters.fingerprint)
        adapter_files.save(folder, weights, differences, base, made)

    def remove(self) -> None:
        """The model's modules are its own again, and its parameters what they were."""
        self._set(0.0, self.base)
        for tuner in self.tuners.values():
            lora.remove(tuner)
        self.model.mllm.boi_delta = None

    def __enter__(self) -> AdapterTraining:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def check_output(model: Limner, output: Path, data: str | Path | None = None) -> None:
    """Raises ValueError for a folder with other things than a run to go on with, or inside the ``data``; and for a model with
    adapters."""
    if data is not None:
        check_outside(output, data)
    if (output / adapter_files.CARD).exists():
        raise ValueError(f"{output} holds a finished adapter already; choose another folder or take it away")
    if parallel.rank() == 0:  # it alone writes there, perhaps before another process looks
        check_folder(output, LOCK_FILE if (output / LOCK_FILE).exists() else f"{RUN_FOLDER}/{SETTINGS_FILE}")
    if model.adapters.user:
        raise ValueError("adapters are loaded: merge_adapters() or delete_adapter() first")


def check_run(output: Path, model: Limner, make_batch: Mixture, config: Any) -> None:
    """Raises ValueError where ``output`` holds a run of other data, another base or other settings (`check_same_run`)."""
    settings = {"data": make_batch.fingerprints, "base": model.adapters.fingerprint, "config": run_settings(config)}
    check_same_run(output / RUN_FOLDER, settings)


@contextmanager
def prepared(model: Limner, dtype: str, seed: int) -> Iterator[None]:
    """Within it the model is on its device in the precision of training, and torch is seeded; afterwards weights, buffers and
    modes of the model and torch's random numbers are what they were before, bit for bit."""
    device = parallel.init_process_group()
    where = device or model.mllm.device
    chosen = training_precision(model, where, dtype)
    # by name: sharding makes other parameters
    before = {name: (t.dtype, t.requires_grad) for name, t in named_tensors(model)}
    rounded = {name: t.detach().to("cpu", copy=True) for name, t in named_tensors(model) if is_rounded(t, chosen)}
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.random.fork_rng([where] if where.type == "cuda" else []):
            model.to(device, chosen).eval()
            torch.manual_seed(seed)
            yield
    finally:
        for name, tensor in named_tensors(model):
            former, learns = before[name]
            tensor.data = (
                rounded[name].to(tensor.device)
                if name in rounded and not parallel.is_sharded(tensor)
                else tensor.data.to(former)
            )
            tensor.requires_grad_(learns)
        for module, training in modes:
            module.training = training


def named_tensors(model: Limner) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def is_rounded(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether a tensor is another one after it was in precision ``dtype``."""
    return tensor.is_floating_point() and not torch.equal(tensor, tensor.to(dtype).to(tensor.dtype))


def training_precision(model: Limner, device: torch.device, wanted: str = "auto") -> torch.dtype:
    """Precision of the frozen weights on all processes: what the machine computes fast, unless bf16 would round the base.

    Raises ValueError for a name that is no precision.
    """
    dtype = precision.choose_dtype(device, wanted)
    if wanted == "auto" and any(is_rounded(p, dtype) for p in model.parameters()):
        dtype = torch.float32
    return parallel.common_dtype(dtype)


def learning_rate(width: int) -> float:
    """2e-4 at a width of 4096, as is usual, and 1.3e-3 at nano's 256, measured (docs/finetune.md): a power of the ratio."""
    return round(2e-4 * (4096 / width) ** 0.675, 5)


def draw_samples(model: Limner, prompts: Sequence[str], seed: int, path: Path, **options: Any) -> None:
    """Draw the prompts, if there are any, into a sheet. Pictures that are none do not end the training: there is a warning."""
    if not prompts:
        return
    adapters = model.adapters.without_bundled
    try:
        with ProgressBar() as progress:
            replies = model.eval().draw(
                list(prompts), max_new_tokens=32, seed=seed, callback=progress, adapters=adapters, **options
            )
    except NotFiniteError as error:
        warnings.warn(f"no samples in {path.name}: {error}", stacklevel=2)
        return
    save_sheet([reply.images[0] for reply in replies], len(replies), path)


def comparison_section(first: str, second: str, prompts: Sequence[str], seed: int) -> str:
    """A section of the model card with two sheets of the same prompts; empty if nothing was drawn."""
    if not prompts:
        return ""
    shown = "\n".join(f"- {prompt}" for prompt in prompts)
    return f"""
The same prompts, {first} (samples/{first}.png) and {second} (samples/{second}.png), seed {seed}:

{shown}

![{first}](samples/{first}.png)
![{second}](samples/{second}.png)
"""


def save_adapter(
    adapter: AdapterTraining,
    output: Path,
    learned: Mapping[str, Tensor],
    made: Mapping[str, Any],
    model_card: str,
    loop: LoopConfig,
) -> None:
    """Write the adapter and its README. The checkpoints are removed, unless several were to be kept; log and metrics stay."""
    write_text(output / "README.md", model_card)
    with os_errors(output, "; the same command goes on"):
        adapter.save(output, learned, made)
    if loop.save_total_limit == 1:
        shutil.rmtree(output / RUN_FOLDER / "checkpoints")
