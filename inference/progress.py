"""A progress bar on standard error while an image is drawn."""

from __future__ import annotations

import sys

from tqdm import tqdm

from ..mllm.events import Event, PictureBegun, PictureDone, PictureStep


class ProgressBar:
    """A callback for `Limner.generate`; silent where standard error is not a terminal."""

    def __init__(self) -> None:
        self.bar: tqdm | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, PictureBegun):
            height, width = event.size
            self.bar = tqdm(
                desc=f"drawing {height}x{width}",
                total=1,
                leave=False,
                file=sys.stderr,
                disable=None,
                bar_format="{desc} |{bar:24}| {n_fmt}/{total_fmt} [{elapsed}]",
            )
        elif isinstance(event, PictureStep) and self.bar is not None:
            self.bar.total, self.bar.n = event.steps, event.step
            self.bar.refresh()
        elif isinstance(event, PictureDone):
            self.close()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
