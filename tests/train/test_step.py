"""A joint step at the machine's speed: nothing waits for the device, few graphs are compiled, the losses are what they were."""

import traceback
from collections import Counter
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

from helpers import TOKENS, make_limner
from limner.detokenizer import flow
from limner.detokenizer.glyphs import GlyphConfig, GlyphEncoder
from limner.train.datasets.mixture import Mixture, WorldSource
from limner.train.drawing_calls import CallShapes
from limner.train.losses import squared_error
from limner.train.objective import JointObjective, run_stream
from limner.train.optimizer import MasterOptimizer
from limner.train.picture_shares import PictureShares
from limner.train.random_choices import random_choices
from limner.train.stages.joint_options import JointStage
from limner.train.trainable import TrainableModel, compile_blocks, fix_call_shapes

SHAPES = ((128, 128), (96, 160), (160, 96))
STAGE = JointStage(flow_samples=2, align_weight=0.5, align_block=0, prompt_dropout=0.3)
KINDS = ("draw", "edit", "sign", "compose", "describe", "story")


def make_trainable(**options):
    torch.manual_seed(0)
    model = make_limner(prompt_tokens=6, shapes=SHAPES, **options)
    model.detokenizer.mmdit.config.position_table = 32
    model.detokenizer.add_glyph_encoder(GlyphEncoder.from_config(GlyphConfig(16, 2, 2, 32)))
    model.detokenizer.add_glyph_images(16, model.config.feature_tokens)
    for name, parameter in model.detokenizer.named_parameters():
        if name.startswith(("mmdit", "adapter", "glyph_images.embed")):  # which begin at zero
            torch.nn.init.normal_(parameter, std=0.1)
    return model, TrainableModel(model.mllm, model.detokenizer, align=True)


@pytest.fixture(scope="module")
def made():
    model, trainable = make_trainable()
    batches = Mixture([(WorldSource(KINDS), 1.0)], model.encoder, 6, 0, pool=6)
    return trainable, [batches(step) for step in range(6)]


def drawn(batches):
    """The batch with most drawings."""
    return max(batches, key=lambda batch: len(batch.target))


def gradients(trainable, values):
    trainable.zero_grad()
    values["loss"].backward()
    return {name: p.grad.clone() for name, p in trainable.named_parameters() if p.grad is not None}


