"""Every text of the page, in the languages that it speaks."""

from __future__ import annotations

LANGUAGES = ("en", "zh-CN", "ko")

TEXTS: dict[str, tuple[str, str, str]] = {
    # the frame
    "title": ("Words and pictures in one stream", "文字与图片，一气呵成", "글과 그림을 한 흐름으로"),
    "intro": (
        "Say what you want. The model writes, and draws when you ask for a picture. Every picture can be changed further.",
        "说出你的想法。模型会写作，也会按你的要求作画。每张图片都可以继续修改。",
        "원하는 것을 말해 보세요. 모델이 글을 쓰고, 부탁하면 그림을 그립니다. 모든 그림은 계속 고칠 수 있습니다.",
    ),
    "conversation": ("Conversation", "对话", "대화"),
    "message": ("Your message", "你的消息", "메시지"),
    "placeholder": (
        "Ask for a picture, or show one …",
        "想画什么？也可以放入图片……",
        "그림을 부탁하거나 보여 주세요…",
    ),
    "new": ("New", "新对话", "새 대화"),
    "save": ("Save", "保存", "저장"),
    "load": ("Load", "打开", "열기"),
    "settings": ("Settings", "设置", "설정"),
    # messages
    "edit": ("Edit", "编辑", "수정"),
    "edit_message": ("Edit this message", "编辑这条消息", "이 메시지 수정"),
    "retry": ("Retry", "重试", "다시 시도"),
    "undo": ("Undo", "撤销", "되돌리기"),
    "more": ("Other answers", "其他回答", "다른 답변"),
    "choose": ("Take this one", "选这个", "이것으로 하기"),
    "keep": ("Keep the one there was", "保留原来的回答", "원래 답변 유지"),
    "choices": ("{n} answers to choose from", "{n} 个回答可选", "고를 수 있는 답변 {n}개"),
    "editing": (
        "Your next message replaces an earlier one.",
        "下一条消息将替换之前的一条。",
        "다음 메시지가 이전 메시지를 대신합니다.",
    ),
    "cancel": ("Cancel", "取消", "취소"),
    "cut": ("The reply reached its limit.", "回答达到了长度上限。", "답변이 길이 제한에 이르렀습니다."),
    "painting": ("Painting", "绘制中", "그리는 중"),
    "waiting": ("Waiting for its turn", "排队中", "차례를 기다리는 중"),
    "drawn_picture": ("Picture: {words}", "图片：{words}", "그림: {words}"),
    "shown_picture": ("A picture of yours", "你的图片", "내가 보여 준 그림"),
    "open_picture": ("Open this picture", "打开图片", "그림 열기"),
    # a picture
    "picture": ("Picture", "图片", "그림"),
    "close": ("Close", "关闭", "닫기"),
    "change_label": ("What is to change?", "要改成什么？", "무엇을 바꿀까요?"),
    "change_hint": ("make it blue", "换成蓝色", "파란색으로 바꿔 줘"),
    "change": ("Change it", "修改", "바꾸기"),
    "region_hint": (
        "Mark a part with the box or the brush, and only that part changes.",
        "用方框或画笔标出一部分，就只修改这一部分。",
        "상자나 붓으로 표시하면 그 부분만 바뀝니다.",
    ),
    "box": ("Box", "方框", "상자"),
    "brush": ("Brush", "画笔", "붓"),
    "erase": ("Clear the marks", "清除标记", "표시 지우기"),
    "canvas": (
        "The picture. With the box: arrow keys move it, Shift and arrow keys resize it.",
        "图片。使用方框时：方向键移动，Shift 加方向键改变大小。",
        "그림. 상자: 화살표 키로 옮기고, Shift와 화살표 키로 크기를 바꿉니다.",
    ),
    "reference": ("Use as reference", "用作参考", "참고로 쓰기"),
    "variations": ("Variations", "变体", "변형"),
    "download": ("Download", "下载", "내려받기"),
    "reuse": ("Use these again", "再次使用", "다시 사용"),
    "prompt": ("Prompt", "提示词", "요청"),
    "plan": ("Plan", "构思", "계획"),
    "seed": ("Seed", "种子", "시드"),
    "steps": ("Steps", "步数", "단계"),
    "guidance": ("Guidance", "引导强度", "가이던스"),
    "size": ("Size", "尺寸", "크기"),
    # the panel
    "draw": ("Pictures", "图片", "그림"),
    "draw_auto": ("When it fits", "自动", "알아서"),
    "draw_always": ("Always", "总是", "항상"),
    "draw_never": ("Never", "从不", "안 그림"),
    "shape": ("Shape", "画幅", "모양"),
    "shape_auto": ("The model chooses", "由模型决定", "모델이 선택"),
    "own": ("Empty: the model's own", "留空：使用模型默认值", "비워 두면 모델의 기본값"),
    "lock": ("Keep this seed", "固定种子", "시드 고정"),
    "candidates": ("Number of other answers", "其他回答的数量", "다른 답변의 수"),
    "adapters": ("Adapters", "适配器", "어댑터"),
    # examples
    "group_draw": ("Draw", "绘画", "그리기"),
    "group_edit": ("Change", "修改", "고치기"),
    "group_look": ("Look", "看图", "보기"),
    "group_tell": ("Tell", "讲述", "이야기"),
    # what is said
    "busy": ("A reply is being written: stop it first.", "正在回复，请先停止。", "답변을 쓰는 중입니다. 먼저 멈추세요."),
    "stopped": (
        "Stopped. Your message is in the box again.",
        "已停止。你的消息已放回输入框。",
        "멈췄습니다. 메시지를 입력란에 되돌려 놓았습니다.",
    ),
    "empty": (
        "Say something or show a picture.",
        "请说点什么，或放入一张图片。",
        "무언가를 말하거나 그림을 보여 주세요.",
    ),
    "gone": (
        "This conversation is not here any more: reload the page.",
        "这个对话已不存在：请重新载入页面。",
        "이 대화는 더 이상 없습니다. 페이지를 다시 불러오세요.",
    ),
    "failed": (
        "The server failed; its log says why.",
        "服务器出错，原因见日志。",
        "서버에 오류가 났습니다. 이유는 로그에 있습니다.",
    ),
    "too_many": (
        "{n} pictures; a message may have {limit}.",
        "有 {n} 张图片，一条消息最多 {limit} 张。",
        "그림이 {n}개입니다. 메시지 하나에 {limit}개까지 됩니다.",
    ),
    "forgetting": (
        "The conversation has become long: the model is shown the end of it.",
        "对话变长了：模型只看到最后一部分。",
        "대화가 길어져 모델에는 끝부분만 보여 줍니다.",
    ),
    "loaded": ("Loaded.", "已打开。", "열었습니다."),
    "moment": ("One moment: the page is being loaded.", "请稍候，页面正在载入。", "잠시만요, 페이지를 불러오는 중입니다."),
    "unavailable": (
        "The page could not be loaded; the server's log says why. The API works.",
        "页面无法载入，原因见服务器日志。API 仍可使用。",
        "페이지를 불러오지 못했습니다. 이유는 서버 로그에 있습니다. API는 쓸 수 있습니다.",
    ),
}  # fmt: skip
"""By their names, each in the order of `LANGUAGES`"""


def language_of(accepted: str) -> str:
    """The page's language for a browser's Accept-Language header: of its first language, or English."""
    first = accepted.split(",")[0].split(";")[0].strip().lower().split("-")[0]
    return {"zh": "zh-CN", "ko": "ko"}.get(first, "en")


def text(name: str, language: str, **values: object) -> str:
    """The text of this name with values in their places."""
    found = TEXTS[name][LANGUAGES.index(language)]
    return found.format(**values) if values else found


def translations(language: str) -> dict[str, str]:
    """All texts of a language by their names."""
    return {name: texts[LANGUAGES.index(language)] for name, texts in TEXTS.items()}
