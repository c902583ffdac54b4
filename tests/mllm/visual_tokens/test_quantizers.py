"""FSQ and VQ against vector-quantize-pytorch, of which the data are inputs and outputs, and against what they promise."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from limner.mllm.visual_tokens.quantizers import FiniteScalarQuantizer, VectorQuantizer

DATA = load_file(Path(__file__).parents[2] / "data/quantizers.safetensors")


@pytest.mark.parametrize("case", ["a", "b"])
def test_fsq_equals_the_library(case):
    levels, x, quantized, codes, grad = (
        DATA[f"fsq_{case}.{what}"] for what in ("levels", "x", "quantized", "codes", "grad")
    )
    fsq = FiniteScalarQuantizer(levels.tolist())
    ours, our_codes, loss = fsq(x.requires_grad_())
    assert torch.equal(our_codes, codes) and torch.equal(fsq.vectors_to_codes(x), codes) and loss == 0
    torch.testing.assert_close(ours, quantized, atol=1e-6, rtol=0)
    (ours * torch.arange(1, len(levels) + 1)).sum().backward()
    torch.testing.assert_close(x.grad, grad)


def test_every_code_of_fsq_is_reached_and_read_back():
    fsq = FiniteScalarQuantizer([8, 5, 4])
    codes = torch.arange(fsq.num_codes)
    vectors = fsq.codes_to_vectors(codes)
    assert fsq.num_codes == len(vectors.unique(dim=0)) == 160 and vectors.abs().max() <= 1
    assert torch.equal(fsq._number((vectors * fsq.half_widths).round()), codes)
    assert len(fsq.vectors_to_codes(torch.randn(20_000, 3) * 2).unique()) == 160


def test_digits_of_a_code_are_its_levels():
    fsq = FiniteScalarQuantizer([8, 5, 4])
    codes = torch.arange(fsq.num_codes)
    digits = [part.argmax(1) for part in fsq.one_hot_digits(codes).split([8, 5, 4], dim=1)]
    assert torch.equal(digits[0] + 8 * digits[1] + 40 * digits[2], codes)
    assert torch.equal(fsq.one_hot_digits(codes).sum(1), torch.full((160,), 3.0))


def test_codes_do_not_depend_on_the_precision_around():
    fsq, vq = FiniteScalarQuantizer([8, 5, 5, 5]), VectorQuantizer(200, 4).eval()
    x = torch.randn(256, 4).bfloat16()
    for quantizer, expected in (
        (fsq, fsq(x.double())[1]),
        (vq, torch.cdist(x.double(), vq.codebook.double()).argmin(1)),
    ):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(quantizer(x)[1], expected) and torch.equal(quantizer.vectors_to_codes(x), expected)
        assert torch.equal(quantizer(x)[1], expected) and quantizer(x)[0].dtype == torch.bfloat16


def test_vq_learns_as_the_library_does():
    vq = VectorQuantizer(5, 6, ema_decay=0.9, dead_code_threshold=0, commitment_weight=0.25)
    vq.codebook.copy_(DATA["vq.codebook"])
    vq.cluster_size.fill_(1)
    vq.cluster_sum.copy_(vq.codebook)
    for step in range(3):
        expected = {
            name: DATA[f"vq.{name}{step}"] for name in ("quantized", "codes", "loss", "codebook", "cluster_size")
        }
        quantized, codes, loss = vq(DATA[f"vq.x{step}"])
        assert torch.equal(codes, expected["codes"])
        for ours, name in ((quantized, "quantized"), (loss, "loss"), (vq.cluster_size, "cluster_size")):
            torch.testing.assert_close(ours, expected[name], msg=f"{name} of step {step}")
        # theirs is smoothed a little
        torch.testing.assert_close(vq.codebook, expected["codebook"], atol=1e-4, rtol=1e-4)


def test_vq_passes_the_gradient_through_and_pulls_towards_codes():
    vq = VectorQuantizer(5, 6).eval()
    x = torch.randn(3, 4, 6, requires_grad=True)
    quantized, codes, loss = vq(x)
    torch.testing.assert_close(quantized, vq.codebook[codes])
    (through,) = torch.autograd.grad(quantized.sum(), x, retain_graph=True)
    assert torch.equal(through, torch.ones_like(x))
    (pull,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(pull, 0.25 * 2 * (x - quantized).detach() / x.numel())


def clusters(count, width=4):
    """Vectors near ``count`` places far apart."""
    return torch.randn(count, width).mul(20)[torch.randint(count, (64, 8))] + torch.randn(64, 8, width) * 0.01


def test_dead_codes_are_replaced_by_vectors_of_the_batch():
    """A codebook far from all vectors has one code for all of them; with replacement each of 12 clusters gets its own."""
    batch = clusters(12)
    used = {}
    for threshold in (0.0, 0.03):
        torch.manual_seed(0)
        vq = VectorQuantizer(32, 4, dead_code_threshold=threshold)
        vq.codebook.mul_(0.01).add_(100)
        for _ in range(20):
            vq(batch)
        used[threshold] = vq.eval()(batch)[2]
    assert used[0.0] > 1 and used[0.03] < 0.01


def test_the_same_training_gives_the_same_codebook():
    """Whatever else has drawn random numbers; and a codebook that is not trained does not change."""
    batch, books = clusters(12), []
    for noise in (0, 5):
        torch.manual_seed(0)
        vq = VectorQuantizer(32, 4)
        for _ in range(3):
            torch.randn(noise)
            vq(batch)
        books.append(vq.codebook.clone())
    assert torch.equal(*books)
    vq.eval()(batch)
    assert torch.equal(vq.codebook, books[0])


def test_masked_vectors_count_for_nothing():
    x, mask = torch.randn(2, 8, 4), torch.arange(8) < torch.tensor([3, 6])[:, None]
    outputs = []
    for scale in (1, 100):
        torch.manual_seed(0)
        vq = VectorQuantizer(8, 4)
        _, _, loss = vq(torch.where(mask[..., None], x, x * scale), mask)
        outputs.append((loss, vq.codebook, vq.cluster_size, vq.cluster_sum))
    for a, b in zip(*outputs, strict=True):
        assert torch.equal(a, b)
