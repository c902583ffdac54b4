"""Phrases of Chinese and Korean speakers, as `phrasing` has in English: one request in many words, orders and spellings."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from .languages import CHINESE, KOREAN, Language
from .phrasing import pair_templates
from .scene import Scene, Thing
from .words import Detail, mentions_size


@dataclass(frozen=True)
class PhraseBook:
    requests: tuple[str, ...]
    """Requests to draw {x}"""
    prefixes: tuple[str, ...]
    suffixes: tuple[str, ...]
    """Filler words before and after a request"""
    names: dict[str, tuple[str, ...]]
    """Synonyms of objects' names"""
    colors: dict[str, tuple[str, ...]]
    """Colours as they stand before an object"""
    sizes: dict[str, tuple[str, ...]]
    ones: tuple[str, ...]
    """Templates of one object: {size}, {color}, {name}, {counter}, and {c}, the colour when used alone"""
    severals: tuple[str, ...]
    numbers: dict[int, tuple[str, ...]]
    placed: dict[str, tuple[str, ...]]
    """Templates of two objects {a} and {b}, for "left of" and "above" only"""
    together: tuple[str, ...]
    grounded: tuple[str, ...]
    """Templates of a phrase {x} with its background {g}"""


def _words(text: str) -> dict[str, tuple[str, ...]]:
    """Of lines "thing: word, word"."""
    pairs = (line.split(":") for line in text.strip().splitlines())
    return {name.strip(): tuple(word.strip() for word in words.split(",")) for name, words in pairs}


