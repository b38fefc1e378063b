"""From a row to the text that the model sees, with the targets marked.

Every text format is a pair of Jinja templates, for prompt and target. Rows of the format `messages` go through the
tokenizer's chat template (`chat`). Templates run in a sandbox. If a template names a field that a row does not have,
that row has an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gdig.config.options import DataOptions, RowFormat
from gdig.errors import ConfigError, CorpusError

if TYPE_CHECKING:
    from gdig.data.corpus import Corpus


class RowError(ValueError):
    """A row cannot be used. The message names the field; the caller adds file and row."""


@dataclass(frozen=True)
class Prompted:
    """A row as text. `targets` are the character spans [start, end) with a loss, in order and not empty."""

    text: str
    targets: tuple[tuple[int, int], ...]
    is_chat: bool = False
    """Whether a chat template has placed the special tokens. Otherwise the tokenizer adds its own."""


class Prompter(Protocol):
    """Turns a row into a text, or raises RowError."""

    def __call__(self, row: Mapping[str, Any]) -> Prompted:  # noqa: D102
        ...


@dataclass(frozen=True)
class TextFormat:
    """A built-in row format: the fields that it needs, and its templates."""

    fields: tuple[str, ...]
    prompt: str
    target: str
    optional: tuple[str, ...] = ()
    may_be_empty: tuple[str, ...] = ()


TEXT_FORMATS: dict[str, TextFormat] = {
    "translation": TextFormat(
        ("src_lang", "trg_lang", "src_text", "trg_text"),
        "Render the following {{ src_lang }} text faithfully in {{ trg_lang }}.\n"
        '{{ src_lang }}: "{{ src_text }}"\n'
        "{{ trg_lang }}:\n",
        "{{ trg_text }}",
    ),
    "instruction": TextFormat(
        ("instruction", "output"),
        "Task:\n{{ instruction }}\n\n{% if input %}Material:\n{{ input }}\n\n{% endif %}Answer:\n",
        "{{ output }}",
        optional=("input",),
    ),
    "completion": TextFormat(
        ("prompt", "completion"), "{{ prompt }}", "{{ completion }}", may_be_empty=("prompt",)
    ),
}  # fmt: skip

NEEDED_FIELDS: dict[str, tuple[str, ...]] = {
    "tokens": ("input_ids", "labels"),
    "messages": ("messages",),
    **{name: text_format.fields for name, text_format in TEXT_FORMATS.items()},
}
"""The fields that each row format needs. :func:`detect_format` tries the formats in this order."""


def detect_format(fields: Iterable[str], where: str = "the first row") -> RowFormat:
    """Return the first row format whose fields are all present.

    Raises:
        CorpusError: naming `where`, the fields of the row and the fields that each format needs.
    """
    present = list(fields)
    for name, needed in NEEDED_FIELDS.items():
        if set(needed) <= set(present):
            return name  # type: ignore[return-value]
    formats = "; ".join(f"{name}: {', '.join(needed)}" for name, needed in NEEDED_FIELDS.items())
    raise CorpusError(
        f"{where}: the fields ({', '.join(present) or 'none'}) are those of no known row format ({formats}); for other"
        " fields give prompt_template and target_template"
    )


def resolve_format(options: DataOptions, corpus: Corpus) -> RowFormat:
    """Return the row format of a corpus.

    It is "template" if the options have templates, else `row_format`, else the format of the first row's fields.

    Raises:
        CorpusError: if the fields are those of no known format.
        ConfigError: if templates are given for rows of the format tokens.
    """
    if options.prompt_template is not None:
        if options.row_format == "tokens":
            raise ConfigError(
                "prompt_template: rows of the format tokens have no text; give no templates or another row_format"
            )
        return "template"
    return detect_format(corpus.fields, corpus.where(0)) if options.row_format == "auto" else options.row_format


class TemplatePrompter:
    """Forms prompts by the templates of a text format, or by templates of the user.

    Raises:
        ConfigError: on a syntax error in a template, naming the template and the line.
    """

    def __init__(self, row_format: RowFormat, prompt: str | None = None, target: str | None = None) -> None:
        environment = ImmutableSandboxedEnvironment(
            undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
        )
        self._format = TEXT_FORMATS[row_format] if prompt is None else None
        templates = {
            "prompt_template": self._format.prompt if self._format else prompt,
            "target_template": self._format.target if self._format else target,
        }
        self._templates: dict[str, Template] = {}
        for name, source in templates.items():
            try:
                self._templates[name] = environment.from_string(source or "")
            except TemplateSyntaxError as error:
                raise ConfigError(f"{name}, line {error.lineno}: {error.message}") from None

    def __call__(self, row: Mapping[str, Any]) -> Prompted:
        """Form the text of a row.

        Raises:
            RowError: if a field is missing, is not text or is empty, or if the target is empty.
        """
        if self._format:
            fields = (*self._format.fields, *self._format.optional)
            row = {field: self._field(row, field, self._format) for field in fields}
        prompt, target = (self._render(name, row) for name in ("prompt_template", "target_template"))
        return Prompted(prompt + target, ((len(prompt), len(prompt) + len(target)),))

    @staticmethod
    def _field(row: Mapping[str, Any], field: str, text_format: TextFormat) -> str:
        if field in text_format.optional and row.get(field) is None:
            return ""
        if field not in row:
            raise RowError(f"field {field!r} is missing; the row has: {', '.join(row) or 'no field'}")
        may_be_empty = field in text_format.may_be_empty or field in text_format.optional
        return checked_text(row[field], f"field {field!r}", may_be_empty=may_be_empty)

    def _render(self, name: str, row: Mapping[str, Any]) -> str:
        try:
            text = self._templates[name].render(row)
        except TemplateError as error:
            raise RowError(f"{name}: {error.message}; the row has: {', '.join(row) or 'no field'}") from None
        except Exception as error:  # a template may call any filter or method of a value
            raise RowError(f"{name}: {type(error).__name__}: {error}") from None
        return checked_text(text, name, may_be_empty=name == "prompt_template")


def checked_text(value: Any, what: str, *, may_be_empty: bool) -> str:
    """Return `value` if it is text that can be tokenized.

    Raises:
        RowError: naming `what`, if `value` is not a string, is blank, or holds half of a surrogate pair. JSON can hold
            that half; UTF-8 cannot.
    """
    if not isinstance(value, str):
        raise RowError(f"{what}: expected text, got {'null' if value is None else type(value).__name__}")
    if not may_be_empty and not value.strip():
        raise RowError(f"{what} is empty")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            code = ord(value[error.start])
            raise RowError(f"{what}: U+{code:04X} at character {error.start} is half of a surrogate pair") from None
    return value
