"""LoRA adapters: loaded, combined by name and weight, taken off again, merged into the weights.

The model's own modules never hold one. What answers a request is a view of the model: modules of its own that share every
tensor which the request's adapters do not change (`Adapters.view`). So requests with other adapters run side by side, and one
that is left in the middle leaves nothing behind.

An adapter folder holds ``llm/`` and ``mmdit/`` as peft saves them (peft reads them too), ``modules_to_save.safetensors``
with the differences of modules that were trained whole, and ``limner_adapter.json``.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..detokenizer.detokenizer import Detokenizer
from ..detokenizer.files import mismatched_keys, refusing
from ..mllm.stream import StreamModel
from . import lora
from .adapter_files import MODULES_TO_SAVE, LoraWeights, lora_state, read_card, read_differences, read_lora
from .generation_config import GenerationConfig, finite_number
from .isolation import plain_torch

LORA_PARTS = {"mllm": "llm", "detokenizer": "mmdit"}
"""Of each half of the model, the part that LoRA changes"""
MAX_VIEWS = 4
"""Views that are kept, the last used ones: each costs its adapters' weights and, where they are fused, the linear layers'"""

SAMPLED_VALUES = 16
"""Of each parameter, which tell whether it was written to"""


@dataclass(eq=False)
class Adapter:
    """One loaded adapter."""

    name: str
    weight: float
    lora: Mapping[str, LoraWeights] = field(default_factory=dict)
    """By part: "llm", "mmdit" """
    differences: Mapping[str, Tensor] = field(default_factory=dict)
    """From the base, of modules that were trained whole: by parameter name, fp32"""
    made: Mapping[str, Any] = field(default_factory=dict)
    """How it was trained, as its card says"""
    bundled: bool = False
    """Part of the model's own folder: nobody loaded it, nobody takes it off"""
    folder: Path | None = None
    """Where it was loaded from, resolved"""

    @property
    def steps(self) -> int | None:
        """A few-step student's: it draws in so many plain steps, and is left out where other steps are asked for."""
        return self.made.get("student_steps")

    def changes(self, half: str) -> bool:
        return LORA_PARTS[half] in self.lora or any(key.startswith(f"{half}.") for key in self.differences)


class AdaptableModel(Protocol):
    """What adapters need of a model (`Limner`)."""

    name: str
    mllm: StreamModel
    detokenizer: Detokenizer
    defaults: GenerationConfig

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...


