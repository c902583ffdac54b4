"""The page's events, called as gradio calls them."""

import asyncio
import zipfile
from contextlib import aclosing
from types import SimpleNamespace

import gradio as gr
import pytest
from PIL import Image

from helpers import picture, psnr, trained_adapter
from limner.app.cli.repl import Repl
from limner.app.web.details import details
from limner.app.web.handlers import Handlers
from limner.app.web.page import Page
from limner.inference.chat import Chat

REQUEST = SimpleNamespace(headers={"accept-language": "ko-KR,ko"}, session_hash="a session")


@pytest.fixture(scope="module")
def page_of_service(service):
    from limner.app.web.conversations import Conversations

    return Page(Conversations(service))


@pytest.fixture
def said(monkeypatch):
    """What is shown for a moment."""
    told = []
    for name in ("Info", "Warning"):
        monkeypatch.setattr(gr, name, told.append)
    return told


class Tab:
    """A tab with a page: what its components hold."""

    def __init__(self, page, conversations):
        self.page, self.handlers = page, Handlers(conversations, page)
        self.held = {}
        self.take(asyncio.run(self.handlers.begin("", REQUEST)))
        self.set(page.panel.draw, "force")

    def set(self, component, value):
        self.held[component] = value

    def take(self, updates):
        for component, update in updates.items():
            is_update = isinstance(update, dict) and update.get("__type__") == "update"
            if not is_update:
                self.held[component] = update
            elif "value" in update:
                self.held[component] = update["value"]

    @property
    def values(self):
        defaults = {self.page.panel.number: 2}
        return [self.held.get(c, defaults.get(c, c.value)) for c in self.page.panel.components]

    @property
    def conversation(self):
        return self.handlers.find(self.held[self.page.bridge])

    def run(self, events, look=lambda: None):
        async def work():
            async with aclosing(events) as running:
                async for updates in running:
                    self.take(updates)
                    look()

        asyncio.run(work())

    def say(self, text, files=(), look=lambda: None):
        self.set(self.page.box, {"text": text, "files": list(files)})
        self.run(self.handlers.submit(self.held[self.page.bridge], self.held[self.page.box], *self.values), look)

    def act(self, action, value="", **more):
        event = SimpleNamespace(_data={"action": action, "value": value, **more})
        self.run(self.handlers.act(event, self.held[self.page.bridge], *self.values))

    @property
    def roles(self):
        return [message["role"] for message in self.held[self.page.chatbot]]


@pytest.fixture
def tab(page_of_service, conversations, said):
    conversations.service.model.defaults = conversations.service.model.defaults.updated(
        {"max_new_tokens": 3, "max_images": 1, "num_inference_steps": 4}
    )
    return Tab(page_of_service, conversations)


def drawn(conversation):
    return conversation.chat.last_picture()


def test_a_message_leaves_the_box_and_is_answered(tab, said):
    buttons = []
    assert tab.conversation.language == "ko" and tab.roles == []
    tab.say("draw", look=lambda: buttons.append(tab.held[tab.page.box]))
    assert buttons[0] == {"text": "", "files": []}, "at once"
    assert tab.roles == ["user", "assistant"] and not said[1:]
    seed = tab.held[tab.page.panel.seed]
    assert seed == tab.conversation.chat.options["seed"]
    tab.say("draw")
    assert tab.held[tab.page.panel.seed] != seed, "another one, which is not kept"
    tab.set(tab.page.panel.lock, True)
    kept = tab.held[tab.page.panel.seed]
    tab.say("draw")
    assert tab.held[tab.page.panel.seed] == kept
    tab.act("retry", "4")
    assert tab.held[tab.page.panel.seed] == kept + 1, "the same seed would give the same again"


