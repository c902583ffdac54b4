"""Chinese and Korean words of the world, so that the tokenizer need not change when nano learns them."""

from __future__ import annotations

import random

_CHINESE = """飞机 苹果 背包 香蕉 棒球棒 棒球手套 熊 床 长椅 自行车 鸟 船 书 瓶子 碗 西兰花 公共汽车 蛋糕 汽车 胡萝卜 猫 手机 椅子 时钟
键盘 鼠标 沙发 牛 杯子 餐桌 狗 甜甜圈 大象 消防栓 叉子 飞盘 长颈鹿 吹风机 手提包 马 热狗 风筝 刀 笔记本电脑 微波炉 摩托车 橙子 烤箱
停车计时器 人 披萨 盆栽 冰箱 三明治 剪刀 羊 水槽 滑板 滑雪板 单板 勺子 球 停车标志 行李箱 冲浪板 泰迪熊 网球拍 领带 烤面包机 马桶
牙刷 红绿灯 火车 卡车 电视 遥控器 雨伞 花瓶 酒杯 斑马""".split()
_KOREAN = """비행기 사과 배낭 바나나 야구방망이 야구장갑 곰 침대 벤치 자전거 새 배 책 병 그릇 브로콜리 버스 케이크 자동차 당근 고양이 휴대폰
의자 시계 키보드 마우스 소파 소 컵 식탁 개 도넛 코끼리 소화전 포크 원반 기린 드라이어 핸드백 말 핫도그 연 칼 노트북 전자레인지 오토바이
오렌지 오븐 주차미터기 사람 피자 화분 냉장고 샌드위치 가위 양 싱크대 스케이트보드 스키 스노보드 숟가락 공 정지표지판 여행가방 서핑보드
곰인형 테니스라켓 넥타이 토스터 변기 칫솔 신호등 기차 트럭 텔레비전 리모컨 우산 꽃병 와인잔 얼룩말""".split()
_CHINESE_COLORS = "红色 橙色 黄色 绿色 蓝色 紫色 粉色 棕色 黑色 白色".split()
_KOREAN_COLORS = "빨간 주황색 노란 초록색 파란 보라색 분홍색 갈색 검은 하얀".split()
_CHINESE_FORMS = (
    "画一只{c}的{a}。", "请画{n}个{c}{a}", "这张图里有什么？", "一张{a}和{b}的图片", "{a}在{b}的左边。", "{a}在{b}的右边。",
    "把{a}变成{c}", "在旁边加一个{b}", "去掉{a}", "有多少个{a}？", "{a}是什么颜色的？", "好的，这是{c}的{a}。", "把背景换成草地",
    "{a}在{b}上面", "{a}在{b}下面", "我还不会画{b}；我会画{a}。", "你好！告诉我要画什么。", "谢谢", "沙滩 夜晚 天空 大的 小的",
)  # fmt: skip
_KOREAN_FORMS = (
    "{c} {a} 그려 줘.", "{a} {n}개를 그려 주세요", "이 그림에 무엇이 있어?", "{a}와 {b} 사진", "{b} 왼쪽에 {a}가 있습니다.",
    "{b} 오른쪽에 {a}", "{a}를 {c} 색으로 바꿔 줘", "옆에 {b}를 추가해 줘", "{a}를 지워 줘", "{a}가 몇 개 있어?", "{a}는 무슨 색이야?",
    "네, {c} {a}입니다.", "배경을 잔디로 바꿔 줘", "{a} 위에 {b}", "{a} 아래에 {b}", "아직 {b}는 못 그려요; {a}는 그릴 수 있어요.",
    "안녕하세요! 무엇을 그릴까요?", "고마워요", "모래 밤 하늘 큰 작은",
)  # fmt: skip
_LANGUAGES = (
    (_CHINESE, _CHINESE_COLORS, _CHINESE_FORMS, "一两三四"),
    (_KOREAN, _KOREAN_COLORS, _KOREAN_FORMS, ("한", "두", "세", "네")),
)


def line(rng: random.Random) -> str:
    """One sentence of the world in Chinese or Korean."""
    words, colors, forms, numbers = rng.choice(_LANGUAGES)
    a, b = rng.sample(words, 2)
    return rng.choice(forms).format(a=a, b=b, c=rng.choice(colors), n=rng.choice(numbers))
