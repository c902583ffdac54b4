"""A codebook trained by two processes."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from limner.mllm.visual_tokens.quantizers import VectorQuantizer


def train(rank, batches, threshold, folder):
    """Two steps on this rank's half of each batch, or on all of it where there is one process (rank None)."""
    if rank is not None:
        torch.set_num_threads(1)  # a forked process has none of its parent's threads
        dist.init_process_group("gloo", store=dist.FileStore(str(folder / "store"), 2), rank=rank, world_size=2)
    torch.manual_seed(0)
    quantizer = VectorQuantizer(64, 4, dead_code_threshold=threshold)
    for batch in batches:
        quantizer(batch if rank is None else batch[rank::2])
    torch.save(quantizer.state_dict(), folder / f"{rank}.pt")
    if rank is not None:
        dist.destroy_process_group()


@pytest.mark.parametrize("threshold", [0.0, 0.03])
def test_two_processes_train_one_codebook(threshold, tmp_path, monkeypatch):
    """Which is that of one process with the whole batch; of replaced codes they agree at least among themselves."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    batches = torch.randn(2, 8, 6, 4)
    mp.start_processes(train, (batches, threshold, tmp_path), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    if not threshold:
        train(None, batches, threshold, tmp_path)
        for name, value in torch.load(tmp_path / "None.pt").items():
            torch.testing.assert_close(first[name], value)