def one_by_one(trainable, batch, step, seed=0):
    """The flow and alignment losses as a loop over samples has them: no padding, no mask of what is shown."""
    detokenizer, choices = trainable.mmdit_detokenizer, random_choices(STAGE, batch, seed, step)
    mmdit = detokenizer.mmdit
    _, inputs = run_stream(trainable, batch)
    prompt_mask = inputs.prompt_mask & ~choices.drop_prompt[:, None]
    condition = detokenizer.condition(inputs.features, inputs.prompt, prompt_mask, batch.glyph_text, batch.text_boxes)
    condition = condition.without_context(choices.drop_context)
    latents = [trainable.frozen_encoders.latents(p, ()) for p in batch.pictures]
    total = {"flow": 0.0, "align": 0.0}
    for drawing, number in choices.samples:
        shape, index = batch.target[drawing]
        x0 = latents[shape][index][None]
        tokens = mmdit.patchify(x0)
        noise = choices.noise([(drawing, number)], tokens.shape[1:])
        noise = mmdit.unpatchify(as_network(mmdit, noise), *x0.shape[-2:])
        t = choices.timesteps[number, drawing][None]
        shown = [] if choices.drop_references[drawing] else [latents[s][i] for s, i in batch.references[drawing]]
        height, width = batch.pictures[shape].shape[1:3]
        row, early = detokenizer.place_glyphs(condition.rows([drawing]), height, width), []
        velocity = mmdit(
            flow.interpolate(x0, noise, t),
            t,
            row.context,
            row.pooled,
            context_mask=row.context_mask,
            references=mmdit.pack_references([shown]),
            image_bias=row.image_bias,
            early=early,
            early_block=0,
        )
        weight = choices.weights[drawing]
        total["flow"] += weight * squared_error(velocity, noise - x0)[0]
        height, width = (n // mmdit.config.patch_size for n in x0.shape[-2:])
        side = round(inputs.vision_features.shape[1] ** 0.5)
        grid = inputs.vision_features[drawing].T.unflatten(1, (side, side))[None]
        target = F.interpolate(grid, (height, width), mode="bilinear").flatten(2).transpose(1, 2)
        assert tokens.shape[1] == target.shape[1]
        total["align"] += weight * (1 - F.cosine_similarity(trainable.align(early[0]), target.detach(), dim=-1).mean())
    return {name: value / len(batch.target) for name, value in total.items()}


def as_network(mmdit, patches):
    """Patches in the order of `patchify` to that of `unpatchify`."""
    p = mmdit.config.patch_size
    return patches.unflatten(-1, (-1, p, p)).permute(0, 1, 3, 4, 2).flatten(2)


@pytest.mark.parametrize("shapes", ["any", "fixed"])
def test_losses_and_gradients_are_those_of_one_sample_after_the_other(made, shapes):
    trainable, batches = made
    batch = drawn(batches)
    assert any(map(any, batch.glyph_text)) or any(batch.references)
    trainable.call_shapes = CallShapes()
    expected = one_by_one(trainable, batch, 3)
    slow = gradients(trainable, {"loss": expected["flow"] + 0.5 * expected["align"]})
    if shapes == "fixed":
        fix_call_shapes(trainable, 32)
        assert trainable.call_shapes.rows == 4 and trainable.call_shapes.fixed
    values = JointObjective(trainable, replace(STAGE, language_weight=0.0, feature_weight=0.0), 0)(batch, 3)
    trainable.call_shapes = CallShapes()
    for name, value in expected.items():
        assert values[name].item() == pytest.approx(value.item(), rel=1e-5)
    quick = gradients(trainable, values)
    for name, gradient in slow.items():
        torch.testing.assert_close(quick[name], gradient, atol=1e-5, rtol=1e-3)


WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal"}
ON_THE_HOST = ("random_choices.py", "flow_loss.py", "drawing_calls.py")
"""Files that look at tensors which are made on the CPU"""


class NoWaiting(TorchDispatchMode):
    """Refuses what makes the host wait for a GPU, and counts the rest."""

    def __init__(self):
        super().__init__()
        self.kernels = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in WAITS, f"{name} waits for the device:\n{''.join(traceback.format_stack(limit=12))}"
        out = func(*args, **(kwargs or {}))
        self.kernels[name] += 1
        return out


def test_a_step_never_waits_for_the_device(made, monkeypatch):
    trainable, batches = made
    optimizer = MasterOptimizer(trainable.named_parameters(), 1e-4, ema_decay=0.9, kind="muon")
    objective = JointObjective(trainable, STAGE, 0)
    real = torch.Tensor.tolist

    def tolist(tensor):
        caller = traceback.extract_stack(limit=2)[0].filename
        assert caller.endswith(ON_THE_HOST), f"{caller} looks at a tensor"
        return real(tensor)

    for fixed in (False, True):
        if fixed:
            fix_call_shapes(trainable, 32)
        for step in (0, 1):
            monkeypatch.setattr(torch.Tensor, "tolist", tolist)
            with NoWaiting() as counted:
                values = objective(batches[step], step)
                values["loss"].backward()
                norm = optimizer.step(1.0, 1.0, values["loss"].detach())
            monkeypatch.undo()
            assert norm.isfinite() and counted.kernels["mm"]
    trainable.call_shapes = CallShapes()
    with pytest.raises(AssertionError, match="waits for the device"), NoWaiting():
        torch.ones(2)[0].item()


def test_pictures_of_visual_tokens_do_not_make_it_wait():
    model, trainable = make_trainable(**TOKENS, query_lengths=(1, 3, 4))
    batch = Mixture([(WorldSource(("draw",)), 1.0)], model.encoder, 6, 0, pool=1, shares=PictureShares())(0)
    assert 0 < len(batch.stream.token_drawing) < len(batch.target)
    with NoWaiting():
        JointObjective(trainable, STAGE, 0)(batch, 0)["loss"].backward()


@pytest.mark.slow
@pytest.mark.parametrize("shapes", ["any", "fixed"])
def test_after_its_third_step_nothing_is_compiled_again(made, shapes):
    """One graph for a kind of block, whatever a batch holds."""
    trainable, batches = make_trainable()[1], made[1]
    torch._dynamo.reset()
    counter = CompileCounter()
    if shapes == "fixed":
        fix_call_shapes(trainable, 16)
    compile_blocks(trainable, counter)
    objective = JointObjective(trainable, STAGE, 0)
    order = sorted(range(6), key=lambda k: -len(batches[k].target))
    for step, number in enumerate(order):
        if step == 3:
            compiled = counter.frame_count
            torch._dynamo.config.error_on_recompile = True
        objective(batches[number], step)["loss"].backward()
    torch._dynamo.config.error_on_recompile = False
    assert counter.frame_count == compiled <= 8, compiled
    torch._dynamo.reset()


@pytest.mark.slow
def test_a_block_is_one_graph_beside_ddp_too(tmp_path):
    """DDP's own compiler would cut it where a bucket of gradients ends."""
    trainable = make_trainable()[1]
    block = trainable.mmdit_detokenizer.mmdit.blocks[0]
    width = block.image.qkv.in_features
    x, context = torch.randn(2, 2, 4, width).unbind()
    mods = torch.randn(2, 1, 6 * width)
    torch._dynamo.reset()
    counter = CompileCounter()
    compile_blocks(trainable, counter)
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        together = torch.nn.parallel.DistributedDataParallel(block, bucket_cap_mb=1e-3)
        together(x, context, mods, mods, None, None)[0].sum().backward()
    finally:
        dist.destroy_process_group()
    assert counter.frame_count == 1
    torch._dynamo.reset()