def test_a_mistake_is_said_and_the_message_comes_back(tab, said, tmp_path):
    tab.say("  ")
    assert said.pop() == "무언가를 말하거나 그림을 보여 주세요."
    (tmp_path / "no.png").write_text("no picture <b>")
    for files, words in [
        (["no.png"], "no.png"),
        (["a.png", "b.png", "c.png"], "그림이 3개입니다"),
        (["large.png"], "more than the limit of 1,000,000"),
    ]:
        for name in files:
            if name not in ("no.png",):
                size = (1200, 1000) if name == "large.png" else (8, 8)
                Image.new("RGB", size).save(tmp_path / name)
        paths = [str(tmp_path / name) for name in files]
        tab.say("look", paths)
        assert words in (told := said.pop()) and str(tmp_path) not in told and tab.roles == []
        assert tab.held[tab.page.box] == {"text": "look", "files": paths}
    tab.set(tab.page.panel.shape, "40x41")
    tab.say("draw")
    assert "size" in said.pop() and tab.held[tab.page.box]["text"] == "draw"


def test_the_panel_says_how_it_is_answered(tab):
    tab.set(tab.page.panel.draw, "never")
    tab.say("draw")
    assert drawn(tab.conversation) is None
    for component, value in (("draw", "force"), ("steps", 2), ("guidance", 1.5), ("shape", "32x48")):
        tab.set(getattr(tab.page.panel, component), value)
    tab.say("draw")
    image = drawn(tab.conversation)
    assert (image.height, image.width) == (32, 48)
    options = details(tab.conversation, tab.conversation.name(image))["options"]
    assert (options["num_inference_steps"], options["guidance_scale"], options["seed"]) == (
        2,
        1.5,
        tab.conversation.chat.options["seed"],
    )


def test_a_picture_is_changed_where_it_is_marked(tab, said):
    tab.say("draw")
    first = drawn(tab.conversation)
    name = tab.conversation.name(first)
    tab.act("change", name, text="bluer")
    asked = tab.conversation.chat.messages[2]["content"]
    assert [part["type"] for part in asked] == ["text"], "the newest picture needs not be shown again"
    tab.act("change", name, text="redder")
    asked = tab.conversation.chat.messages[4]["content"]
    assert [part["type"] for part in asked] == ["image", "text"] and asked[0]["image"].tobytes() == first.tobytes()
    said.clear()
    for mask in ("/etc/hostname", "file:///etc/hostname", "http://127.0.0.1:1/x.png"):
        tab.act("change", name, text="no", mask=mask)
        assert said.pop() == "a mask is a data URI" and len(tab.roles) == 6
    tab.act("change", "of another conversation", text="no")
    assert "not in the conversation" in said.pop()


def test_other_answers_variations_and_what_is_chosen(tab):
    tab.say("draw", [picture_file(tab)])
    first = drawn(tab.conversation)
    tab.act("variations", tab.conversation.name(first))
    assert len(tab.conversation.candidates.replies) == 2
    assert tab.held[tab.page.chatbot][-1]["content"].count('name="choose"') == 2
    tab.act("choose", "1")
    assert drawn(tab.conversation).tobytes() != first.tobytes() and tab.roles == ["user", "assistant"]
    tab.act("more", "0")
    tab.act("keep")
    assert tab.conversation.candidates is None
    tab.act("choose", "7")
    tab.act("undo")
    assert tab.roles == [] and tab.conversation.picture(tab.conversation.name(first)) is first


def picture_file(tab):
    path = f"{tab.handlers.conversations.service.store.folder}/shown.png"
    picture(1).save(path)
    return path


def test_an_earlier_message_is_edited(tab, said):
    tab.say("one")
    tab.say("two")
    tab.act("edit", "0")
    assert tab.held[tab.page.box]["text"] == "one" and "취소" in tab.held[tab.page.banner]
    tab.act("cancel")
    assert tab.held[tab.page.banner] == "" and tab.conversation.editing is None
    tab.act("edit", "0")
    tab.say("anew")
    assert tab.roles == ["user", "assistant"] and tab.held[tab.page.banner] == ""
    tab.act("edit", "1")
    assert "not the user&#x27;s" in said.pop(), "nothing that is said is HTML"


