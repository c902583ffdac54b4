"""What a GPU computes is what a CPU computes, in training and in drawing: on a real one, or on one that is `fake_cuda`,
where a tensor left behind on the CPU is an error as well.
"""

import shutil
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest
import seed_x_files
import torch
from fake_cuda import fake_gpu
from PIL import ImageChops, ImageStat

import limner
from helpers import make_limner, make_sdxl, picture
from limner.detokenizer.drawing_options import DrawingOptions
from limner.evaluation import world
from limner.inference.convert import convert_seed_x
from limner.inference.model import STUDENT
from limner.mllm.views import rows_of
from limner.train import distill, recipe
from limner.train.datasets import check, readers
from limner.train.datasets.mixture import ExampleSource, Mixture, WorldSource
from limner.train.finetune import FinetuneConfig, finetune, load_config, prepare_adapter
from limner.train.frozen_encoders import EncoderCache, encoders_fingerprint, precompute
from limner.train.loop import LoopConfig, fit
from limner.train.objective import JointObjective
from limner.train.optimizer import MasterOptimizer
from limner.train.self_distillation import ReplayObjective
from limner.train.stages.joint_options import JointStage
from limner.train.trainable import TrainableModel, compile_blocks, gradient_checkpointing

REAL = torch.cuda.is_available()
pytestmark = [pytest.mark.filterwarnings("ignore:'pin_memory' argument")]  # where there is no real GPU to pin it for
pytestmark += [] if REAL else [pytest.mark.slow]  # what stands in for one looks at every operation
STAGE = JointStage(flow_samples=2, align_weight=0.5, align_block=0, prompt_dropout=0.3)
HALVES = [(WorldSource(("describe", "answer")), 0.5), (WorldSource(("draw", "edit")), 0.5)]


@pytest.fixture(autouse=True)
def _gpu(monkeypatch):
    if REAL:
        monkeypatch.setattr(torch.backends.cuda.matmul, "fp32_precision", "ieee")
        monkeypatch.setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee")
        yield
    else:
        rows_of.cache_clear()  # each test has a GPU of its own
        with fake_gpu():
            yield
        rows_of.cache_clear()


def made(device: str, **changes):
    model = make_limner(prompt_tokens=6, shapes=((128, 128), (96, 160), (160, 96)), **changes)
    model.detokenizer.mmdit.config.position_table = 32
    return model.to(device)


def drawn(model, size: int = 8):
    return Mixture(HALVES, model.encoder, size, 0, pool=2)


@contextmanager
def compiled(trainable):
    compile_blocks(trainable)
    yield


def gradients(device: str, change=nullcontext, **changes):
    """A joint step's losses and gradients."""
    model = made(device, **changes)
    torch.manual_seed(1)
    trainable = TrainableModel(model.mllm, model.detokenizer, align=True).to(device)
    with change(trainable):
        values = JointObjective(trainable, STAGE, 3)(drawn(model)(0), 0)
        values["loss"].backward()
    found = {n: p.grad.cpu() for n, p in trainable.named_parameters() if p.grad is not None}
    return {k: float(v.detach()) for k, v in values.items()}, found


def state(model):
    return {name: value.cpu().clone() for name, value in model.state_dict().items()}


def alike(there, here):
    """Of 255, between two pictures."""
    return there.size == here.size and max(ImageStat.Stat(ImageChops.difference(there, here)).mean) < 1.0


def test_what_is_left_behind_is_an_error():
    there, here = torch.ones(3, 4, device="cuda"), torch.ones(4)
    assert there.device.type == "cuda" and (there[1] * 2.0).device.type == "cuda" and here.device.type == "cpu"
    assert (there + here.to(there)).sum().cpu().device.type == "cpu" and (there + here.sum()).shape == (3, 4)
    layer = torch.nn.Linear(4, 2).to("cuda")
    assert layer(there).device == there.device and there[torch.tensor([0, 1])].shape == (2, 4)
    for mixes in (
        lambda: there + here,
        lambda: layer(here),
        lambda: torch.cat([there, here[None]]),
        lambda: torch.ones(3, 4)[there > 0],
    ):
        with pytest.raises(RuntimeError):
            mixes()


CHANGES = [nullcontext, gradient_checkpointing, *([compiled] if REAL else [])]
"""What is compiled for a GPU takes one; `test_compiled_blocks_give_the_same_losses_and_gradients` compiles for the CPU."""


@pytest.mark.parametrize("change", CHANGES)
def test_a_joint_step(change):
    losses, grads = gradients("cuda", change)
    wanted, theirs = gradients("cpu")
    assert losses == pytest.approx(wanted, rel=1e-4) and grads.keys() == theirs.keys()
    for name, grad in theirs.items():
        assert (grads[name] - grad).norm() <= 2e-3 * grad.norm() + 1e-5, name