class Adapters:
    """The adapters of one model. The base's own weights are never changed but by `merge`."""

    def __init__(self, model: AdaptableModel) -> None:
        self.model = model
        self.loaded: dict[str, Adapter] = {}
        self.views: dict[Any, nn.Module] = {}

    @cached_property
    def fingerprint(self) -> str:
        """Of the base, as it was when it was first asked for."""
        return fingerprint(self.model)

    @property
    def known_fingerprint(self) -> str | None:
        """The fingerprint, where something has asked for it before."""
        return self.__dict__.get("fingerprint")

    @property
    def user(self) -> list[str]:
        """Names of those that were loaded, beside what came with the model."""
        return [name for name, adapter in self.loaded.items() if not adapter.bundled]

    @property
    def without_bundled(self) -> dict[str, float]:
        """A request's ``adapters`` that leave out what came with the model."""
        return {name: 0.0 for name, adapter in self.loaded.items() if adapter.bundled}

    def load(self, folder: str | Path, name: str | None = None, weight: float = 1.0, bundled: bool = False) -> str:
        """Load and switch on. Without a ``name`` it is called after its folder, with a number where that is taken.

        Raises ValueError for a folder that is none or is loaded already, another base, a given name that is taken, a weight
        that is no finite number.
        """
        folder, weight = Path(folder).expanduser(), finite_number("the weight", weight)
        with refusing(folder):
            return self._load(folder, name, weight, bundled)

    def _load(self, folder: Path, name: str | None, weight: float, bundled: bool) -> str:
        card = read_card(folder)
        if name is None:
            if same := [own.name for own in self.loaded.values() if own.folder == folder.resolve()]:
                raise ValueError(
                    f"{folder} is loaded already, as {same[0]!r}: set_adapters changes its weight; "
                    "given a name of its own it is loaded again"
                )
            name = free_name(folder.resolve().name or "adapter", self.loaded)
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"an adapter's name is a word, not {name!r:.60}")
        if name in self.loaded:
            raise ValueError(f"an adapter called {name!r} is loaded already; give this one another name")
        if card["base_fingerprint"] != self.fingerprint:
            raise ValueError(
                f"{folder} is an adapter for {card['base']!r} (weights {card['base_fingerprint'][:12]}), "
                f"not for this model, {self.model.name!r} ({self.fingerprint[:12]}); load the model it was trained on"
            )
        parts = {part: read_lora(folder / part) for part in card["parts"]}
        adapter = Adapter(name, weight, parts, read_differences(folder, card), card["made"], bundled, folder.resolve())
        try:  # a view tells whether the weights fit
            if stray := sorted(key for key in adapter.differences if key.split(".")[0] not in LORA_PARTS):
                raise ValueError(f"{stray[0]}: the model has no such parameter")
            for half in LORA_PARTS:
                self.view_with(half, [(adapter, weight or 1.0)])
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from None
        self.loaded[name] = adapter
        return name

    def delete(self, name: str) -> None:
        """Take one off. Raises ValueError for an unknown name."""
        self.weights({name: 0.0})
        del self.loaded[name]
        self.views.clear()

    def changed_weights(self, weights: Mapping[str, float]) -> dict[str, float]:
        """Those of a request's ``weights`` that make them, given as its ``adapters``."""
        return {
            name: weight for name, weight in weights.items() if weight != (1.0 if self.loaded[name].bundled else 0.0)
        }

    def weights(self, chosen: Mapping[str, float] | None = None) -> dict[str, float]:
        """Every loaded adapter's weight in a request: those ``chosen`` and no others, or as they were switched on for None. What
        came with the model stays on unless it is named. Raises ValueError for an unknown name."""
        if chosen is None:
            return {name: adapter.weight for name, adapter in self.loaded.items()}
        if not isinstance(chosen, Mapping):
            raise ValueError(f"adapters are given with their weights, such as {{'cactus': 0.7}}, not as {chosen!r:.60}")
        if unknown := sorted(set(chosen) - set(self.loaded)):
            raise ValueError(f"no adapter {unknown[0]!r}; loaded are {', '.join(self.loaded) or 'none'}")
        weights = {name: chosen.get(name, 1.0 if a.bundled else 0.0) for name, a in self.loaded.items()}
        return {name: finite_number(f"the weight of {name}", weight) for name, weight in weights.items()}

    def set(self, chosen: Mapping[str, float]) -> None:
        """Switch on exactly these, each at its weight, for requests that name none."""
        for name, weight in self.weights(chosen).items():
            self.loaded[name].weight = weight

    def resolve_options(
        self, options: Mapping[str, Any], weights: Mapping[str, float]
    ) -> tuple[GenerationConfig, dict[str, float]]:
        """What a request asks for, on top of the model's defaults, and the adapters' weights while it draws.

        A few-step student draws in its own steps and without guidance where nothing else is asked for, and is left out of the
        drawing where other steps are. Guidance is the teacher's. So is what has been loaded for the MM-DiT: the model's own
        student has not met it, and draws it less well (docs/finetune.md). A student that was loaded takes the place of the
        model's own. Raises ValueError where two loaded students want different steps and none was asked for.
        """
        self.model.defaults.updated(options)  # what makes no sense is said before anything is made of it
        active = {name: self.loaded[name] for name, weight in weights.items() if weight}
        students = {name: adapter.steps for name, adapter in active.items() if adapter.steps}
        steps = options.get("num_inference_steps")
        guided = any(options.get(name) not in (None, 1.0) for name in ("guidance_scale", "image_guidance_scale"))
        drawing = [adapter for adapter in active.values() if not adapter.bundled and "mmdit" in adapter.lora]
        if steps is None and (guided or (drawing and not any(adapter.steps for adapter in drawing))):
            steps = self.model.defaults.num_inference_steps  # the teacher's
        loaded = {name: own for name, own in students.items() if not active[name].bundled and steps in (None, own)}
        students = loaded or students  # two students at once would each add the whole way from the teacher
        if steps is None and len(set(students.values())) > 1:
            choices = ", ".join(f"{name} of {own}" for name, own in students.items())
            raise ValueError(
                f"students of several steps are on ({choices}): set num_inference_steps, or one's weight to 0"
            )
        drawing_students = {name: own for name, own in students.items() if steps in (None, own)}
        disabled = {name for name, adapter in active.items() if adapter.steps and name not in drawing_students}
        own_steps = list(drawing_students.values())
        wanted = {"num_inference_steps": own_steps[0], "guidance_scale": 1.0} if own_steps else {}
        user = {name: value for name, value in options.items() if value is not None}
        config = self.model.defaults.updated({**wanted, **user})
        return config, {name: weight for name, weight in weights.items() if name not in disabled}

    def view(self, half: str, weights: Mapping[str, float]) -> Any:
        """The model's ``half``, "mllm" or "detokenizer", with adapters at these weights; itself where none changes it.

        Raises ValueError for weights of an adapter that do not fit the model.
        """
        return self.view_with(half, self.active(weights))

    def active(self, weights: Mapping[str, float]) -> list[tuple[Adapter, float]]:
        """The adapters that these weights switch on: what a request holds, whatever is taken off while it is answered."""
        return [(adapter, weights[name]) for name, adapter in self.loaded.items() if weights.get(name)]

    def view_with(self, half: str, adapters: Sequence[tuple[Adapter, float]]) -> Any:
        """`view` with adapters that need not be loaded. A half in training mode gives a view that is not, and stays as it is.

        Raises ValueError for weights that are somewhere else, as accelerate's hooks keep them.
        """
        module = getattr(self.model, half)
        active = [(adapter, weight) for adapter, weight in adapters if adapter.changes(half)]
        if any(parameter.is_meta for parameter in module.parameters()):
            raise ValueError(
                f"some weights of the {half} are on the meta device: load them, and leave offloading to `load(..., offload=True)`"
            )
        training = any(part.training for part in module.modules())
        if not active and not training:
            return module
        key = (half, *active, *weights_version(module), *map(id, lora.forward_hooks(module)))
        view = self.views.pop(key, None)
        if view is None:
            with plain_torch():
                view, tuner = build_view(module, half, active)
                if half == "detokenizer" and tuner is not None:
                    lora.fuse(view.transformer, list(tuner.peft_config))
        if training:  # what is being trained changes by more than its weights
            return view
        self.views[key] = view
        for old in list(self.views)[:-MAX_VIEWS]:
            self.views.pop(old, None)
        return view

    def holds(self, module: nn.Module) -> bool:
        """Whether this is a half of the model itself or a view that is kept: another one would never be used again."""
        return module in (self.model.mllm, self.model.detokenizer) or module in self.views.values()

    @torch.no_grad()
    def merge(self) -> None:
        """Write the active adapters into the base's weights; none is loaded afterwards but what came with the model, and of
        that no student whose MM-DiT has changed: it has not met what is in it now. Raises ValueError for parametrized weights."""
        for half in LORA_PARTS:
            lora.check_plain(getattr(self.model, half))
        active = [(self.loaded[name], self.loaded[name].weight) for name in self.user if self.loaded[name].weight]
        for half in LORA_PARTS:
            view, tuner = build_view(getattr(self.model, half), half, active)
            if tuner is not None:  # the view's weights are the base's
                tuner.merge_adapter(list(tuner.peft_config), safe_merge=True)
            if half == "mllm":
                view.merge_boi_delta()  # into tables that are the base's too
            for key, parameter in self.model.named_parameters():
                if any(key in adapter.differences for adapter, _ in active) and key.startswith(f"{half}."):
                    parameter.copy_(view.get_parameter(key.removeprefix(f"{half}.")))
        changed = any("mmdit" in adapter.lora for adapter, _ in active)
        self.loaded = {name: a for name, a in self.loaded.items() if a.bundled and not changed}
        self.views.clear()
        self.__dict__.pop("fingerprint", None)


