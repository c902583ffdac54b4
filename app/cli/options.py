"""Options that several commands share, and flags made of the fields of an options object.

cyclopts reads the command line: a command's parameters are its flags, its docstring is its help. Of tyro, jsonargparse, typer
and cyclopts only the last reads all of this grammar: dataclasses flattened into flags, aliases, positionals between and after
options, several values after one ``--set``, ``--`` before a prompt that begins with a dash, mistakes as exceptions that name
the near miss, completion for bash, zsh and fish. `limner --help` takes
0.2 s with it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_type_hints

from cyclopts import Parameter, Token
from docstring_parser import parse_from_object

from ...inference.generation_config import GenerationConfig
from .line_input import decoded
from .paths import expanded

if TYPE_CHECKING:
    from ...inference.model import Limner

Function = TypeVar("Function", bound=Callable[..., Any])


def parse_size(_: Any, tokens: Sequence[Token]) -> tuple[int, int]:
    """ "96x160" to height and width in pixels. Raises ValueError for anything else."""
    text = " ".join(token.value for token in tokens)
    height, found, width = text.lower().partition("x")
    if not (found and height.isdecimal() and width.isdecimal()):
        raise ValueError(f"{text!r} is not HxW, such as 128x128")
    return int(height), int(width)


def parse_sizes(_: Any, tokens: Sequence[Token]) -> tuple[tuple[int, int], ...]:
    return tuple(parse_size(_, [token]) for token in tokens)


def parse_whole(_: Any, tokens: Sequence[Token]) -> int:
    """cyclopts' own conversion rounds 1.5 to 2. Raises ValueError for what is no whole number."""
    try:
        return int(tokens[-1].value)
    except ValueError:
        raise ValueError(f"{tokens[-1].value!r} is not a whole number") from None


def parse_path(_: Any, tokens: Sequence[Token]) -> Path:
    """A path; a shell leaves the ``~`` of ``--out=~/cat.png`` to us. Raises ValueError for an empty one, such as a shell's
    variable that is not set, which `Path` takes for the folder where one stands."""
    if not tokens[-1].value:
        raise ValueError("the path is empty")
    return expanded(tokens[-1].value)


def parse_prompt(_: Any, tokens: Sequence[Token]) -> str:
    return decoded(tokens[-1].value)


Whole = Annotated[int, Parameter(converter=parse_whole)]
File = Annotated[Path, Parameter(converter=parse_path)]
Out = Annotated[Path, Parameter(alias="-o", converter=parse_path)]
Prompt = Annotated[str, Parameter(converter=parse_prompt)]
Settings = Annotated[tuple[str, ...], Parameter(name="--set", consume_multiple=True, metavar="KEY=VALUE")]
NoMetadata = Annotated[bool, Parameter(name="--no-metadata")]
AllowUrl = Annotated[tuple[str, ...], Parameter(metavar="HOST")]
Size = Annotated[tuple[int, int], Parameter(converter=parse_size, n_tokens=1, accepts_keys=False, metavar="HxW")]

SETTINGS: dict[str, Any] = {
    "help_format": "plaintext",
    # no --no-… for flags; the help is silent about the default of an option that is off, empty or left to the model
    "default_parameter": Parameter(negative=(), show_default=lambda value: str(value) if value else None),
    "exit_on_error": False,
    "print_error": False,
    "suppress_keyboard_interrupt": False,
    "result_action": "return_value",
}
"""Of a `cyclopts.App`: mistakes are raised, and what a command returns comes back"""

SPECIAL = {
    "num_inference_steps": Parameter(alias="--steps"),
    "guidance_scale": Parameter(alias="--guidance"),
    "shapes": Parameter(
        converter=parse_sizes,
        n_tokens=1,
        accepts_keys=False,
        consume_multiple=True,
        metavar="HxW...",
        show_default=False,
    ),
}
"""Fields whose flag has another name too, or another form"""
SETTLED = ("images", "max_images", "boxes", "history", "partial_images", "keep")
"""Options that a command which draws one picture from words does not take"""
DRAWING = tuple(field.name for field in fields(GenerationConfig) if field.name not in SETTLED)
EDITING = (*DRAWING, "keep")
CHATTING = (*EDITING, "images", "max_images", "history")
DESCRIBING = ("max_new_tokens", "temperature", "top_p", "top_k", "stop")


