"""The precision is what the machine computes fast, and a slow one that is asked for is said to be slow."""

import logging
import os
import platform
import subprocess
import sys

import pytest
import torch

import limner
from helpers import make_limner
from limner.inference import precision

MACHINES = {"fast": 0.4, "equal": 1.0, "emulating": 40.0}


def machine(monkeypatch, ratio):
    monkeypatch.setattr(precision, "relative_time", lambda kind, dtype: 1.0 if dtype == torch.float32 else ratio)


@pytest.mark.parametrize("name", MACHINES)
def test_what_is_chosen(name, monkeypatch, caplog):
    machine(monkeypatch, MACHINES[name])
    assert precision.choose_dtype("cpu") == (torch.bfloat16 if name == "fast" else torch.float32)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert (
            precision.choose_dtype("cpu", "bfloat16") == precision.choose_dtype("cpu", torch.bfloat16) == torch.bfloat16
        )
    assert len(caplog.records) == (2 if name == "emulating" else 0)
    assert all("40 times as long as in float32" in record.getMessage() for record in caplog.records)
    for wrong in ("fp8", "int8", "float64", "32"):
        with pytest.raises(ValueError, match=f"dtype is '{wrong}'; it can be auto, float32, bfloat16 or float16"):
            precision.choose_dtype("cpu", wrong)


def test_it_is_timed():
    assert precision.relative_time("cpu", torch.float32) == 1.0
    assert 0 < precision.relative_time("cpu", torch.bfloat16) < 10_000
    assert precision.relative_time("meta", torch.bfloat16) == 1.0


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the variable is for x86-64")
def test_a_cpu_without_bf16_units_computes_in_fp32():
    """oneDNN held to AVX2 emulates bf16, as a processor without the units does."""
    code = "from limner.inference.precision import choose_dtype; print(choose_dtype('cpu'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"},
        text=True,
        capture_output=True,
        check=True,
    )
    assert done.stdout.strip() == "torch.float32"


def test_loading_obeys_it(tmp_path, monkeypatch):
    machine(monkeypatch, MACHINES["fast"])
    assert limner.load("nano", device="cpu").mllm.dtype == torch.bfloat16
    make_limner().save_pretrained(tmp_path / "fp32")
    assert limner.load(tmp_path / "fp32", device="cpu").mllm.dtype == torch.float32, "nothing is rounded unasked"
    machine(monkeypatch, MACHINES["emulating"])
    assert limner.load("nano", device="cpu").mllm.dtype == torch.float32
    assert limner.load("nano", device="cpu", dtype="bfloat16").mllm.dtype == torch.bfloat16


def test_training_obeys_it(monkeypatch):
    from limner.train.adapter_training import training_precision
    from limner.train.optimizer import MasterOptimizer

    cpu, model = torch.device("cpu"), make_limner()
    rounded = make_limner().to(torch.bfloat16).float()
    inner = [("layers.0.weight", torch.nn.Parameter(torch.randn(4, 4)))]
    machine(monkeypatch, MACHINES["fast"])
    assert training_precision(rounded, cpu) == torch.bfloat16
    assert training_precision(model, cpu) == torch.float32, "the base would be rounded"
    assert training_precision(model, cpu, "bfloat16") == torch.bfloat16
    assert MasterOptimizer(inner, 1e-3, kind="muon").optimizers[0].dtype == torch.bfloat16
    machine(monkeypatch, MACHINES["emulating"])
    assert training_precision(rounded, cpu) == torch.float32
    assert MasterOptimizer(inner, 1e-3, kind="muon").optimizers[0].dtype == torch.float32
