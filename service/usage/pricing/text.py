"""Measures of texts that plans price, for a batch of texts at once.

The texts of a batch are joined into one array of code points. Each measure is a few
array operations on it, and results in one number for each text. All scripts are
measured in the same way. The unit is the Unicode code point; a word is a run of
letters, apostrophes and hyphens.
"""

import secrets
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from service.usage.pricing.code_points import (
    IN_WORD,
    VOWEL,
    class_table,
    fold_table,
    latin_classes,
)

Counts = NDArray[np.int64]
Flags = NDArray[np.bool_]
Indexes = NDArray[np.intp]
Buffer = bytes | memoryview

WORD_LENGTHS: Final = (1, 4, 8)
"""Code points at which a word reaches one, two and three points."""

MAX_BATCH: Final = 4096
"""Upper bound of texts in a batch: larger arrays do not fit the processor's cache."""

_BITS: Final = 64
_WINDOW_BYTES: Final = _BITS // 8
_ALL_BITS: Final = np.uint64(2**_BITS - 1)
# A window of 8 bytes may begin at the last character of the last text.
_PADDING: Final = "\0" * _WINDOW_BYTES
# Code points. Longer words are rare, and Python compares them.
_MAX_COMPARED: Final = 24
# Drawn at each start, so that nobody can prepare texts whose words have equal hashes:
# the result would be correct, but slow to compute. Odd, so that no bit is lost.
_TEXT_FACTOR, _SLOT_FACTOR, *_PLACE_FACTORS = (
    np.uint64(secrets.randbits(_BITS) | 1) for _ in range(_MAX_COMPARED + 2)
)
# Repeated to be longer: `tile` copies few long pieces much faster than many short ones.
_PLACES: Final = np.tile(np.arange(3, dtype=np.uint8), 4096)
# Pairs of characters that arrays compare before Python compares whole texts.
_PALINDROME_PROBES: Final = 32
_FEW_TEXTS: Final = 16
"""Python compares so few texts sooner than arrays do."""


