"""`Limner`: the parts of a model folder, wired."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, Unpack, overload

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..detokenizer.detokenizer import Detokenizer
from ..detokenizer.files import quiet_bars, refusing, save_module, write_source
from ..mllm.encoding import StreamEncoder
from ..mllm.events import Event, consume
from ..mllm.picture_grammar import picture_rules
from ..mllm.stream import StreamModel
from . import adapter_files
from .adapters import Adapters
from .chat import Chat, ChatOptions
from .engine import Engine
from .generation_config import GenerationConfig, GenerationOptions, whole_number
from .images import load_image
from .inputs import (
    ContextLengthError,
    Messages,
    as_batch,
    load_message_images,
    recent_messages,
    seeds_per_row,
)
from .isolation import isolated
from .lora import check_plain
from .masks import edited_event, edited_reply, mask_picture
from .offload import ModelOffload
from .output import atomic_folder
from .parts import (
    VISUAL_TOKENIZER,
    is_model,
    load_config,
    load_detokenizer,
    load_generation_config,
    load_stream,
    load_tokenizer,
    stream_state,
)
from .picture_metadata import request_metadata
from .reply import Reply
from .requests import Request
from .resizing import nearest_size, reference_size

LOADING_LOCK = threading.Lock()
"""One model at a time is loaded: transformers changes torch's default precision and initialisers while it makes a module"""
STUDENT = "student"
"""The folder of a few-step student that comes with a model (`limner distill`)"""
FORCED_PICTURE: GenerationOptions = {"images": "force", "max_images": 1, "max_new_tokens": 1}
"""Options of `draw` where the model answered without a picture"""
PARTS = ("llm", "vision", "detokenizer", VISUAL_TOKENIZER, STUDENT)
"""Folders of a model: those that another one left behind are taken away when this one is saved over it"""