PHRASE_BOOKS: dict[str, PhraseBook] = {
    CHINESE.name: PhraseBook(
        requests=(
            "画{x}", "画{x}", "请画{x}", "帮我画{x}", "给我画{x}", "能画{x}吗", "可以画{x}吗", "能不能画{x}",
            "可不可以画{x}", "你会画{x}吗", "我想要{x}", "我要{x}", "我想看{x}", "我想要一张{x}的图", "想看看{x}", "来{x}",
            "来一张{x}", "来张{x}的图", "生成{x}", "生成一张{x}的图片", "制作一张{x}的图", "画一张{x}", "画一幅{x}",
            "画一幅{x}的画", "{x}", "{x}", "{x}的图片", "{x}的照片", "{x}的画", "一张{x}的照片", "一幅{x}", "给我看{x}",
            "让我看看{x}", "展示{x}", "创作{x}", "设计{x}", "给我来{x}", "要{x}", "需要{x}", "我需要{x}", "我希望看到{x}",
            "希望画面里有{x}", "画面里有{x}", "图里要有{x}", "试着画{x}", "试试画{x}", "再画{x}", "随便画{x}", "画出{x}",
            "绘制{x}", "帮忙画{x}", "麻烦你画{x}", "拜托画{x}", "下一张画{x}", "先画{x}", "现在画{x}", "我儿子想要{x}",
            "我女儿想看{x}", "朋友想要{x}", "照片：{x}", "图片：{x}", "能给我画{x}吗", "可以给我{x}吗", "有没有{x}的图",
            "弄{x}", "做{x}的图", "我喜欢{x}，画一下", "把{x}画出来", "画个图，要有{x}", "简单画{x}", "我想请你画{x}",
            "你能帮我画{x}吗", "可以帮忙画{x}吗", "我想得到{x}", "画点东西：{x}", "整{x}", "搞一张{x}",
        ),
        prefixes=(
            "请", "你好，", "嗨，", "那么，", "好，", "好的，", "嗯，", "现在", "接下来", "谢谢，", "那个，", "喂，",
            "Limner，", "可以的话，", "然后", "哈喽，", "不好意思，", "对了，", "我说，", "行，",
        ),
        suffixes=(
            "吧", "好吗", "好吗？", "可以吗", "可以吗？", "行吗", "谢谢", "，谢谢", "！", "。", "？", "呢", "啊", "哦", "～",
            "，麻烦了", "，拜托", "，谢谢你", "，快点", "，好不好", "，行不行", "呀", "，就这样", "！！", "，谢了", "…",
        ),
        names=_words("""
            cat: 猫咪
            dog: 狗狗, 犬
            bus: 公交车, 巴士, 公车
            bicycle: 单车, 脚踏车
            motorcycle: 摩托, 机车
            car: 轿车, 车子, 车
            truck: 货车
            train: 列车
            airplane: 客机
            boat: 船只, 帆船
            tv: 电视机
            cell phone: 电话, 智能手机
            laptop: 笔记本, 电脑, 手提电脑
            traffic light: 交通灯, 信号灯
            suitcase: 箱子, 旅行箱
            tv remote: 遥控
            broccoli: 花椰菜, 西蓝花
            pizza: 比萨, 披萨饼
            teddy bear: 玩具熊
            clock: 钟, 钟表, 表
            cup: 茶杯, 水杯
            bottle: 水瓶
            bowl: 饭碗
            couch: 长沙发
            dining table: 桌子, 饭桌
            bed: 床铺
            bench: 长凳
            bird: 鸟儿
            cow: 奶牛, 母牛
            sheep: 绵羊
            horse: 马儿, 马匹
            bear: 狗熊, 黑熊
            orange: 橘子
            donut: 甜圈
            cake: 生日蛋糕
            sandwich: 三文治
            umbrella: 伞
            handbag: 手袋, 包
            backpack: 书包, 双肩包
            book: 书本
            scissors: 剪子
            knife: 刀子
            spoon: 汤匙
            fork: 餐叉
            toaster: 面包机
            refrigerator: 电冰箱
            person: 人物
            potted plant: 花盆
            wine glass: 红酒杯, 高脚杯
            sports ball: 皮球, 足球
            toilet: 坐便器
            sink: 洗手池, 水池
            skateboard: 滑板车
            fire hydrant: 消火栓
            stop sign: 停牌
            hair drier: 电吹风
            computer keyboard: 电脑键盘
            tie: 领结
            kite: 纸鸢
            """),
        colors=_words("""
            red: 红色的, 红色, 红, 红的, 红颜色的
            orange: 橙色的, 橙色, 橘色的, 橘黄色的
            yellow: 黄色的, 黄色, 黄, 黄的, 黄颜色的
            green: 绿色的, 绿色, 绿, 绿的, 绿颜色的
            blue: 蓝色的, 蓝色, 蓝, 蓝的, 蓝颜色的
            purple: 紫色的, 紫色, 紫, 紫的
            pink: 粉色的, 粉色, 粉红色的, 粉红, 粉
            brown: 棕色的, 棕色, 褐色的, 咖啡色的
            black: 黑色的, 黑色, 黑, 黑的
            white: 白色的, 白色, 白, 白的
            """),
        sizes=_words("""
            small: 小, 小小的, 很小的
            medium: 中等的, 中等大小的
            large: 大, 大大的, 很大的, 巨大的
            """),
        ones=(
            "一{counter}{color}{size}{name}", "{color}{size}{name}", "1{counter}{color}{size}{name}",
            "个{color}{size}{name}", "{counter}{color}{size}{name}", "{size}{name}，{c}的", "{size}{name}，要{c}的",
            "一{counter}{size}{name}，颜色是{c}",
        ),
        severals=(
            "{number}{counter}{color}{size}{name}", "{color}{size}{name}{number}{counter}", "{number}个{color}{size}{name}",
            "{size}{name}，{number}{counter}，{c}的", "{number}{counter}{size}{name}，都是{c}的",
        ),
        numbers={2: ("两", "2", "二", "俩"), 3: ("三", "3", "仨"), 4: ("四", "4")},
        placed={
            "left of": (
                "左边是{a}，右边是{b}", "{a}在{b}左边", "{a}在{b}的左边", "{b}在{a}的右边", "{b}的左边有{a}",
                "{a}的右边有{b}", "左边{a}，右边{b}", "{a}在左，{b}在右", "{a}在{b}左侧", "{a}在左边，{b}在右边",
                "左{a}右{b}",
            ),
            "above": (
                "上面是{a}，下面是{b}", "{a}在{b}上面", "{a}在{b}的上面", "{b}在{a}下面", "{b}在{a}的下面", "{b}上面有{a}",
                "{a}下面有{b}", "上面{a}，下面{b}", "{a}在上，{b}在下", "{a}在{b}上方", "{b}的上方是{a}", "上{a}下{b}",
            ),
        },
        together=(
            "{a}和{b}", "{a}和{b}", "{a}，还有{b}", "{a}跟{b}", "{a}与{b}", "{a}、{b}", "{a}加{b}", "{a}旁边有{b}",
            "{a}再加{b}", "{a}以及{b}",
        ),
        grounded=("{g}的{x}", "{x}，在{g}", "在{g}的{x}", "{x}，背景是{g}", "{g}有{x}"),
    ),
    KOREAN.name: PhraseBook(
        requests=(
            "{x} 그려 줘", "{x} 그려줘", "{x}을/를 그려 줘", "{x} 그려 주세요", "{x} 그려주세요", "{x}을/를 그려주세요",
            "{x} 그려 줄래?", "{x} 그려 줄 수 있어?", "{x} 그려 주실 수 있나요?", "{x} 그릴 수 있어?", "{x} 그릴 줄 알아?",
            "{x} 좀 그려 줘", "{x} 좀 그려줄래", "{x} 보여 줘", "{x} 보여줘", "{x} 보여주세요", "{x}을/를 보고 싶어",
            "{x}이/가 보고 싶어요", "{x}을/를 원해", "{x} 그림", "{x} 그림 그려 줘", "{x} 그림 하나", "{x} 사진",
            "{x} 이미지", "{x} 이미지 만들어 줘", "{x} 만들어 줘", "{x} 생성해 줘", "{x} 그림이 필요해", "{x} 그림 부탁해",
            "{x} 부탁해요", "{x} 부탁드립니다", "{x}", "{x}", "{x}을/를 그려 봐", "{x} 스케치해 줘", "{x} 그려라",
            "{x} 그려볼래?", "{x}이/가 있는 그림", "{x}이/가 있는 사진", "{x}이/가 나오는 그림", "이번엔 {x}", "다음은 {x}",
            "나는 {x} 그림을 원해", "{x} 그림 보고 싶어", "{x} 한번 그려 줘", "그림: {x}", "우리 아들이 {x}을/를 원해",
            "{x} 있는 그림 그려줘", "{x} 주세요", "{x} 그려 주시겠어요?", "{x} 그림으로 그려 줘", "{x} 그려 줬으면 좋겠어",
            "{x} 그림 한 장", "{x} 사진 한 장", "{x} 하나만 그려 줘", "{x} 만들어 주세요", "{x} 그려 보자",
            "{x}이/가 필요해", "{x}을/를 그려 줄래요?", "{x} 좀 보여 줄래?", "{x} 그림 좀", "간단하게 {x} 그려 줘",
            "예쁜 {x} 그려 줘", "{x} 그림을 보여 줘", "{x}을/를 만들어 줄 수 있어?",
        ),
        prefixes=(
            "저기, ", "안녕, ", "자, ", "음, ", "그럼 ", "이제 ", "좋아, ", "고마워, 이제 ", "혹시 ", "제발 ", "다음으로 ",
            "이번에는 ", "부탁인데 ", "Limner, ", "안녕하세요, ", "오케이, ", "그리고 ", "지금 ", "빨리 ", "미안한데 ",
        ),
        suffixes=(
            " 부탁해", "!", "!!", ".", "?", " 고마워", ", 고마워요", " 부탁드려요", " 지금", " 빨리", "~", " ㅎㅎ", " ㅋㅋ",
            " 알겠지?", "...", ", 부탁할게", " 제발", " 감사합니다", ", 응?", " 바로",
        ),
        names=_words("""
            cat: 냥이, 야옹이
            dog: 강아지, 멍멍이
            bus: 시내버스
            bicycle: 두발자전거
            motorcycle: 바이크
            car: 차, 승용차
            truck: 화물차
            train: 열차
            airplane: 여객기
            boat: 보트, 돛단배
            tv: 티비, TV, 텔레비
            cell phone: 핸드폰, 전화기, 스마트폰
            laptop: 노트북 컴퓨터, 컴퓨터
            suitcase: 캐리어, 여행용 가방
            tv remote: 리모콘
            teddy bear: 곰 인형, 테디베어
            clock: 벽시계
            cup: 머그컵
            bottle: 물병
            bowl: 사발, 대접
            chair: 걸상
            couch: 쇼파
            dining table: 테이블, 탁자
            bird: 참새
            cow: 젖소, 암소
            horse: 조랑말
            bear: 불곰
            orange: 귤
            donut: 도너츠
            cake: 케익, 생일 케이크
            umbrella: 양산
            handbag: 가방
            backpack: 책가방, 백팩
            knife: 나이프, 식칼
            spoon: 수저, 스푼
            toaster: 토스트기
            potted plant: 화초
            vase: 화병
            wine glass: 포도주잔
            sports ball: 축구공, 볼
            toilet: 양변기
            sink: 세면대, 개수대
            computer keyboard: 자판
            tie: 타이
            baseball bat: 야구 방망이, 배트
            baseball glove: 야구 글러브, 글러브
            stop sign: 정지 표지판
            surfboard: 서핑 보드
            tennis racket: 테니스 라켓
            frisbee: 프리스비
            hair drier: 헤어드라이어
            parking meter: 주차 미터기
            computer mouse: 컴퓨터 마우스
            """),
        colors=_words("""
            red: 빨간, 빨간색, 빨강, 붉은
            orange: 주황색, 주황, 오렌지색
            yellow: 노란, 노란색, 노랑
            green: 초록색, 초록, 녹색
            blue: 파란, 파란색, 파랑, 푸른
            purple: 보라색, 보라, 보랏빛
            pink: 분홍색, 분홍, 핑크색, 핑크
            brown: 갈색, 밤색
            black: 검은, 검정, 검은색, 까만
            white: 하얀, 흰, 하얀색, 흰색
            """),
        sizes=_words("""
            small: 작은, 조그만, 아주 작은
            medium: 중간, 중간 크기
            large: 큰, 커다란, 아주 큰
            """),
        ones=(
            "{size} {color} {name}", "{color} {size} {name}", "{size} {color} {name} 한 {counter}",
            "{size} {color} {name} 하나", "{size} {name}, {c}", "{c}으로/로 {size} {name}",
            "한 {counter}의 {size} {color} {name}",
        ),
        severals=("{size} {color} {name} {number} {counter}", "{number} {counter}의 {size} {color} {name}",
                  "{size} {color} {name} {number}{counter}", "{color} {size} {name} {number} {counter}",
                  "{size} {name} {number} {counter}, {c}", "{size} {name} {number} {counter}, 모두 {c}"),
        numbers={2: ("두", "2", "둘"), 3: ("세", "3", "셋"), 4: ("네", "4", "넷")},
        placed={
            "left of": (
                "왼쪽에 {a}, 오른쪽에 {b}", "{b} 왼쪽에 {a}", "{b} 왼쪽에 있는 {a}", "{a} 오른쪽에 {b}",
                "{a} 오른쪽에 있는 {b}", "왼쪽은 {a}, 오른쪽은 {b}", "{b}의 왼쪽에 {a}", "{a}이/가 왼쪽, {b}이/가 오른쪽",
                "왼쪽: {a}, 오른쪽: {b}",
            ),
            "above": (
                "위에 {a}, 아래에 {b}", "{b} 위에 {a}", "{b} 위에 있는 {a}", "{a} 아래에 {b}", "{a} 아래에 있는 {b}",
                "{a} 밑에 {b}", "위는 {a}, 아래는 {b}", "{b}의 위에 {a}", "{a}이/가 위, {b}이/가 아래",
                "위쪽에 {a}, 아래쪽에 {b}",
            ),
        },
        together=(
            "{a}과/와 {b}", "{a}과/와 {b}", "{a}, {b}", "{a} 그리고 {b}", "{a} 옆에 {b}", "{a}이랑/랑 {b}", "{a}하고 {b}",
            "{a} 및 {b}", "{a}에 {b}까지",
        ),
        grounded=("{g}에 있는 {x}", "{x}, {g}에", "{g}에 {x}", "{g} 배경의 {x}", "{x}, 배경은 {g}"),
    ),
}  # fmt: skip
"""By the tongue's name"""


