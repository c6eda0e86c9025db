"""Whether what the model said is one of the accepted answers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from itertools import accumulate

_DASHES = dict.fromkeys(map(ord, "‐‒−–"), "-")
_FORMULA = re.compile(r"\$(?=\S)([^$]*\S)\$(?!\w)")
_PLUS = re.compile(r"(?<![\w+])\+(?=[^\w\s]?\d)")
_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:[,'’ ]\d{3})+(?!\d)")
_OPERATOR = re.compile(r"(?<=\d) ?([-+*/×÷=<>^:]+) ?(?=[-\d])|(?<=\d) (?=[%‰°])")
_MEANT = re.compile(
    r"(?<!\w)-(?=[^\w\s]{0,2}[\d¼½¾⅐-⅞π∞])"  # -5, -$.5, -½, but not the "- 5" of a list
    r"|(?<![\w.])\.(?=\d)"  # .5
    r"|(?<=\d)\W+(?=\d)|(?<=\de)-(?=\d)"  # 3.5, 1/2, 7:30, 3 5, 1e-5
    r"|(?<=\w)\^(?=\w)|(?<=\b\w)/(?=\w\b)|!(?==)"  # x^2, a/b, !=
    r"|(?<=\w)#|[%‰]"  # C#, 5%
    r"|(?:(?<=\b\w)|(?<=\b\w\w))-(?!\w)"  # A-, AB-, Cl-
)
# An answer is spelt in no more characters than this for each that counts; what a model says may
# be far longer.
_SPELLING = 8


@lru_cache(1 << 14)
def fold(text: str) -> str:
    """What is compared of an answer: "São Tomé." -> saotome, $1,000 -> $1000, -3.5 % -> -3.5%.

    Case, accents, spaces and punctuation go, and symbols that stand alone around the rest. What
    changes the meaning stays: vowel signs and voicing marks, other symbols such as + < €, and of
    punctuation the sign of a number, all that stands between two digits but for separators of
    thousands, %, and the ends of C# and A-.
    """
    return _folded(_joined(text))


def exact_match(text: str, answers: Iterable[str]) -> float:
    """1 when the text up to its first line end is one of the answers, after folding; else 0."""
    said = fold(text.partition("\n")[0])
    return float(any(said == fold(answer) for answer in answers))


def prefix_match(text: str, answers: Iterable[str]) -> float:
    """1 when the first line begins with an answer, after folding, at the end of a word."""
    first_line, answers = text.partition("\n")[0], tuple(answers)
    if not may_begin(first_line, answers):
        return 0.0
    wanted, lengths = set(map(fold, answers)), {len(_letters(answer)) for answer in answers}
    line = _joined(first_line)
    most = _SPELLING * max(map(len, wanted), default=0) + 100
    words = (line if len(line) <= most else line[:most].rpartition(" ")[0]).split()
    n_letters = accumulate(sum(map(str.isalnum, word)) for word in words)
    ends = [n for n, length in enumerate(n_letters, 1) if length in lengths]
    return float(any(_folded(" ".join(words[:n])) in wanted for n in ends))


def may_match(text: str, answers: Iterable[str]) -> bool:
    """Whether a text so far may be, or come to be, an exact match; a line end settles it."""
    said = _letters(text)
    return "\n" not in text and any(_letters(answer).startswith(said) for answer in answers)


def may_begin(text: str, answers: Iterable[str]) -> bool:
    """Whether a text so far may be, or come to be, a prefix match; a line end settles it."""
    said = _letters(text)
    starts = (said.startswith(each) or each.startswith(said) for each in map(_letters, answers))
    return "\n" not in text and any(starts)


def begins(text: str, answers: Iterable[str]) -> bool:
    """Whether a text is the beginning of an answer, of a letter or a digit at least."""
    said = _letters(text)
    return bool(said) and "\n" not in text.strip() and may_match(text.strip(), answers)


@lru_cache(1 << 14)
def _letters(text: str) -> str:
    """Letters and digits only. Texts that fold alike have the same ones, and a text keeps its own
    whatever follows it, which does not hold of what it folds to: 10, and 10,000.
    """
    return "".join(c for c in _normal(text) if c.isalnum() and not _is_accent(c))


def _joined(text: str) -> str:
    """Without accents, and without spaces inside of numbers: 10 %, 1 000, 1 / 2."""
    text = "".join(c for c in _normal(text) if not _is_accent(c)).translate(_DASHES)
    text = re.sub(r"(?<=\d)\s*—\s*(?=\d)", "-", _FORMULA.sub(r"\1", text))
    text = _THOUSANDS.sub(lambda number: re.sub(r"\D", "", number[0]), text)
    text = re.sub(r"(?:(?<=\w)[,.;]|(?<=\w):(?!\s*\d))?\s+", " ", text)
    return _OPERATOR.sub(r"\1", text)


def _folded(text: str) -> str:
    text, kept, end = _PLUS.sub("", _without_frame(text)), list[str](), 0
    for meant in _MEANT.finditer(text):
        kept += [_bare(text[end : meant.start()]), " " if meant[0] in ",;" else meant[0]]
        end = meant.end()
    return "".join([*kept, _bare(text[end:])])


def _without_frame(text: str) -> str:
    """Without what stands alone before and after the words: "= 12", "| Paris |", "Paris →"."""
    words = text.split(" ")
    there = [n for n, word in enumerate(words) if any(map(_is_word, word))]
    return " ".join(words[there[0] : there[-1] + 1]) if there else text


def _is_word(c: str) -> bool:
    return c.isalnum() or unicodedata.category(c) == "Sc"


def _normal(text: str) -> str:
    """Lower case and taken apart (NFKD), but for ² and ½, which would become other numbers."""
    for _ in range(2):  # some letters, 𝐀 for one, have a lower case only once they are taken apart
        text = "".join(_apart(c) for c in text).casefold()
    return unicodedata.normalize("NFD", text)


def _apart(c: str) -> str:
    is_kept = c.isnumeric() and unicodedata.decomposition(c).startswith(("<super>", "<fraction>"))
    return c if is_kept else unicodedata.normalize("NFKD", c)


def _is_accent(c: str) -> bool:
    """Accents, Hebrew and Arabic points, variation selectors and modifiers such as the ʻokina,
    but neither vowel signs and voicing marks, which have combining classes of their own, nor the
    stroke of ≠.
    """
    combining = unicodedata.combining(c)
    has_class = (combining == 1 and c != "\u0338") or 10 <= combining <= 36 or combining >= 200
    return has_class or "\u02b0" <= c <= "\u02ff" or "\ufe00" <= c <= "\ufe0f"


def _bare(text: str) -> str:
    """Without spaces, punctuation and the like of ` and ^."""
    kinds = ("Sm", "Sc", "So", "Mn", "Mc")
    return "".join(c for c in text if c.isalnum() or unicodedata.category(c) in kinds)