@pytest.mark.parametrize("changes", [{"tile_grids": ((1, 2), (2, 1))}, {"backbone": "gemma3_text"}])
def test_a_joint_step_of_other_models(changes):
    assert gradients("cuda", **changes)[0] == pytest.approx(gradients("cpu", **changes)[0], rel=1e-4)


def test_what_an_adapter_keeps():
    def values(device):
        model = made(device)
        config = FinetuneConfig(rank=2, modules_to_save=("queries", "boi"), streams=("context",))
        trainable, training = prepare_adapter(model, config)
        torch.manual_seed(5)
        with torch.no_grad():
            for parameter in (p for p in trainable.parameters() if p.requires_grad):
                parameter += 0.1 * torch.randn(parameter.shape).to(parameter)
        told = ReplayObjective(trainable, replace(STAGE, align_weight=0.0), 3, training, 6.0)(drawn(model)(0), 0)
        return {k: float(v.detach()) for k, v in told.items()}

    assert values("cuda") == pytest.approx(values("cpu"), rel=1e-3)


@pytest.mark.parametrize(("kind", "near"), [("adamw", 1e-6), ("muon", 2e-3)])  # Muon's own products are in bf16
def test_masters_step_as_on_a_cpu(kind, near):
    def stepped(device):
        torch.manual_seed(0)
        layers = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([torch.nn.Linear(16, 16)])})
        layers = layers.to(device, torch.bfloat16)
        optimizer = MasterOptimizer(layers.named_parameters(), 1e-2, weight_decay=0.1, ema_decay=0.9, kind=kind)
        for step in range(5):
            for parameter in layers.parameters():
                generator = torch.Generator().manual_seed(step)
                parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter)
            optimizer.step(1.0, 1.0)
        return {n: v.cpu() for n, v in optimizer.averaged().items()}

    there, here = stepped("cuda"), stepped("cpu")
    assert all((there[n] - v).abs().max() <= near for n, v in here.items())


def test_a_run_goes_on(tmp_path):
    def run(folder, steps, cut=None):
        model = made("cuda").to(torch.bfloat16)
        trainable = TrainableModel(model.mllm, model.detokenizer, align=True).to("cuda", torch.bfloat16)
        config = LoopConfig(
            steps=cut or steps,
            batch_size=4,
            learning_rate=1e-3,
            warmup_steps=1,
            schedule="constant",
            save_every=2,
            ema_decay=0.9,
            num_workers=int(REAL),
        )
        fit("test", trainable, drawn(model, 4), JointObjective(trainable, STAGE, 3), config, folder)
        if cut:
            return run(folder, steps)
        return {n: p.detach().float().cpu() for n, p in trainable.named_parameters()}

    whole, resumed = run(tmp_path / "whole", 4), run(tmp_path / "cut", 4, cut=2)
    for name, value in whole.items():  # a GPU adds in an order of its own: equal, but not bit for bit
        assert torch.allclose(value, resumed[name], atol=5e-3), name


def test_an_adapter_is_trained_and_used(data, tmp_path):
    model = made("cuda")
    before = state(model)
    quick = [
        "joint.loop.steps=2",
        "joint.loop.batch_size=2",
        "joint.loop.warmup_steps=1",
        "joint.loop.num_workers=0",
        "rank=2",
        "samples=1",
        "modules_to_save=[queries,boi]",
        "replay=world",
    ]
    out = finetune(model, data, tmp_path / "out", load_config(quick))
    assert all(torch.equal(before[n], v) for n, v in state(model).items())
    for name in ("one", "other"):
        model.load_adapter(out, name)
    model.set_adapters(["one", "other"], [0.5, 0.7])
    asked = {"images": "force", "max_images": 1, "max_new_tokens": 4, "num_inference_steps": 2}
    assert model.generate("a zorp", **asked).images
    model.delete_adapter("one")
    model.delete_adapter("other")
    assert all(torch.equal(before[n], v) for n, v in state(model).items())
    model.load_adapter(out)
    model.merge_adapters()
    model.save_pretrained(tmp_path / "merged")
    assert limner.load(tmp_path / "merged", device="cuda").generate("a zorp", **asked).images


def test_a_student_is_trained_and_used(data, tmp_path):
    made("cpu").save_pretrained(tmp_path / "base")
    model = limner.load(tmp_path / "base", device="cuda")
    quick = [
        "steps=2",
        "teacher_steps=4",
        "rank=2",
        "loop.steps=2",
        "loop.batch_size=2",
        "loop.warmup_steps=1",
        "loop.num_workers=0",
        f"data=[{data}]",
    ]
    distill.distill(model, tmp_path / "student", distill.load_config(quick), [])
    shutil.copytree(tmp_path / "student", tmp_path / "base" / STUDENT)
    again = limner.load(tmp_path / "base", device="cuda")
    events = list(again.stream("a", images="force", max_images=1, max_new_tokens=2))
    assert [e.steps for e in events if type(e).__name__ == "PictureStep"] == [2, 2]


