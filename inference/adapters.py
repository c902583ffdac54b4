"""LoRA adapters: made, loaded, combined by name and weight, taken off again, merged into the weights.

An adapter folder holds ``llm/`` and ``mmdit/`` as peft saves them (peft reads them too), ``extra.safetensors``
with the differences of parameters that were trained whole, and ``limner_adapter.json``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..detokenizer.detokenizer import Detokenizer
from ..detokenizer.mmdit import MMDiT
from ..integrations.sdxl.detokenizer import SDXLDetokenizer
from ..mllm.stream import StreamModel
from . import adapter_files
from .adapter_files import lora_state, read_card, read_lora, read_lora_config, read_tensors
from .generation_defaults import GenerationDefaults
from .lora_fusion import LoraFusion

EXTRA = {
    "queries": "mllm.queries.",
    "boi": "mllm.boi_delta",
    "input_resampler": "mllm.input_resampler.",
    "output_resampler": "mllm.output_resampler.",
    "adapter": "detokenizer.adapter.",
}
"""Small parts that can be trained whole beside LoRA, and how their parameters' names begin."""


@dataclass
class Adapter:
    """One loaded adapter."""

    weight: float
    parts: tuple[str, ...]
    extra: dict[str, Tensor] = field(default_factory=dict)
    """Differences from the base, by parameter name, fp32"""
    made: Mapping[str, Any] = field(default_factory=dict)
    """How it was trained, as its card says"""
    bundled: bool = False
    """Part of the model's own folder: nobody loaded it, nobody takes it off"""

    @property
    def steps(self) -> int | None:
        """A few-step student's: it draws in so many plain steps, and rests where other steps are asked for."""
        return self.made.get("student_steps")


class AdaptableModel(Protocol):
    """What adapters need of a model (`Limner`)."""

    name: str
    mllm: StreamModel
    detokenizer: Detokenizer | SDXLDetokenizer
    defaults: GenerationDefaults

    def modules(self) -> Iterator[nn.Module]: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...


