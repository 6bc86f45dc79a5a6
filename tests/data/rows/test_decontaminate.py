"""Rows that share a run of words with the evaluation sets are found, and no others."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from ft_dagster.data.rows import decontaminate
from ft_dagster.data.rows.content import normal_text, words_of
from ft_dagster.data.rows.decontaminate import EvaluationGrams, EvaluationItem, sought_words

WORDS = [f"word{i}" for i in range(30)]
QUESTION = " ".join(WORDS[:20])


def grams_of(texts: Iterable[str], n: int = 13) -> EvaluationGrams:
    return EvaluationGrams([EvaluationItem((text,)) for text in texts], n)


def task_in(grams: EvaluationGrams, text: str) -> str | None:
    return grams.overlap(words_of(normal_text(text)))


def overlaps(grams: EvaluationGrams, text: str) -> bool:
    return task_in(grams, text) is not None


def test_case_and_punctuation_do_not_hide_an_overlap() -> None:
    grams = grams_of([QUESTION])
    assert overlaps(grams, ", ".join(WORDS[:13]).upper())


def test_a_short_evaluation_text_of_8_words_matches_as_a_whole() -> None:
    grams = grams_of([" ".join(WORDS[:9])])
    assert overlaps(grams, "they ask: " + " ".join(WORDS[:9]) + "?")
    assert not overlaps(grams, " ".join(WORDS[:8]))


def test_a_shorter_question_without_an_answer_is_ignored() -> None:
    grams = grams_of([" ".join(WORDS[:7])])
    assert grams.ignored == 1
    assert not overlaps(grams, " ".join(WORDS[:7]))


@pytest.mark.slow
def test_no_gram_is_lost_when_many_are_merged() -> None:
    random = np.random.default_rng(0)
    texts = [" ".join(map(str, random.integers(0, 5000, 400))) for _ in range(3000)]
    grams = grams_of(texts)
    assert len(grams) == 3000 * 388
    assert overlaps(grams, " ".join(texts[0].split()[100:113]))
    assert overlaps(grams, " ".join(texts[-1].split()[-13:]))


def test_a_short_question_counts_where_its_answer_stands_beside_it() -> None:
    grams = EvaluationGrams([EvaluationItem(("what do bees make",), ("sweet honey", "wax"), "farm")], 13)
    assert task_in(grams, "what do bees make they make sweet honey") == "farm"
    assert task_in(grams, "wax is what do bees make") == "farm"
    assert task_in(grams, "what do bees make honey that is sweet") is None
    assert task_in(grams, "what do bees make") is None
    assert task_in(grams, "sweet honey") is None


def test_an_answer_within_its_own_question_is_not_beside_it() -> None:
    grams = EvaluationGrams([EvaluationItem(("is a whale a fish",), ("a fish",), "sea")], 13)
    assert task_in(grams, "is a whale a fish") is None
    assert task_in(grams, "is a whale a fish no but a shark is a fish") == "sea"


@pytest.mark.parametrize("n", [8, 13])
def test_a_short_question_is_found_where_a_plain_search_finds_an_answer_beside_it(n: int) -> None:
    random = np.random.default_rng(n)

    def text(least: int, most: int) -> list[str]:
        return [f"w{word}" for word in random.integers(0, 3, random.integers(least, most))]

    found = 0
    for _ in range(300):
        question, answers, words = text(3, 5), [text(1, 5) for _ in range(3)], text(1, 30)
        items = [EvaluationItem((" ".join(question),), tuple(map(" ".join, answers)))]
        places = [
            at for at in range(len(words) - len(question) + 1) if words[at : at + len(question)] == question
        ]
        beside = [part for at in places for part in (words[:at], words[at + len(question) :])]
        expected = any(contains(part, answer) for part in beside for answer in answers)
        assert (EvaluationGrams(items, n).overlap(words) is not None) == expected
        found += expected
    assert 50 < found < 250


@pytest.mark.parametrize("unit", ["choose the right answer ", "请选择正确答案，"])
def test_a_text_is_hashed_once_however_often_a_short_question_stands_in_it(
    unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = ("one two", "three four", "甲乙丙丁", "甲乙丙子")
    grams = EvaluationGrams([EvaluationItem((unit,), answers, "quiz")], 13)
    runs, hashed = decontaminate.runs_of, list[int]()

    def counted(words: decontaminate.Hashes, length: int) -> decontaminate.Hashes:
        hashed.append(len(words))
        return runs(words, length)

    monkeypatch.setattr(decontaminate, "runs_of", counted)
    text = words_of(normal_text(unit * 200))
    assert grams.overlap(text) is None
    assert sum(hashed) <= 2 * len(sought_words(text))  # the answers have two lengths


def test_the_task_that_is_overlapped_is_named() -> None:
    grams = EvaluationGrams(
        [
            EvaluationItem((" ".join(WORDS[:14]),), (), "one"),
            EvaluationItem((" ".join(WORDS[14:28]),), (), "two"),
        ],
        13,
    )
    assert [grams.overlap(WORDS[:14]), grams.overlap(WORDS[14:28])] == ["one", "two"]


def contains(words: list[str], run: list[str]) -> bool:
    return any(words[at : at + len(run)] == run for at in range(len(words) - len(run) + 1))


@pytest.mark.parametrize("n", [3, 5, 9, 13])
def test_what_is_found_is_what_a_plain_search_finds(n: int) -> None:
    random = np.random.default_rng(n)

    def text(longest: int) -> list[str]:
        return [f"w{word}" for word in random.integers(0, 2, random.integers(1, longest))]

    for _ in range(150):
        question, words = text(16), text(60)
        length = n if len(question) >= n else len(question)
        runs = [question[at : at + length] for at in range(len(question) - length + 1)]
        long = length >= min(n, 8) and any(contains(words, run) for run in runs)
        grams = EvaluationGrams([EvaluationItem((" ".join(question),))], n)
        assert (grams.overlap(words) is not None) == long


@pytest.mark.parametrize("n", [3, 5, 13])
def test_texts_together_are_found_to_overlap_as_each_alone(n: int) -> None:
    random = np.random.default_rng(n)

    def text(longest: int) -> str:
        return " ".join(f"w{word}" for word in random.integers(0, 4, random.integers(0, longest)))

    items = [EvaluationItem((text(18),), (text(4),), f"task {i % 3}") for i in range(12)]
    grams = EvaluationGrams(items, n)
    texts = [text(40).split() for _ in range(400)]
    alone = [grams.overlap(words) for words in texts]
    assert grams.overlaps(texts) == alone
    assert 0 < sum(task is None for task in alone) < len(texts)


def test_nothing_overlaps_where_nothing_is_asked() -> None:
    assert EvaluationGrams([], 13).overlaps([WORDS, []]) == [None, None]


UNSPACED = {  # one clause each, of 8 words and more as they are counted
    "Chinese": "下列关于城市建筑法的说法中不符合现行规定的是哪一项",
    "Japanese": "日本国憲法において内閣総理大臣を指名する権限を持つのはどの機関か",
    "Thai": "เมืองหลวงของประเทศไทยในสมัยอยุธยาตั้งอยู่ที่จังหวัดใด",
    "Lao": "ນະຄອນຫຼວງຂອງປະເທດລາວຕັ້ງຢູ່ແຂວງໃດໃນສະໄໝກ່ອນ",
    "Khmer": "តើរាជធានីនៃប្រទេសកម្ពុជាសម័យបុរាណស្ថិតនៅខេត្តណាដែរក្នុងពេលនោះ",
    "Burmese": "မြန်မာနိုင်ငံ၏မြို့တော်ဟောင်းသည်မည်သည့်တိုင်းဒေသကြီးတွင်တည်ရှိသနည်းဖော်ပြပါ",
}


@pytest.mark.parametrize("script", UNSPACED)
def test_a_question_written_without_spaces_is_found_within_a_clause(script: str) -> None:
    question = UNSPACED[script]
    grams = grams_of([question])
    assert grams.ignored == 0
    assert overlaps(grams, f"{question[:3]}{question}{question[-3:]}")
    assert not overlaps(grams, question[: len(question) // 2])


WORDS_OF = {  # the first article of the Universal Declaration of Human Rights, a space after each word
    "Thai": "มนุษย์ ทั้ง หลาย เกิด มา มี อิสระ และ เสมอ ภาค กัน ใน เกียรติศักดิ์ และ สิทธิ ต่าง มี เหตุผล และ มโนธรรม "
    "และ ควร ปฏิบัติ ต่อ กัน ด้วย เจตนารมณ์ แห่ง ภราดรภาพ",
    "Lao": "ມະນຸດ ເກີດ ມາ ມີ ສິດ ເສລີພາບ ແລະ ສະເໝີ ໜ້າ ກັນ ໃນ ທາງ ກຽດຕິສັກ ແລະ ທາງ ສິດ ດ້ວຍ ມະນຸດ ມີ ສະຕິ "
    "ສຳປັດຊັນຍະ ແລະ ຕ້ອງ ປະພຶດ ຕໍ່ ກັນ ໃນ ທາງ ພີ່ນ້ອງ",
    "Khmer": "មនុស្ស ទាំងអស់ កើតមក មាន សេរីភាព និង សមភាព ក្នុង ផ្នែក សេចក្តី ថ្លៃថ្នូរ និង សិទ្ធិ មនុស្ស មាន "
    "វិចារណញ្ញាណ និង សតិសម្បជញ្ញៈ ជាប់ ពី កំណើត ហើយ គប្បី ប្រព្រឹត្ត ចំពោះ គ្នា ទៅវិញ ទៅមក ក្នុង ស្មារតី រាប់អាន គ្នា ជា បងប្អូន",
    "Burmese": "လူ တိုင်း သည် တူညီ လွတ်လပ် သော ဂုဏ်သိက္ခာ ဖြင့် လည်းကောင်း တူညီ လွတ်လပ် သော အခွင့်အရေး များ ဖြင့် "
    "လည်းကောင်း မွေး ဖွား လာ သူများ ဖြစ်သည် ထို သူ တို့ ပိုင်းခြား ဝေဖန် တတ် သော ဉာဏ် နှင့် ကျင့်ဝတ် သိတတ် သော စိတ် တို့ ရှိ",
}


@pytest.mark.parametrize("script", WORDS_OF)
def test_13_words_written_without_spaces_are_about_13_as_they_are_counted(script: str) -> None:
    words = WORDS_OF[script].split()
    grams = grams_of(["".join(words)])

    def least(start: int) -> int:
        return next(n for n in range(1, 30) if overlaps(grams, "".join(words[start : start + n])))

    assert 11 <= np.mean([least(start) for start in range(len(words) - 18)]) <= 15


HAN = "".join(map(chr, range(0x4E00, 0x4E00 + 60)))
RUNS = {  # of letters without vowel signs and tone marks
    "Chinese": (HAN[:40], 26),
    "Japanese": ("".join(map(chr, range(0x30A2, 0x30A2 + 60, 2)))[:30], 26),
    "Burmese": ("".join(map(chr, range(0x1000, 0x1021))), 26),
    "Thai": ("".join(map(chr, range(0x0E01, 0x0E2F)))[:45], 39),
    "Khmer": ("".join(map(chr, range(0x1780, 0x17A3))) + "កខគឃងចឆជឈញ", 39),
}


@pytest.mark.parametrize("script", RUNS)
def test_13_words_of_a_long_clause_are_26_or_39_letters(script: str) -> None:
    text, least = RUNS[script]
    grams = grams_of([text])
    assert overlaps(grams, f"{HAN[-2:]}{text[3 : 3 + least]}{HAN[-2:]}")
    assert not overlaps(grams, f"{HAN[-2:]}{text[3 : 2 + least]}{HAN[-2:]}")


@pytest.mark.parametrize("mark", ["\u0e48", "\u0eb5", "\u17b7", "\u102d"])
def test_vowel_signs_and_tone_marks_count_for_nothing(mark: str) -> None:
    plain, least = RUNS["Thai"]
    text = mark.join(plain)
    grams = grams_of([text])
    assert overlaps(grams, text[: 2 * least])
    assert not overlaps(grams, text[: 2 * least - 2])


def test_clauses_do_not_hide_an_overlap_of_characters() -> None:
    grams = grams_of([f"{HAN[:15]}，{HAN[15:30]}？"])
    assert overlaps(grams, f"{HAN[:5]}。{HAN[5:26]}")
    assert not overlaps(grams, f"{HAN[:13]}。{HAN[14:26]}")


def test_8_words_of_characters_match_as_a_whole_and_3_beside_an_answer() -> None:
    assert grams_of([HAN[:16]]).ignored == 0
    assert grams_of([HAN[:15]]).ignored == 1
    grams = EvaluationGrams([EvaluationItem((HAN[:6],), (HAN[20:22],), "quiz")], 13)
    assert grams.ignored == 0
    assert task_in(grams, f"{HAN[:6]}{HAN[20:22]}") == "quiz"
    assert task_in(grams, HAN[:6]) is None
    assert EvaluationGrams([EvaluationItem((HAN[:5],), (HAN[20:22],))], 13).ignored == 1


def test_words_and_characters_are_counted_together() -> None:
    """Nine words and eight characters, half a word each, are 13."""
    text = f"{' '.join(WORDS[:9])}{HAN[:8]}"
    grams = grams_of([f"{text}{HAN[8:40]}"])
    assert overlaps(grams, text)
    assert not overlaps(grams, text[:-1])
    assert overlaps(grams, f"{' '.join(WORDS[1:9])}{HAN[:10]}")


@pytest.mark.parametrize(
    "text", ["What is it?", "C'est où, déjà?", "Что это такое?", "이것은 무엇입니까?", "ما هذا؟"]
)
def test_words_of_scripts_with_spaces_are_looked_for_as_they_are(text: str) -> None:
    words = words_of(normal_text(text))
    assert sought_words(words) is words
