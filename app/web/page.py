"""The page itself: gradio's components, and which of them does what."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.themes.utils import colors, fonts

from .conversations import Conversations
from .handlers import Handlers
from .panel import Panel
from .texts import LANGUAGES, translations

STATIC = Path(__file__).parent / "static"
TEXTS = {language: translations(language) for language in LANGUAGES}
SETTINGS = "() => window.limnerSettings()"
SAVE = "(bridge) => window.limnerSave(bridge)"
OLD = "() => [sessionStorage.getItem('limner') ?? '']"


class Page:
    """``blocks`` are to be mounted; everything else is used by `Handlers`."""

    def __init__(self, conversations: Conversations) -> None:
        model = conversations.service.model
        # Traditional Chinese is read in simplified characters rather than in English
        self.i18n = gr.I18n(**TEXTS, **{"zh-TW": TEXTS["zh-CN"]})
        i18n = self.i18n
        expire = conversations.service.options.expire
        with gr.Blocks(
            title=f"Limner · {model.name}", analytics_enabled=False, delete_cache=(60, expire)
        ) as self.blocks:
            with gr.Row(elem_id="header"):
                gr.HTML(f"<h1>Limner <span>{escape(model.name)}</span></h1>", elem_id="brand")
                self.settings = gr.Button(i18n("settings"), size="sm", elem_id="settings-button", min_width=0, scale=0)
                self.new = gr.Button(i18n("new"), size="sm", elem_id="new", min_width=0, scale=0)
                self.save = gr.Button(i18n("save"), size="sm", elem_id="save", min_width=0, scale=0)
                self.load = gr.UploadButton(
                    i18n("load"),  # type: ignore[arg-type]
                    file_types=[".zip", ".jsonl"],
                    size="sm",
                    elem_id="load",
                    min_width=0,
                    scale=0,
                )
            self.chatbot = gr.Chatbot(
                label=i18n("conversation"),
                show_label=False,
                container=False,
                render_markdown=False,
                latex_delimiters=[],
                buttons=[],
                feedback_options=None,
                group_consecutive_messages=False,
                allow_tags=False,
                height=None,
                elem_id="chat",
            )
            self.banner = gr.HTML("", visible=False, elem_id="banner")
            self.box = gr.MultimodalTextbox(
                label=i18n("message"),
                placeholder=i18n("placeholder"),  # type: ignore[arg-type]
                show_label=False,
                file_count="multiple",
                file_types=["image"],
                lines=1,
                max_lines=8,
                max_plain_text_length=100_000,
                autofocus=True,
                elem_id="box",
            )
            with gr.Sidebar(position="right", open=False, width=300, label=i18n("settings"), elem_id="panel"):
                gr.Markdown(i18n("settings"), elem_id="settings")
                self.panel = Panel(model, i18n, conversations.service.options.max_replies)
            self.bridge = gr.HTML(
                "",
                html_template="",
                js_on_load=(STATIC / "page.js").read_text(encoding="utf-8"),
                texts=json.dumps(TEXTS, ensure_ascii=False),
                elem_id="bridge",
            )
            self._connect(Handlers(conversations, self))

    def _connect(self, handlers: Handlers) -> None:
        own = [self.chatbot, self.box, self.banner]
        everything = [self.bridge, *own, *self.panel.components]
        values = self.panel.components
        # requests wait in the engine's queue, for all interfaces alike: gradio's own lets everything through
        options: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private"}
        several: dict[str, Any] = {**options, "trigger_mode": "multiple"}
        turn = [*own, *values]
        self.box.submit(handlers.submit, [self.bridge, self.box, *values], turn, **several)
        self.bridge.act(handlers.act, [self.bridge, *values], turn, **several)
        for stop in (self.box.stop, self.bridge.halt):
            stop(handlers.stop, [self.bridge], None, queue=False, **options)
        self.new.click(handlers.new, [self.bridge], everything, **options)
        self.load.upload(handlers.load, [self.bridge, self.load], everything, **options)
        self.settings.click(None, None, None, js=SETTINGS, **options)
        self.save.click(None, [self.bridge], None, js=SAVE, **options)
        self.blocks.load(handlers.begin, [self.bridge], everything, js=OLD, **options)
        self.blocks.unload(handlers.leave)


def theme() -> gr.themes.Base:
    """One accent colour on greys, in the system's own fonts: nothing is fetched from elsewhere."""
    system = [fonts.Font(name) for name in ("system-ui", "-apple-system", "Segoe UI", "Noto Sans", "sans-serif")]
    mono = [fonts.Font(name) for name in ("ui-monospace", "Menlo", "Consolas", "monospace")]
    return gr.themes.Base(
        primary_hue=colors.teal, secondary_hue=colors.teal, neutral_hue=colors.stone, font=system, font_mono=mono
    )