class Adapters:
    """The adapters of one model. The base's own weights are never changed but by `merge`."""

    def __init__(self, model: AdaptableModel) -> None:
        self.model = model
        self.loaded: dict[str, Adapter] = {}
        self.tuners: dict[str, Any] = {}
        self.base: dict[str, Tensor] = {}
        """What the parameters that extras change were before"""
        self.fingerprint = fingerprint(model)
        self.lora_fusion = LoraFusion()

    def parts(self) -> dict[str, nn.Module]:
        """What LoRA can change."""
        transformer = self.model.detokenizer.transformer
        return {"llm": self.model.mllm.llm} | ({"mmdit": transformer} if isinstance(transformer, MMDiT) else {})

    def add_lora(self, name: str, part: str, config: Any) -> None:
        """Wrap the linear layers of ``part`` with fresh LoRA weights (peft) of the base's precision."""
        from peft.tuners.lora import LoraModel

        if part not in self.parts():
            raise ValueError(f"this model has no {part!r} for LoRA; it has {', '.join(self.parts())}")
        module = self.parts()[part]
        if part in self.tuners:
            tuner = self.tuners[part]
            tuner.peft_config[name] = config
            tuner.inject_adapter(module, name, autocast_adapter_dtype=False)
        else:
            tuner = self.tuners[part] = LoraModel(module, {name: config}, name)
        for key, parameter in module.named_parameters():
            if f".{name}." in key:
                parameter.data = parameter.data.to(self.model.mllm.dtype)

    def add(self, name: str, adapter: Adapter) -> None:
        """Count an adapter whose LoRA weights are in place among the active ones."""
        self.loaded[name] = adapter
        self.apply()

    @property
    def user(self) -> list[str]:
        """Names of those that were loaded, beside what came with the model."""
        return [name for name, adapter in self.loaded.items() if not adapter.bundled]

    def load(self, folder: str | Path, name: str | None = None, weight: float = 1.0, bundled: bool = False) -> str:
        """Load and switch on. Raises ValueError for a folder that is none, another base, a name that is taken."""
        from peft import set_peft_model_state_dict

        folder = Path(folder)
        card = read_card(folder)
        name = name or folder.resolve().name
        if not name or "." in name:
            raise ValueError(f"an adapter cannot be called {name!r}: names are not empty and hold no dot")
        if name in self.loaded:
            raise ValueError(f"an adapter called {name!r} is loaded already; give this one another name")
        if card["base_fingerprint"] != self.fingerprint:
            raise ValueError(
                f"{folder} is an adapter for {card['base']!r} (weights {card['base_fingerprint'][:12]}), "
                f"not for this model, {self.model.name!r} ({self.fingerprint[:12]}); load the model it was trained on"
            )
        configs = {part: read_lora_config(folder / part / "adapter_config.json") for part in card["parts"]}
        states = {part: read_lora(folder, part) for part in card["parts"]}
        extra = read_tensors(folder / "extra.safetensors") if card["extra"] else {}
        self.check_extra(extra, folder)
        for part, own in states.items():
            try:
                self.add_lora(name, part, configs[part])
                expected = lora_state(self.tuners[part], name)
                wrong = sorted(
                    k
                    for k in own.keys() | expected.keys()
                    if k not in own or k not in expected or own[k].shape != expected[k].shape
                )
                if wrong:
                    raise ValueError(
                        f"{folder / part}: weights that do not fit its configuration: {', '.join(wrong[:3])}"
                    )
                set_peft_model_state_dict(self.tuners[part], own, adapter_name=name)
            except BaseException:  # Ctrl-C too: half an adapter must not stay, and the error goes on
                self._drop(name, card["parts"])
                raise
        self.add(name, Adapter(weight, tuple(card["parts"]), extra, card["made"], bundled))
        return name

    def save(self, name: str, folder: Path, extra: Mapping[str, Tensor], made: Mapping[str, Any] | None = None) -> None:
        """Write one, ``extra`` being the differences of parameters that were trained whole."""
        adapter_files.save(folder, name, self.tuners, extra, (self.model.name, self.fingerprint), made or {})

    def check_extra(self, extra: Mapping[str, Tensor], folder: Path) -> None:
        self.prepare_extra(["boi"] if EXTRA["boi"] in extra else [])
        known = dict(self.model.named_parameters())
        for key, value in extra.items():
            if key not in known or known[key].shape != value.shape:
                has = tuple(known[key].shape) if key in known else "none"
                raise ValueError(f"{folder / 'extra.safetensors'}: {key} of {tuple(value.shape)}, the model has {has}")

    def prepare_extra(self, names: Sequence[str]) -> None:
        """Make what of ``names`` (of `EXTRA`) a bare model lacks."""
        mllm = self.model.mllm
        if "boi" in names and mllm.boi_delta is None:
            rows = 1 if has_tied_embeddings(mllm.llm) else 2
            zeros = torch.zeros(rows, mllm.width, device=mllm.device, dtype=mllm.dtype)
            mllm.boi_delta = nn.Parameter(zeros, requires_grad=False)

    def set(self, weights: Mapping[str, float]) -> None:
        """Switch on exactly these, each at its weight; the others rest. Raises ValueError for an unknown name."""
        unknown = sorted(set(weights) - set(self.loaded))
        if unknown:
            raise ValueError(f"no adapter {unknown[0]!r}; loaded are {', '.join(self.loaded) or 'none'}")
        for name, adapter in self.loaded.items():
            adapter.weight = float(weights.get(name, 1.0 if adapter.bundled else 0.0))
        self.apply()

    def apply(self) -> None:
        """Bring the model to the adapters' weights; without any it is the base again, bit for bit."""
        from peft.tuners.lora import LoraLayer

        for part, tuner in self.tuners.items():
            active = [n for n, a in self.loaded.items() if part in a.parts and a.weight != 0]
            for module in tuner.model.modules():
                if isinstance(module, LoraLayer):
                    module.enable_adapters(bool(active))
                    for name in active:
                        if name in module.scaling:
                            module.set_scale(name, self.loaded[name].weight)
            if active:
                tuner.set_adapter(active, inference_mode=True)
        parameters = dict(self.model.named_parameters())
        changed = {key for adapter in self.loaded.values() for key in adapter.extra}
        with torch.no_grad():
            for key in changed - self.base.keys():
                self.base[key] = parameters[key].detach().clone()
            for key, base in self.base.items():
                parts = [
                    a.weight * a.extra[key].to(base.device) for a in self.loaded.values() if a.weight and key in a.extra
                ]
                value = base.float() + sum(parts) if parts else base
                parameters[key].copy_(value)

    def resolve_options(self, options: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """`generate`'s options with what a few-step student that is switched on wants where nothing was asked, its own
        steps and no guidance; and the students that must rest, because other steps were asked for.

        Guidance is the teacher's. So is what has been loaded for the MM-DiT: the model's own student has not met it, and
        draws it less well (docs/finetune.md). A student that was loaded beside it is meant to draw.
        Raises ValueError where two students want different steps and none was asked for.
        """
        students = {name: a.steps for name, a in self.loaded.items() if a.steps and a.weight}
        steps_wanted = options["num_inference_steps"]
        guided = any(options[name] not in (None, 1.0) for name in ("guidance_scale", "image_guidance_scale"))
        loaded = [a for a in self.loaded.values() if a.weight and not a.bundled and "mmdit" in a.parts]
        if steps_wanted is None and (guided or (loaded and not any(a.steps for a in loaded))):
            steps_wanted = self.model.defaults.num_inference_steps  # the teacher's
        if steps_wanted is None and len(set(students.values())) > 1:
            choices = ", ".join(f"{name} of {steps}" for name, steps in students.items())
            raise ValueError(
                f"students of several steps are on ({choices}): set num_inference_steps, or one's weight to 0"
            )
        disabled = [name for name, steps in students.items() if steps_wanted not in (None, steps)]
        options = dict(options)
        if len(disabled) < len(students):
            wanted = {"num_inference_steps": steps_wanted or max(students.values()), "guidance_scale": 1.0}
            options |= {name: value for name, value in wanted.items() if options[name] is None}
        return options, disabled

    @contextmanager
    def switched_off(self, names: Collection[str]) -> Iterator[None]:
        """These rest for a while."""
        weights = {name: self.loaded[name].weight for name in names}
        for name in weights:
            self.loaded[name].weight = 0.0
        self.apply()
        try:
            yield
        finally:
            for name, weight in weights.items():
                self.loaded[name].weight = weight
            self.apply()

    def fused(self) -> AbstractContextManager[None]:
        """The MM-DiT's active LoRA is part of its weights for a while (`LoraFusion`)."""
        active = [name for name, a in self.loaded.items() if "mmdit" in a.parts and a.weight != 0]
        return self.lora_fusion.fused(self.tuners["mmdit"].model, active) if active else nullcontext()

    @contextmanager
    def without_bundled(self) -> Iterator[None]:
        """Without what came with the model, for as long as its other weights are trained, merged or saved."""
        from peft import set_peft_model_state_dict

        removed = []
        for name in [name for name, adapter in self.loaded.items() if adapter.bundled]:
            parts = {p: self.tuners[p] for p in self.loaded[name].parts}
            states = {p: (t.peft_config[name], lora_state(t, name)) for p, t in parts.items()}
            removed.append((name, self.loaded[name], states))
            self.delete(name)
        try:
            yield
        finally:
            for name, adapter, states in removed:
                for part, (config, state) in states.items():
                    self.add_lora(name, part, config)
                    set_peft_model_state_dict(self.tuners[part], state, adapter_name=name)
                self.add(name, adapter)

    @contextmanager
    def disabled(self, name: str) -> Iterator[None]:
        """One that is being trained has no effect for a while; what learns and what does not stays as it is."""
        parameters = dict(self.model.named_parameters())
        now = {key: parameters[key].detach().clone() for key in self.base}
        self._set_effect(name, 0.0, self.base)
        try:
            yield
        finally:
            self._set_effect(name, self.loaded[name].weight, now)

    @torch.no_grad()
    def _set_effect(self, name: str, weight: float, extras: Mapping[str, Tensor]) -> None:
        set_lora_scale(self.model, name, weight)
        parameters = dict(self.model.named_parameters())
        for key, value in extras.items():
            parameters[key].copy_(value)

    def delete(self, name: str) -> None:
        """Take one off. Raises ValueError for an unknown name."""
        if name not in self.loaded:
            raise ValueError(f"no adapter {name!r}; loaded are {', '.join(self.loaded) or 'none'}")
        adapter = self.loaded.pop(name)
        self._drop(name, adapter.parts)
        self.apply()
        if not self.loaded:
            self.base.clear()
            self.model.mllm.boi_delta = None

    def _drop(self, name: str, parts: tuple[str, ...] | list[str]) -> None:
        for part in parts:
            tuner = self.tuners.get(part)
            if tuner is None or name not in tuner.peft_config:
                continue
            tuner.delete_adapter(name)
            if not tuner.peft_config:
                self._unload(part)

    def _unload(self, part: str) -> None:
        tuner = self.tuners.pop(part)
        module = tuner.unload()
        assert module is self.parts()[part]
        for name in ("peft_config", "active_adapter", "active_adapters"):
            module.__dict__.pop(name, None)

    def merge(self) -> None:
        """Write the active adapters into the base's weights; none is loaded afterwards but what came with the model, and of
        that no student whose MM-DiT has changed: it has not met what is in it now."""
        changed = any(self.loaded[name].weight and "mmdit" in self.loaded[name].parts for name in self.user)
        if changed:
            for name in self.loaded.keys() - self.user:
                self.delete(name)
        with self.without_bundled():
            self._merge()

    def _merge(self) -> None:
        mllm = self.model.mllm
        for part in list(self.tuners):
            tuner = self.tuners[part]
            active = [n for n, a in self.loaded.items() if part in a.parts and a.weight != 0]
            if active:
                tuner.merge_adapter(active, safe_merge=True)
                for module in tuner.model.modules():
                    # peft's unload() would subtract again what was merged
                    if hasattr(module, "merged_adapters"):
                        module.merged_adapters = []
            self._unload(part)
        if mllm.boi_delta is not None:
            with torch.no_grad():
                boi, delta = mllm.vocabulary.boi, mllm.boi_delta
                mllm.llm.get_input_embeddings().weight[boi] += delta[0]
                if not has_tied_embeddings(mllm.llm):
                    mllm.llm.get_output_embeddings().weight[boi] += delta[1]
        mllm.boi_delta = None
        self.loaded.clear()
        self.base.clear()
        self.fingerprint = fingerprint(self.model)


def set_lora_scale(module: nn.Module | AdaptableModel, name: str, weight: float) -> None:
    """LoRA ``name`` inside ``module`` acts at ``weight``; what learns stays as it is."""
    from peft.tuners.lora import LoraLayer

    for layer in module.modules():
        if isinstance(layer, LoraLayer) and name in layer.scaling:
            layer.set_scale(name, weight)
            # peft computes what weighs nothing too; its own switch, `enable_adapters`, would change what learns
            layer._disable_adapters = not any(layer.scaling.values())


def has_tied_embeddings(llm: nn.Module) -> bool:
    """Whether the input embeddings are the output head's."""
    return llm.get_input_embeddings().weight is llm.get_output_embeddings().weight


def fingerprint(model: AdaptableModel) -> str:
    """Of everything that adapters build on."""
    return digest(model.mllm.llm, model.mllm.queries, model.detokenizer.transformer)


def digest(*modules: nn.Module) -> str:
    """SHA-256 of the names, shapes and first values of every parameter.

    Taken at bf16's precision, so that a model is the same in whatever precision it was loaded.
    """
    found = hashlib.sha256()
    for module in modules:
        for name, parameter in module.named_parameters():
            head = parameter.detach().flatten()[:64].to("cpu", torch.bfloat16)
            found.update(f"{name}{tuple(parameter.shape)}".encode())
            found.update(head.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def split_weight(text: str) -> tuple[str, float]:
    """``NAME`` or ``NAME:WEIGHT``, as adapters and data sets are given on the command line."""
    name, _, weight = text.rpartition(":")
    try:
        return (name, float(weight)) if name else (text, 1.0)
    except ValueError:  # a colon of the path itself
        return text, 1.0
