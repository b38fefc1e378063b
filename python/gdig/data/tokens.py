"""From rows to token sequences with labels, in the Hugging Face convention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gdig.config.options import DataOptions, RowFormat
from gdig.data.prompts import Prompted, Prompter
from gdig.data.rendering import make_prompter, rendering_of
from gdig.data.row_formats import RowReader, make_reader
from gdig.data.row_forms import RowError
from gdig.data.token_rows import IGNORED, checked_tokens
from gdig.errors import BadRowError, ConfigError, CorpusError, MissingModelError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from gdig.data.corpus import Corpus

_CHUNK = 512  # rows in one call of the tokenizer, which spreads them over threads


@dataclass(frozen=True, eq=False)
class Example:
    """A row as the model sees it. The model pass shifts tokens and labels by one."""

    input_ids: np.ndarray
    """int32 [T]"""
    labels: np.ndarray
    """int32 [T]: -100 where there is no loss. Elsewhere `input_ids`, or the given labels of a row of tokens."""
    cut: int = 0
    """Number of tokens that were removed to fit the window."""
    is_whole: bool = True
    """Whether the chat template has rendered the text of every turn."""

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def n_target(self) -> int:
        """Number of positions with a loss. The first position has none, because no token before it predicts it."""
        return int(np.count_nonzero(self.labels[1:] != IGNORED))

    @cached_property
    def hash(self) -> int:
        """Hash of tokens and labels (blake2b, 64 bits, unsigned). Equal content has the same hash on every machine."""
        digest = blake2b(np.int64(len(self)).astype("<i8").tobytes(), digest_size=8)
        digest.update(self.input_ids.astype("<i4").tobytes())
        digest.update(self.labels.astype("<i4").tobytes())
        return int.from_bytes(digest.digest(), "little")


class Encoder:
    """Turns rows of one corpus into examples.

    - Prompt and target are tokenized together, so no token boundary is forced between them. A token that reaches past
      the boundary counts as target.
    - The tokenizer adds BOS as usual.
    - A text ends with EOS exactly once, or without EOS if the tokenizer has none (`has_eos`).
    - A conversation ends as its chat template ends the turn. If the template adds no special token, EOS is added.
    - A row that is longer than the window is cut: first the left of its prompt (but not BOS), then the right of its
      target.

    Args:
        options: chat_template and max_length.
        readers: the reader of each file, as `open_readers` returns them; or the row format of all files.
        tokenizer: a fast tokenizer. None only for rows of the format tokens.
        window: the model's longest input, in tokens. max_length lowers the window.
        vocab_size: number of token ids. Rows of the format tokens are checked against it.
        today: the date that a chat template sees. None: that of the machine.

    Attributes:
        renderings: how the rows of each file become text (:func:`gdig.data.rendering.rendering_of`).

    Raises:
        ConfigError: if a tokenizer is needed and missing, if a template is wrong, or if rows need the chat template and
            the option chat_template is off.
        ModelError: if the tokenizer does not tell which characters a token covers, or has no chat template.
    """

    def __init__(
        self,
        options: DataOptions,
        readers: Sequence[RowReader] | RowFormat,
        tokenizer: PreTrainedTokenizerBase | None,
        window: int,
        *,
        vocab_size: int | None = None,
        today: date | None = None,
    ) -> None:
        self._reader_of_all = make_reader(readers, options) if isinstance(readers, str) else None
        self.readers: tuple[RowReader, ...] = (self._reader_of_all,) if self._reader_of_all else tuple(readers)  # type: ignore[arg-type]
        self.tokenizer = tokenizer
        self.window = min(window, options.max_length or window)
        self.vocab_size = vocab_size
        self._bos = tokenizer.bos_token_id if tokenizer is not None else None
        self._eos = tokenizer.eos_token_id if tokenizer is not None else None
        self._prompter: Prompter | None = None
        of_text = [reader.format for reader in self.readers if reader.format != "tokens"]
        self.renderings = ("tokens",) * len(self.readers)
        if not of_text:
            return
        if tokenizer is None:
            raise ConfigError(
                f"tokenizer: rows of the format {of_text[0]} need one, got none; give a model with a tokenizer"
            )
        if not tokenizer.is_fast:
            raise ModelError(
                f"{tokenizer.name_or_path}: a slow tokenizer, expected a fast one (tokenizer.json), which tells the"
                " characters of a token and so separates prompt from target; convert the tokenizer, or give rows that"
                " hold input_ids and labels"
            )
        self.renderings = tuple(rendering_of(options, tokenizer, reader) for reader in self.readers)
        self._prompter = make_prompter(options, tokenizer, self.readers, today)
        self._special_ids = {*tokenizer.all_special_ids}
        self._special_ids |= {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}

    @property
    def has_eos(self) -> bool:
        """Whether texts end with EOS. False if the tokenizer has no EOS."""
        return self._eos is not None

    def reader_of(self, file: int) -> RowReader:
        """Return the reader of a file by its number."""
        return self._reader_of_all or self.readers[file]

    def rendering_of(self, file: int) -> str:
        """Return how the rows of a file become text (:func:`gdig.data.rendering.rendering_of`)."""
        return self.renderings[0 if self._reader_of_all else file]

    def encode(self, corpus: Corpus, rows: Sequence[int] | np.ndarray) -> list[Example | CorpusError]:
        """Encode rows, in the order given.

        Returns:
            For each row its example, or an error that names file, row and field. The caller decides whether to stop.

        Raises:
            CorpusError: if the file can no longer be read.
        """
        return [
            result
            for start in range(0, len(rows), _CHUNK)
            for result in self._encode_chunk(corpus, rows[start : start + _CHUNK])
        ]

    def _encode_chunk(self, corpus: Corpus, rows: Sequence[int] | np.ndarray) -> Iterator[Example | CorpusError]:
        readers = (self._reader_of_all,) * corpus.n_files if self._reader_of_all else self.readers
        columns = [reader.columns for reader in readers]
        if isinstance(rows, range) and rows.step == 1:
            contents = corpus.rows(rows.start, rows.stop, columns)
        else:
            contents = corpus.take(rows, columns)
        encoded = self._tokenize([(readers[corpus.file_of(row)], c) for row, c in zip(rows, contents, strict=True)])
        for row, result in zip(rows, encoded, strict=True):
            try:
                if isinstance(result, RowError):
                    raise result
                yield self._fit(*result)
            except RowError as error:
                yield BadRowError(f"{corpus.where(row)}: {error}")

    def _tokenize(
        self, contents: list[tuple[RowReader, dict[str, Any]]]
    ) -> Iterator[tuple[np.ndarray, np.ndarray, bool] | RowError]:
        prepared: list[Prompted | tuple[np.ndarray, np.ndarray, bool] | RowError] = []
        for reader, content in contents:
            try:
                if reader.format == "tokens":
                    prepared.append((*checked_tokens(content, self.vocab_size), True))
                else:
                    assert self._prompter is not None
                    prepared.append(self._prompter(reader(content)))
            except RowError as error:
                prepared.append(error)
        texts = [item for item in prepared if isinstance(item, Prompted)]
        tokens = {
            is_chat: self._tokens([t.text for t in texts if t.is_chat == is_chat], is_chat) for is_chat in (False, True)
        }
        for item in prepared:
            yield self._label(item, *next(tokens[item.is_chat])) if isinstance(item, Prompted) else item

    def _tokens(self, texts: list[str], is_chat: bool) -> Iterator[tuple[list[int], list[tuple[int, int]]]]:
        """Return the ids and the offsets of each text. A chat template has placed the special tokens of a chat."""
        if not texts:
            return iter(())
        assert self.tokenizer is not None
        with _explained(self.tokenizer.name_or_path, "fails on a row"):
            encodings = self.tokenizer(
                texts,
                add_special_tokens=not is_chat,
                return_offsets_mapping=True,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )
        return zip(encodings["input_ids"], encodings["offset_mapping"], strict=True)

    def _label(
        self, item: Prompted, ids: list[int], offsets: list[tuple[int, int]]
    ) -> tuple[np.ndarray, np.ndarray, bool] | RowError:
        is_target = np.zeros(len(ids), dtype=bool)
        starts, ends = np.array(offsets, dtype=np.int64).reshape(-1, 2).T
        for first, last in item.targets:
            is_target |= (ends > first) & (starts < last)
        if not item.is_chat:
            # The last target goes to the end: EOS, which the tokenizer may append, covers no character.
            boundary = item.targets[-1][0]
            is_target[next((t for t, (_, end) in enumerate(offsets) if end > boundary), len(ids)) :] = True
        if not is_target.any():
            return RowError("the tokenizer makes no token of the target")
        while len(ids) > 1 and ids[-1] == ids[-2] == self._eos:
            ids = ids[:-1]
        has_end = ids[-1] in self._special_ids if item.is_chat else ids[-1] == self._eos
        if not has_end and self._eos is not None:
            ids = [*ids, self._eos]
        is_target = np.append(is_target, True)[: len(ids)]
        input_ids = np.array(ids, dtype=np.int32)
        return input_ids, np.where(is_target, input_ids, np.int32(IGNORED)), item.is_whole

    def _fit(self, input_ids: np.ndarray, labels: np.ndarray, is_whole: bool) -> Example:
        """Cut a row to the window, and check that a target token is left."""
        over = max(0, len(input_ids) - self.window)
        if over:
            targets = np.flatnonzero(labels != IGNORED)
            prompt = int(targets[0]) if len(targets) else len(labels)
            bos = int(prompt > 0 and input_ids[0] == self._bos)
            cut_of_prompt = min(over, prompt - bos)
            positions = np.r_[0:bos, bos + cut_of_prompt : len(labels)][: self.window]
            input_ids, labels = input_ids[positions], labels[positions]
        if self.vocab_size is not None and (top := int(input_ids.max(initial=0))) >= self.vocab_size:
            raise RowError(
                f"the tokenizer gives token {top}, expected 0 to {self.vocab_size - 1}, the tokens of the model; give"
                " the tokenizer of this model"
            )
        example = Example(input_ids, labels, over, is_whole)
        if example.n_target == 0:
            cut = f" within the window of {self.window} tokens ({over} cut)" if over else ""
            raise RowError(f"nothing to learn: no token of the target follows another token{cut}")
        return example


def load_tokenizer(
    path: str | Path, trust_remote_code: bool = False, base: Path | None = None
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a directory. For a PEFT adapter without a tokenizer, load that of its `base` model.

    Raises:
        ModelError: naming the directory, if it does not exist or holds no tokenizer that can be loaded.
    """
    from transformers import AutoTokenizer

    path = Path(path)
    if not path.is_dir():
        raise MissingModelError(f"{path}: no such directory; expected one with a tokenizer in Hugging Face format")
    if base is not None and (path / "adapter_config.json").is_file() and not (path / "tokenizer_config.json").is_file():
        path = base
    with _explained(path, "cannot be loaded"):
        return AutoTokenizer.from_pretrained(str(path), trust_remote_code=trust_remote_code, local_files_only=True)


def decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Return the text of tokens, special ones among them.

    Raises:
        ModelError: naming the tokenizer, if it fails.
    """
    with _explained(tokenizer.name_or_path, "fails on tokens"):
        return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


@contextmanager
def _explained(path: str | Path, what: str) -> Iterator[None]:
    """Raise ModelError in the place of whatever a tokenizer raises: on damaged files these are many kinds.

    Rust gives up by a panic, also where a search for a pattern of the tokenizer takes too many steps. Its exception is
    none of Python's `Exception`, and its class can be imported from nowhere.
    """
    try:
        yield
    except BaseException as error:
        is_panic = (type(error).__module__, type(error).__name__) == ("pyo3_runtime", "PanicException")
        if not (isinstance(error, Exception) or is_panic):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(f"{path}: the tokenizer {what}: {reason or type(error).__name__}") from None