def random_name(rng: random.Random, language: Language, name: str) -> str:
    """An object's name, or sometimes a synonym."""
    others = PHRASE_BOOKS[language.name].names.get(name)
    return rng.choice(others) if others and rng.random() < 0.25 else language.things[name]


def thing_phrase(
    rng: random.Random, language: Language, thing: Thing, detail: Detail, alone: bool, count: int = 1
) -> str:
    """A phrase for an object, or ``count`` of it, with the attributes that ``detail`` names."""
    book = PHRASE_BOOKS[language.name]
    forms = book.ones if count == 1 else book.severals
    forms = tuple(form for form in forms if detail.color or "{c}" not in form)
    form = forms[0] if rng.random() < 0.4 else rng.choice(forms)
    words = form.format(
        size=rng.choice(book.sizes[thing.size]) if mentions_size(thing, detail, alone) else "",
        color=rng.choice(book.colors[thing.color]) if detail.color else "",
        c=language.color_names[thing.color],
        name=random_name(rng, language, thing.name),
        counter=language.counters.get(thing.name, language.counter),
        number="" if count == 1 else rng.choice(book.numbers[count]),
    )
    return re.sub(" +", " ", words).strip()


def phrase(rng: random.Random, language: Language, scene: Scene, detail: Detail) -> str:
    """A random phrase with the meaning of `Language.phrase`."""
    book, things = PHRASE_BOOKS[language.name], scene.things
    if len({(t.name, t.color) for t in things}) == 1:
        words = thing_phrase(rng, language, things[0], detail, len(things) == 1, len(things))
    elif len(things) == 2:
        forms, a, b = pair_templates(things, detail, book.placed, book.together)
        words = rng.choice(forms).format(
            a=thing_phrase(rng, language, a, detail, False), b=thing_phrase(rng, language, b, detail, False)
        )
    else:
        return language.phrase(scene, detail)
    if detail.background:
        words = rng.choice(book.grounded).format(x=words, g=rng.choice(language.request_grounds[scene.background]))
    return words


_PLAIN = str.maketrans("，。？！：、", ",.?!:,")


def casual_typing(rng: random.Random, words: str) -> str:
    """Punctuation and spaces as people type them."""
    manner = rng.random()
    if manner < 0.25:
        words = words.rstrip(".?!。？！") or words
    elif manner < 0.4:
        words = words.translate(_PLAIN)
    elif manner < 0.5:
        words = re.sub("[，、,]", " ", words).replace("  ", " ")
    elif manner < 0.58:
        words = words.replace(" ", "")
    return words