def build_view(module: nn.Module, half: str, active: list[tuple[Adapter, float]]) -> tuple[Any, Any]:
    """A view of a half of a model with these adapters, and peft's `LoraModel` in it, None where they bring no LoRA for it.

    Raises ValueError for LoRA weights that do not fit their configuration, and for differences of parameters that the model lacks
    or has in another shape.
    """
    from peft import set_peft_model_state_dict

    part = LORA_PARTS[half]
    differing = sorted({key for adapter, _ in active for key in adapter.differences if key.startswith(f"{half}.")})
    # names of our own: peft finds an adapter's weights by looking for its name anywhere in theirs
    loras = [(*adapter.lora[part], weight) for adapter, weight in active if part in adapter.lora]
    names = [f"adapter{number:04d}" for number in range(len(loras))]
    if loras and not hasattr(module, part):
        raise ValueError(f"this model has no {part!r} for LoRA")
    changed = {owner for _, owner, *rest in (key.split(".") for key in differing) if rest}
    in_training = {name for name, own in module.named_children() if any(inner.training for inner in own.modules())}
    view: Any = lora.view_of(module, changed | in_training | ({part} if loras else set()))
    if MODULES_TO_SAVE["boi"] in differing:
        view.add_boi_delta()
    own = dict(view.named_parameters(prefix=half))
    for key in differing:
        shapes = {tuple(a.differences[key].shape) for a, _ in active if key in a.differences}
        if key not in own or shapes != {tuple(own[key].shape)}:
            had = tuple(own[key].shape) if key in own else "none"
            raise ValueError(f"{key} of {' and '.join(map(str, sorted(shapes)))}, the model has {had}")
        base, (_, *path, name) = own[key], key.split(".")
        change: Any = sum(weight * a.differences[key].to(base.device) for a, weight in active if key in a.differences)
        value = (base.float() + change).to(base.dtype)
        setattr(view.get_submodule(".".join(path)), name, nn.Parameter(value, requires_grad=False))
    if not loras:
        return view.eval(), None
    target = view.get_submodule(part)
    tuner = lora.inject(target, {name: config for name, (config, _, _) in zip(names, loras, strict=True)})
    for name, (_, state, _) in zip(names, loras, strict=True):
        if wrong := mismatched_keys(state, lora_state(tuner, name)):
            raise ValueError(f"{part}: weights that do not fit its configuration: {', '.join(wrong[:3])}")
        set_peft_model_state_dict(tuner, state, adapter_name=name)
    tuner.set_adapter(names, inference_mode=True)
    lora.set_scale(target, {name: weight for name, (_, _, weight) in zip(names, loras, strict=True)})
    return view.eval(), tuner  # peft's dropout begins in training mode


