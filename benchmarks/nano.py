"""What the embedded model costs: `python benchmarks/nano.py`.

Seconds to load after imports, for a picture (by its student and in 28 steps by the teacher) and for a whole reply with a
picture (warm), and peak memory.
"""

from __future__ import annotations

import resource
import time

import peft.tuners.lora  # noqa: F401 - imports are not part of the loading time
import torch

import limner
from limner.inference.model import Limner  # noqa: F401


def main() -> None:
    start = time.perf_counter()
    model = limner.load("nano", device="cpu")
    loading = time.perf_counter() - start
    model.generate("draw a red cat", images="force", max_images=1)

    def median(**options: object) -> float:
        times = []
        for seed in range(9):
            start = time.perf_counter()
            model.generate("draw a blue car on grass", seed=seed, **options)
            times.append(time.perf_counter() - start)
        return sorted(times)[4]

    picture = median(images="force", max_images=1, max_new_tokens=1)
    teacher = median(images="force", max_images=1, max_new_tokens=1, num_inference_steps=28)
    reply = median()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    steps = model.student_steps or model.defaults.num_inference_steps
    print(f"{torch.get_num_threads()} threads, {next(model.parameters()).dtype}")
    print(
        f"load {loading:.2f} s, a picture in {steps} steps {picture:.3f} s, in 28 guided ones {teacher:.3f} s "
        f"({teacher / picture:.1f} times as long), a reply with a picture {reply:.2f} s, peak {peak:.2f} GB"
    )


if __name__ == "__main__":
    main()