class Limner(nn.Module):
    """One model: ``mllm`` reads and writes, ``detokenizer`` paints. Made by `loading.load`.

    A call changes nothing here: threads may share a model.
    """

    def __init__(
        self,
        mllm: StreamModel,
        detokenizer: Detokenizer,
        tokenizer: PreTrainedTokenizerBase,
        defaults: GenerationConfig | None = None,
    ) -> None:
        super().__init__()
        self.mllm, self.detokenizer, self.tokenizer = mllm, detokenizer, tokenizer
        self.config = mllm.config
        self.defaults = defaults or GenerationConfig()
        self.encoder = StreamEncoder(tokenizer, mllm.config, mllm.vocabulary)
        self.name = "limner"
        self.stored_dtype = mllm.llm.dtype
        """The precision of the weights on the disk, whatever they were loaded in."""
        self.stored_dtypes = {name: parameter.dtype for name, parameter in self.named_parameters()}
        """That of each, which is another one in some parts (an autoencoder's, say)"""
        self.allow_urls: tuple[str, ...] = ()
        """Hosts from which pictures of messages are fetched (`addresses.fetch`)"""
        self.offload: ModelOffload | None = None
        self.bits: int | None = None
        """Of the weights of its linear layers, where they were quantised"""
        self.adapters = Adapters(self)
        """The LoRA adapters that are loaded (`inference/adapters.py`)"""
        self.engine = Engine(self)
        """What answers requests (`inference/engine.py`); another one of other limits can take its place"""

    @overload
    def generate(  # type: ignore[overload-overlap]  # a string is a sequence of strings too
        self,
        messages: Messages,
        *,
        seed: int | Sequence[int] = 0,
        n: Literal[1] = 1,
        callback: Callable[[Event], None] | None = None,
        adapters: Mapping[str, float] | None = None,
        **options: Unpack[GenerationOptions],
    ) -> Reply: ...

    @overload
    def generate(
        self,
        messages: Messages,
        *,
        seed: int | Sequence[int] = 0,
        n: int,
        callback: Callable[[Event], None] | None = None,
        adapters: Mapping[str, float] | None = None,
        **options: Unpack[GenerationOptions],
    ) -> list[Reply]: ...

    @overload
    def generate(
        self,
        messages: Sequence[Messages],
        *,
        seed: int | Sequence[int] = 0,
        n: int = 1,
        callback: Callable[[Event], None] | None = None,
        adapters: Mapping[str, float] | None = None,
        **options: Unpack[GenerationOptions],
    ) -> list[Reply]: ...

    def generate(
        self,
        messages: Messages | Sequence[Messages],
        *,
        seed: int | Sequence[int] = 0,
        n: int = 1,
        callback: Callable[[Event], None] | None = None,
        adapters: Mapping[str, float] | None = None,
        **options: Unpack[GenerationOptions],
    ) -> Reply | list[Reply]:
        """Answer a prompt, a conversation, or a batch of either (then, and with ``n`` > 1, a list).

        ``n`` replies to each, with seeds ``seed``, ``seed + 1``, …; a list gives each conversation of a batch
        its own. ``callback`` gets every event. ``adapters`` of these weights answer, words and pictures, instead of those that
        `set_adapters` switched on. ``options`` are the fields of `GenerationConfig`. Raises ValueError for messages or options
        that make no sense.
        """
        batch, single = as_batch(messages)
        request = self.request(batch, seed=seed, n=n, adapters=adapters, **options)
        replies = consume(self.engine.events(request), callback)
        return replies[0] if single and n == 1 else replies

    def stream(
        self,
        messages: Messages | Sequence[Messages],
        *,
        seed: int | Sequence[int] = 0,
        adapters: Mapping[str, float] | None = None,
        keep_cache: bool = False,
        **options: Unpack[GenerationOptions],
    ) -> Generator[Event, None, list[Reply]]:
        """The events of a reply as they happen; takes what `generate` takes, but ``n`` and ``callback``.

        The generator's own return value is the list of replies. What makes no sense raises ValueError here, before the first
        event is asked for. With ``keep_cache`` a conversation that goes on is fed what is new in it since the last such call:
        the same words and pictures, but for rounding.
        """
        return self.engine.events(
            self.request(messages, seed=seed, adapters=adapters, keep_cache=keep_cache, **options)
        )

    @isolated
    def request(
        self,
        messages: Messages | Sequence[Messages],
        *,
        seed: int | Sequence[int] = 0,
        n: int = 1,
        adapters: Mapping[str, float] | None = None,
        keep_cache: bool = False,
        **options: Unpack[GenerationOptions],
    ) -> Request:
        """What `generate` and `stream` answer, checked and encoded, for an engine (`Engine.events`, `AsyncEngine.events`).

        Raises ValueError as they do.
        """
        if whole_number("n", n) < 1:
            raise ValueError(f"n is {n}; it must be at least 1")
        batch, _ = as_batch(messages)
        seeds = [own + k for own in seeds_per_row(seed, len(batch)) for k in range(n)]
        if self.bits == 8 and any(module.training for module in self.modules()):
            # a view would take bitsandbytes' scales from the layers that it shares weights with (`PlainGeneration`)
            raise ValueError("weights of 8 bits are not answered with in training mode: call model.eval() first")
        weights = self.adapters.weights(adapters)
        config, drawing_weights = self.adapters.resolve_options(options, weights)
        picture_rules(config, self.config)
        if config.size is not None:
            self.detokenizer.check_size(*config.size)
        history = options.get("history") or 0  # the folder's own is for chats, which give it
        shown = [recent_messages(load_message_images(messages, self.allow_urls), history) for messages in batch]
        encoded = [
            self.encoder.encode(messages, add_generation_prompt=True, images=config.images, boxes=config.boxes)
            for messages in shown
        ]
        max_tokens = self.mllm.max_position_embeddings
        prompt_tokens = max(len(e.input_ids) for e in encoded)
        if prompt_tokens + config.max_new_tokens > max_tokens:
            raise ContextLengthError(
                f"the conversation takes {prompt_tokens} tokens and the reply may take {config.max_new_tokens}; "
                f"this model holds {max_tokens}. Shorten it or lower max_new_tokens"
            )
        for own in encoded:
            if config.images == "force" and not self.engine.fitting_images(own, config):
                raise ContextLengthError(
                    f"the conversation takes {len(own.input_ids)} tokens, the reply may take {config.max_new_tokens} and its "
                    f"picture {self.engine.image_positions}; this model holds {max_tokens}. Shorten it or lower max_new_tokens"
                )
            self.engine.check(own, config)
        given = self.adapters.changed_weights(weights)
        request = Request(
            [once for once in encoded for _ in range(n)],
            seeds,
            config,
            self.adapters.active(weights),
            self.adapters.active(drawing_weights),
            keep_cache,
            [
                request_metadata(
                    shown[row // n], own, config, options, given, self.name, self.adapters.known_fingerprint
                )
                for row, own in enumerate(seeds)
            ],
        )
        for own in encoded:
            if (size := request.options(own).size) not in (None, config.size):
                self.detokenizer.check_size(*size)
        return request

    @overload
    def draw(  # type: ignore[overload-overlap]  # a string is a sequence of strings too
        self,
        messages: Messages,
        *,
        seed: int | Sequence[int] = 0,
        callback: Callable[[Event], None] | None = None,
        adapters: Mapping[str, float] | None = None,
        **options: Unpack[GenerationOptions],
    ) -> Reply: ...

    @overload
    def draw(
        self,
        messages: Sequence[Messages],
        *,
        seed: int | Sequence[int] = 0,
        callback: Callable[[Event], None] | None = None,
        adapters: Mapping[str, float] | None = None,
        **options: Unpack[GenerationOptions],
    ) -> list[Reply]: ...

    def draw(
        self,
        messages: Messages | Sequence[Messages],
        *,
        seed: int | Sequence[int] = 0,
        callback: Callable[[Event], None] | None = None,
        adapters: Mapping[str, float] | None = None,
        **options: Unpack[GenerationOptions],
    ) -> Reply | list[Reply]:
        """One picture for each prompt or conversation, whatever the model would say; ``options`` are `generate`'s.

        The model answers as it does in a chat, so that it may plan in words first. Where it answers without a picture,
        as to something it does not know, one is drawn all the same (``images="force"``), after what it said. Raises
        ValueError for what `generate` refuses, and for ``images``, ``max_images`` and ``n``, which are settled here.
        """
        if settled := sorted({"images", "max_images", "n"} & set(options)):
            raise ValueError(f"draw takes no {settled[0]}: it gives one picture for each prompt; generate takes it")
        batch, single = as_batch(messages)
        seeds = seeds_per_row(seed, len(batch))
        options["max_images"] = 1
        replies = self.generate(batch, seed=seeds, callback=callback, adapters=adapters, **options)
        if silent := [i for i, reply in enumerate(replies) if not reply.images]:
            options |= FORCED_PICTURE
            again, own = [batch[i] for i in silent], [seeds[i] for i in silent]
            forced = self.generate(again, seed=own, callback=callback, adapters=adapters, **options)
            for i, reply in zip(silent, forced, strict=True):
                replies[i] = replace(replies[i], parts=[*replies[i].parts, reply.images[0]])
        return replies[0] if single else replies

    def edit(
        self,
        image: Any,
        prompt: str,
        mask: Any = None,
        *,
        seed: int = 0,
        callback: Callable[[Event], None] | None = None,
        adapters: Mapping[str, float] | None = None,
        **options: Unpack[GenerationOptions],
    ) -> Reply:
        """`draw` of one picture from another, whatever `load_image` reads, changed as the prompt says. With a ``mask``
        (`read_mask`) only what it marks is drawn: the model is shown the picture with that part hidden, scaled and cropped to
        the size of the answer, and what it draws elsewhere is replaced by the picture's own pixels. With ``keep="exact"`` what an
        edit without a mask does not change is replaced by them, too (`kept_pixels`).

        Raises ValueError for what `draw` and `read_mask` refuse.
        """
        picture, marked, told = load_image(image, self.allow_urls), None, callback
        if mask is not None:
            size = self.defaults.updated(options).size
            picture, marked = mask_picture(picture, mask, self.config, size, self.allow_urls)
            options |= {"height": picture.height, "width": picture.width, "keep": "model"}
            if callback is not None:
                told = lambda event: callback(edited_event(event, picture, marked))  # noqa: E731
        content = [{"type": "image", "image": picture}, {"type": "text", "text": prompt}]
        message = {"role": "user", "content": content}
        reply = self.draw([message], seed=seed, callback=told, adapters=adapters, **options)
        return reply if marked is None else edited_reply(reply, picture, marked)

    def resize_note(self, image: Image.Image, size: tuple[int, int] | None = None) -> str | None:
        """How a picture that is larger than the model holds is edited, in a line; None for one that it takes as it is.

        ``size`` is the height and width in pixels of the answer, where it is settled.
        """
        if self.detokenizer.stretches_references:
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

    def chat(self, **options: Unpack[ChatOptions]) -> Chat:
        """A conversation that remembers; ``options`` are `generate`'s."""
        return Chat(self, **options)

    @property
    def student_steps(self) -> int | None:
        """Of the few-step student that came with the model; None without one."""
        return next((adapter.steps for adapter in self.adapters.loaded.values() if adapter.bundled), None)

    @isolated
    def load_adapter(self, folder: str | Path, name: str | None = None, weight: float = 1.0) -> str:
        """Load a LoRA adapter beside those already there and switch it on; returns its name: by default the folder's, with a
        number where that is taken (``cat``, ``cat-2``).

        Raises ValueError for a folder that holds none, one that is loaded already, one for another base model, a given name
        that is taken, a weight that is no finite number.
        """
        if self.bits is not None:
            raise ValueError(f"weights of {self.bits} bits take no adapter: merge it first (limner merge)")
        return self.adapters.load(folder, name, weight)

    def set_adapters(
        self, names: str | Sequence[str] | Mapping[str, float], weights: float | Sequence[float] = 1.0
    ) -> None:
        """Switch on exactly these adapters (none for an empty list), each at its weight; the others stay loaded. A mapping holds
        names with their weights, as ``adapters`` of `generate` does.

        Raises ValueError for an unknown name, one that is given twice, and another number of weights.
        """
        if isinstance(names, Mapping):
            weights = list(names.values())
        names = [names] if isinstance(names, str) else list(names)
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"adapter {twice[0]!r} is given twice")
        several = isinstance(weights, Iterable) and getattr(weights, "ndim", None) != 0
        values: list[Any] = list(weights) if several else [weights] * len(names)  # type: ignore[arg-type]
        if len(values) != len(names):
            raise ValueError(f"{len(values)} weights for {len(names)} adapters")
        self.adapters.set(dict(zip(names, values, strict=True)))

    def get_active_adapters(self) -> dict[str, float]:
        """Names of the adapters that are switched on, with their weights."""
        loaded = self.adapters.loaded
        return {name: loaded[name].weight for name in self.adapters.user if loaded[name].weight}

    def delete_adapter(self, name: str) -> None:
        """Take an adapter off. Raises ValueError for an unknown name."""
        self.adapters.delete(name)

    @isolated
    def merge_adapters(self) -> None:
        """Write the active adapters into the weights for good; `save_pretrained` then makes a whole model of them."""
        self.adapters.merge()

    def save_pretrained(self, folder: str | Path, sources: Mapping[str, str] | None = None) -> None:
        """Every part saves itself; see the folder's layout in docs/architecture.md.

        A model that was in ``folder`` is replaced when all of this one is written; other files there stay. Raises ValueError
        for a folder with anything else in the places of a model's parts. ``sources`` of "llm", "vision" and "sd3" (folders or
        hub ids) are named in place of copies of their weights.
        """
        if self.bits is not None:
            raise ValueError(f"weights of {self.bits} bits are not saved: save the model they were made of")
        check_plain(self)
        if self.adapters.user:
            raise ValueError("adapters are loaded: merge_adapters() or delete_adapter() first")
        sources = dict(sources or {})
        with quiet_bars(), atomic_folder(folder, PARTS, owned=is_model) as fresh:
            for adapter in self.adapters.loaded.values():
                base = (self.name, self.adapters.fingerprint)
                adapter_files.save(fresh / STUDENT, adapter.lora, adapter.differences, base, adapter.made)
            self.config.save(fresh)
            (fresh / "generation_config.json").write_text(
                json.dumps(asdict(self.defaults), indent=1) + "\n", encoding="utf-8"
            )
            self.tokenizer.save_pretrained(fresh)
            for name, part in (("llm", self.mllm.llm), ("vision", self.mllm.vision_tower.model)):
                if name in sources:
                    write_source(fresh / name, sources[name])
                else:
                    part.save_pretrained(fresh / name)
            save_file(stream_state(self.mllm), fresh / "stream.safetensors")
            if self.mllm.visual_tokenizer is not None:
                save_module(self.mllm.visual_tokenizer, fresh / VISUAL_TOKENIZER)
            self.detokenizer.save_pretrained(fresh / "detokenizer", *([sources["sd3"]] if "sd3" in sources else []))

    @classmethod
    @isolated
    def from_pretrained(cls, folder: str | Path, variant: str | None = None) -> Limner:
        """``variant`` is of the parts' weights (`find_weights`). Raises ValueError for a folder that is not a Limner model,
        unknown keys and weights that do not fit."""
        folder = Path(folder)
        if not (folder / "config.json").exists():
            raise ValueError(f"{folder} holds no Limner model (no config.json)")
        # what is initialised anew is overwritten
        with LOADING_LOCK, torch.random.fork_rng(devices=[]), refusing(folder):
            config, tokenizer = load_config(folder), load_tokenizer(folder)
            mllm = load_stream(folder, config, tokenizer, variant)
            detokenizer, defaults = load_detokenizer(folder / "detokenizer", variant), load_generation_config(folder)
            model = cls(mllm, detokenizer, tokenizer, defaults)
        model.name = folder.resolve().name  # of "." too
        return model.eval()
