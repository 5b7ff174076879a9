"""A labelled set of made-up texts in Chinese and English, to measure the detectors with.

Structured data is drawn at random with right check digits and written in five spellings, among
numbers that only look alike. Names and addresses come from lists of this file, which the detectors
do not know, in sentences of both languages. Everything follows from the seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from autoglm.privacy.pii.checks import is_cn_id, is_luhn
from autoglm.privacy.pii.kinds import Kind


class Label(NamedTuple):
    """Characters `start` to `end` are of this kind."""

    start: int
    end: int
    kind: Kind


class Labelled(NamedTuple):
    """A text, what is in it, and how it is written."""

    text: str
    labels: tuple[Label, ...]
    spelling: str


def _words(*lines: str) -> list[str]:
    return " ".join(lines).split()


STRUCTURED = (Kind.CN_ID, Kind.MOBILE, Kind.BANK_CARD, Kind.EMAIL, Kind.PLATE)
SPELLINGS = ("plain", "full-width", "spaced", "zero-width", "chinese")

_REGIONS = _words(
    "110101 120102 310104 320106 330102 350203 370202 410105 420106 440305 500103 510104",
)
_CARD_HEADS = _words(
    "622202 622848 621700 625904 436742 520108 552599 376966 6011 4 51 2221",
)
_DOMAINS = _words(
    "qq.com 163.com gmail.com outlook.com example.com.cn mail.example.org sina.cn",
)
_LOGINS = _words(
    "zhang.wei li_na wangfang88 info j.smith chen+news sales-team a1b2c3 liuyang1990",
)
_PROVINCES = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
_ZH_DIGITS = str.maketrans("0123456789", "零一二三四五六七八九")
FULL_WIDTH = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}

_CARRIERS = (
    "请记下：{}，谢谢。",
    "我的号码是{}。",
    "客户留的是 {} ，请核对。",
    "证件/账号:{};其他信息见附件。",
    "发到{}就可以了",
    "Please use {} for this.",
    "The record says: {}.",
    "My details ({}) have changed, can you update them?",
    "备注（{}）已更新。",
    "contact={}",
)
_LOOKALIKES = (
    "订单号{n20}，金额{n4}.50元，日期2026-03-{n1}。",
    "版本 v1.{n2}.{n1}.{n2}，构建于 2026-11-23 12:30:45。",
    "Build {hex} took {n5} ms on 16 cores at 3.{n2} GHz.",
    "第{n2}条规定了{n3}项内容，共{n6}字。",
    "Timestamp {n13}, id {hex}, size {n9} bytes.",
    "圆周率约为3.{n16}，e约为2.{n12}。",
    "The total was {n6}.{n2} USD in 20{n2} and {n7} in 19{n2}.",
    "校验失败的证件 {bad_id} 和卡号 {bad_card} 不予受理。",
    "新能源汽车在京沪两地销量增长{n2}%，苏州、鄂州也有{n4}辆。",
    "ISBN 978-7-{n3}-{n5}-{n1}，共 {n3} 页，印数 {n5} 册。",
    "三千五百六十七人参加，二〇二六年十一月二十三日举行。",
    "Follow @handle{n2} or see section 4.{n1}.{n1} of the manual.",
)

NAMES_ZH = _words(
    "张伟 王芳 李秀英 刘洋 陈静 杨帆 赵敏 黄晓明 周杰 吴磊 徐静蕾 孙悦 马云飞 朱丽叶 胡歌",
    "郭靖 何炅 高圆圆 林志玲 罗永浩 郑爽 梁文道 谢霆锋 宋慧 唐嫣 韩雪 曹云金 许晴 邓超",
    "萧峰 冯巩 曾国藩 程砚秋 蔡国庆 彭丽媛 潘石屹 袁隆平 于谦 董卿 余华 苏轼 叶问 吕布",
    "魏晨 蒋欣 田震 杜海涛 丁俊晖 沈腾 姜文 范冰 江一燕 傅雷 钟南山 卢靖姗 汪涵 戴建业",
    "崔健 任泉 陆毅 廖凡 姚晨 方文山 金星辰 邱淑贞 夏雨荷 谭咏麟 韦小宝 贾玲 邹市明",
    "石小磊 熊天平 孟非 秦海璐 阎维文 薛之谦 侯佩岑 雷佳音 白敬亭 龙丹妮 段奕宏 郝蕾",
    "孔令辉 邵逸夫 史铁生 毛晓彤 常昊 万茜 顾长卫 赖声川 武大靖 康辉 贺军翔 严屹宽 尹正义",
    "钱学森 施一公 牛群 洪晃 龚琳娜 欧阳娜 司马光 诸葛亮 上官婉儿 慕容雪 王建国 李国强",
    "张秀兰 刘桂英 陈玉珍 杨晓东 赵志刚 黄丽华 周子轩 吴雨桐 徐浩然 孙梓涵 马思远 朱一龙",
    "胡可欣 郭俊杰 何雨柔 高志远 林诗涵 罗嘉豪 郑宇航 梁佳怡 谢文博 宋雅婷 唐明轩 韩梦瑶",
)
NAMES_EN = [
    "John Smith",
    "Mary Johnson",
    "Robert Brown",
    "Linda Davis",
    "Michael O'Connor",
    "Susan Miller",
    "David Wilson",
    "Karen Moore",
    "James Taylor",
    "Patricia Anderson",
    "Wei Zhang",
    "Priya Sharma",
    "Carlos Hernandez",
    "Fatima Khan",
    "Olga Ivanova",
    "Hans Müller",
    "Sofia Rossi",
    "Pierre Dubois",
    "Yuki Tanaka",
    "Kwame Mensah",
    "Elizabeth Turner",
    "William Harris",
    "Jennifer Martin",
    "Charles Thompson",
    "Barbara Garcia",
    "Joseph Martinez",
    "Jessica Robinson",
    "Thomas Clark",
    "Sarah Rodriguez",
    "Christopher Lewis",
    "Nancy Lee",
    "Daniel Walker",
    "Betty Hall",
    "Matthew Allen",
    "Margaret Young",
    "Anthony King",
    "Sandra Wright",
    "Mark Lopez",
    "Ashley Hill",
    "Steven Scott",
    "Kimberly Green",
    "Paul Adams",
    "Emily Baker",
    "Andrew Nelson",
    "Donna Carter",
    "Joshua Mitchell",
    "Michelle Perez",
    "Kenneth Roberts",
    "Dorothy Phillips",
    "Kevin Campbell",
]
_TOWNS_ZH = _words(
    "杭州市西湖区 深圳市南山区 北京市海淀区 上海市浦东新区 成都市武侯区 武汉市洪山区",
    "南京市鼓楼区 西安市雁塔区",
)
_PROVINCES_ZH = ["浙江省", "广东省", "", "", "四川省", "湖北省", "江苏省", "陕西省"]
_STREETS_ZH = _words(
    "文三路 深南大道 中关村大街 世纪大道 天府二街 珞喻路 中山北路 小寨东路 解放路 人民路",
    "建国门外大街 学院路 滨江大道 长江路 和平里东街",
)
_ESTATES_ZH = _words(
    "阳光花园 锦绣家园 碧水湾小区 创业大厦 科技园 翠竹苑 金色家园 国贸中心",
)
_STREETS_EN = [
    "Maple Street",
    "Oak Avenue",
    "Washington Blvd",
    "Pine Road",
    "Cedar Lane",
    "Sunset Drive",
    "Park Place",
    "King's Court",
    "Elm St",
    "Lakeview Terrace",
    "Highland Ave",
    "Mill Road",
    "Church Street",
    "Victoria Way",
    "Broad St",
    "River Rd",
]
_TOWNS_EN = [
    "Springfield, IL 62704",
    "Portland, OR 97205",
    "Austin, TX 78701",
    "Boston, MA 02116",
    "Madison, WI 53703",
    "Denver, CO 80202",
    "Seattle, WA 98101",
    "Albany, NY 12207",
]
_SENTENCES = (
    "{person}的电话打不通，请再联系一次。",
    "收件人：{person}，地址：{address}。",
    "会议由{person}主持，{person}和{person}参加。",
    "我叫{person}，住在{address}。",
    "请把合同寄到{address}，{person}收。",
    "{person}说周五可以交付，{person}表示同意。",
    "{person}：我们先看一下预算。",
    "昨天我跟{person}一起去了{address}附近吃饭",
    "联系人{person}先生，家住{address}。",
    "患者{person}，女，45岁，现住{address}。",
    "感谢{person}老师的帮助！",
    "张贴通知前请让{person}确认。",
)
_SENTENCES_EN = (
    "My name is {person} and I live at {address}.",
    "Please ship the order to {address}.",
    "{person} will meet {person} on Friday.",
    "Dear {person}, thank you for your letter.",
    "Attendees: {person}, {person}.",
    "I spoke with {person} about the invoice; the office is at {address}.",
    "{person}: let us look at the budget first.",
    "Could you tell {person} that we moved to {address}?",
    "The patient, {person}, was admitted on Monday.",
    "This was signed by {person} yesterday.",
)


def value_of(kind: Kind, chance: random.Random) -> str:
    """A made-up value with right check digits."""
    match kind:
        case Kind.CN_ID:
            day = (
                f"{chance.randint(1940, 2015)}{chance.randint(1, 12):02}{chance.randint(1, 28):02}"
            )
            head = f"{chance.choice(_REGIONS)}{day}{chance.randrange(1000):03}"
            return next(head + last for last in "0123456789X" if is_cn_id(head + last))
        case Kind.MOBILE:
            head = chance.choice(["", "", "", "+86 ", "86-"])
            return f"{head}1{chance.choice('3456789')}{chance.randrange(10**9):09}"
        case Kind.BANK_CARD:
            head = chance.choice(_CARD_HEADS)
            length = 15 if head.startswith("37") else 19 if head.startswith("62") else 16
            body = head + "".join(
                chance.choice("0123456789") for _ in range(length - len(head) - 1)
            )
            return next(body + last for last in "0123456789" if is_luhn(body + last))
        case Kind.EMAIL:
            return f"{chance.choice(_LOGINS)}{chance.randrange(1000)}@{chance.choice(_DOMAINS)}"
        case _:
            tail = [chance.choice("0123456789") for _ in range(5)]
            if chance.random() < 0.5:
                tail[chance.randrange(5)] = chance.choice(_LETTERS)
            if chance.random() < 0.3:
                tail.insert(0, chance.choice("DF"))
            return chance.choice(_PROVINCES) + chance.choice(_LETTERS) + "".join(tail)


def spelled(value: str, spelling: str, kind: Kind, chance: random.Random) -> str:
    """The value as people and programs write it."""
    match spelling:
        case "full-width":
            return value.translate(FULL_WIDTH)
        case "spaced":
            if kind is Kind.EMAIL:
                return value.replace("@", " @ ")
            if kind is Kind.PLATE:
                return f"{value[:2]}{chance.choice([' ', '·', '-', ' · '])}{value[2:]}"
            digits = value.replace("+86 ", "").replace("86-", "")
            step = chance.choice([1, 3, 4, 6])
            mark = chance.choice([" ", "-"]) if step > 1 else " "
            return mark.join(digits[at : at + step] for at in range(0, len(digits), step))
        case "zero-width":
            places = sorted(chance.sample(range(1, len(value)), 3), reverse=True)
            for place in places:
                mark = chance.choice("\u200b\u200c\u200d\ufeff\u2060")
                value = value[:place] + mark + value[place:]
            return value
        case "chinese":
            return value.translate(_ZH_DIGITS)
        case _:
            return value


def structured(number: int, kind: Kind, *, seed: int) -> list[Labelled]:
    """`number` texts with one value of a kind each, and as many without any."""
    chance = random.Random(f"{seed} {kind}")
    texts = []
    spellings = [each for each in SPELLINGS if kind is not Kind.EMAIL or each != "chinese"]
    for place in range(number):
        spelling = spellings[place % len(spellings)]
        value = spelled(value_of(kind, chance), spelling, kind, chance)
        before, after = chance.choice(_CARRIERS).split("{}")
        label = Label(len(before), len(before) + len(value), kind)
        texts.append(Labelled(before + value + after, (label,), spelling))
        texts.append(Labelled(_lookalike(chance), (), "lookalike"))
    return texts


def _lookalike(chance: random.Random) -> str:
    text = chance.choice(_LOOKALIKES)
    while "{" in text:
        start, end = text.index("{"), text.index("}")
        text = text[:start] + _filler(text[start + 1 : end], chance) + text[end + 1 :]
    return text


def _filler(name: str, chance: random.Random) -> str:
    if name == "hex":
        return f"{chance.getrandbits(160):040x}"
    if name == "bad_id":
        good = value_of(Kind.CN_ID, chance)
        return good[:-1] + chance.choice([c for c in "0123456789" if not is_cn_id(good[:-1] + c)])
    if name == "bad_card":
        good = value_of(Kind.BANK_CARD, chance)
        return good[:-1] + str((int(good[-1]) + chance.randint(1, 9)) % 10)
    size = int(name[1:])
    return "".join(chance.choice("0123456789") for _ in range(size)).replace("0", "7", 1)


def address_zh(chance: random.Random) -> str:
    """A Chinese address."""
    place = chance.randrange(len(_TOWNS_ZH))
    street = f"{chance.choice(_STREETS_ZH)}{chance.randint(1, 999)}号"
    estate = chance.choice(["", chance.choice(_ESTATES_ZH)])
    room = f"{chance.randint(1, 30)}栋{chance.randint(1, 4)}单元{chance.randint(101, 2808)}室"
    tail = chance.choice(["", room, f"{chance.randint(2, 30)}楼"])
    return _PROVINCES_ZH[place] * chance.randint(0, 1) + _TOWNS_ZH[place] + street + estate + tail


def address_en(chance: random.Random) -> str:
    """An American address."""
    unit = chance.choice(
        ["", f", Apt {chance.randint(1, 99)}", f" Suite {chance.randint(100, 999)}"]
    )
    town = chance.choice(["", ", " + chance.choice(_TOWNS_EN)])
    return f"{chance.randint(1, 9999)} {chance.choice(_STREETS_EN)}{unit}{town}"


def named(number: int, *, seed: int) -> list[Labelled]:
    """`number` texts with names and addresses, Chinese and English in turn."""
    chance = random.Random(f"{seed} named")
    return [
        _named_text(_SENTENCES, NAMES_ZH, address_zh, chance, "zh")
        if place % 2 == 0
        else _named_text(_SENTENCES_EN, NAMES_EN, address_en, chance, "en")
        for place in range(number)
    ]


def _named_text(
    sentences: tuple[str, ...],
    names: list[str],
    address: Callable[[random.Random], str],
    chance: random.Random,
    language: str,
) -> Labelled:
    text, labels = "", []
    rest = chance.choice(sentences)
    while "{" in rest:
        before, _, after = rest.partition("{")
        name, _, rest = after.partition("}")
        kind = Kind(name)
        value = chance.choice(names) if kind is Kind.PERSON else address(chance)
        text += before
        labels.append(Label(len(text), len(text) + len(value), kind))
        text += value
    return Labelled(text + rest, tuple(labels), language)
