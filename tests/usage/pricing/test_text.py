"""What is counted in a batch of texts equals what counting one by one finds."""

import sys
import unicodedata
from itertools import product
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.usage.pricing.text import MAX_BATCH, Texts
from tests import reference


def assert_counted_like_the_reference(texts: list[str]) -> None:
    columns = Texts(texts)
    assert columns.characters.tolist() == [len(text) for text in texts]
    assert columns.word_points.tolist() == [
        sum(map(reference.word_points, reference.words_of(text))) for text in texts
    ]
    for name in ("third_vowels", "all_words_differ", "is_palindrome"):
        count = getattr(reference, name)
        assert getattr(columns, name).tolist() == [count(text) for text in texts]


def words(*words: str) -> str:
    return " ".join(words)


LONG = "x" * 25  # more than is compared in columns
PAIRS = [f"{first}{second}" for first, second in product("abcdefgh", repeat=2)]

HOSTILE = {
    "empty": "",
    "nul": "\0",
    "nuls around words": "\0\0rent\0\0rent\0",
    "line feeds": "\n\n\r\n\u2028",
    "only marks": "\u0301\u0301\u0301",
    "marks split words": "cafe\u0301s cafe\u0301s",
    "one word of 100,000": "e" * 100_000,
    "10,000 equal words": words(*["rent"] * 10_000),
    "10,000 equal long words": words(*[LONG] * 10_000),
    "10,000 words, one twice": words(*map(PAIRS[0].__mul__, range(1, 100)), "ab"),
    "long words that differ at the end": words(LONG + "a", LONG + "b"),
    "long words that differ in length": words(LONG, LONG + "x"),
    "equal long words": words(LONG, "y", LONG),
    "words that differ by case": "Rent rent",
    "words that differ by apostrophe": "o'clock o\u2019clock o\u2018clock",
    "words that differ by hyphen": "a-b a\u2010b a\u2011b",
    "dashes that are no hyphens": "a\u2012a\u2013a\u2014a\u2212a",
    "hyphens alone": "- -- \u2010 \u2011\u2011",
    "apostrophes alone": "' \u2019 \u2018",
    "equal hyphens": "- -",
    "lone surrogates": "\ud800 \udfff\ud800 a",
    "a pair of surrogates": "\ud83d\ude00",
    "mixed scripts": "\u0434\u043e\u043c \u6f22\u5b57\u6f22\u5b57 \u05d1\u05d9\u05ea",
    "beyond the basic plane": "\U00020000\U00020001\U00020002\U00020003 \U0001d41a",
    "digits part words": "a1a a1b",
    "underscores part words": "a_a",
    "longer than a batch": words(*PAIRS) * (MAX_BATCH // 64),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_counted_like_any_other(text: str) -> None:
    """No text is too odd to be counted exactly, alone or between others."""
    assert_counted_like_the_reference([text])
    assert_counted_like_the_reference(["rent rent", text, "", text, "Rent rent"])


@given(st.lists(reference.texts, max_size=12))
def test_columns_equal_the_reference(texts: list[str]) -> None:
    """Any batch of any texts is counted as each text is by the reference."""
    assert_counted_like_the_reference(texts)


def test_every_character_of_unicode_is_classified_like_the_reference() -> None:
    """Letters, digits and vowels are Unicode's, in every plane."""
    assigned = [
        character
        for character in map(chr, range(sys.maxunicode + 1))
        if unicodedata.category(character) not in {"Cn", "Co"}
    ]
    for at in range(0, len(assigned), MAX_BATCH):
        batch = assigned[at : at + MAX_BATCH]
        points = Texts(batch).word_points.tolist()
        assert points == [len(reference.words_of(each)) for each in batch]
        mirrored = Texts(batch).is_palindrome.tolist()
        assert mirrored == [reference.is_palindrome(each) for each in batch]


def test_every_capital_mirrors_its_lower_case() -> None:
    """A character is equal to its lower case, one letter for one or more."""
    cased = [
        character
        for character in map(chr, range(sys.maxunicode + 1))
        if character.lower() != character
    ]
    texts = [f"{character}x{character.lower()}" for character in cased]
    expected = [reference.is_palindrome(text) for text in texts]
    assert Texts(texts).is_palindrome.tolist() == expected
    assert sum(expected) > len(texts) / 2


def test_unassigned_and_private_characters_are_neither_letters_nor_digits() -> None:
    """What Unicode has not named yet parts words, to the last code point."""
    texts = ["a\u0378a", "a\ue000a", "a\U000e0080a", f"a{chr(sys.maxunicode)}a"]
    assert Texts(texts).word_points.tolist() == [2] * len(texts)
    assert Texts([chr(sys.maxunicode)]).is_palindrome.tolist() == [False]


@pytest.mark.parametrize(
    "word, points",
    [("a", 1), ("a" * 3, 1), ("a" * 4, 2), ("a" * 7, 2), ("a" * 8, 3), ("a" * 99, 3)],
    ids=["1", "3", "4", "7", "8", "99"],
)
def test_word_earns_points_by_its_length(word: str, points: int) -> None:
    """1 point up to 3 characters, 2 up to 7, 3 from 8 on, wherever the word stands."""
    texts = [word, f" {word}", f"{word} ", f"{word}, {word}"]
    expected = [points, points, points, 2 * points]
    assert Texts(texts).word_points.tolist() == expected


def test_third_places_are_counted_from_each_texts_own_start() -> None:
    """What stands before a text in its batch does not shift its third places."""
    texts = ["xxa", "x", "xxa", "xx", "xxA", "", "xaxa", "xxexxixxoxxu"]
    assert Texts(texts).third_vowels.tolist() == [1, 0, 1, 0, 1, 0, 0, 4]


@given(st.lists(reference.texts, max_size=6), st.integers(0, 2**64 - 1))
def test_equal_hashes_of_different_words_change_nothing(
    texts: list[str], value: int
) -> None:
    """Words are compared by their characters, even if all hash to one value."""

    def collide(columns: Texts) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        words = sum(len(reference.words_of(text)) for text in texts)
        return np.full(words, value, np.uint64)

    with patch.object(Texts, "_word_hashes", collide):
        assert_counted_like_the_reference(texts)


@pytest.mark.parametrize(
    "text, differ",
    [
        (words(*PAIRS), True),
        (words(*PAIRS, "aa"), False),
        (words(*PAIRS, "hh"), False),
        (words("b", LONG, "a", LONG, "b"), False),
        (words(LONG + "a", LONG + "b", "a", "b"), True),
        (words("ab", "abc"), True),
        (words("abc", "ab"), True),
        (words("abc", "abd", "abcd", "xbc"), True),
        (words("b" * 20, "c" * 20, "d"), True),
    ],
    ids=[
        *("all differ", "first again", "last again", "not neighbours", "long"),
        *("longer", "shorter", "alike", "much shorter at the end"),
    ],
)
def test_colliding_words_that_are_no_neighbours_are_still_compared(
    text: str, *, differ: bool
) -> None:
    """Where every hash collides, a word far from its double is found too."""
    assert Texts([text]).all_words_differ.tolist() == [differ]
    hashes = np.zeros(len(reference.words_of(text)), np.uint64)
    with patch.object(Texts, "_word_hashes", return_value=hashes):
        assert Texts([text]).all_words_differ.tolist() == [differ]


PALINDROMES = {
    "one letter": ("a", True),
    "one digit": ("7", True),
    "nothing": ("", False),
    "only punctuation": ("?!, -'\u2019", False),
    "only marks": ("\u0301\u0301", False),
    "by case": ("Level", True),
    "sentence": ("A man, a plan, a canal: Panama!", True),
    "no palindrome": ("rent", False),
    "digits": ("10 Aa 01", True),
    "digits that differ": ("12", False),
    "letters between equal digits": ("1ab1", False),
    "other scripts' digits": ("\u0663x\u0663", True),
    "superscript is a digit": ("\u00b2ab", False),
    "half is no digit": ("\u00bdaba", True),
    "roman numeral is no letter": ("\u2167aba", True),
    "dotted capital I is i and a mark": ("\u0130xi", True),
    "dotless i is not i": ("\u0131xi", False),
    "capital sharp s": ("\u1e9ex\u00df", True),
    "sharp s is not ss": ("\u00dfxss", False),
    "capital sigma at the end is a final one": ("\u03a3\u0391\u03a3", False),
    "final sigma mirrors a capital at the end": ("\u03c2x\u03a3", True),
    "sigmas as written": ("\u03c3\u03b1\u03c3", True),
    "lone capital sigma": ("\u03a3", True),
    "sigma before punctuation": ("\u03a3\u03b1\u03a3.", False),
    "marks do not count": ("e\u0301ae", True),
    "beyond the basic plane": ("\U0001d400a\U0001d400", True),
    "kelvin sign is a k": ("\u212aak", True),
    "surrogates do not count": ("\ud800a\udfffba", True),
    "long": ("ab" * 50_000 + "a", True),
    "long, the middle differs": ("ab" * 5_000 + "xy" + "ba" * 5_000, False),
    "long, an inner pair differs": ("abcdefghX" + "z" * 99 + "Yhgfedcba", False),
}


@pytest.mark.parametrize("text, expected", PALINDROMES.values(), ids=PALINDROMES)
def test_palindrome(text: str, *, expected: bool) -> None:
    """Lower-cased as Unicode does it, letters and digits alone must mirror."""
    assert Texts([text]).is_palindrome.tolist() == [expected]
    assert Texts(["x", text, "xy"]).is_palindrome.tolist() == [True, expected, False]
    assert reference.is_palindrome(text) == expected


def test_empty_batch_has_empty_columns() -> None:
    """A batch without texts is measured like any other."""
    assert_counted_like_the_reference([])


def test_full_batch_is_counted_like_the_reference() -> None:
    """As many texts as a batch holds, of very different lengths, stay apart."""
    cycle = ["", "a", "rent rent", "x" * 300, "Aa", "\u6f22\u5b57 - -", "e\0e"]
    texts = [cycle[index % 7] * (1 + index % 3) for index in range(MAX_BATCH)]
    assert_counted_like_the_reference(texts)


def test_batch_that_is_too_large_is_refused() -> None:
    """One text more than a batch holds is an error, not a wrong number."""
    with pytest.raises(ValueError, match=f"holds {MAX_BATCH}"):
        Texts([""] * (MAX_BATCH + 1))