def weights_version(module: nn.Module) -> tuple[Hashable, ...]:
    """Changes when a parameter of the module is written to, moved or replaced.

    torch counts what is written in place, but not through ``.data``, as averages of weights are put in and old optimizers step:
    so a few values of each are part of it. They are read at once, since every look at a device waits for it.
    """
    parameters = list(module.parameters())
    counted = [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in parameters]
    plain = [p.detach() for p in parameters if p.numel() and type(p.data) is Tensor]  # no shards and no packed weights
    values = [p.reshape(-1)[:: -(-p.numel() // SAMPLED_VALUES)].to(plain[0].device, torch.float32) for p in plain]
    return *counted, torch.cat(values).cpu().numpy().tobytes() if values else b""


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


def free_name(name: str, taken: Collection[str]) -> str:
    """``name``, or the first of ``name-2``, ``name-3``, … that is not ``taken``."""
    return next(own for n in count(1) if (own := name if n == 1 else f"{name}-{n}") not in taken)


def split_weight(text: str) -> tuple[str, float]:
    """``NAME`` or ``NAME:WEIGHT``, as adapters and data sets are given on the command line.

    A colon of the path itself (``C:\\cat``, ``a:b/cat``, a folder that is called so) is none of a weight. Raises ValueError for a
    weight that is no finite number.
    """
    name, colon, weight = text.rpartition(":")
    if not colon or "/" in weight or "\\" in weight or os.path.exists(text):
        return text, 1.0
    if re.fullmatch("[A-Za-z]", name) and re.match("[A-Za-z_]", weight):  # of a drive
        return text, 1.0
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{text}: {weight!r} is no weight; it must be a finite number, such as 0.5")
    return name, value


def split_adapter(text: str) -> tuple[str | None, str, float]:
    """Name, folder and weight of ``[NAME=]DIR[:WEIGHT]``, as an adapter is given on the command line; None for no name.

    Raises ValueError as `split_weight` does.
    """
    name, equals, rest = text.partition("=")
    # a folder's own path may hold "="
    if not equals or not re.fullmatch(r"[\w.-]+", name) or os.path.exists(split_weight(text)[0]):
        return None, *split_weight(text)
    return name, *split_weight(rest)
