"""`Limner`: the parts of a model folder, wired."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..detokenizer.detokenizer import Detokenizer
from ..detokenizer.files import load_strict, read_json, read_part_config, resolve_folder, write_source
from ..integrations.sd3 import files as sd3_files
from ..integrations.sdxl.detokenizer import SDXLDetokenizer
from ..integrations.seed_x.qwen_vl_vision import QwenVLVisionConfig, QwenVLVisionModel
from ..mllm.config import LimnerConfig
from ..mllm.decoding import Decoder, DecodingOptions
from ..mllm.encoding import StreamEncoder
from ..mllm.events import Event
from ..mllm.stream import StreamModel
from ..mllm.vision_tower import VisionTower
from ..mllm.vocabulary import vocabulary_from_tokenizer
from .adapters import Adapters
from .chat import Chat
from .drawing import DrawingOptions, make_draw
from .generation_defaults import GenerationDefaults
from .inputs import ContextLengthError, Messages, as_batch, load_message_images, seeds_per_row
from .offload import ModelOffload
from .output import atomic_folder
from .reply import Reply
from .resizing import nearest_size, reference_size

LOADING_LOCK = threading.Lock()
"""One model at a time is loaded: transformers changes torch's default precision and initialisers while it makes a module"""
STUDENT = "student"
"""The folder of a few-step student that comes with a model (`limner distill`)"""
PARTS = ("llm", "vision", "detokenizer", STUDENT)
"""Folders of a model: those that another one left behind are taken away when this one is saved over it"""
STREAM_PARTS = ("queries", "input_resampler", "output_resampler", "tile_embed")


