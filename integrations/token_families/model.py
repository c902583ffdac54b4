"""A model of transformers that samples a picture's codes as it samples words: how it is asked, sampled and decoded.

What families differ in (prompt, size, control tokens between codes, where codes are embedded and chosen, the pixel decoder) is a
subclass each. Sampling, guidance and seeds are those of a Limner model's visual tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self, TypedDict, Unpack

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel, ProcessorMixin

from ...detokenizer.detokenizer import NOT_FINITE, NotFiniteError
from ...detokenizer.files import load_strict, refusing
from ...mllm.decoding_options import DecodingOptions
from ...mllm.sampling import choose_tokens, guide_logits
from ...mllm.visual_tokens.codes import check_codes

Grid = tuple[int, int]
"""Rows and columns of a picture's codes"""


class ImageTokenOptions(TypedDict, total=False):
    """The fields of `DecodingOptions` that say how a picture's codes are sampled; None, or one left out, is the model's."""

    height: int | None
    width: int | None
    image_temperature: float | None
    image_top_p: float | None
    image_top_k: int | None
    token_guidance_scale: float | None


class ImageTokenModel(nn.Module, ABC):
    """Text to image by the codes of a visual tokenizer: ``draw`` gives pictures, ``sample`` and ``decode`` are its two halves.

    Options that are not given are those of the folder's ``generation_config.json`` (``temperature``, ``top_k``, ``top_p``,
    ``guidance_scale``). Codes (rows, columns) are whole numbers from 0, as they lie in the picture.
    """

    model_class: ClassVar[Any]
    processor_class: ClassVar[Any]
    has_pixel_decoder: ClassVar[bool] = True
    any_size: ClassVar[bool] = False
    """Whether it draws other sizes than ``default_grid``"""
    token_guidance_scale: ClassVar[float]
    """Where the folder names none"""

    pixels_per_code: int
    """Height and width in pixels of what one code stands for"""
    default_grid: Grid
    num_codes: int
    code_ids: Tensor
    """(num_codes,): ids of the codes, on the CPU, where they are tokens of the vocabulary"""

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin) -> None:
        super().__init__()
        self.model: Any = model
        self.processor: Any = processor
        self.eval()

    @classmethod
    def from_pretrained(cls, folder: str | Path, variant: str | None = None) -> Self:
        """A folder as transformers saves it, with its processor. Raises ValueError for what cannot be read or does not fit."""
        folder = Path(folder)
        model = load_strict(cls.model_class, folder, variant, dtype="auto")
        with refusing(folder):
            processor = cls.processor_class.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            return cls(model, processor)

    def draw(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str = "",
        seed: int | Sequence[int] = 0,
        callback: Callable[[int, int], None] | None = None,
        **options: Unpack[ImageTokenOptions],
    ) -> list[Image.Image]:
        """One picture for each prompt. Raises ValueError as `sample` does, and for a family without a pixel decoder."""
        self._check_pixel_decoder()
        return self.decode(
            self.sample(prompt, negative_prompt=negative_prompt, seed=seed, callback=callback, **options)
        )

    @torch.no_grad()
    def sample(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str = "",
        seed: int | Sequence[int] = 0,
        callback: Callable[[int, int], None] | None = None,
        **options: Unpack[ImageTokenOptions],
    ) -> Tensor:
        """Codes (prompts, rows, columns) of one picture for each prompt, on the CPU.

        ``seed`` is for every prompt, or one for each; several pictures of a prompt are that prompt several times with seeds of
        their own. ``negative_prompt`` takes the place of the empty request that guidance moves away from. ``callback`` is told
        how many codes are sampled, and of how many. Raises ValueError for prompts, sizes and options that make no sense, and
        `NotFiniteError`.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        given = self._options(options)
        grid = self.grid(given.size)
        generators = generators_of(seed, len(prompts))
        ids = self._ids(prompts, negative_prompt, given, grid)
        ways = [(given.image_temperature, given.image_top_k, given.image_top_p)] * len(prompts)
        embeds, mask = self._left_padded(ids)
        cache, total = DynamicCache(config=self.backbone.config), grid[0] * grid[1]
        sampled: list[list[int]] = []
        while True:
            logits = self._feed(embeds, mask, cache)
            if given.token_guidance_scale != 1:
                own, unconditional = logits.chunk(2)
                logits = guide_logits(own, unconditional, given.token_guidance_scale)
            chosen = choose_tokens(logits, ways, generators)
            if None in chosen:
                raise NotFiniteError(f"the scores of image tokens {NOT_FINITE}")
            sampled.append([code for code in chosen if code is not None])
            if callback is not None:
                callback(len(sampled), total)
            if len(sampled) == total:
                return torch.tensor(sampled).T.reshape(len(prompts), *grid)
            # a row and the one that guides it go on with the same code
            codes = torch.tensor(sampled[-1] * (len(ids) // len(prompts)), device=mask.device)
            control = torch.tensor([self.control_after(len(sampled), grid)] * len(ids), dtype=torch.long)
            embeds = torch.cat([self.embed_codes(codes), self._embed(control)], dim=1)
            mask = torch.cat([mask, mask.new_ones(embeds.shape[:2])], dim=1)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> list[Image.Image]:
        """Pictures of codes (batch, rows, columns). Raises ValueError for codes that are not in the codebook, for rows and
        columns that the family does not draw, and for a family without a pixel decoder."""
        self._check_pixel_decoder()
        check_codes(codes, self.num_codes)
        if codes.ndim != 3 or not codes.numel():
            raise ValueError(f"codes of the shape {tuple(codes.shape)}; they must be (pictures, rows, columns)")
        self._check_grid((codes.shape[1], codes.shape[2]))
        pixels = self.pixels(codes.to(self.model.device)).float().cpu()
        return list(self.processor.postprocess(list(pixels), return_tensors="PIL.Image.Image")["pixel_values"])

    @torch.no_grad()
    def encode(self, images: Sequence[Image.Image]) -> list[Tensor]:
        """Codes (rows, columns) of each picture, on the CPU, after the processor's own resizing. Decoding a picture's own codes
        and encoding it again gives others."""
        codes = []
        for image in images:  # one by one: beside a larger one Emu3 pads a picture, which then has other codes
            inputs = self.processor.image_processor(images=[image], return_tensors="pt")
            codes.append(self.tokenize(inputs.to(self.model.device, self.model.dtype)).long().cpu())
        return codes

    # what a family says; those with a body are for codes that are tokens of the vocabulary

    @property
    @abstractmethod
    def backbone(self) -> Any:
        """What maps ``inputs_embeds`` to ``last_hidden_state``."""

    @abstractmethod
    def prompt_ids(self, prompt: str, grid: Grid) -> list[int]:
        """A request's ids up to the place of the first code."""

    @abstractmethod
    def unconditional_ids(self, prompt_ids: list[int], negative_prompt: str, grid: Grid) -> list[int]:
        """Those of the request that guidance moves away from. Raises ValueError for a negative prompt that cannot be used."""

    def control_after(self, count: int, grid: Grid) -> list[int]:
        """Ids of the control tokens between the first ``count`` codes and the next one."""
        return []

    def embed_codes(self, codes: Tensor) -> Tensor:
        """Codes (batch,) to what stands for them in the sequence (batch, 1, width)."""
        return self.model.get_input_embeddings()(self.code_ids.to(codes.device)[codes])[:, None]

    def code_logits(self, states: Tensor) -> Tensor:
        """Hidden states (batch, width) to logits of the codes alone (batch, num_codes)."""
        return self.model.get_output_embeddings()(states)[:, self.code_ids.to(states.device)]

    def pixels(self, codes: Tensor) -> Tensor:
        """Codes (batch, rows, columns) to what the processor makes pictures of."""
        raise AssertionError("a family without a pixel decoder is refused before")

    @abstractmethod
    def tokenize(self, inputs: Any) -> Tensor:
        """The image processor's output for one picture to its codes (rows, columns)."""

    # shared

    def grid(self, size: tuple[int, int] | None) -> Grid:
        """Rows and columns of codes of a picture of this height and width in pixels, or of the default size. Raises ValueError
        for sizes that the family does not draw."""
        if size is None:
            return self.default_grid
        (height, width), step = size, self.pixels_per_code
        if height % step or width % step:
            near = " x ".join(str(max(round(side / step), 1) * step) for side in size)
            raise ValueError(f"cannot draw {height} x {width} pixels: both must be multiples of {step}, such as {near}")
        grid = (height // step, width // step)
        self._check_grid(grid)
        return grid

    def _check_grid(self, grid: Grid) -> None:
        if not self.any_size and grid != self.default_grid:
            height, width = (side * self.pixels_per_code for side in self.default_grid)
            raise ValueError(
                f"{grid[0]} x {grid[1]} codes: {type(self).__name__} draws {height} x {width} pixels only, "
                f"which are {self.default_grid[0]} x {self.default_grid[1]} codes"
            )

    def _check_pixel_decoder(self) -> None:
        if not self.has_pixel_decoder:
            raise ValueError(
                f"transformers has no pixel decoder of {type(self).__name__}: sample gives a picture's codes"
            )

    def _options(self, options: ImageTokenOptions) -> DecodingOptions:
        known = list(ImageTokenOptions.__annotations__)
        if unknown := sorted(set(options) - set(known)):
            raise ValueError(f"{unknown[0]} is no option of image tokens; there are {', '.join(known)}")
        own = self.model.generation_config
        values = {
            "token_guidance_scale": self.token_guidance_scale if own.guidance_scale is None else own.guidance_scale,
            "image_temperature": own.temperature,
            "image_top_k": own.top_k,
            "image_top_p": own.top_p,
            **{name: value for name, value in options.items() if value is not None},
        }
        return DecodingOptions(**{name: value for name, value in values.items() if value is not None})

    def _ids(self, prompts: list[str], negative_prompt: str, options: DecodingOptions, grid: Grid) -> list[list[int]]:
        """Those of the prompts and, for guidance, of as many requests to move away from."""
        if not prompts or not all(prompt.strip() for prompt in prompts):
            raise ValueError("the prompt is empty")
        for prompt in (*prompts, negative_prompt):
            self._check_prompt(prompt)
        ids = [self.prompt_ids(prompt, grid) for prompt in prompts]
        if options.token_guidance_scale != 1:
            ids += [self.unconditional_ids(own, negative_prompt, grid) for own in ids]
        elif negative_prompt:
            raise ValueError(
                "negative_prompt acts by guidance, and token_guidance_scale 1 is none: take a greater one, such as "
                f"{self.token_guidance_scale}"
            )
        total = grid[0] * grid[1]  # of which the last one is not fed
        longest = (
            max(map(len, ids)) + total - 1 + sum(len(self.control_after(count, grid)) for count in range(1, total))
        )
        held = self.model.config.get_text_config().max_position_embeddings
        if longest > held:
            raise ValueError(
                f"the prompt and {grid[0]} x {grid[1]} codes take {longest} tokens; this model holds {held}: "
                "shorten the prompt or draw a smaller picture"
            )
        return ids

    def _check_prompt(self, prompt: str) -> None:
        """No text becomes a control token: the tokenizers of transformers would make one of its name."""
        tokenizer = self.processor.tokenizer
        if found := self._control_ids.intersection(tokenizer(prompt, add_special_tokens=False)["input_ids"]):
            name = tokenizer.convert_ids_to_tokens(min(found))
            raise ValueError(f"the prompt holds {name!r}, which is a control token of this model: write it otherwise")

    @cached_property
    def _control_ids(self) -> set[int]:
        tokenizer = self.processor.tokenizer
        special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
        return (special | set(self.code_ids.tolist())) - {tokenizer.unk_token_id}

    def _left_padded(self, ids: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Embeddings (rows, tokens, width) and the attention mask (rows, tokens), 0 on the padding before the shorter ones."""
        longest = max(map(len, ids))
        padding = [longest - len(own) for own in ids]
        tokens = torch.tensor([[0] * before + own for before, own in zip(padding, ids, strict=True)])
        mask = torch.arange(longest) >= torch.tensor(padding)[:, None]
        return self._embed(tokens), mask.long().to(self.model.device)

    def _embed(self, ids: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(ids.to(self.model.device))

    def _feed(self, embeds: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
        """Feeds embeddings (rows, new tokens, width); returns the next code's logits (rows, num_codes). ``mask`` is that of all
        tokens so far."""
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -embeds.shape[1] :]
        output = self.backbone(
            inputs_embeds=embeds, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        return self.code_logits(output.last_hidden_state[:, -1]).float()


def generators_of(seed: int | Sequence[int], count: int) -> list[torch.Generator]:
    """One for each prompt, on the CPU. Raises ValueError for another number of seeds."""
    seeds = list(seed) if isinstance(seed, Iterable) else [seed] * count
    if len(seeds) != count:
        raise ValueError(f"{len(seeds)} seeds for {count} prompts: give one for all, or one for each")
    return [torch.Generator().manual_seed(int(own) % 2**63) for own in seeds]


def ids_of_codes(vocabulary_mapping: Any, num_codes: int) -> Tensor:
    """Ids (num_codes,) of the codes, where the vocabulary names them. Raises ValueError for one with other codes than the
    codebook."""
    ids = vocabulary_mapping.img2bpe
    if sorted(ids) != list(range(num_codes)):
        raise ValueError(f"the vocabulary names {len(ids)} image tokens, and the codebook has {num_codes} codes")
    return torch.tensor([ids[code] for code in range(num_codes)])
