"""A generated translation language of five skills, and a pool with known faults. One random seed draws all of it.

The source is a small English, the target an invented language. The grammar alone determines the target of a source:

    numbers     "four thousand and twenty"     "4 0 2 0"      place values
    clock       "quarter to nine on friday"    "word 8 : 45"  the day's word, an hour back, sixty minus the minutes
    lexicon     "river and old and kings"      each word's own word, in order
    order       "the old king greets the dog"  the verb goes last, an adjective follows its noun, a place comes first
    morphology  "three dogs followed"          plural and tense are suffixes, the verb agrees with the noun's class

Words are drawn by Zipf's law, so that few rows show the meaning of a rare word. Each row names its skill and its fault.
A few words ("well", "now", ...) mean nothing and may begin a source; near-duplicates differ in these words.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SKILLS = ("numbers", "clock", "lexicon", "order", "morphology")
CORRUPTIONS = ("swapped target", "truncated", "words replaced", "words exchanged", "source copied")
"""swapped target: that of another row of the same skill. truncated: the first words, at most half of them. words
replaced: a third of them, at least one, by others of the language. words exchanged: two of them change places."""
DUPLICATE = "duplicate"
CLEAN = "clean"

NOUNS, VERBS, ADJECTIVES, PREPOSITIONS, DAYS, FILLERS, UNITS, TEENS, TENS = (
    text.split()
    for text in (
        "dog cat bird horse bear goat cow king queen farmer sailor doctor teacher baker soldier singer boat house tree "
        "stone river forest market bridge mountain garden harbour castle village field road island door window table "
        "lamp hammer wheel rope basket bottle coin letter song story dream storm cloud star winter summer morning "
        "evening kitchen tower prison school ship wagon mirror crown sword",
        "follow call watch help paint visit push pull greet thank attack wash cook kiss warn join obey lift count "
        "clean open answer fill burn",
        "red green old young small tall quiet clever happy angry tired hungry brave strange white black cold heavy "
        "sweet empty bright rich",
        "near behind inside above",
        "monday tuesday wednesday thursday friday saturday sunday",
        "well now then so please indeed",
        "zero one two three four five six seven eight nine",
        "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen",
        "_ _ twenty thirty forty fifty sixty seventy eighty ninety",
    )
)
SUFFIXES = ("+i", "+n", "+ta", "+ru", "+o", "+a", "+e", "+os", "+as", "+es")
"""Plural, object, past, future; the verb's agreement with a noun of class 0, 1 and 2, in singular and plural."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Corpus:
    """Rows by part: no source stands in two of them, and but for the duplicates none stands twice in the pool.

    base: what the starting model learned, clean, without the rarer third of the words. pool: the candidates. seeds,
    test: clean rows of all skills in turns.
    """

    base: list[Row]
    pool: list[Row]
    seeds: list[Row]
    test: list[Row]


