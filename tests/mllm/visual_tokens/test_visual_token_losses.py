import pytest
import torch
import torch.nn.functional as F

from limner.mllm.visual_tokens.losses import codebook_use, contrastive_loss, cosine_loss, squared_error_loss


def test_reconstruction_is_measured_against_a_target_without_gradient():
    features, target = (torch.randn(3, 4, 5, requires_grad=True) for _ in range(2))
    cosine = sum(f @ t / f.norm() / t.norm() for f, t in zip(features.flatten(0, 1), target.flatten(0, 1), strict=True))
    torch.testing.assert_close(cosine_loss(features, target), 1 - cosine / 12)
    torch.testing.assert_close(squared_error_loss(features, target), (features - target).square().sum() / 60)
    (cosine_loss(features, target) + squared_error_loss(features, target)).backward()
    assert features.grad is not None and target.grad is None


def test_contrastive_loss_is_clips_over_the_rows_with_a_caption():
    images, captions = torch.randn(5, 8), torch.randn(5, 8)
    has_caption = torch.tensor([True, False, True, True, False])
    kept = images[has_caption], captions[has_caption]
    loss = contrastive_loss(images, captions, has_caption, temperature=0.1)
    logits = F.normalize(kept[0], dim=1) @ F.normalize(kept[1], dim=1).T / 0.1
    rows = torch.arange(3)  # as in CLIP's figure 3
    torch.testing.assert_close(loss, (F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, rows)) / 2)
    torch.testing.assert_close(contrastive_loss(*kept, temperature=0.1), loss)


@pytest.mark.parametrize("count", [0, 1])
def test_a_single_caption_has_nothing_to_be_told_from(count):
    images = torch.randn(3, 4, requires_grad=True)
    loss = contrastive_loss(images, torch.randn(3, 4), torch.arange(3) < count)
    loss.backward()
    assert loss == 0 and images.grad.abs().sum() == 0


def test_codebook_use():
    assert codebook_use(torch.tensor([[0, 3], [3, 1]]), 8) == 3 / 8