def test_how_a_picture_was_drawn_is_used_again(tab, said):
    tab.say("draw")
    first = drawn(tab.conversation)
    tab.act("reuse", tab.conversation.name(first))
    assert tab.held[tab.page.box]["text"] == "draw" and tab.held[tab.page.panel.lock] is True
    tab.set(tab.page.panel.draw, "force")
    tab.act("undo")
    tab.say("draw")
    assert psnr(drawn(tab.conversation), first) >= 45
    said.clear()
    tab.say("look", [picture_file(tab)])
    shown = tab.conversation.chat.messages[2]["content"][0]["image"]
    tab.act("reuse", tab.conversation.name(shown))
    assert "does not say how" in said.pop()


def test_every_example_is_answered(tab):
    tab.act("example", "4")
    asked = tab.conversation.chat.messages[0]["content"]
    assert [part["type"] for part in asked] == ["image", "text"] and "초록색" in asked[1]["text"]


def test_what_the_page_saved_is_loaded_by_it_and_by_the_terminal(tab, tmp_path, capsys):
    tab.say("draw", [picture_file(tab)])
    before, name = tab.held[tab.page.chatbot], tab.conversation.name(drawn(tab.conversation))
    known, options = details(tab.conversation, name), dict(tab.conversation.chat.options)
    saved = tab.conversation.chat.copy().save(tmp_path / "conversation.zip")
    tab.take(tab.handlers.new(tab.held[tab.page.bridge], REQUEST))
    assert tab.roles == []
    tab.take(asyncio.run(tab.handlers.load(tab.held[tab.page.bridge], str(saved), REQUEST)))
    strip = [message["content"].replace(tab.conversation.key, "") for message in tab.held[tab.page.chatbot]]
    key = before[0]["content"].split("pictures/")[1].split("/")[0]
    assert strip == [message["content"].replace(key, "") for message in before]
    assert details(tab.conversation, name) == known and tab.conversation.chat.options == options
    repl = Repl(tab.handlers.conversations.service.model, {}, saved)
    assert repl.turns() == "1 exchange" and repl.chat.options == options
    assert "conversation.zip: 1 exchange" in capsys.readouterr().out
    with zipfile.ZipFile(saved) as archive:
        archive.extractall(tmp_path)
    loaded = Chat.load(tmp_path / "conversation.jsonl", repl.model)
    assert loaded.messages[0]["content"][0]["image"].tobytes() == picture(1).tobytes()


def test_what_is_no_conversation_is_said_and_changes_nothing(tab, said, tmp_path):
    tab.say("draw")
    (tmp_path / "no.jsonl").write_text("{}")
    tab.take(asyncio.run(tab.handlers.load(tab.held[tab.page.bridge], str(tmp_path / "no.jsonl"), REQUEST)))
    assert said[-1].startswith("no.jsonl is no saved chat") and tab.roles == ["user", "assistant"]


def test_a_conversation_that_is_gone_is_said(tab, said):
    tab.set(tab.page.bridge, "key ko")
    tab.say("hello")
    tab.act("undo")
    assert said == ["이 대화는 더 이상 없습니다. 페이지를 다시 불러오세요."] * 2
    tab.handlers.stop("key ko")


def test_nobody_s_mistake_is_in_the_log(tab, said, monkeypatch, caplog):
    async def broken(_):
        raise RuntimeError("a secret")

    monkeypatch.setattr(tab.handlers.conversations.service, "begin", broken)
    tab.say("draw")
    assert said == ["서버에 오류가 났습니다. 이유는 로그에 있습니다."] and "a secret" in caplog.text
    assert tab.held[tab.page.box]["text"] == "draw" and not tab.conversation.is_busy


def test_adapters_have_weights(service, conversations, said, tmp_path):
    model = service.model
    name = model.load_adapter(trained_adapter(model, tmp_path / "mine", 1))
    try:
        tab = Tab(Page(conversations), conversations)
        tab.set(tab.page.panel.adapters[name], 0.5)
        tab.say("draw")
        assert tab.conversation.chat.options["adapters"] == {name: 0.5}
        image = drawn(tab.conversation)
        assert details(tab.conversation, tab.conversation.name(image))["options"]["adapters"][name] == 0.5
    finally:
        model.delete_adapter(name)
