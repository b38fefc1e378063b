"""The row formats: which fields each one needs, how a file's format is detected, and how its rows are read.

Each file of a pool has a format of its own. A reader turns the fields of a row into a conversation, pairs of prompt and
completion, or a text (:mod:`gdig.data.row_forms`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from gdig.config.options import DataOptions, RowFormat
from gdig.data.languages import language_name
from gdig.data.row_forms import RowError, RowForm, value_at
from gdig.data.templates import OwnTemplates
from gdig.data.text_rows import FORMATS, Fields
from gdig.data.translations import OWN_COLUMNS, find_direction, read_translation
from gdig.data.turns import CONVERSATION_FIELDS, SYSTEM_FIELDS, is_sharegpt, read_conversation
from gdig.errors import ConfigError, UnknownFormatError

if TYPE_CHECKING:
    from gdig.data.corpus import Corpus

_HEAD_ROWS = 32

NEEDED_FIELDS: dict[str, str] = {
    "tokens": "input_ids, labels",
    "messages": "messages or conversations, with turns of role and content",
    "sharegpt": "messages or conversations, with turns of from and value",
    "translation": (
        "src_lang, trg_lang, src_text, trg_text, or translation, or a column for each of two languages, or lp, source,"
        " target"
    ),
    "instruction": "instruction, output",
    "completion": "prompt, completion",
    "question": "question, answer",
    "text": "text",
}
"""The fields that each row format needs, for messages."""

_TOKEN_FIELDS = ("input_ids", "labels", "attention_mask")
_TRANSLATION_FIELDS = (
    *OWN_COLUMNS.fields, "translation", "lp", "language_pair", "source", "target", "source_lang", "target_lang",
    "source_language", "target_language", "tgt_lang",
)  # fmt: skip
_SURE_TRANSLATION_FIELDS = {*OWN_COLUMNS.fields, "translation"}
_KNOWN_FIELDS = {
    *_TOKEN_FIELDS, *CONVERSATION_FIELDS, *SYSTEM_FIELDS, "tools", *_TRANSLATION_FIELDS,
    *(name for f in FORMATS.values() for names in (*f.needed.values(), *f.optional.values()) for name in names),
}  # fmt: skip


@dataclass(frozen=True)
class RowReader:
    """Reads the rows of a file.

    Attributes:
        format: the row format.
        columns: the fields that are read. None: all of them.
        read: turns the fields of a row into what it is.
        detail: what the format leaves open: the two languages, or the columns that options name. It may be empty.
        options: the options that name a column of the file.
    """

    format: RowFormat
    columns: frozenset[str] | None
    read: Callable[[Mapping[str, Any]], RowForm]
    detail: str = ""
    options: frozenset[str] = frozenset()

    def __call__(self, row: Mapping[str, Any]) -> RowForm:
        """Read a row.

        Raises:
            RowError: naming the field that is missing or of a wrong kind. If the row has the fields of another format,
                the message says so.
        """
        try:
            return self.read(row)
        except RowError as error:
            other = None if self.options or self.format in ("template", "tokens") else _detect(row)
            if other is None or other.format == self.format:
                raise
            raise RowError(
                f"{error}. The row looks like the format {other.format}, but its file is read as {self.format}; put the"
                " rows of each format into a file of their own"
            ) from None


def make_reader(
    row_format: RowFormat,
    options: DataOptions | None = None,
    first: Mapping[str, Any] | None = None,
    system: str | None = None,
) -> RowReader:
    """Return the reader of a named format.

    Args:
        row_format: any format but auto.
        options: the templates, for the format template.
        first: the first row of the file, or its first values. It tells which of several names a field has, and the
            languages of a translation. None: the first name of each.
        system: the column of the system text; None: `system` or `system_prompt`.

    Raises:
        ConfigError: on a syntax error in a template.
    """
    if row_format == "template":
        own = OwnTemplates((options and options.prompt_template) or "", (options and options.target_template) or "")
        return RowReader("template", own.fields, own)
    if row_format == "tokens":
        return RowReader("tokens", frozenset(_TOKEN_FIELDS), _refuse_text)
    if row_format in ("messages", "sharegpt"):
        field = next((name for name in CONVERSATION_FIELDS if (first or {}).get(name) is not None), "messages")
        return _conversation_reader(row_format, field, system)
    if row_format == "translation":
        direction = (find_direction(first) if first else None) or OWN_COLUMNS
        read = partial(read_translation, direction=direction, system_field=system)
        return RowReader(row_format, frozenset(_tops(*direction.fields, *_systems(system))), read, str(direction))
    text_format = FORMATS[row_format]
    fields = text_format.fields_in(first or ()) or text_format.first_names
    return _text_reader(row_format, fields, system)


def open_readers(options: DataOptions, corpus: Corpus) -> tuple[RowReader, ...]:
    """Return the reader of each file of a corpus.

    The format is the first of these that there is:

    - "template", if the options have templates;
    - that of the columns that the options name;
    - `row_format`;
    - the format of the first rows' fields.

    Raises:
        CorpusError: naming the file, its fields and the fields of each format, if they are those of no format.
        ConfigError: if templates are given for rows of the format tokens.
    """
    if options.prompt_template is not None:
        if options.row_format == "tokens":
            raise ConfigError(
                "prompt_template: rows of the format tokens have no text; give no templates or another row_format"
            )
        return (make_reader("template", options),) * corpus.n_files
    return tuple(_reader_of_file(options, corpus, file) for file in range(corpus.n_files))


def require_columns(options: DataOptions, corpora: Sequence[tuple[Corpus, Sequence[RowReader]]]) -> None:
    """Check that each column which the options name is in some file.

    Raises:
        ConfigError: naming the option, and the fields of the first file.
    """
    if options.prompt_template is not None:
        return
    for option, column in _named_columns(options).items():
        if not any(option in reader.options for _, readers in corpora for reader in readers):
            corpus = corpora[0][0]
            raise ConfigError(
                f"{option}={column!r}: expected a column of some file, found none; the fields of {corpus.paths[0]} are:"
                f" {', '.join(corpus.fields_of(0))}"
            )


def _reader_of_file(options: DataOptions, corpus: Corpus, file: int) -> RowReader:
    fields = corpus.fields_of(file)
    wanted = _tops(*_named_columns(options).values())
    read_fields = frozenset(name for name in fields if name in wanted or _is_known(name))
    head = corpus.head(file, _HEAD_ROWS, read_fields)
    named = {option for option, column in _named_columns(options).items() if any(_has(row, column) for row in head)}
    system = options.system_column if "system_column" in named else None
    reader = _reader_of_columns(options, named, head, system)
    if reader is None and options.row_format != "auto":
        reader = make_reader(options.row_format, options, _first_values(head), system)
    if reader is None:
        # The first row decides. A column that is null there, as in a table of several sources, may be filled below.
        reader = _detect(head[0], system) or _detect(_first_values(head), system)
    if reader is None:
        reader = _by_names(fields)
    if reader is None:
        formats = "; ".join(f"{name}: {needed}" for name, needed in NEEDED_FIELDS.items())
        raise UnknownFormatError(
            f"{corpus.where(corpus.first_row(file))}: the fields ({', '.join(fields) or 'none'}) are those of no known"
            f" row format ({formats}); for other fields give prompt_column and completion_column, conversation_column,"
            " or prompt_template and target_template"
        )
    used = {"system_column"} if system else set()
    return replace(reader, options=frozenset(reader.options | used))


def _reader_of_columns(
    options: DataOptions, named: set[str], head: Sequence[Mapping[str, Any]], system: str | None
) -> RowReader | None:
    """Return the reader of the columns that the options name. None if they do not name all that a row needs."""
    if options.conversation_column is not None and "conversation_column" in named:
        column = options.conversation_column
        turns = next((value_at(row, column) for row in head if _has(row, column)), None)
        reader = _conversation_reader("sharegpt" if is_sharegpt(turns) else "messages", column, system)
        return replace(reader, detail=column, options=frozenset(("conversation_column",)))
    prompt, completion = options.prompt_column, options.completion_column
    if completion is None or "completion_column" not in named:
        return None
    if prompt is None:
        reader = _text_reader("text", {"text": completion}, system)
        return replace(reader, detail=completion, options=frozenset(("completion_column",)))
    if "prompt_column" not in named:
        return None
    reader = _text_reader("completion", {"prompt": prompt, "completion": completion}, system)
    names = frozenset(("prompt_column", "completion_column"))
    return replace(reader, detail=f"{prompt} to {completion}", options=names)


def _detect(row: Mapping[str, Any], system: str | None = None) -> RowReader | None:
    """Return the reader of the first format whose fields are all there and not null."""
    there = {name: value for name, value in row.items() if value is not None}
    if {"input_ids", "labels"} <= there.keys():
        return make_reader("tokens")
    for field in CONVERSATION_FIELDS:
        if field in there:
            return _conversation_reader("sharegpt" if is_sharegpt(there[field]) else "messages", field, system)
    if find_direction({name: value for name, value in there.items() if name in _SURE_TRANSLATION_FIELDS}):
        return make_reader("translation", None, there, system)
    for row_format in ("instruction", "completion", "question"):
        if FORMATS[row_format].fields_in(there):
            return make_reader(row_format, None, there, system)  # type: ignore[arg-type]
    if find_direction(there):
        return make_reader("translation", None, there, system)
    return make_reader("text", None, there, system) if "text" in there else None


def _by_names(fields: Sequence[str]) -> RowReader | None:
    """Return the reader of the first format whose fields have names in the file, though their first values are null."""
    return _detect(dict.fromkeys(fields, ""))


def _conversation_reader(row_format: RowFormat, field: str, system: str | None) -> RowReader:
    read = partial(read_conversation, field=field, system_field=system)
    return RowReader(row_format, frozenset(_tops(field, "tools", *_systems(system))), read, field)


def _text_reader(row_format: RowFormat, fields: Fields, system: str | None) -> RowReader:
    read = partial(FORMATS[row_format].read, fields=fields, system_field=system)
    return RowReader(row_format, frozenset(_tops(*fields.values(), "tools", *_systems(system))), read)


def _systems(system: str | None) -> tuple[str, ...]:
    return SYSTEM_FIELDS if system is None else (system,)


def _named_columns(options: DataOptions) -> dict[str, str]:
    names = ("prompt_column", "completion_column", "conversation_column", "system_column")
    return {name: column for name in names if (column := getattr(options, name)) is not None}


def _first_values(head: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the first value of each field that is not null."""
    values: dict[str, Any] = {}
    for row in head:
        for name, value in row.items():
            if values.get(name) is None:
                values[name] = value
    return values


def _is_known(name: str) -> bool:
    return name in _KNOWN_FIELDS or language_name(name.removeprefix("sentence_")) is not None


def _has(row: Mapping[str, Any], column: str) -> bool:
    try:
        return value_at(row, column) is not None
    except RowError:
        return False


def _tops(*paths: str) -> set[str]:
    """Return the fields of a row that paths may begin with. A name may itself hold a dot."""
    return {name for path in paths for name in (path, path.partition(".")[0])}


def _refuse_text(row: Mapping[str, Any]) -> RowForm:
    raise RowError("the row holds tokens, which have no turns; write it as it is, or choose the format tokens")
