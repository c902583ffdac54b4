"""A few-step student in the model's own folder: on by itself, never in the way."""

import shutil

import pytest
import torch

import limner
from helpers import make_limner
from limner.app.cli.main import main
from limner.inference.info import describe_model
from limner.inference.model import STUDENT
from limner.train import distill, finetune
from limner.train.finetune import FinetuneConfig, load_config

ASKED = {"images": "force", "max_images": 1, "max_new_tokens": 2}
QUICK = ["joint.loop.steps=2", "joint.loop.batch_size=4", "joint.loop.num_workers=0", "rank=2", "samples=1"]


def adapter(model, folder, seed, made=None, part="mmdit"):
    """Random LoRA on one part, saved; the model is as it was."""
    torch.manual_seed(seed)
    trainable, training = finetune.prepare_adapter(model, FinetuneConfig(rank=2, parts=(part,), modules_to_save=()))
    with training, torch.no_grad():
        for parameter in trainable.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape))
        training.save(folder, {}, made or {})
    return folder


@pytest.fixture
def folder(tmp_path):
    """A model with a student of two steps."""
    base = make_limner(prompt_tokens=6)
    base.save_pretrained(tmp_path / "base")
    adapter(base, tmp_path / "made", 1, {"student_steps": 2})
    shutil.copytree(tmp_path / "base", tmp_path / "model")
    shutil.copytree(tmp_path / "made", tmp_path / "model" / STUDENT)
    return tmp_path / "model"


def drawn(model, **options):
    return model.generate("a cat", **ASKED, **options).images[0].tobytes()


def steps(model, **options):
    return max(e.steps for e in model.stream("a cat", **ASKED, **options) if type(e).__name__ == "PictureStep")


def test_it_draws_unless_the_teacher_is_asked_for(folder, tmp_path):
    model, teacher = limner.load(folder), limner.load(tmp_path / "base")
    assert steps(model) == 2 and steps(teacher) == 3 and drawn(model) != drawn(teacher, num_inference_steps=2)
    for options in ({"num_inference_steps": 3}, {"guidance_scale": 3.0}, {"image_guidance_scale": 2.0}):
        assert steps(model, **options) == 3 and drawn(model, **options) == drawn(teacher, **options)
    assert drawn(model, num_inference_steps=2, guidance_scale=1.0) == drawn(model)
    assert "by its student" in describe_model(model) and "student" not in describe_model(teacher)


def test_an_offloaded_model_keeps_no_view_on_the_device(folder):
    model = limner.load(folder, offload=True)
    assert drawn(model) == drawn(limner.load(folder)) and not model.adapters.views


def test_it_is_no_adapter_that_anyone_loaded(folder, tmp_path):
    model = limner.load(folder)
    own = drawn(model)
    assert model.get_active_adapters() == {} and model.adapters.user == []
    other = adapter(limner.load(tmp_path / "base"), tmp_path / "other", 2)
    model.load_adapter(other)
    both = drawn(model, num_inference_steps=2)
    assert model.get_active_adapters() == {"other": 1.0} and both != own
    model.set_adapters([])
    assert drawn(model) == own
    model.set_adapters("other", 1.0)
    assert drawn(model, num_inference_steps=2) == both
    model.delete_adapter("other")
    assert drawn(model) == own


@pytest.mark.slow
def test_what_it_has_not_met_the_teacher_draws(folder, tmp_path):
    model, teacher = limner.load(folder), limner.load(tmp_path / "base")
    own = drawn(model)
    spoken = adapter(limner.load(tmp_path / "base"), tmp_path / "spoken", 2, part="llm")
    drawing = adapter(limner.load(tmp_path / "base"), tmp_path / "drawing", 2)
    model.load_adapter(spoken)
    assert steps(model) == 2, "the painter is the one it knows"
    model.load_adapter(drawing)
    model.set_adapters("drawing")
    teacher.load_adapter(drawing)
    assert steps(model) == 3 and drawn(model) == drawn(teacher)
    assert drawn(model, num_inference_steps=2) != drawn(teacher, num_inference_steps=2), "asked for, it draws"
    model.load_adapter(tmp_path / "made", "loaded")
    teacher.load_adapter(tmp_path / "made", "loaded")
    for both in (["drawing", "loaded"], ["loaded"]):
        model.set_adapters(both), teacher.set_adapters(both)
        assert steps(model) == 2, "a student that was loaded is meant to"
        assert drawn(model) == drawn(teacher), "in the place of the model's own"
    model.set_adapters([])
    assert drawn(model) == own


def test_a_saved_or_merged_model_has_it_still(folder, tmp_path):
    model = limner.load(folder)
    own = drawn(model)
    model.save_pretrained(tmp_path / "again")
    assert drawn(model) == own == drawn(limner.load(tmp_path / "again"))
    other = adapter(limner.load(tmp_path / "base"), tmp_path / "other", 2, part="llm")
    model.load_adapter(other)
    with pytest.raises(ValueError, match="merge_adapters"):
        model.save_pretrained(tmp_path / "no")
    both = drawn(model)
    model.merge_adapters()
    assert model.get_active_adapters() == {} and steps(model) == 2
    model.save_pretrained(tmp_path / "merged")
    merged = limner.load(tmp_path / "merged")
    assert steps(merged) == 2
    for made in (model, merged):
        far = abs(
            torch.frombuffer(bytearray(both), dtype=torch.uint8).int()
            - torch.frombuffer(bytearray(drawn(made)), dtype=torch.uint8).int()
        ).max()
        assert far <= 1, "merged is unmerged to a rounding"
    assert "lora" not in "".join(p.name for p in (tmp_path / "merged").rglob("*") if STUDENT not in str(p))


def test_of_a_merged_painter_it_is_no_student(folder, tmp_path, capsys):
    drawing = adapter(limner.load(tmp_path / "base"), tmp_path / "drawing", 2)
    assert main(["merge", "--model", str(folder), "--adapter", str(drawing), "-o", str(tmp_path / "merged")]) == 0
    assert "2-step student is left out" in capsys.readouterr().out
    merged, teacher = limner.load(tmp_path / "merged"), limner.load(tmp_path / "base")
    teacher.load_adapter(drawing)
    teacher.merge_adapters()
    assert steps(merged) == 3 and drawn(merged) == drawn(teacher)


def test_training_leaves_it_aside_and_puts_it_back(folder, data, tmp_path):
    model, teacher = limner.load(folder), limner.load(tmp_path / "base")
    own = drawn(model)
    finetune.finetune(model, data, tmp_path / "with", load_config(QUICK))
    finetune.finetune(teacher, data, tmp_path / "without", load_config(QUICK))
    assert drawn(model) == own
    for part in ("llm", "mmdit"):
        name = f"{part}/adapter_model.safetensors"
        assert (tmp_path / "with" / name).read_bytes() == (tmp_path / "without" / name).read_bytes()
    config = distill.load_config(
        [
            "steps=1",
            "teacher_steps=2",
            "rank=2",
            f"data=[{data}]",
            "loop.steps=1",
            "loop.batch_size=2",
            "loop.num_workers=0",
            "loop.warmup_steps=0",
        ]
    )
    distill.distill(model, tmp_path / "student", config)
    assert drawn(model) == own, "one that is made has the same name while it is made"


def test_a_student_of_another_base_is_refused(folder, tmp_path):
    other = make_limner(seed=5, prompt_tokens=6)
    shutil.rmtree(folder / STUDENT)
    adapter(other, folder / STUDENT, 1, {"student_steps": 2})
    with pytest.raises(ValueError, match="load the model it was trained on"):
        limner.load(folder)