class Language:
    """Dictionary and grammar.

    share_of_words: the share of each kind's words, the more frequent ones, that rows use.
    """

    def __init__(self, random_seed: int, share_of_words: float = 1.0) -> None:
        rng = random.Random(f"dictionary {random_seed}")
        stems = [*NOUNS, *VERBS, *ADJECTIVES, *PREPOSITIONS, *DAYS]
        self.words = dict(zip(stems, _invent(rng, len(stems)), strict=True))
        self.noun_class = {noun: rng.randrange(3) for noun in NOUNS}
        self._kinds = {}
        for kind in (NOUNS, VERBS, ADJECTIVES, PREPOSITIONS):
            order = rng.sample(kind, len(kind))  # by falling frequency
            self._kinds[id(kind)] = order[: max(2, round(share_of_words * len(order)))] if len(order) > 4 else order

    @property
    def vocabulary(self) -> list[str]:
        """Every token of both sides."""
        numbers = [*UNITS, *TEENS, *TENS[2:], "hundred", "thousand", "and", "past", "to", "quarter", "half", "on"]
        forms = [*self.words, *(f"{noun}s" for noun in NOUNS), *(_form(v, s) for v in VERBS for s in ("s", "ed"))]
        digits = [*map(str, range(10)), *(f"{minute:02d}" for minute in range(60)), "11", "12", ":"]
        others = ["the", "will", *FILLERS, *SUFFIXES, "="]
        return list(dict.fromkeys([*numbers, *forms, *digits, *others, *self.words.values()]))

    def draw(self, skill: str, rng: random.Random) -> tuple[str, str]:
        """Draw a source and its target."""
        draws: dict[str, Callable[[random.Random], tuple[str, str]]] = {
            "numbers": _number,
            "clock": self._clock,
            "lexicon": self._lexicon,
            "order": self._order,
            "morphology": self._morphology,
        }
        return draws[skill](rng)

    def _pick(self, rng: random.Random, kind: Sequence[str]) -> str:
        words = self._kinds[id(kind)]
        return rng.choices(words, [1 / (rank + 4) for rank in range(len(words))])[0]

    def _lexicon(self, rng: random.Random) -> tuple[str, str]:
        stems = [self._pick(rng, rng.choice((NOUNS, NOUNS, ADJECTIVES, VERBS))) for _ in range(rng.randint(3, 5))]
        return " and ".join(stems), " ".join(self.words[stem] for stem in stems)

    def _clock(self, rng: random.Random) -> tuple[str, str]:
        hours = [*UNITS[1:], *TEENS[:3]]  # one to twelve
        hour, minute, day = rng.randrange(12), rng.randrange(60), rng.choice(DAYS)
        later = minute > 30
        said = 60 - minute if later else minute
        how = {0: "zero", 15: "quarter", 30: "half"}.get(said) or _say(said)
        when = f"{how} {'to' if later else 'past'} {hours[(hour - 1 + later) % 12]}"
        return f"{when} on {day}", f"{self.words[day]} {hour or 12} : {minute:02d}"

    def _order(self, rng: random.Random) -> tuple[str, str]:
        phrases, target = [], []
        for _ in range(2):
            noun = self._pick(rng, NOUNS)
            adjective = self._pick(rng, ADJECTIVES) if rng.random() < 0.7 else ""
            phrases.append(" ".join(filter(None, ("the", adjective, noun))))
            target.append(" ".join(filter(None, (self.words[noun], self.words.get(adjective)))))
        verb = self._pick(rng, VERBS)
        source = f"{phrases[0]} {_form(verb, 's')} {phrases[1]}"
        sentence = f"{target[0]} {target[1]} {self.words[verb]}"
        if rng.random() < 0.5:
            preposition, place = rng.choice(PREPOSITIONS), self._pick(rng, NOUNS)
            source += f" {preposition} the {place}"
            sentence = f"{self.words[place]} {self.words[preposition]} {sentence}"
        return source, sentence

    def _morphology(self, rng: random.Random) -> tuple[str, str]:
        noun, verb = self._pick(rng, NOUNS), self._pick(rng, VERBS)
        count = rng.choice(UNITS[2:]) if (plural := rng.random() < 0.5) else "the"
        past = rng.random() < 0.5
        agreement = ("+os", "+as", "+es") if plural else ("+o", "+a", "+e")
        source = [count, noun + "s" * plural, *([_form(verb, "ed")] if past else ["will", verb])]
        target = [
            *([str(UNITS.index(count))] if plural else []),
            *(self.words[noun], *(["+i"] if plural else [])),
            *(self.words[verb], "+ta" if past else "+ru", agreement[self.noun_class[noun]]),
        ]
        if rng.random() < 0.5:
            other = self._pick(rng, NOUNS)
            source += ["the", other]
            target[-3:-3] = [self.words[other], "+n"]
        return " ".join(source), " ".join(target)


