"""What a caller has switched on in torch does not reach what a model answers, and a caller's own is left as it was."""

import contextlib
import copy
import io
import multiprocessing
import pickle
import random
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.data import DataLoader, Dataset

import limner
from helpers import is_empty, make_limner, make_sdxl, picture, psnr
from limner.detokenizer.drawing_options import DrawingOptions
from limner.inference.isolation import isolated
from limner.mllm.events import PictureDone, PictureStep
from limner.mllm.stream import collate

SHOWN = [{"role": "user", "content": [{"type": "image", "image": picture(1)}, {"type": "text", "text": "a 'b' c"}]}]
OPTIONS = {"images": "force", "seed": 10, "temperature": 1.5, "max_new_tokens": 40, "num_inference_steps": 2}
"""Words and several pictures"""


def tiny():
    return make_limner(prompt_tokens=6, shapes=((32, 32), (16, 32)))


def told(reply):
    return reply.text, [image.tobytes() for image in reply.images]


def answered(model):
    return told(model.generate(SHOWN, **OPTIONS))


def plainly_generated(model):
    plain = limner.PlainGeneration(model)
    inputs = plain.prepare("draw", images="force")
    output = plain.llm.generate(**inputs, max_new_tokens=8, do_sample=False)
    return [told(reply) for reply in plain.replies(output, inputs, num_inference_steps=2)]


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture(scope="module")
def alone(model):
    found = answered(model)
    assert len(found[1]) > 1
    return found, plainly_generated(model)


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


SETTINGS = {
    "autocast bfloat16": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast float16": lambda: torch.autocast("cpu", dtype=torch.float16),
    "default dtype float64": lambda: default_dtype(torch.float64),
    "default dtype bfloat16": lambda: default_dtype(torch.bfloat16),
    "default device": lambda: torch.device("meta"),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "anomaly": torch.autograd.detect_anomaly,
    "floating-point errors": lambda: np.errstate(all="raise"),
}


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("name", SETTINGS)
def test_a_caller_s_settings_do_not_reach_an_answer(model, alone, name):
    with SETTINGS[name]():
        assert (answered(model), plainly_generated(model)) == alone


@pytest.mark.parametrize("name", ["autocast bfloat16", "default dtype float64", "default device", "inference mode"])
def test_a_caller_s_settings_do_not_reach_loading(name, tmp_path):
    plain = tiny()
    plain.save_pretrained(tmp_path)
    with SETTINGS[name]():
        loaded = limner.load(tmp_path, device="cpu", dtype="float32")
    assert answered(loaded) == answered(limner.load(tmp_path, device="cpu", dtype="float32"))
    assert {p.dtype for p in loaded.parameters()} == {torch.float32} and not any(
        p.is_inference() for p in loaded.parameters()
    )


@pytest.mark.parametrize("channels", [4, 8])
def test_sdxl_and_glyphs_make_their_numbers_in_a_dtype_of_their_own(channels):
    detokenizer = make_sdxl(channels)
    with torch.inference_mode():
        condition = detokenizer.adapter(torch.ones(1, 4, 48))
    options = DrawingOptions(num_inference_steps=2)
    plain = detokenizer.draw(condition, 32, 32, seeds=[(0, 0)], options=options)
    with default_dtype(torch.float64):
        assert torch.equal(detokenizer.draw(condition, 32, 32, seeds=[(0, 0)], options=options), plain)


def test_what_computes_with_stand_ins_is_refused(model, alone):
    def called(x):
        model.generate(SHOWN, **OPTIONS)
        return x

    for refused in (torch.vmap(called), torch.func.grad(called)):
        with pytest.raises(ValueError, match=r"leave FakeTensorMode, torch\.vmap"):
            refused(torch.ones(1))
    with FakeTensorMode(), pytest.raises(ValueError, match="leave FakeTensorMode"):
        called(0)
    assert answered(model) == alone[0] and is_empty(model.engine)


def test_random_numbers_of_the_caller_are_neither_read_nor_used(model, alone, tmp_path):
    model.save_pretrained(tmp_path)
    torch.manual_seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1].tobytes(), random.getstate()
    assert answered(model) == alone[0]
    limner.load(tmp_path, device="cpu")
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (np.random.get_state()[1].tobytes(), random.getstate())


def test_a_compilation_of_the_whole_changes_nothing(model, alone):
    assert answered(torch.compile(model)) == alone[0]
    assert told(torch.compile(model.generate)(SHOWN, **OPTIONS)) == alone[0]
    counted = []
    work = isolated(lambda: counted.append(torch.compiler.is_compiling()))
    torch.compile(lambda: work())()
    assert counted == [False]


@pytest.mark.parametrize(
    "copied",
    [
        copy.deepcopy,
        copy.copy,
        lambda model: pickle.loads(pickle.dumps(model)),
        lambda model: model.double().float(),
        lambda model: model.train(),
    ],
    ids=["deepcopy", "copy", "pickle", "precision and back", "training mode"],
)
def test_a_copy_and_a_model_in_training_mode_answer_the_same(copied, alone):
    made = copied(tiny())
    assert answered(made) == alone[0]


