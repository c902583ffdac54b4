"""Families of transformers that sample pictures as words: Emu3, Janus, Chameleon."""

from .loading import load
from .model import ImageTokenModel

__all__ = ["ImageTokenModel", "load"]
