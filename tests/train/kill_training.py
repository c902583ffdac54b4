"""Kills a training run at random moments, again and again; prints what the survivors made of it (`test_checkpoints.py`)."""

import json
import os
import random
import signal
import sys
import time
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter  # noqa: F401 - imported once, before the forks

from limner.train.loop import LoopConfig, fit

STEPS = 120


def train(folder: Path, steps: int = STEPS) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 4096), nn.SiLU(), nn.Linear(4096, 64)).to(torch.bfloat16)
    config = LoopConfig(
        steps=steps, batch_size=8, learning_rate=1e-2, save_every=2, num_workers=0, ema_decay=0.9, save_total_limit=2
    )

    def batch(step):
        return torch.randn(8, 64, generator=torch.Generator().manual_seed(step)).to(torch.bfloat16)

    def losses(log, x, step):
        loss = (model(x).float() - x.float().flip(1)).square().mean()
        log.write(f"{step} {float(loss.detach()).hex()}\n")
        log.flush()
        return {"loss": loss}

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "losses.txt").open("a") as log:
        fit("killed", model, batch, partial(losses, log), config, folder)
    (folder / "weights.txt").write_text(json.dumps([p.double().sum().item().hex() for p in model.parameters()]))


def started(folder: Path) -> int:
    pid = os.fork()
    if pid == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        if "-v" not in sys.argv:
            os.dup2(null, 2)
        train(folder)
        os._exit(0)
    return pid


def main(folder: Path, kills: int) -> None:
    train(folder / "warm", 2)  # what is imported late is imported here, not after every fork
    os.waitpid(started(folder / "whole"), 0)
    whole = dict(line.split() for line in (folder / "whole/losses.txt").read_text().splitlines())
    weights = (folder / "whole/weights.txt").read_text()
    rng = random.Random(0)
    done = writing = wrong = finished = 0
    runs = 0
    while done < kills:
        run = folder / f"run{runs}"
        pid = started(run)
        time.sleep(rng.uniform(0.05, 1.0))
        ended, status = os.waitpid(pid, os.WNOHANG)
        if not ended:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            done += 1
            writing += any((run / "checkpoints").glob("*.new"))
            if done < kills:
                continue
            _, status = os.waitpid(started(run), 0)
        finished += status == 0
        lines = [line.split() for line in (run / "losses.txt").read_text().splitlines()]
        wrong += sum(len(line) != 2 or whole[line[0]] != line[1] for line in lines)
        wrong += {line[0] for line in lines} != set(whole) or (run / "weights.txt").read_text() != weights
        runs += 1
    print(json.dumps({"kills": done, "while_writing": writing, "runs": runs, "finished": finished, "wrong": wrong}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
