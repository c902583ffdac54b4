"""The world in Chinese and Korean: their words, and their phrases for scenes, requests, edits and questions."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from .held_out import relation
from .objects import OBJECTS
from .pen import COLORS
from .scene import SIZES, Scene, Thing
from .words import Detail, canonical_order, mentions_size

_NAMES = sorted(OBJECTS)
_ANIMALS = ("bear", "bird", "cat", "cow", "dog", "elephant", "giraffe", "horse", "sheep", "teddy bear", "zebra")
_VEHICLES = ("bicycle", "bus", "car", "motorcycle", "train", "truck")
_HANDLED = ("chair", "fork", "knife", "scissors", "spoon", "toothbrush", "umbrella")


def korean_particles(words: str) -> str:
    """Text with each pair of Korean particles replaced by the one that fits the sound before it: 고양이을/를 becomes 고양이를."""

    def particle(found: re.Match[str]) -> str:
        before, closed, other = found.groups()
        final = (ord(before) - 0xAC00) % 28 if "가" <= before <= "힣" else 0
        if closed == "으로" and final == 8:  # after ㄹ the short form stands
            final = 0
        return before + (closed if final else other)

    return re.sub(r"(\w)(을|은|이랑|이|과|으로)/(를|는|랑|가|와|로)", particle, words)


@dataclass(frozen=True)
class Language:
    """The words and the grammar of one language, as tables and templates."""

    name: str
    things: dict[str, str]
    colors: dict[str, str]
    color_names: dict[str, str]
    """Names of colours when used alone"""
    sizes: dict[str, str]
    grounds: dict[str, str]
    """Backgrounds as captions say them; they fit into ``ground_after`` and ``ground_before``"""
    request_grounds: dict[str, tuple[str, ...]]
    """Backgrounds as requests say them"""
    ground_names: dict[str, str]
    """Backgrounds as answers to a question"""
    sides: dict[str, str]
    numbers: dict[int, str]
    counters: dict[str, str]
    """Counting words of objects that do not take the usual one, ``counter``"""
    counter: str
    of: str
    """Between a colour and its object"""
    one: str
    """Template of one object: {size}, {color}, {name}, {counter}"""
    several: str
    pairs: dict[str, str]
    """Templates of two objects {a} and {b}, by relation"""
    together: tuple[str, ...]
    """Templates of two objects without their relation"""
    ground_after: str
    ground_before: str
    stop: str
    colon: str
    space: str
    """Space after a sentence within a line"""
    forms: dict[str, tuple[str, ...]]
    """Templates of requests, instructions, questions and answers, by purpose"""
    talk: tuple[tuple[tuple[str, ...], str], ...]
    unknown: tuple[str, ...]
    fix_particles: Callable[[str], str] = str

    def thing(self, thing: Thing, detail: Detail, alone: bool) -> str:
        size = self.sizes[thing.size] if mentions_size(thing, detail, alone) else ""
        color = self.colors[thing.color] if detail.color else ""
        return self.spaced(self.one, thing.name, size, color)

    def spaced(self, form: str, name: str, size: str, color: str, number: str = "") -> str:
        counter = self.counters.get(name, self.counter)
        words = form.format(
            size=size, color=color and color + self.of, name=self.things[name], counter=counter, number=number
        )
        return re.sub(" +", " ", words).strip()

    def phrase(self, scene: Scene, detail: Detail, ground: str | None = None, together: str | None = None) -> str:
        """A noun phrase for a scene, as `words.noun_phrase` gives in English, with the attributes that ``detail`` names."""
        things = scene.things
        if len({(t.name, t.color) for t in things}) == 1 and len(things) > 1:
            first = things[0]
            size = self.sizes[first.size] if mentions_size(first, detail, False) else ""
            color = self.colors[first.color] if detail.color else ""
            words = self.spaced(self.several, first.name, size, color, self.numbers[len(things)])
        elif len(things) == 2:
            a, b = (self.thing(t, detail, False) for t in things)
            where = relation(*things) if detail.relation else None
            words = (self.pairs[where] if where else together or self.together[0]).format(a=a, b=b)
        else:
            words = self.thing(things[0], detail, True)
        if detail.background:
            form = self.ground_after if ground is None else self.ground_before
            words = form.format(x=words, g=ground or self.grounds[scene.background])
        return self.fix_particles(words)

    def caption(self, scene: Scene) -> str:
        """The full description; each scene has exactly one."""
        return self.phrase(canonical_order(scene), Detail(size=True)) + self.stop

    def describes(self, words: str, scene: Scene) -> bool:
        """Whether a description is right, apart from sizes and counting words, as `words.facts` compares English ones."""
        kinds = sorted({(t.name, t.color) for t in scene.things})
        captions = set()
        for sizes in itertools.product(SIZES, repeat=len(kinds)):
            size = dict(zip(kinds, sizes, strict=True))
            things = tuple(replace(t, size=size[t.name, t.color]) for t in scene.things)
            captions.add(self.without_counters(self.caption(replace(scene, things=things))))
        return self.without_counters(words.strip()) in captions

    def without_counters(self, words: str) -> str:
        counters = "|".join(sorted({self.counter, *self.counters.values()}))
        return re.sub(rf"({'|'.join(self.numbers.values())}) ?({counters})", r"\1", words)


def _by_name(words: str, names: list[str]) -> dict[str, str]:
    return dict(zip(names, words.split(), strict=True))


def _counters(**groups: tuple[str, ...]) -> dict[str, str]:
    return {name: counter for counter, names in groups.items() for name in names}


CHINESE = Language(
    name="chinese",
    things=_by_name(
        """飞机 苹果 背包 香蕉 棒球棒 棒球手套 熊 床 长椅 自行车 鸟 船 书 瓶子 碗 西兰花 公共汽车 蛋糕 汽车 胡萝卜 猫 手机 椅子 时钟
        键盘 鼠标 沙发 牛 杯子 餐桌 狗 甜甜圈 大象 消防栓 叉子 飞盘 长颈鹿 吹风机 手提包 马 热狗 风筝 刀 笔记本电脑 微波炉 摩托车
        橙子 烤箱 停车计时器 人 披萨 盆栽 冰箱 三明治 剪刀 羊 水槽 滑板 滑雪板 单板 勺子 球 停车标志 行李箱 冲浪板 泰迪熊 网球拍
        领带 烤面包机 马桶 牙刷 红绿灯 火车 卡车 电视 遥控器 雨伞 花瓶 酒杯 斑马""",
        _NAMES,
    ),
    colors=_by_name("红色 橙色 黄色 绿色 蓝色 紫色 粉色 棕色 黑色 白色", list(COLORS)),
    color_names=_by_name("红色 橙色 黄色 绿色 蓝色 紫色 粉色 棕色 黑色 白色", list(COLORS)),
    sizes={"small": "小", "medium": "中等的", "large": "大"},
    grounds={"plain": "纯色背景上", "sky": "天空中", "grass": "草地上", "sand": "沙滩上", "night": "夜晚", "room": "房间里"},
    request_grounds={
        "plain": ("纯色背景上",), "sky": ("天空中", "天上"), "grass": ("草地上", "草上"), "sand": ("沙滩上", "沙子上"),
        "night": ("夜晚", "夜里"), "room": ("房间里", "屋里"),
    },
    ground_names={"plain": "纯色", "sky": "天空", "grass": "草地", "sand": "沙滩", "night": "夜晚", "room": "房间"},
    sides={"left": "左边", "right": "右边", "top": "上面", "bottom": "下面"},
    numbers={1: "一", 2: "两", 3: "三", 4: "四"},
    counters=_counters(
        只=_ANIMALS, 辆=_VEHICLES, 把=_HANDLED, 张=("bed", "dining table"), 架=("airplane",), 艘=("boat",), 本=("book",),
        条=("tie",), 部=("cell phone",), 台=("tv", "laptop"),
    ),
    counter="个",
    of="的",
    one="一{counter}{color}{size}{name}",
    several="{number}{counter}{color}{size}{name}",
    pairs={
        "left of": "左边是{a}，右边是{b}", "right of": "右边是{a}，左边是{b}",
        "above": "上面是{a}，下面是{b}", "below": "下面是{a}，上面是{b}",
    },
    together=("{a}和{b}", "{a}，还有{b}", "{a}跟{b}"),
    ground_after="{x}，在{g}",
    ground_before="{g}的{x}",
    stop="。",
    colon="：",
    space="",
    forms={
        "draw": (
            "画{x}", "请画{x}。", "画{x}吧", "帮我画{x}", "{x}", "一张{x}的图片", "我想要{x}", "能画{x}吗？", "给我画{x}",
            "请给我{x}", "我想看{x}", "{x}的照片", "来{x}", "可以画{x}吗", "麻烦画{x}", "生成{x}",
        ),
        "describe": (
            "这张图里有什么？", "描述这张图片", "你看到了什么？", "图里是什么", "这是什么？", "说说这张图", "请描述一下",
            "画面上有什么", "给这张图写个说明", "图中有哪些东西？", "你能看出这是什么吗", "帮我看看这张图", "画的是什么？",
            "图上都有啥", "请说出图里的内容", "看图说话", "告诉我你看到的", "这幅画画了什么", "用一句话描述",
            "请问图里有什么", "讲讲这张照片", "照片里是什么", "给我描述一下画面", "识别一下这张图", "里面有什么东西",
            "这张照片上有什么", "它是什么", "说一下你看见了什么", "解释一下这张图", "图片内容是什么",
        ),
        "recolour": (
            "把{a}变成{c}", "{a}改成{c}", "把{a}涂成{c}", "我要{c}的{a}", "{a}换成{c}吧", "让{a}变{c}", "{a}要{c}的",
            "请把{a}画成{c}", "{a}涂成{c}", "{a}要是{c}的就好了", "改一下{a}的颜色，要{c}", "颜色换成{c}，{a}的",
            "想要{a}是{c}的", "{a}颜色改{c}", "给{a}换个颜色：{c}", "把{a}染成{c}", "把{a}的颜色变成{c}", "{a}用{c}",
            "能把{a}变成{c}吗", "{c}的{a}更好",
        ),
        "replace": (
            "把{a}换成{b}", "用{b}代替{a}", "{a}改成{b}", "不要{a}，要{b}", "把{a}变成{b}", "换成{b}，不要{a}",
            "把{a}替换成{b}", "{a}不要了，换{b}", "{b}替换{a}", "我想要{b}而不是{a}", "{a}变成{b}", "能把{a}换成{b}吗",
            "{a}的地方画{b}", "改成{b}吧，别要{a}",
        ),
        "background": (
            "把背景换成{g}", "放在{g}", "现在在{g}", "背景改成{g}", "让它在{g}", "背景要{g}", "{g}", "换个背景：{g}",
            "把它放到{g}", "放到{g}去", "{g}的背景", "场景换成{g}", "移到{g}", "背景变成{g}", "想让它在{g}", "同样的，在{g}",
            "能放在{g}吗", "背景用{g}",
        ),
        "move": (
            "把{a}移到{s}", "{a}放到{s}", "把{a}放在{s}", "{a}往{s}移", "{a}应该在{s}", "让{a}去{s}", "{a}挪到{s}",
            "把{a}挪到{s}", "{a}移到{s}去", "把{a}往{s}移一点", "{a}要在{s}", "能把{a}放到{s}吗", "{a}到{s}", "把{a}推到{s}",
            "我要{a}在{s}",
        ),
        "add": (
            "在旁边加{n}", "再画{n}", "加{n}", "{a}旁边放{n}", "还要{n}", "添加{n}", "加上{n}", "旁边画{n}", "{a}旁边加{n}",
            "{a}边上再来{n}", "再来{n}", "多加{n}", "在{a}旁边画{n}", "也画{n}", "放{n}在{a}旁边", "能加{n}吗",
            "我还想要{n}", "给{a}配{n}",
        ),
        "remove": (
            "去掉{a}", "把{a}删掉", "不要{a}", "移除{a}", "擦掉{a}", "没有{a}", "拿走{a}", "删除{a}", "把{a}去掉",
            "{a}不要了", "把{a}拿走", "{a}消失", "让{a}不见", "{a}删了", "把{a}擦掉", "能去掉{a}吗", "不需要{a}",
            "把{a}移除", "去除{a}", "别要{a}了",
        ),
        "bigger": (
            "把{a}变大", "{a}大一点", "让{a}更大", "再大一些", "{a}太小了", "放大{a}", "{a}要大一点", "画大点", "大一点",
            "{a}再大点", "把{a}放大", "变大", "{a}画得更大", "能大一点吗", "更大的{a}",
        ),
        "smaller": (
            "把{a}变小", "{a}小一点", "让{a}更小", "再小一些", "{a}太大了", "缩小{a}", "{a}要小一点", "画小点", "小一点",
            "{a}再小点", "把{a}缩小", "变小", "{a}画得更小", "能小一点吗", "更小的{a}",
        ),
        "swap": (
            "换个位置", "交换位置", "反过来", "把它们对调", "两个换一下", "左右互换", "位置互换", "让它们换位置",
            "它们交换一下位置", "对换", "把两个的位置换过来", "倒过来放", "互换",
        ),
        "more": (
            "再多一个", "多画一个{a}", "再来一个{a}", "还要一个", "再加一个", "多一个", "加一个{a}", "再添一个",
            "一个不够，再来一个", "再画一个{a}", "多加一个",
        ),
        "less": (
            "少一个", "去掉一个{a}", "少画一个", "拿走一个", "减少一个", "少一个{a}", "去掉其中一个", "删一个",
            "多了一个，去掉", "减一个", "拿掉一个",
        ),
        "plan bigger": ("{a}更大",), "plan smaller": ("{a}更小",), "plan swap": ("交换位置",), "plan more": ("多一个",),
        "plan less": ("少一个",),
        "plan recolour": ("{a}变成{c}",), "plan replace": ("{a}换成{b}",), "plan background": ("在{g}",),
        "plan move": ("{a}在{s}",), "plan add": ("{a}旁边加{n}",), "plan remove": ("没有{a}",),
        "how many": (
            "有多少个{a}？", "有几个{a}？", "{a}有几个", "数一数{a}", "{a}有多少？", "一共有几个{a}", "图里有几个{a}",
            "{a}的数量是多少", "总共多少{a}", "多少个{a}", "请数{a}", "能看到几个{a}",
        ),
        "color": (
            "{a}是什么颜色的？", "{a}什么颜色？", "{a}的颜色是什么", "{a}是啥颜色", "请问{a}是什么颜色", "{a}的颜色？",
            "图里的{a}是什么颜色的", "什么颜色的{a}", "告诉我{a}的颜色", "{a}是哪种颜色",
        ),
        "present": (
            "有{a}吗？", "图里有没有{a}？", "看得到{a}吗", "图中有{a}吗", "有没有{a}", "这里有{a}吗", "能看到{a}吗",
            "是不是有{a}", "里面有{a}么", "画里有{a}吗", "你看见{a}了吗",
        ),
        "where": (
            "{a}在哪里？", "{a}在哪边？", "{a}在什么位置", "{a}在哪", "{a}在哪一边", "{a}的位置？",
            "{a}在左边还是右边，上面还是下面", "请问{a}在哪里", "{a}放在哪",
        ),
        "ground": (
            "背景是什么？", "这是在哪里？", "什么背景", "背景是啥", "在什么地方", "背景是什么样的", "这是什么地方",
            "它在哪里的", "后面是什么", "背景呢",
        ),
        "yes": ("有。",), "no": ("没有。",), "number": ("{n}个。",), "answer": ("{x}。",),
        "refuse": ("我还不会画{x}；我会画猫、汽车、苹果等八十种东西。",),
        "done": ("好了：{x}。",),
    },
    talk=(
        (("你好", "你好！", "您好", "嗨", "早上好", "在吗"), "你好！告诉我要画什么，或者给我看一张图片。"),
        (("你是谁？", "你叫什么名字", "你是什么", "介绍一下自己", "你是机器人吗"), "我是 Limner nano，一个会写会画的小模型。"),
        (("你会什么？", "你能做什么？", "怎么用", "帮助", "有什么功能"), "我会画、描述和修改简单的图片：比如让我画一只红色的猫。"),
        (("谢谢", "谢谢你", "多谢", "太好了", "很好看", "真棒"), "不客气！"),
        (("再见", "拜拜", "晚安", "下次见"), "再见！"),
        (("今天天气怎么样？", "讲个笑话", "一加一等于几", "你喜欢音乐吗", "唱首歌", "为什么", "我很无聊", "现在几点"),
         "我只懂简单的图片。告诉我要画什么。"),
    ),
    unknown=tuple("""龙 城堡 山 机器人 树 花 房子 鱼 蛇 火箭 钢琴 吉他 鲨鱼 梯子 蜡烛 蘑菇 铅笔 皇冠 桥 兔子 老虎 狮子 青蛙 企鹅 鲸鱼
    蝴蝶 蜘蛛 雪人 月亮 太阳 星星 云 帽子 鞋子 窗户 门 灯 相机 钥匙 锤子""".split()),
)  # fmt: skip

KOREAN = Language(
    name="korean",
    things=_by_name(
        """비행기 사과 배낭 바나나 야구방망이 야구장갑 곰 침대 벤치 자전거 새 배 책 병 그릇 브로콜리 버스 케이크 자동차 당근 고양이 휴대폰
        의자 시계 키보드 마우스 소파 소 컵 식탁 개 도넛 코끼리 소화전 포크 원반 기린 드라이어 핸드백 말 핫도그 연 칼 노트북 전자레인지
        오토바이 오렌지 오븐 주차미터기 사람 피자 화분 냉장고 샌드위치 가위 양 싱크대 스케이트보드 스키 스노보드 숟가락 공 정지표지판
        여행가방 서핑보드 곰인형 테니스라켓 넥타이 토스터 변기 칫솔 신호등 기차 트럭 텔레비전 리모컨 우산 꽃병 와인잔 얼룩말""",
        _NAMES,
    ),
    colors=_by_name("빨간 주황색 노란 초록색 파란 보라색 분홍색 갈색 검은 하얀", list(COLORS)),
    color_names=_by_name("빨간색 주황색 노란색 초록색 파란색 보라색 분홍색 갈색 검은색 하얀색", list(COLORS)),
    sizes={"small": "작은", "medium": "중간", "large": "큰"},
    grounds={"plain": "단색 배경", "sky": "하늘", "grass": "잔디 위", "sand": "모래 위", "night": "밤", "room": "방 안"},
    request_grounds={
        "plain": ("단색 배경",), "sky": ("하늘", "하늘 높이"), "grass": ("잔디 위", "풀밭", "잔디밭"),
        "sand": ("모래 위", "해변", "모래밭"), "night": ("밤", "어두운 밤"), "room": ("방 안", "집 안"),
    },
    ground_names={"plain": "단색", "sky": "하늘", "grass": "잔디", "sand": "모래", "night": "밤", "room": "방"},
    sides={"left": "왼쪽", "right": "오른쪽", "top": "위쪽", "bottom": "아래쪽"},
    numbers={1: "한", 2: "두", 3: "세", 4: "네"},
    counters=_counters(마리=_ANIMALS, 대=_VEHICLES, 명=("person",), 권=("book",)),
    counter="개",
    of="",
    one="{size} {color} {name}",
    several="{size} {color} {name} {number} {counter}",
    pairs={
        "left of": "왼쪽에 {a}, 오른쪽에 {b}", "right of": "오른쪽에 {a}, 왼쪽에 {b}",
        "above": "위에 {a}, 아래에 {b}", "below": "아래에 {a}, 위에 {b}",
    },
    together=("{a}과/와 {b}", "{a}, {b}", "{a} 그리고 {b}", "{a} 옆에 {b}"),
    ground_after="{x}, {g}에",
    ground_before="{g}에 있는 {x}",
    stop=".",
    colon=":",
    space=" ",
    forms={
        "draw": (
            "{x} 그려 줘", "{x} 그려 주세요.", "{x}을/를 그려 줘", "{x} 그림", "{x}", "{x} 사진", "{x} 보여 줘",
            "{x} 그릴 수 있어?", "{x} 하나 부탁해", "{x} 좀 그려 줄래?", "{x}이/가 보고 싶어", "{x} 만들어 줘", "{x} 그려봐",
            "그려 줘: {x}", "{x} 부탁드려요", "나는 {x} 그림을 원해",
        ),
        "describe": (
            "이 그림에 무엇이 있어?", "이 사진을 설명해 줘", "뭐가 보여?", "이게 뭐야?", "그림을 설명해 주세요",
            "무엇이 보이나요?", "설명해 줘", "이건 무슨 그림이야?", "뭐가 있는지 말해 줘", "이 사진에 뭐가 있어?",
            "사진 설명해줘", "그림에 뭐가 그려져 있어?", "이건 뭐야", "뭐가 있나요?", "이 이미지를 설명해 주세요",
            "무엇이 그려져 있나요?", "그림 내용을 알려 줘", "보이는 걸 말해 줘", "이 사진 속에 뭐가 보여?",
            "한 문장으로 설명해 줘", "이게 무슨 사진이야?", "어떤 그림인지 말해 줘", "사진에 대해 말해 줘", "여기 뭐 있어?",
            "이 그림은 뭘 보여 줘?", "무슨 그림인지 알려 줘", "이미지 설명 부탁해", "그림 좀 봐 줘", "이걸 뭐라고 해?",
        ),
        "recolour": (
            "{a}을/를 {c}으로/로 바꿔 줘", "{a} 색을 {c}으로/로", "{a}을/를 {c}으로/로 칠해 줘", "{c}으로/로 바꿔 줘, {a}",
            "{a} {c}으로/로 해 줘", "{a}은/는 {c}이면 좋겠어", "{a}을/를 {c}으로/로 바꿔줘", "{a}을/를 {c}으로/로 변경해 줘",
            "{c} {a}으로/로 해 줘", "{a} 색깔을 {c}으로/로 바꿔 주세요", "{a}을/를 {c}으로/로 만들어 줘", "{a} {c}으로/로",
            "{a}은/는 {c}", "{a} 색을 바꿔 줘, {c}", "{c}이/가 더 좋아, {a} 말이야", "{a}을/를 {c}으로/로 해 주세요",
            "{c}으로/로 {a}을/를 칠해", "{a} 색깔 {c}으로/로",
        ),
        "replace": (
            "{a}을/를 {b}으로/로 바꿔 줘", "{a} 대신 {b}", "{a} 말고 {b}", "{a} 대신 {b}을/를 그려 줘",
            "{b}으로/로 바꿔, {a} 말고", "{a}을/를 {b}으로/로 바꿔줘", "{a}을/를 {b}으로/로 교체해 줘",
            "{a}이/가 아니라 {b}", "{a} 빼고 {b} 넣어 줘", "{a} 자리에 {b}", "{b}이/가 좋겠어, {a} 대신",
            "{a}을/를 {b}으로/로 만들어 줘", "{a} 대신에 {b}을/를 넣어 줘",
        ),
        "background": (
            "배경을 {g}으로/로 바꿔 줘", "{g}에 놓아 줘", "이제 {g}에", "배경은 {g}", "{g}에 있게 해 줘", "{g}에 그려 줘",
            "배경을 {g}으로/로 해 줘", "배경을 {g}으로/로", "{g}으로/로 옮겨 줘", "{g}에 넣어 줘", "{g}에 있으면 좋겠어",
            "배경만 {g}으로/로 바꿔 주세요", "{g} 배경", "같은데 {g}에", "{g}에 두어 줘", "장소를 {g}으로/로 바꿔 줘",
        ),
        "move": (
            "{a}을/를 {s}으로/로 옮겨 줘", "{a}을/를 {s}에 놓아 줘", "{a} {s}으로/로", "{a}은/는 {s}에 있어야 해",
            "{a} {s}에", "{a}을/를 {s}으로/로 이동해 줘", "{a}을/를 {s}으로/로 보내 줘", "{a} {s}으로/로 옮겨",
            "{a}을/를 {s}에 둬", "{a}이/가 {s}에 있으면 좋겠어", "{s}으로/로 {a}을/를 밀어 줘", "{a} {s}에 놓아 주세요",
            "{a} 위치를 {s}으로/로",
        ),
        "add": (
            "옆에 {n} 추가해 줘", "{n}도 그려 줘", "{a} 옆에 {n}을/를 놓아 줘", "{n} 추가", "{n}도 있으면 좋겠어",
            "{n} 하나 더", "{n} 넣어 줘", "{n} 추가해줘", "{a} 옆에 {n} 그려 줘", "{n}도 넣어 줘", "거기에 {n}도",
            "옆에 {n}", "{a} 옆에 {n}도 있게 해 줘", "{n}을/를 더해 줘", "{n}도 추가해 주세요", "{a}과/와 함께 {n}도",
        ),
        "remove": (
            "{a}을/를 지워 줘", "{a} 빼 줘", "{a} 없애 줘", "{a} 없이", "{a}은/는 필요 없어", "{a} 지워",
            "{a} 제거해 주세요", "{a} 지워줘", "{a}을/를 없애 주세요", "{a} 빼", "{a}을/를 빼 주세요", "{a} 삭제해 줘",
            "{a}이/가 없으면 좋겠어", "{a} 사라지게 해 줘", "{a} 없는 그림으로", "{a}을/를 치워 줘", "{a} 말고 나머지만",
        ),
        "bigger": (
            "{a}을/를 더 크게 해 줘", "{a} 크게", "더 크게", "{a}이/가 너무 작아", "{a} 키워 줘", "{a}을/를 키워 주세요",
            "더 큰 {a}", "크게 해 줘", "좀 더 크게", "{a} 크기를 키워 줘", "{a}을/를 확대해 줘", "{a} 더 크게 그려 줘",
        ),
        "smaller": (
            "{a}을/를 더 작게 해 줘", "{a} 작게", "더 작게", "{a}이/가 너무 커", "{a} 줄여 줘", "{a}을/를 줄여 주세요",
            "더 작은 {a}", "작게 해 줘", "좀 더 작게", "{a} 크기를 줄여 줘", "{a}을/를 축소해 줘", "{a} 더 작게 그려 줘",
        ),
        "swap": (
            "자리를 바꿔 줘", "서로 바꿔 줘", "반대로 해 줘", "위치를 바꿔 줘", "둘의 자리를 바꿔 줘", "자리 바꿔",
            "왼쪽이랑 오른쪽을 바꿔 줘", "서로 자리를 교환해 줘", "위치 교환", "거꾸로 해 줘", "둘이 바꿔 줘",
        ),
        "more": (
            "하나 더", "{a} 하나 더", "한 개 더 그려 줘", "하나 더 추가해 줘", "한 개 더", "하나 더 그려", "하나 추가",
            "{a} 하나 추가해 줘", "{a} 한 개 더 넣어 줘", "더 하나 넣어 줘", "하나 늘려 줘",
        ),
        "less": (
            "하나 빼 줘", "{a} 하나 빼 줘", "하나 적게", "한 개 지워 줘", "하나만 빼", "하나 줄여 줘", "{a} 하나 지워 줘",
            "한 개 빼 줘", "하나 없애 줘", "{a} 하나 없애", "하나 너무 많아",
        ),
        "plan bigger": ("{a}을/를 더 크게",), "plan smaller": ("{a}을/를 더 작게",), "plan swap": ("자리를 바꿔서",),
        "plan more": ("하나 더",), "plan less": ("하나 적게",),
        "plan recolour": ("{a}을/를 {c}으로/로",), "plan replace": ("{a} 대신 {b}",), "plan background": ("{g}에",),
        "plan move": ("{a}을/를 {s}에",), "plan add": ("{a} 옆에 {n}",), "plan remove": ("{a} 없이",),
        "how many": (
            "{a}이/가 몇 개 있어?", "{a} 몇 개야?", "{a}은/는 모두 몇 개?", "{a} 세어 줘", "{a}이/가 몇 개야?",
            "{a} 개수는?", "{a} 몇 개 보여?", "몇 개의 {a}이/가 있나요?", "{a}이/가 얼마나 있어?", "{a} 수를 세어 봐",
            "{a}은/는 몇 개?",
        ),
        "color": (
            "{a}은/는 무슨 색이야?", "{a} 색깔이 뭐야?", "{a} 무슨 색?", "{a}의 색은?", "{a}은/는 무슨 색이에요?",
            "{a}은/는 어떤 색이야?", "{a} 색이 뭐예요?", "{a}이/가 무슨 색깔이야?", "{a} 색 알려 줘",
            "{a}은/는 무슨 색깔인가요?",
        ),
        "present": (
            "{a}이/가 있어?", "{a} 보여?", "그림에 {a} 있나요?", "{a} 있어?", "여기 {a}이/가 있나요?", "{a}이/가 보이나요?",
            "그림 속에 {a}이/가 있어?", "{a} 있는지 봐 줘", "혹시 {a}이/가 있어?", "{a}이/가 있습니까?",
        ),
        "where": (
            "{a}은/는 어디에 있어?", "{a} 어디 있어?", "{a}이/가 어느 쪽이야?", "{a}은/는 어느 쪽에 있어?",
            "{a} 위치가 어디야?", "{a}이/가 어디에 있나요?", "{a}은/는 어디?", "{a} 어디에 있는지 알려 줘",
        ),
        "ground": (
            "배경이 뭐야?", "여기는 어디야?", "배경은 무엇인가요?", "배경은 뭐야?", "어디에 있어?", "뒤에 뭐가 있어?",
            "여기가 어디예요?", "배경 알려 줘", "장소가 어디야?",
        ),
        "yes": ("네.",), "no": ("아니요.",), "number": ("{n} 개.",), "answer": ("{x}.",),
        "refuse": ("아직 {x}은/는 못 그려요. 고양이, 자동차, 사과 등 여든 가지를 그릴 수 있어요.",),
        "done": ("다 됐어요: {x}.",),
    },
    talk=(
        (("안녕", "안녕하세요", "안녕하세요!", "반가워", "하이", "좋은 아침", "여보세요"), "안녕하세요! 무엇을 그릴까요? 그림을 보여 줘도 돼요."),
        (("너는 누구야?", "이름이 뭐야?", "누구세요?", "너 사람이야?", "자기소개해 줘"), "저는 글도 쓰고 그림도 그리는 작은 모델 Limner nano예요."),
        (("뭐 할 수 있어?", "무엇을 할 수 있나요?", "도와줘", "어떻게 써?", "사용법 알려 줘"),
         "간단한 그림을 그리고, 설명하고, 고칠 수 있어요. 빨간 고양이를 그려 달라고 해 보세요."),
        (("고마워", "고마워요", "감사합니다", "좋아", "예쁘다", "잘했어", "최고야"), "천만에요!"),
        (("잘 가", "안녕히 계세요", "바이", "잘 자", "다음에 봐"), "안녕히 가세요!"),
        (("오늘 날씨 어때?", "재미있는 얘기 해 줘", "일 더하기 일은?", "음악 좋아해?", "노래해 줘", "왜?", "심심해", "지금 몇 시야?"),
         "저는 간단한 그림만 알아요. 무엇을 그릴까요?"),
    ),
    unknown=tuple("""용 성 산 로봇 나무 꽃 집 물고기 뱀 로켓 피아노 기타 상어 사다리 촛불 버섯 연필 왕관 다리 토끼 호랑이 사자 개구리 펭귄
    고래 나비 거미 눈사람 달 해 별 구름 모자 신발 창문 문 램프 카메라 열쇠 망치""".split()),
    fix_particles=korean_particles,
)  # fmt: skip
LANGUAGES = (CHINESE, KOREAN)