def takes(options: type, names: Sequence[str] | None = None, shown: bool = True) -> Callable[[Function], Function]:
    """A command's ``**options`` become flags, one for each of the named fields of the dataclass ``options`` (default: all).

    The command is called with those that were given. ``shown``: the help tells the fields' defaults.
    """
    helps = {
        found.arg_name: found.description for base in options.__mro__[:-1] for found in parse_from_object(base).params
    }
    hints = {name: Whole if hint in (int, int | None) else hint for name, hint in get_type_hints(options).items()}
    flags = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default if shown else None,
            annotation=Annotated[
                hints[field.name] | None, Parameter(help=helps.get(field.name)), SPECIAL.get(field.name, Parameter())
            ],
        )
        for field in fields(options)
        if names is None or field.name in names
    ]

    def decorate(command: Function) -> Function:
        signature = inspect.signature(command)
        own = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
        command.__signature__ = signature.replace(parameters=[*own, *flags])  # type: ignore[attr-defined]
        return command

    return decorate


def checked(options: Mapping[str, Any], size: tuple[int, int] | None = None) -> dict[str, Any]:
    """Options of `Limner.generate` that were given, with the size as height and width.

    Raises ValueError for values that make no sense, before anything is loaded.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if size is not None:
        if clash := {"height", "width"} & set(given):
            raise ValueError(f"--size gives the height and the width: leave out --{clash.pop()}")
        given |= {"height": size[0], "width": size[1]}
    GenerationConfig().updated(given)
    return given


@Parameter(name="*")
@dataclass(frozen=True)
class ModelChoice:
    model: str = "nano"
    """embedded name, folder or hub id"""
    device: str = "auto"
    """auto, cpu, cuda, mps; A,B puts what writes on A, what paints on B"""
    revision: str | None = None
    """of a hub id: a branch, a tag or a commit"""
    variant: str | None = None
    """of the weights' files, such as fp16"""

    def load(self, dtype: str = "auto", **options: Any) -> Limner:
        """Raises ValueError for what cannot be loaded."""
        import transformers

        from ...inference.loading import load

        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
        halves = self.device.split(",")
        if len(halves) > 2:
            raise ValueError(f"--device {self.device}: one device, or one for what writes and one for what paints")
        device = dict(zip(("mllm", "detokenizer"), halves, strict=True)) if len(halves) == 2 else self.device
        given = {"revision": self.revision, "variant": self.variant}
        options |= {name: value for name, value in given.items() if value is not None}
        return load(self.model, device=device, dtype=dtype, **options)


@Parameter(name="*")
@dataclass(frozen=True)
class Loading(ModelChoice):
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """precision of the weights: auto is what the machine computes faster"""
    bits: Literal[8, 4] | None = None
    """quantise the weights (needs limner[quantized])"""
    offload: bool = False
    """the half that rests waits in host memory"""
    adapter: Annotated[tuple[str, ...], Parameter(metavar="[NAME=]DIR[:WEIGHT]")] = ()
    """a LoRA adapter; repeatable"""

    def load(self, dtype: str | None = None, **options: Any) -> Limner:
        from ...inference.adapters import split_adapter

        adapters = [split_adapter(given) for given in self.adapter]  # a mistyped weight is said before anything loads
        model = super().load(dtype or self.dtype, bits=self.bits, offload=self.offload, **options)
        for name, folder, weight in adapters:
            model.load_adapter(folder, name, weight)
        return model


NANO, LOADING = ModelChoice(), Loading()
"""Where nothing is given"""