def test_what_was_precomputed_is_read_back(data, tmp_path):
    model = make_limner().to("cuda")
    examples = check.check(readers.read(data), model.encoder, 1024).examples
    assert precompute(model, examples, tmp_path / "store", batch_size=2)
    mixture = Mixture([(ExampleSource(examples, 0.5), 1.0)], model.encoder, 4, 0, pool=1)
    mixture.keys = True
    found = []
    for store in (None, EncoderCache(tmp_path / "store", encoders_fingerprint(model))):
        trainable = TrainableModel(model.mllm, model.detokenizer)
        trainable.frozen_encoders.cache = store
        values = JointObjective(trainable, JointStage(), 0)(mixture(0), 0)
        found.append({k: float(v.detach()) for k, v in values.items()})
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_every_stage(tmp_path):
    """From nothing to a model, its judge and its reader, at a tiny size."""
    short = [
        f"{stage}.loop.{key}" for stage in recipe.STAGES if stage != "tokenizer" for key in ("num_workers=0", "steps=2")
    ]
    short += [
        f"{stage}.{key}"
        for stage in ("detokenizer", "align", "sft")
        for key in ("loop.batch_size=4", "sample_prompts=[a cat]")
    ]
    tiny = recipe.load_recipe("tiny", [*short, f"output={tmp_path / 'run'}", "device=cuda"])
    folder = recipe.run_recipe(tiny, tuple(s for s in recipe.STAGES if s != "decoder"))
    more = [*short, f"output={tmp_path / 'more'}", f"warm_start={folder}", "device=cuda"]
    assert recipe.run_recipe(recipe.load_recipe("tiny", more), ("decoder",)).exists()


def test_nano_says_and_draws_the_same():
    def replies(device):
        model = limner.load("nano", device=device, dtype="float32")
        first = model.generate("a photo of a red apple", seed=3)
        shown = [{"type": "image", "image": first.images[0]}, {"type": "text", "text": "make it blue"}]
        return [
            first,
            model.generate([{"role": "user", "content": shown}], seed=3),
            model.generate("hello"),
            *model.draw(["draw two green cats", "a red kite, wide"], num_inference_steps=4),
        ]

    for there, here in zip(replies("cuda"), replies("cpu"), strict=True):
        assert there.text == here.text and len(there.images) == len(here.images)
        assert all(alike(one, other) for one, other in zip(there.images, here.images, strict=True))


def test_nano_in_its_usual_precision():
    model = limner.load("nano", device="cuda")
    assert not REAL or model.mllm.dtype == torch.bfloat16
    reply = model.generate("a photo of a red apple", seed=0, temperature=0.5, n=2)[0]
    assert "red apple" in reply.text.lower() and reply.images[0].size == (128, 128)


def test_the_half_that_rests():
    model = limner.load("nano", device="cuda", offload=True)
    assert next(model.detokenizer.parameters()).device.type == "cpu" and model.mllm.device.type == "cuda"
    assert model.generate("a photo of a red apple").images
    assert next(model.detokenizer.parameters()).device.type == "cpu" and model.mllm.device.type == "cuda"


def test_an_evaluation(tmp_path):
    model = limner.load("nano", device="cuda")
    only = ["draw/colors", "edit/remove", "edit/style", "sign/", "answer", "story/3"]
    results = world.evaluate(model, tmp_path, limit=1, steps=2, only=only)
    assert len(results["scores"]) == 8


@pytest.mark.parametrize("channels", [4, 8])
def test_sdxl(channels):
    def pictures(device):
        detokenizer = make_sdxl(channels).to(device)
        torch.manual_seed(2)
        with torch.no_grad():
            condition = detokenizer.adapter(torch.randn(2, 4, 48).to(device))
        if channels == 8:
            shown = torch.randint(0, 256, (20, 50, 3), dtype=torch.uint8)
            condition.references.extend([[detokenizer.encode_reference(shown, (32, 48))], []])
        options = DrawingOptions(num_inference_steps=3, guidance_scale=5.0)
        return detokenizer.draw(condition, 32, 48, seeds=[(1, 0), (2, 0)], options=options).cpu().int()

    assert (pictures("cuda") - pictures("cpu")).abs().float().mean() < 1.0


def test_seed_x(tmp_path):
    sdxl = {channels: make_sdxl(channels) for channels in (4, 8)}
    source = seed_x_files.write(tmp_path / "source", sdxl, "seed_x_i")
    folder = convert_seed_x(source, tmp_path / "converted", "seed_x_i", seed_x_files.SIZES)
    options = {"images": "force", "max_images": 1, "max_new_tokens": 4, "num_inference_steps": 2, "seed": 5}
    shown = [{"type": "image", "image": picture(1, (40, 70))}, {"type": "text", "text": "again"}]
    there, here = (
        limner.load(folder, device=device, dtype="float32").generate([{"role": "user", "content": shown}], **options)
        for device in ("cuda", "cpu")
    )
    assert there.text == here.text and alike(there.images[0], here.images[0])
