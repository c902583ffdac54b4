"""Token sets in, token sets of another length and width out."""

from .perceiver import PerceiverResampler
from .positions import grid_for, sincos_2d
from .resampler import Resampler

__all__ = ["PerceiverResampler", "Resampler", "grid_for", "sincos_2d"]
