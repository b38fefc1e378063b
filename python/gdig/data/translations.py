"""Rows of a text and its translation, in the ways that corpora of translations name their columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gdig.data.languages import language_name
from gdig.data.row_forms import Pair, Pairs, RowForm, checked_text, missing, value_at
from gdig.data.turns import system_text

_WORDS = ("id", "no")
"""Codes that more often name something else: a row's number."""
_LANGUAGE_COLUMNS = (
    ("source_lang", "target_lang"),
    ("source_language", "target_language"),
    ("src_lang", "tgt_lang"),
    ("src_lang", "trg_lang"),
)


@dataclass(frozen=True)
class Direction:
    """From which field to which field a row translates.

    source, target: the fields, or paths, of the two texts. languages: their languages, the same in each row. None: each
    row names them, in the fields `named_in`: one for each, or one for both ("en-de").
    """

    source: str
    target: str
    languages: tuple[str, str] | None
    named_in: tuple[str, ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields, or paths, of a row that are read."""
        return (self.source, self.target, *self.named_in)

    def __str__(self) -> str:
        return f"{self.source} to {self.target}"


OWN_COLUMNS = Direction("src_text", "trg_text", None, ("src_lang", "trg_lang"))


def find_direction(row: Mapping[str, Any]) -> Direction | None:
    """Return how a row translates, by its fields that are not null. None if it is no row of a translation."""
    row = {name: value for name, value in row.items() if value is not None}
    if set(OWN_COLUMNS.fields) <= row.keys():
        return OWN_COLUMNS
    if isinstance(nested := row.get("translation"), Mapping):
        return _between([name for name in nested if nested[name] is not None], "translation.")
    if {"source", "target"} <= row.keys():
        named_in = next(
            (names for names in (("lp",), ("language_pair",), *_LANGUAGE_COLUMNS) if set(names) <= row.keys()), None
        )
        if named_in is not None:
            return Direction("source", "target", None, named_in)
    sentences = [name for name in row if name.startswith("sentence_") and language_name(name[9:])]
    if len(sentences) == 2:
        return _between([name[9:] for name in sentences], "sentence_")
    return _between([name for name in row if name not in _WORDS and isinstance(row[name], str)])


def read_translation(row: Mapping[str, Any], direction: Direction, system_field: str | None) -> RowForm:
    """Read the two texts of a row.

    Raises:
        RowError: if a text or a language is missing, is empty, or is no text.
    """
    source_language, target_language = direction.languages or _named_languages(row, direction.named_in)
    source, target = (
        checked_text(value_at(row, field), f"field {field!r}", may_be_empty=False)
        for field in (direction.source, direction.target)
    )
    prompt = (
        f'Render the following {source_language} text faithfully in {target_language}.\n{source_language}: "{source}"'
    )
    pair = Pair(prompt, target, f"{prompt}\n{target_language}:\n")
    return Pairs((pair,), system_text(row, system_field))


def _between(names: list[str], prefix: str = "") -> Direction | None:
    """Return the direction between the two languages among field names, in their order."""
    codes = [(name, language) for name in names if (language := language_name(name)) is not None]
    if len(codes) != 2:
        return None
    (source, first), (target, second) = codes
    return Direction(prefix + source, prefix + target, (first, second))


def _named_languages(row: Mapping[str, Any], fields: tuple[str, ...]) -> tuple[str, str]:
    names = []
    for field in fields:
        if field not in row:
            raise missing(row, field)
        names.append(checked_text(row[field], f"field {field!r}", may_be_empty=False))
    if len(names) == 1:
        source, _, target = names[0].partition("-")
        names = [source, checked_text(target, f"field {fields[0]!r}: the second language", may_be_empty=False)]
    return language_name(names[0]) or names[0], language_name(names[1]) or names[1]