class Texts:
    """Measures of a batch of texts: columns of shape `(n_texts,)`, in their order.

    Columns are computed when they are first read. The constructor raises `ValueError`
    for more than `MAX_BATCH` texts.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        if len(texts) > MAX_BATCH:
            raise ValueError(f"{len(texts)} texts, but a batch holds {MAX_BATCH}")
        self._texts = texts

    def __len__(self) -> int:
        return len(self._texts)

    @cached_property
    def characters(self) -> Counts:
        """Code points in each text: `(n_texts,)` int64."""
        return np.fromiter(map(len, self._texts), np.int64, len(self))

    @cached_property
    def word_points(self) -> Counts:
        """Points for words: `(n_texts,)` int64.

        A word of 1 to 3 code points has 1 point, of 4 to 7 has 2, of 8 or more has 3.
        """
        lengths = self._word_lengths
        points = np.zeros(len(lengths), np.uint8)
        for length in WORD_LENGTHS:
            points += lengths >= length
        # Sums of all words before, because a text may have no words.
        before = np.concatenate([[0], np.cumsum(points, dtype=np.int64)])
        ends = np.cumsum(self._words_per_text)
        totals: Counts = before[ends] - before[ends - self._words_per_text]
        return totals

    @cached_property
    def third_vowels(self) -> Counts:
        """Vowels at the 3rd, 6th, 9th … place of each text: `(n_texts,)` int64."""
        third = np.repeat(((self._starts + 2) % 3).astype(np.uint8), self._sizes)
        place = np.tile(_PLACES, len(third) // len(_PLACES) + 1)[: len(third)]
        vowel = self._classes[: len(third)] & VOWEL != 0
        return self._sum((vowel & (place == third)).view(np.uint8))

    @cached_property
    def all_words_differ(self) -> Flags:
        """True for texts that repeat no word, by case: `(n_texts,)` bool.

        A text without words is true.
        """
        differ = np.ones(len(self), np.bool_)
        owner = np.repeat(np.arange(len(self)), self._words_per_text)
        left, right = _equal_pairs(self._keys(owner))
        repeated = self._are_equal_words(left, right) & (owner[left] == owner[right])
        differ[owner[left[repeated]]] = False
        unequal = [left[~repeated], right[~repeated]]
        for index in np.unique(owner[np.concatenate(unequal)]).tolist():
            words = self._words_of(index)
            differ[index] = len(set(words)) == len(words)
        return differ

    @cached_property
    def is_palindrome(self) -> Flags:
        """True for texts whose letters and digits mirror each other, ignoring case.

        `(n_texts,)` bool; false for a text without letters and digits.
        """
        result = np.zeros(len(self), np.bool_)
        for index in self._palindrome_candidates().tolist():
            result[index] = _is_palindrome(self._text(index))
        return result

    def _text(self, index: int) -> str:
        return self._texts[index]

    # The layout: text, separator, text, separator …, padding.

    @cached_property
    def _sizes(self) -> Counts:
        return self.characters + 1

    @cached_property
    def _starts(self) -> Counts:
        return np.cumsum(self._sizes) - self._sizes

    @cached_property
    def _laid_out(self) -> tuple[bytes, int]:
        """The code points of the texts, and the number of bytes of each.

        It is the smallest of 1, 2 and 4 that is enough for all of them.
        """
        return _encode("\0".join([*self._texts, _PADDING]))

    @cached_property
    def _codes(self) -> NDArray[np.unsignedinteger[Any]]:
        laid_out, size = self._laid_out
        return np.frombuffer(laid_out, f"u{size}")

    @cached_property
    def _windows(self) -> NDArray[np.uint64]:
        """The 8 bytes that begin at each code point, as one number."""
        laid_out, size = self._laid_out
        count = (len(laid_out) - _WINDOW_BYTES) // size
        return np.ndarray(count, np.uint64, laid_out, strides=(size,))

    @cached_property
    def _classes(self) -> NDArray[np.uint8]:
        laid_out, size = self._laid_out
        if size == 1:
            return np.frombuffer(laid_out.translate(latin_classes()), np.uint8)
        classes: NDArray[np.uint8] = class_table()[self._codes]
        return classes

    @cached_property
    def _is_word_edge(self) -> Flags:
        """True where a word begins, and behind its last code point."""
        in_word = (self._classes & IN_WORD).view(np.bool_)
        edge = in_word.copy()
        edge[1:] ^= in_word[:-1]
        return edge

    @cached_property
    def _word_bounds(self) -> tuple[Indexes, Indexes]:
        """Begin and end of each word in the batch: two `(n_words,)` intp columns."""
        edges = np.flatnonzero(self._is_word_edge)
        return edges[::2].copy(), edges[1::2].copy()

    @cached_property
    def _word_lengths(self) -> Indexes:
        begins, ends = self._word_bounds
        return ends - begins

    @cached_property
    def _words_per_text(self) -> Counts:
        # A separator follows each text, so that both edges of a word are in its text.
        return self._sum(self._is_word_edge.view(np.uint8)) // 2

    def _sum(self, per_character: NDArray[np.uint8]) -> Counts:
        # A narrower sum is faster, and no text has 2**32 code points.
        sums = np.add.reduceat(per_character, self._starts, dtype=np.uint32)
        return sums.astype(np.int64)

    def _words_of(self, index: int) -> list[str]:
        begins, ends = self._word_bounds
        first = int(self._words_per_text[:index].sum())
        own = slice(first, first + int(self._words_per_text[index]))
        text, start = self._text(index), int(self._starts[index])
        bounds = zip(begins[own] - start, ends[own] - start, strict=True)
        return [text[begin:end] for begin, end in bounds]

    def _keys(self, owner: Indexes) -> NDArray[np.uint64]:
        """Return a hash of each word and its text: `(n_words,)` uint64."""
        return self._word_hashes() + owner.astype(np.uint64) * _TEXT_FACTOR

    def _word_hashes(self) -> NDArray[np.uint64]:
        """Return a hash of the first 24 code points of each word: `(n_words,)` uint64.

        It is a sum of products, modulo 2**64.
        """
        every = slice(None)
        hashes = self._parts(every, 0) * _PLACE_FACTORS[0]
        for place in self._window_places[1:]:
            words = np.flatnonzero(self._word_lengths > place)
            hashes[words] += self._parts(words, place) * _PLACE_FACTORS[place]
        return hashes

    def _are_equal_words(self, left: Indexes, right: Indexes) -> Flags:
        """Return which pairs are equal; words of more than 24 code points are not."""
        lengths = self._word_lengths
        equal: Flags = lengths[left] == lengths[right]
        equal &= lengths[left] <= _MAX_COMPARED
        for place in self._window_places:
            pairs = np.flatnonzero(equal & (lengths[left] > place))
            parts = [self._parts(words[pairs], place) for words in (left, right)]
            equal[pairs] = parts[0] == parts[1]
        return equal

    @property
    def _window_places(self) -> range:
        longest = min(int(self._word_lengths.max(initial=0)), _MAX_COMPARED)
        return range(0, longest, _WINDOW_BYTES // self._codes.itemsize)

    def _parts(self, words: Indexes | slice, place: int) -> NDArray[np.uint64]:
        """Return the window at a place in each word, without what follows the word."""
        bits = 8 * self._codes.itemsize
        beyond = _BITS - bits * (self._word_lengths[words] - place)
        shift = np.maximum(beyond, 0).astype(np.uint64)
        begins, _ = self._word_bounds
        parts: NDArray[np.uint64] = self._windows[begins[words] + place]
        return parts & (_ALL_BITS >> shift)

    def _palindrome_candidates(self) -> Indexes:
        """Return the texts whose outermost letters and digits mirror each other."""
        texts = np.flatnonzero(self.characters)
        low = self._starts[texts]
        high = low + self.characters[texts] - 1
        found, fold = [], fold_table()
        for _ in range(_PALINDROME_PROBES):
            if len(texts) <= _FEW_TEXTS:
                break
            left, right = fold[self._codes[low]], fold[self._codes[high]]
            # A character that does not count is passed; the other end waits for it.
            is_open = (left == right) | (left == 0) | (right == 0)
            low = low + ((left == 0) | (right != 0))
            high = high - ((right == 0) | (left != 0))
            found.append(texts[is_open & (low >= high)])
            is_open &= low < high
            texts, low, high = texts[is_open], low[is_open], high[is_open]
        return np.concatenate([*found, texts])


class JoinedTexts(Texts):
    """Measures of texts that are joined already, as they are in a column of Arrow.

    `joined` is UTF-8, with one NUL between two texts; lone surrogates are encoded as
    their code points. `characters` are the code points of each text, `(n_texts,)`
    int64. Raises `UnicodeDecodeError` when measures are computed from other bytes.
    """

    def __init__(self, joined: Buffer, characters: Counts) -> None:
        self._joined = joined
        self._characters = characters

    def __len__(self) -> int:
        return len(self._characters)

    @cached_property
    def characters(self) -> Counts:
        """Code points in each text: `(n_texts,)` int64."""
        return self._characters

    @cached_property
    def _laid_out(self) -> tuple[bytes, int]:
        padded = b"".join((self._joined, b"\0", _PADDING.encode()))
        if padded.isascii():
            return padded, 1
        return _encode(padded.decode("utf-8", "surrogatepass"))

    def _text(self, index: int) -> str:
        begin = int(self._starts[index])
        codes = self._codes[begin : begin + int(self.characters[index])]
        return codes.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")


def _encode(laid_out: str) -> tuple[bytes, int]:
    """Encode with 1, 2 or 4 bytes for each character, whichever is enough for all."""
    try:
        return laid_out.encode("latin-1"), 1
    except UnicodeEncodeError:
        pass
    # Lone surrogates are legal in JSON, so they have to pass here too.
    units = laid_out.encode("utf-16-le", "surrogatepass")
    if len(units) == 2 * len(laid_out):
        return units, 2
    return laid_out.encode("utf-32-le", "surrogatepass"), 4


def _equal_pairs(keys: NDArray[np.uint64]) -> tuple[Indexes, Indexes]:
    """Return pairs of indexes of equal keys: each index but one of a key is in `left`.

    Two `(n_pairs,)` int32 columns.
    """
    # A hash table: all keys are written into slots at once, and the last one stays.
    # An index that finds another one in its slot is either its equal, or gets another
    # slot. Each round fills at least one slot for good, so the rounds end.
    bits = len(keys).bit_length() + 1
    slots = np.empty(1 << bits, np.int32)
    lost, hashes = np.arange(len(keys), dtype=np.int32), keys
    lefts, rights = [lost[:0]], [lost[:0]]
    while len(lost):
        slot = (hashes >> np.uint64(_BITS - bits)).astype(np.intp)
        slots[slot] = lost
        kept = slots[slot]
        others = np.flatnonzero(kept != lost)
        lost, kept = lost[others], kept[others]
        equal = keys[lost] == keys[kept]
        lefts.append(lost[equal])
        rights.append(kept[equal])
        lost, hashes = lost[~equal], hashes[others[~equal]] * _SLOT_FACTOR
    return np.concatenate(lefts), np.concatenate(rights)


def is_letter_or_digit(character: str) -> bool:
    """Return whether Unicode classifies the character as a letter (L*) or a digit."""
    return character.isalpha() or character.isdigit()


def _is_palindrome(text: str) -> bool:
    compared = list(filter(is_letter_or_digit, text.lower()))
    return bool(compared) and compared == compared[::-1]


def prepare() -> None:
    """Build the tables of all code points now rather than at the first text."""
    class_table()
    fold_table()
