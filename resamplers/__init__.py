"""Resamplers turn a token set into one of another length and width."""

from .perceiver import PerceiverResampler
from .positions import default_grid, sincos_2d
from .resampler import Resampler

__all__ = ["PerceiverResampler", "Resampler", "default_grid", "sincos_2d"]
