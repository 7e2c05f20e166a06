"""Whether an answer is right: exact match, the VQA score over ten people's answers, multiple choice.

    VQA score   mean, over the people, of   min(1, how many of the others say the same / 3)

after both sides were normalised as the challenge's servers do it: lower case, no articles, digits for numbers, the
apostrophes of contractions put back, punctuation taken out; their oddities ("none" is 0, "somebody'd" loses its
apostrophe) stay, so that scores compare.

Paper   https://arxiv.org/abs/1505.00468
Source  GT-Vision-Lab/VQA@07aecec PythonEvaluationTools/vqaEvaluation/vqaEval.py (the score)
        facebookresearch/mmf@c46b3b3 pythia/tasks/processors.py, EvalAIAnswerProcessor (the normalisation)
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgeprune.errors import RequestError

__all__ = ["exact", "multiple_choice", "normalized", "vqa_score"]

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5"}
NUMBERS |= {"six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}
ARTICLES = ("a", "an", "the")
CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
    he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've
    needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've
    somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll
    that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've
    weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll
    why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
WITHOUT_ONE = {
    word[:at] + word[at + 1 :]: word for word in CONTRACTIONS.split() for at, letter in enumerate(word) if letter == "'"
} | {"somebody'd": "somebodyd"}
"""a contraction that lost one of its apostrophes -> as it should be"""

LETTER = re.compile(r"\(?([A-Z])\)?(?:[.:)]?$|[.:)]\s)")
SENTENCE = re.compile(r"\b[Aa]nswer(?: is|:)\s*\(?([A-Z])\b")


def exact(answer: str, truth: str) -> float:
    """1.0 when they are the same but for case, outer spaces and a full stop; else 0.0.

    >>> exact("Red.", "red"), exact("dark red", "red")
    (1.0, 0.0)
    """
    return float(_plain(answer) == _plain(truth))


def vqa_score(answer: str, truths: Sequence[str]) -> float:
    """In 0..1; `truths` are usually ten. Raises RequestError for fewer than two.

    >>> round(vqa_score("two", ["2"] * 3 + ["3"] * 7), 3), vqa_score("the Two", ["2"] * 4 + ["3"] * 6)
    (0.9, 1.0)
    """
    if len(truths) < 2:
        raise RequestError(f"a VQA score needs the answers of two people or more (usually ten), got {len(truths)}")
    given, same = normalized(answer), [normalized(one) for one in truths]
    agreeing = same.count(given)
    return sum(min(1.0, (agreeing - (one == given)) / 3) for one in same) / len(same)


def multiple_choice(answer: str, options: Sequence[str], truth: int) -> float:
    """1.0 when the answer names option number `truth`, counted from 0: by its letter ("B", "(B)", "B. red", "The answer
    is B.") or its words; else 0.0.

    >>> options = ["red", "blue"]
    >>> [multiple_choice(answer, options, 1) for answer in ("B", "b. blue", "Blue.", "(B) blue", "A", "green")]
    [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]

    Raises RequestError when there is no such option, or there are more than letters.
    """
    if not 0 <= truth < len(options) <= 26:
        raise RequestError(f"the right option must be in 0..{len(options) - 1} of 26 at most, got {truth}")
    return float(_chosen(answer.strip(), options) == truth)


def _chosen(answer: str, options: Sequence[str]) -> int | None:
    """Words come first: "a" may be an option's."""
    words = [_plain(one) for one in options]
    if _plain(answer) in words:
        return words.index(_plain(answer))
    lettered = {
        _plain(f"{chr(65 + at)}{mark} {one}"): at for at, one in enumerate(options) for mark in (".", ":", ")", "")
    }
    if _plain(answer) in lettered:
        return lettered[_plain(answer)]
    letter = LETTER.match(answer.upper() if len(answer) == 1 else answer) or SENTENCE.search(answer)
    return None if letter is None else ord(letter[1]) - 65


def normalized(answer: str) -> str:
    """As the challenge's servers compare it.

    >>> normalized("The  two dogs, dont!"), normalized("1,000"), normalized("none")
    ("2 dogs don't", '1000', '0')
    """
    text = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = _without_punctuation(text.replace("\n", " ").replace("\t", " ").strip())
    words = [NUMBERS.get(word, word) for word in text.split()]
    return " ".join(WITHOUT_ONE.get(word, word) for word in words if word not in ARTICLES)


def _without_punctuation(text: str) -> str:
    """A mark beside a space goes; one inside of a word becomes a space. A full stop in front of a digit stays."""
    plain = text
    for mark in PUNCTUATION:
        beside = f"{mark} " in text or f" {mark}" in text
        plain = plain.replace(mark, "" if beside else " ")
    return re.sub(r"\.(?!\d)", "", plain)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).removesuffix(".")