def test_training_mode_drops_nothing_and_stays(alone):
    model = tiny()
    model.detokenizer.mmdit.blocks[0].image.mlp.append(torch.nn.Dropout(0.5))
    model.mllm.llm.model.layers[0].mlp.act_fn = torch.nn.Sequential(torch.nn.SiLU(), torch.nn.Dropout(0.5))
    model.train()
    assert answered(model) == alone[0] and all(part.training for part in model.modules())
    assert not model.adapters.views, "what is being trained changes"


def test_a_model_that_has_answered_can_be_trained(alone):
    model = tiny()
    with torch.inference_mode():
        assert answered(model) == alone[0]
    output = model.mllm(collate([model.encoder.encode(SHOWN)], model.mllm.vocabulary, model.config))
    output.hidden.sum().backward()
    assert model.mllm.queries.weight.requires_grad and next(model.mllm.llm.parameters()).grad is not None
    assert answered(model) == alone[0]


@pytest.mark.parametrize("raised", [RuntimeError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_callback_that_raises_ends_its_request_at_once(model, alone, raised):
    def cancel(event):
        if isinstance(event, PictureStep):
            raise raised("cancelled")

    with pytest.raises(raised, match="cancelled") as kept:
        model.generate(SHOWN, callback=cancel, **OPTIONS)
    assert is_empty(model.engine) and kept.traceback
    assert answered(model) == alone[0]


def test_a_callback_may_ask_the_same_model(model, alone):
    inner = []

    def ask(event):
        if isinstance(event, PictureStep) and not inner:
            inner.append(None)
            inner[0] = answered(model)

    assert told(model.generate(SHOWN, callback=ask, **OPTIONS)) == alone[0] and inner == [alone[0]]


def test_a_picture_that_its_reader_paints_over_is_still_what_the_next_one_refers_to(model, alone):
    def paint(event):
        if isinstance(event, PictureDone):
            drawn.append(event.image.tobytes())
            event.image.paste((255, 0, 0), (0, 0, 32, 32))

    drawn = []
    model.generate(SHOWN, callback=paint, **OPTIONS)
    assert drawn == alone[0][1]


class Drawn(Dataset):
    def __init__(self, model):
        self.model = model

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return answered(self.model)


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_of_a_data_loader_draw_the_same(model, alone, method):
    loader = DataLoader(Drawn(model), batch_size=None, num_workers=1, multiprocessing_context=method, timeout=90)
    ((text, images),) = list(loader)
    assert text == alone[0][0]
    for drawn, plain in zip(images, alone[0][1], strict=True):  # a worker has one thread
        assert psnr(*(np.frombuffer(pixels, np.uint8) for pixels in (drawn, plain))) >= 45


def in_child(model, queue):
    torch.set_num_threads(1)
    queue.put(answered(model)[0])


def test_a_fork_while_another_thread_draws_begins_with_an_empty_engine(alone):
    model, context = tiny(), multiprocessing.get_context("fork")
    begun, forked = threading.Event(), threading.Event()
    step = model.engine.step

    def held():
        begun.set()
        forked.wait(60)
        step()

    model.engine.step = held
    thread = threading.Thread(target=answered, args=[model])
    thread.start()
    begun.wait(60)
    queue = context.Queue()
    child = context.Process(target=in_child, args=[model, queue])
    try:
        assert model.engine.busy
        model.engine.__dict__.pop("step")
        child.start()
        assert queue.get(timeout=60) == alone[0][0]
    finally:
        forked.set()
        thread.join()
        child.kill()
        child.join()


def test_weights_that_are_elsewhere_are_refused(model):
    other = tiny()
    other.detokenizer.to("meta")
    with pytest.raises(ValueError, match="some weights of the detokenizer are on the meta device"):
        other.generate(SHOWN, **OPTIONS)


def test_torch_save_of_the_whole(model, alone):
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    assert answered(torch.load(stream, weights_only=False)) == alone[0]


def test_a_conversation_keeps_its_pictures_whatever_is_done_to_those_that_were_handed_out(model):
    options = {**OPTIONS, "max_images": 1, "max_new_tokens": 4}

    def second(change):
        chat, shown = model.chat(**options), picture(3)
        reply = chat.say("a", [shown])
        change(reply.images[0])
        change(shown)
        return told(chat.say("b"))

    assert second(lambda image: image.thumbnail((8, 8))) == second(lambda image: None)


@pytest.mark.slow
def test_a_stream_that_is_left_until_the_program_ends_says_nothing(tmp_path):
    make_limner().save_pretrained(tmp_path / "m")
    code = f"import limner; events = limner.load({str(tmp_path / 'm')!r}, device='cpu').stream('a'); next(events)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Exception ignored" not in ended.stderr and "Traceback" not in ended.stderr