class Limner(nn.Module):
    """One model: ``mllm`` reads and writes, ``detokenizer`` paints. Made by `loading.load`."""

    def __init__(
        self,
        mllm: StreamModel,
        detokenizer: Detokenizer | SDXLDetokenizer,
        tokenizer: PreTrainedTokenizerBase,
        defaults: GenerationDefaults | None = None,
    ) -> None:
        super().__init__()
        self.mllm, self.detokenizer, self.tokenizer = mllm, detokenizer, tokenizer
        self.config = mllm.config
        self.defaults = defaults or GenerationDefaults()
        self.encoder = StreamEncoder(tokenizer, mllm.config, mllm.vocabulary)
        self.name = "limner"
        self.stored_dtype = mllm.llm.dtype
        """The precision of the weights on the disk, whatever they were loaded in."""
        self.offload: ModelOffload | None = None
        self.bits: int | None = None
        """Of the weights of its linear layers, where they were quantised"""
        self._adapters: Adapters | None = None

    def generate(
        self,
        messages: Messages | Sequence[Messages],
        *,
        max_new_tokens: int | None = None,
        max_images: int | None = None,
        images: str = "auto",
        boxes: bool = False,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        stop: Sequence[str] = (),
        seed: int | Sequence[int] = 0,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        image_guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        sampler: str | None = None,
        n: int = 1,
        callback: Callable[[Event], None] | None = None,
    ) -> Reply | list[Reply]:
        """Answer a prompt, a conversation, or a batch of either (then, and with ``n`` > 1, a list).

        ``images``: "auto" (the model decides), "force" (the reply begins with a picture), "never".
        ``boxes`` asks for `Reply.boxes` where the chat template has a form for it.
        ``n`` replies to each, with seeds ``seed``, ``seed + 1``, …; a list gives each conversation of a batch
        its own. ``height`` and ``width`` in pixels.
        ``callback`` gets every event. Raises ValueError for messages or options that make no sense.
        """
        options = {k: v for k, v in locals().items() if k not in ("self", "messages", "n", "callback")}
        if n < 1:
            raise ValueError(f"n is {n}; it must be at least 1")
        batch, single = as_batch(messages)
        seeds = [own + k for own in seeds_per_row(seed, len(batch)) for k in range(n)]
        batch = [m for m in batch for _ in range(n)]
        events = self._run(batch, seeds, options)
        while True:
            try:
                event = next(events)
            except StopIteration as stopped:
                return stopped.value[0] if single and n == 1 else stopped.value
            if callback:
                callback(event)

    def stream(self, messages: Messages | Sequence[Messages], **options: Any) -> Generator[Event, None, list[Reply]]:
        """The events of a reply as they happen; takes what `generate` takes, but ``n`` and ``callback``.

        The generator's own return value is the list of replies.
        """
        allowed = set(self.generate.__kwdefaults__ or {}) - {"n", "callback"}
        unknown = set(options) - allowed
        if unknown:
            raise ValueError(f"unknown options {', '.join(sorted(unknown))}; there are {', '.join(sorted(allowed))}")
        values = {k: v for k, v in (self.generate.__kwdefaults__ or {}).items() if k in allowed} | options
        batch, _ = as_batch(messages)
        return (yield from self._run(batch, seeds_per_row(values["seed"], len(batch)), values))

    def draw(self, messages: Messages | Sequence[Messages], **options: Any) -> Reply | list[Reply]:
        """One picture for each prompt or conversation, whatever the model would say; ``options`` are `generate`'s.

        The model answers as it does in a chat, so that it may plan in words first. Where it answers without a picture,
        as to something it does not know, one is drawn all the same (``images="force"``), after what it said. Raises
        ValueError for what `generate` refuses, and for ``images``, ``max_images`` and ``n``, which are settled here.
        """
        if settled := sorted({"images", "max_images", "n"} & set(options)):
            raise ValueError(f"draw takes no {settled[0]}: it gives one picture for each prompt; generate takes it")
        batch, single = as_batch(messages)
        seeds = seeds_per_row(options.pop("seed", 0), len(batch))
        options["max_images"] = 1
        replies = self.generate(batch, seed=seeds, **options)
        silent = [i for i, reply in enumerate(replies) if not reply.images]
        if silent:
            options |= {"images": "force", "max_new_tokens": 1}
            forced = self.generate([batch[i] for i in silent], seed=[seeds[i] for i in silent], **options)
            for i, reply in zip(silent, forced, strict=True):
                replies[i] = replace(replies[i], parts=[*replies[i].parts, reply.images[0]])
        return replies[0] if single else replies

    def resize_note(self, image: Image.Image, size: tuple[int, int] | None = None) -> str | None:
        """How a picture that is larger than the model holds is edited, in a line; None for one that it takes as it is.

        ``size`` is the height and width in pixels of the answer, where it is settled.
        """
        if isinstance(self.detokenizer, SDXLDetokenizer):
            return None
        answer = size or nearest_size(image, self.config)
        size_multiple, max_side = self.detokenizer.size_multiple, self.detokenizer.max_side
        height, width = reference_size(image, self.config, answer, size_multiple, max_side)
        if (image.height, image.width) == (height, width):
            return None
        return (
            f"a picture of {image.width} x {image.height} is more than {self.name} edits: it is scaled and cut to "
            f"{width} x {height}, and the answer is {answer[1]} x {answer[0]}"
        )

    def chat(self, **options: Any) -> Chat:
        """A conversation that remembers; ``options`` are `generate`'s, and ``history``."""
        return Chat(self, **options)

    @property
    def adapters(self) -> Adapters:
        """The LoRA adapters of this model (`inference/adapters.py`)."""
        if self._adapters is None:
            self._adapters = Adapters(self)
        return self._adapters

    @property
    def student_steps(self) -> int | None:
        """Of the few-step student that came with the model; None without one."""
        loaded = {} if self._adapters is None else self._adapters.loaded
        return next((adapter.steps for adapter in loaded.values() if adapter.bundled), None)

    def load_adapter(self, folder: str | Path, name: str | None = None, weight: float = 1.0) -> str:
        """Load a LoRA adapter beside those already there and switch it on; returns its name (default: the folder's).

        Raises ValueError for a folder that holds none, one for another base model, a name that is taken.
        """
        if self.bits is not None:
            raise ValueError(f"weights of {self.bits} bits take no adapter: merge it first (limner merge)")
        return self.adapters.load(folder, name, weight)

    def set_adapters(self, names: str | Sequence[str], weights: float | Sequence[float] = 1.0) -> None:
        """Switch on exactly these adapters (none for an empty list), each at its weight; the others stay loaded.

        Raises ValueError for an unknown name or another number of weights.
        """
        names = [names] if isinstance(names, str) else list(names)
        values = [float(weights)] * len(names) if isinstance(weights, (int, float)) else list(weights)
        if len(values) != len(names):
            raise ValueError(f"{len(values)} weights for {len(names)} adapters")
        self.adapters.set(dict(zip(names, values, strict=True)))

    def get_active_adapters(self) -> dict[str, float]:
        """Names of the adapters that are switched on, with their weights."""
        loaded = self.adapters.loaded
        return {name: loaded[name].weight for name in self.adapters.user if loaded[name].weight}

    def delete_adapter(self, name: str) -> None:
        """Take an adapter off; without any the model is the base again, bit for bit. ValueError: unknown name."""
        self.adapters.delete(name)

    def merge_adapters(self) -> None:
        """Write the active adapters into the weights for good; `save_pretrained` then makes a whole model of them."""
        self.adapters.merge()

    def _run(
        self, batch: Sequence[Messages], seeds: Sequence[int], options: dict[str, Any]
    ) -> Generator[Event, None, list[Reply]]:
        def chosen(name: str) -> Any:
            return getattr(self.defaults, name) if options[name] is None else options[name]

        height, width = options["height"], options["width"]
        if (height is None) != (width is None):
            raise ValueError("give both height and width, or neither")
        if height is not None:
            self.detokenizer.check_size(height, width)
        decoding = DecodingOptions(
            max_new_tokens=chosen("max_new_tokens"),
            max_images=chosen("max_images"),
            images=options["images"],
            temperature=chosen("temperature"),
            top_p=chosen("top_p"),
            top_k=chosen("top_k"),
            stop=tuple([options["stop"]] if isinstance(options["stop"], str) else options["stop"]),
            size=None if height is None else (height, width),
        )
        disabled: list[str] = []
        if self._adapters is not None:
            options, disabled = self._adapters.resolve_options(options)
        drawing = DrawingOptions(
            num_inference_steps=chosen("num_inference_steps"),
            guidance_scale=chosen("guidance_scale"),
            image_guidance_scale=chosen("image_guidance_scale"),
            guidance_interval=tuple(chosen("guidance_interval")),
            sampler=chosen("sampler"),
        )
        encoded = [
            self.encoder.encode(
                load_message_images(m), add_generation_prompt=True, images=decoding.images, boxes=options["boxes"]
            )
            for m in batch
        ]
        max_tokens = self.mllm.max_position_embeddings
        prompt_tokens = max(len(e.input_ids) for e in encoded)
        if prompt_tokens + decoding.max_new_tokens > max_tokens:
            raise ContextLengthError(
                f"the conversation takes {prompt_tokens} tokens and the reply may take {decoding.max_new_tokens}; "
                f"this model holds {max_tokens}. Shorten it or lower max_new_tokens"
            )
        around = partial(self._while_drawing, disabled)
        draw = make_draw(self.detokenizer, drawing, self.config, list(seeds), around)
        rows = yield from Decoder(self.mllm, self.encoder, decoding).run(encoded, seeds, draw)
        return [Reply(row.parts, row.finish_reason) for row in rows]

    @contextmanager
    def _while_drawing(self, disabled: Sequence[str]) -> Iterator[None]:
        """The writing half rests where it may (`ModelOffload`), adapters that do not fit the steps always; the others are folded
        into what paints."""
        with ExitStack() as stack:
            if self.offload:
                stack.enter_context(self.offload.while_drawing())
            if disabled:
                stack.enter_context(self.adapters.switched_off(disabled))
            if self._adapters is not None:
                stack.enter_context(self.adapters.fused())
            yield

    def save_pretrained(self, folder: str | Path, sources: Mapping[str, str] | None = None) -> None:
        """Every part saves itself; see the folder's layout in docs/architecture.md.

        A model that was in ``folder`` is replaced when all of this one is written; other files there stay. Raises ValueError
        for a folder with anything else in the places of a model's parts. ``sources`` of "llm", "vision" and "sd3" (folders or
        hub ids) are named in place of copies of their weights.
        """
        if self.bits is not None:
            raise ValueError(f"weights of {self.bits} bits are not saved: save the model they were made of")
        if self._adapters is not None and self._adapters.user:
            raise ValueError("adapters are loaded: merge_adapters() or delete_adapter() first")
        bundled = {} if self._adapters is None else self._adapters.loaded
        with atomic_folder(folder, PARTS, owned=is_model) as fresh:
            for name, adapter in bundled.items():
                self.adapters.save(name, fresh / STUDENT, {}, adapter.made)
            with self.adapters.without_bundled() if bundled else nullcontext():
                self._save_parts(fresh, dict(sources or {}))

    def _save_parts(self, folder: Path, sources: dict[str, str]) -> None:
        self.config.save(folder)
        (folder / "generation_config.json").write_text(json.dumps(asdict(self.defaults), indent=1) + "\n")
        self.tokenizer.save_pretrained(folder)
        for name, part in (("llm", self.mllm.llm), ("vision", self.mllm.vision_tower.model)):
            if name in sources:
                write_source(folder / name, sources[name])
            else:
                part.save_pretrained(folder / name)
        save_file(stream_state(self.mllm), folder / "stream.safetensors")
        self.detokenizer.save_pretrained(folder / "detokenizer", *([sources["sd3"]] if "sd3" in sources else []))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Limner:
        """Raises ValueError for a folder that is not a Limner model, unknown keys and weights that do not fit."""
        with LOADING_LOCK:
            return cls._from_pretrained(Path(folder))

    @classmethod
    def _from_pretrained(cls, folder: Path) -> Limner:
        if not (folder / "config.json").exists():
            raise ValueError(f"{folder} holds no Limner model (no config.json)")
        config = LimnerConfig.load(folder)
        llm = load_strict(AutoModelForCausalLM, resolve_folder(folder / "llm"), dtype="auto")
        # not AutoTokenizer: it goes by a config.json's model type, which here is ours or, given the backbone's,
        # picks that family's class with a pre-tokenizer of its own
        read_json(folder / "tokenizer.json")
        try:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        except Exception as error:  # tokenizers raises plain Exceptions, transformers whatever its code meets
            raise ValueError(f"{folder / 'tokenizer.json'} is no tokenizer: {error}") from error
        vision_tower = VisionTower(load_vision_model(resolve_folder(folder / "vision")))
        mllm = StreamModel(
            llm, vision_tower, config, vocabulary_from_tokenizer(tokenizer, config, end_of_turn_ids(llm))
        )
        try:
            saved = load_file(folder / "stream.safetensors")
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{folder / 'stream.safetensors'} cannot be read: {error}") from error
        expected = stream_state(mllm)
        wrong = [
            k
            for k in saved.keys() | expected.keys()
            if k not in saved or k not in expected or saved[k].shape != expected[k].shape
        ]
        if wrong:
            raise ValueError(f"{folder / 'stream.safetensors'} does not fit config.json: {', '.join(sorted(wrong))}")
        mllm.load_state_dict(saved, strict=False)
        keys = GenerationDefaults.__dataclass_fields__
        defaults = GenerationDefaults(**read_json(folder / "generation_config.json", keys))
        model = cls(mllm, load_detokenizer(folder / "detokenizer"), tokenizer, defaults)
        model.name = folder.name
        return model.eval()


