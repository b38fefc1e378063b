"""A small translation pool in an invented language, with known corruptions: what the demo selects from.

English sentences of a small grammar are put into "Kalu": every stem has its word, the verb goes last and its tense is a
suffix, an adjective follows its noun, the object bears -n, a plural -i, and where something happens comes first. All of
it is drawn from one random seed.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

STEMS = {
    kind: text.split()
    for kind, text in {
        "noun": "dog cat bird horse fish fox bear wolf goat cow king queen farmer sailor doctor teacher child baker "
        "soldier singer boat house tree stone",
        "verb": "follow call watch help paint visit push pull greet thank attack carry wash cook kiss warn trust "
        "praise join obey",
        "adjective": "red green old young small tall quiet clever happy angry tired hungry brave strange white black",
        "number": "two three four five six seven eight nine ten twelve",
        "place": "river forest market bridge mountain garden harbour castle village field",
        "preposition": "near behind inside above",
    }.items()
}
CORRUPTIONS = ("swapped target", "truncated", "source copied", "words shuffled")

Row = dict[str, str]


def make_pool(
    n: int = 4000, n_seeds: int = 64, corrupted: float = 0.3, random_seed: int = 0
) -> tuple[list[Row], list[Row]]:
    """Return `n` candidates and `n_seeds` clean seeds that are not among them.

    A row has `src_lang, trg_lang, src_text, trg_text` and `corruption`, which is "clean" or one of CORRUPTIONS; a share
    `corrupted` of the candidates, the same number of each kind up to one, is corrupted.
    """
    rng = random.Random(random_seed)
    words = _lexicon(rng)
    pairs: dict[str, str] = {}
    while len(pairs) < n + n_seeds:
        source, target = _sentence(rng, words)
        pairs[source] = target
    rows = [_row(source, target) for source, target in pairs.items()]
    seeds, pool = rows[:n_seeds], rows[n_seeds:]
    chosen = rng.sample(range(n), round(corrupted * n))
    for i, row_number in enumerate(chosen):
        kind = CORRUPTIONS[i % len(CORRUPTIONS)]
        other = rows[n_seeds + (row_number + rng.randrange(1, n)) % n]["src_text"]
        pool[row_number] = _corrupt(rng, pool[row_number], kind, pairs[other])
    return pool, seeds


def write_jsonl(path: Path, rows: list[Row]) -> None:
    """Write rows, one JSON object a line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _lexicon(rng: random.Random) -> dict[str, str]:
    """Give every stem a word of two or three syllables of its own."""
    syllables = [consonant + vowel for consonant in "bdfgklmprsvz" for vowel in "aeou"]
    stems = [stem for kind in STEMS.values() for stem in kind]
    taken: list[str] = []
    while len(taken) < len(stems):
        word = "".join(rng.sample(syllables, rng.choice((2, 2, 3))))
        if word not in taken:
            taken.append(word)
    return dict(zip(stems, taken, strict=True))


def _sentence(rng: random.Random, words: dict[str, str]) -> tuple[str, str]:
    subject, subject_target = _noun_phrase(rng, words, "")
    thing, thing_target = _noun_phrase(rng, words, "n")
    verb = rng.choice(STEMS["verb"])
    past = rng.random() < 0.5
    source = [subject, _past(verb) if past else f"will {verb}", thing]
    target = [subject_target, thing_target, words[verb] + ("ta" if past else "ru")]
    if rng.random() < 0.6:
        preposition, place = rng.choice(STEMS["preposition"]), rng.choice(STEMS["place"])
        source.append(f"{preposition} the {place}")
        target.insert(0, f"{words[place]} {words[preposition]}")
    return " ".join(source), " ".join(target)


def _noun_phrase(rng: random.Random, words: dict[str, str], case: str) -> tuple[str, str]:
    noun, plural = rng.choice(STEMS["noun"]), rng.random() < 0.5
    adjective = rng.choice(STEMS["adjective"]) if rng.random() < 0.6 else None
    number = rng.choice(STEMS["number"]) if plural else "the"
    source = [number, adjective, _plural(noun) if plural else noun]
    head = words[noun] + ("i" if plural else "") + case
    target = [head, words[adjective] if adjective else None, words[number] if plural else None]
    return " ".join(filter(None, source)), " ".join(filter(None, target))


def _plural(noun: str) -> str:
    irregular = {"child": "children", "wolf": "wolves", "fish": "fishes", "fox": "foxes"}
    return irregular.get(noun, noun + "s")


def _past(verb: str) -> str:
    return {"carry": "carried"}.get(verb, verb + ("d" if verb.endswith("e") else "ed"))


def _row(source: str, target: str) -> Row:
    return {"src_lang": "English", "trg_lang": "Kalu", "src_text": source, "trg_text": target, "corruption": "clean"}


def _corrupt(rng: random.Random, row: Row, kind: str, other_target: str) -> Row:
    words = row["trg_text"].split()
    if kind == "swapped target":
        target = other_target
    elif kind == "truncated":
        target = " ".join(words[: rng.randint(1, len(words) // 2)])
    elif kind == "source copied":
        target = row["src_text"]
    else:
        shuffled = words[:]
        while shuffled == words:
            rng.shuffle(shuffled)
        target = " ".join(shuffled)
    return {**row, "trg_text": target, "corruption": kind}
