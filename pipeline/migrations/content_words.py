"""The Thai words of the sample, with sentences and tips for each kind of word."""

from collections.abc import Iterator
from typing import NamedTuple

# For each kind of word: three sentences (Thai, IPA, English) and a tip.
SENTENCES = {
    "verb": (
        ("วันนี้ผมไม่อยาก{}", "wan.níː pʰǒm mâj jàːk̚ {}", "I do not want {} today."),
        ("เขาเริ่ม{}แล้ว", "kʰǎw rɤ̂ːm {} lɛ́ːw", "He has started {}."),
        ("คุณอยาก{}ไหม", "kʰun jàːk̚ {} mǎj", "Do you want {}?"),
    ),
    "noun": (
        ("{}อยู่ที่ไหน", "{} jùː tʰîː.nǎj", "Where is the {}?"),
        ("นี่คือ{}", "nîː kʰɯː {}", "This is the {}."),
        ("ผมคิดถึง{}", "pʰǒm kʰít̚.tʰɯ̌ŋ {}", "I miss the {}."),
    ),
    "adjective": (
        ("{}มากจริง ๆ", "{} mâːk̚ t͡ɕiŋ t͡ɕiŋ", "Really very {}."),
        ("ไม่{}เลย", "mâj {} lɤːj", "Not {} at all."),
        ("{}ไหม", "{} mǎj", "Is it {}?"),
    ),
    "day": (
        ("{}อากาศร้อน", "{} ʔaː.kàːt̚ rɔ́ːn", "Hot weather {}."),
        ("{}เป็นวันหยุด", "{} pen wan.jùt̚", "A day off {}."),
        ("เล่าเรื่อง{}ให้ฟังหน่อย", "lâw rɯ̂aŋ {} hâj faŋ nɔ̀j", "Tell me about {}."),
    ),
    "phrase": (
        ("เขาพูดว่า {}", "kʰǎw pʰûːt̚ wâː {}", "He said: {}."),
        ("อย่าลืมพูดว่า {}", "jàː lɯːm pʰûːt̚ wâː {}", "Do not forget to say: {}."),
        ("ผมลืมพูดว่า {}", "pʰǒm lɯːm pʰûːt̚ wâː {}", "I forgot to say: {}."),
    ),
}
TIPS = {
    "verb": "The verb never changes: {0}แล้ว tells that it is done, จะ{0} that it is to come.",
    "noun": "There is no plural form: {0} is one or many, and a classifier counts them.",
    "adjective": "It follows its noun and needs no verb “to be”; {0}กว่า is the comparative.",
    "day": "It opens or closes the sentence; with {0} the verb needs no tense.",
    "phrase": "Say {0}ครับ as a man, {0}ค่ะ as a woman, with a wai 🙏 to elders.",
}

# Each line: a kind and a topic; then the words as native text, IPA, difficulty and translation.
_WORDS = """
noun food: น้ำ náːm 1 water; ข้าว kʰâːw 1 rice; กาแฟ kaː.fɛː 2 coffee
noun home: บ้าน bâːn 1 house
noun shopping: ตลาด tà.làːt̚ 2 market
noun animals: หมา mǎː 1 dog; แมว mɛːw 1 cat; ปลา plaː 1 fish; ไก่ kàj 1 chicken; หมู mǔː 1 pig
noun animals: ม้า máː 2 horse; ช้าง t͡ɕʰáːŋ 2 elephant; นก nók̚ 2 bird
noun people: แม่ mɛ̂ː 1 mother; พ่อ pʰɔ̂ː 1 father; พี่ pʰîː 2 older sibling; น้อง nɔ́ːŋ 2 younger sibling
noun people: เพื่อน pʰɯ̂an 2 friend; หมอ mɔ̌ː 2 doctor
noun school: ครู kʰruː 1 teacher; หนังสือ nǎŋ.sɯ̌ː 2 book; โรงเรียน roːŋ.rian 2 school
noun school: มหาวิทยาลัย má.hǎː.wít̚.tʰá.jaː.laj 4 university
noun travel: รถ rót̚ 1 car; ถนน tʰà.nǒn 3 road; ประเทศ prà.tʰêːt̚ 4 country
noun weather: ฝน fǒn 2 rain
noun news: เศรษฐกิจ sèːt̚.tʰà.kìt̚ 5 economy; สิ่งแวดล้อม sìŋ.wɛ̂ːt̚.lɔ́ːm 5 environment
verb food: กิน kin 1 to eat
verb people: รัก rák̚ 1 to love
verb travel: ไป paj 1 to go; มา maː 1 to come
verb school: เรียน rian 1 to study; พูด pʰûːt̚ 2 to speak; อ่าน ʔàːn 3 to read; เขียน kʰǐan 3 to write
verb school: รู้ rúː 3 to know; เข้าใจ kʰâw.t͡ɕaj 3 to understand
verb shopping: ซื้อ sɯ́ː 2 to buy; ขาย kʰǎːj 3 to sell
verb home: นอน nɔːn 2 to sleep; ทำงาน tʰam.ŋaːn 3 to work
adjective weather: ร้อน rɔ́ːn 2 hot; หนาว nǎːw 2 cold
adjective people: สวย sǔaj 2 beautiful; ดี diː 1 good; สนุก sà.nùk̚ 3 fun
adjective home: ใหญ่ jàj 2 big; เล็ก lék̚ 2 small
adjective shopping: แพง pʰɛːŋ 2 expensive; ถูก tʰùːk̚ 3 cheap
adjective food: อร่อย ʔà.rɔ̀j 3 delicious; เผ็ด pʰèt̚ 3 spicy
day time: วันนี้ wan.níː 2 today; พรุ่งนี้ pʰrûŋ.níː 3 tomorrow; เมื่อวาน mɯ̂a.waːn 3 yesterday
phrase people: สวัสดี sà.wàt̚.diː 1 hello; ขอบคุณ kʰɔ̀ːp̚.kʰun 1 thank you; ขอโทษ kʰɔ̌ː.tʰôːt̚ 2 sorry
"""


class Word(NamedTuple):
    """A word and what is known about it."""

    kind: str
    topic: str
    native: str
    ipa: str
    difficulty: int
    translation: str


def words() -> Iterator[Word]:
    """Yield all words."""
    for line in _WORDS.strip().splitlines():
        group, entries = line.split(": ")
        kind, topic = group.split()
        for entry in entries.split("; "):
            native, ipa, difficulty, translation = entry.split(" ", 3)
            yield Word(kind, topic, native, ipa, int(difficulty), translation)
