"""What a caller has switched on in torch does not reach the work that answers a request.

Autocast, a default device, a grad mode and a compilation around a call belong to the calling thread, and are put aside here. The
default dtype is another matter: it is the whole process's, and transformers changes it while another thread loads a model. So
nothing in the model relies on it: whatever makes a tensor of floats says its dtype.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def isolated(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A function that does the same whatever the caller has switched on (`plain_torch`), and that `torch.compile` of what
    calls it leaves as it is. Parts of the model that were compiled by themselves stay compiled."""

    @torch.compiler.disable
    @functools.wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with plain_torch():
            return function(*args, **kwargs)

    return call


@contextmanager
def plain_torch() -> Iterator[None]:
    """Within it no gradients are recorded, autocast is off, and tensors are made on the CPU unless a device is named. What is
    made can be trained later: inference mode is off, too.

    Raises ValueError where torch computes with stand-ins for numbers: under `FakeTensorMode`, `torch.vmap` and the like.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        for device_type in ("cpu", "cuda", "mps", "xpu"):
            if torch.is_autocast_enabled(device_type):
                stack.enter_context(torch.autocast(device_type, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        probe = torch.empty(0)
        if type(probe) is not torch.Tensor or torch._C._functorch.peek_interpreter_stack() is not None:
            raise ValueError(
                "a model answers with real numbers: leave FakeTensorMode, torch.vmap, torch.func and torch.export first"
            )
        yield