def make_corpus(
    *,
    base: int = 4000,
    pool: int = 2000,
    seeds: int = 100,
    test: int = 300,
    corrupted: float = 0.2,
    duplicated: float = 0.1,
    random_seed: int = 0,
) -> Corpus:
    """Draw every part; sizes in rows, `corrupted` and `duplicated` in shares of the pool.

    A row has `prompt` and `completion` (gdig's row format completion), `skill`, and `fault`: CLEAN, DUPLICATE or one of
    CORRUPTIONS, each as often (up to one). Rows of a family of near-duplicates, the first of which is called clean,
    share a `family`, which is the number of their first row; five of six rows of a family are duplicates.
    """
    rng, language, small = (
        random.Random(f"rows {random_seed}"),
        Language(random_seed),
        Language(random_seed, share_of_words=2 / 3),
    )
    taken: set[str] = set()

    def draw(language: Language, n: int) -> list[Row]:
        rows: list[Row] = []
        while len(rows) < n:
            skill = SKILLS[len(rows) % len(SKILLS)]
            source, target = language.draw(skill, rng)
            if source not in taken:
                taken.add(source)
                rows.append(_row(rng, source, target, skill))
        return rows

    clean_parts = {"seeds": draw(language, seeds), "test": draw(language, test), "base": draw(small, base)}
    n_bad, n_again = round(corrupted * pool), round(duplicated * pool)
    rows = draw(language, pool - n_again)
    rng.shuffle(rows)
    bad, good = rows[:n_bad], rows[n_bad:]
    spoiled = [_spoil(rng, row, CORRUPTIONS[i % len(CORRUPTIONS)], bad, language) for i, row in enumerate(bad)]
    again = [(good[i // 5], FILLERS[i % 5 + (i % 5 >= _filler(good[i // 5]))]) for i in range(n_again)]
    rows = [
        *spoiled,
        *good,
        *({**row, "prompt": _prompt(word, row["source"]), "fault": DUPLICATE} for row, word in again),
    ]
    rng.shuffle(rows)
    first: dict[str, int] = {}
    for number, row in enumerate(rows):
        row["family"] = first.setdefault(row["source"], number)
    return Corpus(pool=rows, **clean_parts)


def write_jsonl(path: Path, rows: Sequence[Row]) -> None:
    """Write rows, one JSON object a line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _row(rng: random.Random, source: str, target: str, skill: str) -> Row:
    filler = rng.choice(FILLERS) if rng.random() < 0.3 else ""
    prompt = _prompt(filler, source)
    return {"prompt": prompt, "completion": target, "skill": skill, "fault": CLEAN, "source": source}


def _prompt(filler: str, source: str) -> str:
    return f"{filler} {source} = ".lstrip()


def _filler(row: Row) -> int:
    """The number of the filler word that begins a row; the number of fillers if no filler does."""
    word = row["prompt"].split()[0]
    return FILLERS.index(word) if word in FILLERS else len(FILLERS)


def _spoil(rng: random.Random, row: Row, kind: str, others: Sequence[Row], language: Language) -> Row:
    words = row["completion"].split()
    target = words
    while target == words:
        if kind == "swapped target":
            target = rng.choice([other for other in others if other["skill"] == row["skill"]])["completion"].split()
        elif kind == "truncated":
            target = words[: rng.randint(1, max(1, len(words) // 2))]
            if len(words) == 1:
                return _spoil(rng, row, "words replaced", others, language) | {"fault": kind}
        elif kind == "source copied":
            target = row["source"].split()
        elif kind == "words exchanged":
            if len(set(words)) == 1:
                return _spoil(rng, row, "words replaced", others, language) | {"fault": kind}
            i, j = rng.sample(range(len(words)), 2)
            target = words[:]
            target[i], target[j] = words[j], words[i]
        else:
            target = words[:]
            like = rng.choice([other for other in others if other["skill"] == row["skill"]])["completion"].split()
            for i in rng.sample(range(len(words)), max(1, len(words) // 3)):
                target[i] = rng.choice(like)
    return {**row, "completion": " ".join(target), "fault": kind}


def _number(rng: random.Random) -> tuple[str, str]:
    n = rng.randrange(10 ** rng.choices((1, 2, 3, 4), (1, 3, 6, 10))[0])
    return _say(n), " ".join(str(n))


def _say(n: int) -> str:
    """A whole number below 10,000 in words."""
    words = []
    if n >= 1000:
        words += [UNITS[n // 1000], "thousand"]
    if n % 1000 >= 100:
        words += [UNITS[n % 1000 // 100], "hundred"]
    rest = n % 100
    if words and rest:
        words.append("and")
    if rest >= 20:
        words += [TENS[rest // 10], *([UNITS[rest % 10]] if rest % 10 else [])]
    elif rest or not words:
        words.append([*UNITS, *TEENS][rest])
    return " ".join(words)


def _form(verb: str, ending: str) -> str:
    if ending == "s":
        return verb + ("es" if verb.endswith(("s", "sh", "ch")) else "s")
    return verb + "ed"


def _invent(rng: random.Random, n: int) -> list[str]:
    """Different words of two or three syllables."""
    syllables = [consonant + vowel for consonant in "bdfgklmprsvz" for vowel in "aeou"]
    made: dict[str, None] = {}
    while len(made) < n:
        made["".join(rng.sample(syllables, rng.choice((2, 2, 3))))] = None
    return list(made)
