"""Token sets in, token sets of another length and width out."""

from .positions import grid_for, sincos_2d
from .resampler import Resampler

__all__ = ["Resampler", "grid_for", "sincos_2d"]