def is_model(folder: Path) -> bool:
    """Whether the folder is a Limner model's."""
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type") == "limner"
    except (OSError, ValueError, AttributeError):
        return False


def load_detokenizer(folder: Path) -> Detokenizer | SDXLDetokenizer:
    """Raises ValueError for a folder that holds none."""
    if (folder / "unet").is_dir():
        return SDXLDetokenizer.from_pretrained(folder)
    return Detokenizer.from_pretrained(folder, sd3_files.load_named_source(folder))


def stream_state(mllm: StreamModel) -> dict[str, torch.Tensor]:
    """The parts of the stream that are neither backbone nor eye."""
    return {k: v.contiguous() for k, v in mllm.state_dict().items() if k.split(".")[0] in STREAM_PARTS}


def end_of_turn_ids(llm: nn.Module) -> tuple[int, ...]:
    """Ids that end a turn, as the backbone's generation config names them."""
    ends = getattr(llm.generation_config, "eos_token_id", None)
    return () if ends is None else tuple(ends) if isinstance(ends, list) else (ends,)


def load_vision_model(folder: Path) -> nn.Module:
    """Of transformers or Qwen-VL's. Raises ValueError for a folder that holds none."""
    own = read_part_config(folder).get("model_type") == QwenVLVisionConfig.model_type
    model = load_strict(QwenVLVisionModel if own else AutoModel, folder, dtype="auto")
    return getattr(model, "vision_model", model)  # CLIP-like models carry a text tower too
