"""What the stages of one run share, opened when first needed: a finished stage costs neither model nor tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from gdig.config.config import Config
from gdig.data.corpus import Corpus, open_corpus
from gdig.data.fingerprint import fingerprint_paths
from gdig.distributed.ranks import Ranks
from gdig.errors import CorpusError, RunError
from gdig.philox import stream_key
from gdig.progress import Progress
from gdig.run.directory import Run
from gdig.run.layout import RunLayout
from gdig.run.lock import lock, unlock
from gdig.run.output_places import check_place

if TYPE_CHECKING:
    from gdig.data.row_formats import RowReader
    from gdig.data.sample import Sample
    from gdig.data.tokens import Encoder, Example
    from gdig.model.causal_model import Model
    from gdig.model.directory import Limits


_NO_LIMIT = 1 << 30
"""Window of a model that states none, in tokens."""


class Workspace:
    """Inputs, model and run directory of one configuration. Opening a part may raise the errors of that part.

    Of several ranks each has its own; the run's record (`run`) is for rank 0 alone.

    Args:
        config: the options.
        progress: where to show progress.
        ranks: the processes that take part; None for this process alone.
        today: the day that chat templates see. None: that of the run, or of the machine where no run is open.
        first_rows: rows of the pool that the fit sees. None: those of the run's first files, or of all.
    """

    def __init__(
        self,
        config: Config,
        progress: Progress,
        ranks: Ranks | None = None,
        *,
        today: date | None = None,
        first_rows: int | None = None,
    ) -> None:
        self.config = config
        self._first_rows = first_rows
        self._today = today
        self.progress = progress
        self.ranks = ranks or Ranks()
        self._samples: dict[tuple[str, int], Sample] = {}

    def __enter__(self) -> Workspace:
        if self.ranks.main:
            _ = self.run  # take the lock and compare with what is there before anything is computed
            first = self.first_rows
            self.ranks.task("open", config=self.config.to_dict(), today=self.today.isoformat(), first_rows=first)
        else:
            self._lock = lock(self.layout.ranks_lock, exclusive=False)  # until this rank has ended
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if "run" in self.__dict__:
            self.run.close()
        elif not self.ranks.main:
            unlock(self._lock)

    @property
    def path(self) -> Path:
        """The run directory."""
        return Path(str(self.config.run_path))

    @cached_property
    def layout(self) -> RunLayout:
        """Paths of the run directory."""
        return RunLayout(self.path)

    @cached_property
    def run(self) -> Run:
        """The run directory, locked."""
        return Run(self.config, self._inputs(), self.progress)

    @property
    def today(self) -> date:
        """The day that chat templates see: in a run, the day on which its fit began."""
        if self._today is None:
            self._today = date.fromisoformat(self.run.record.date) if "run" in self.__dict__ else date.today()
        return self._today

    @cached_property
    def candidates(self) -> Corpus:
        """The pool."""
        return open_corpus(self.config.candidates, name="candidates")

    @property
    def first_rows(self) -> int:
        """Rows of the pool that the fit sees: those of the files that the run began with."""
        if self._first_rows is not None:
            return self._first_rows
        growth = self.run.sweep.growth if "run" in self.__dict__ else ()
        return growth[0].first_row if growth else len(self.candidates)

    @property
    def swept_rows(self) -> int:
        """Rows of the whole sweep: of the pool, or of all files of the run where this start gives fewer."""
        has_more = "run" in self.__dict__ and self.run.has_more_files
        return (self.run.sweep.rows or 0) if has_more else len(self.candidates)

    @cached_property
    def seed_corpus(self) -> Corpus:
        """The seeds' rows."""
        return open_corpus(self.config.seeds, name="seeds")

    @cached_property
    def limits(self) -> Limits:
        """The model's window and vocabulary."""
        from gdig.model.directory import read_limits

        return read_limits(self.config)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, with the user's chat template if one is given. Rows that hold their tokens need none."""
        from gdig.data.tokens import load_tokenizer
        from gdig.model.directory import model_directory
        from gdig.model.hub import model_folder

        config = self.config
        folder = model_folder(config.tokenizer, "tokenizer") if config.tokenizer else self._model_folder()
        base = None if config.tokenizer else model_directory(config)
        tokenizer = load_tokenizer(folder, config.trust_remote_code, base)
        if self._own_chat_template is not None:
            tokenizer.chat_template = self._own_chat_template
        return tokenizer

    @cached_property
    def _own_chat_template(self) -> str | None:
        """The chat template of chat_template_file."""
        from gdig.data.template_file import read_chat_template

        file = self.config.chat_template_file
        return read_chat_template(Path(file)) if file is not None else None

    @cached_property
    def encoder(self) -> Encoder:
        """Turns rows of the pool into tokens."""
        return self._encoder(self.readers[0])

    @cached_property
    def seed_encoder(self) -> Encoder:
        """Turns seeds into tokens."""
        return self._encoder(self.readers[1])

    @cached_property
    def readers(self) -> list[tuple[RowReader, ...]]:
        """The readers of the files of the pool, and of the seeds where there are any.

        Raises:
            CorpusError: naming a file whose rows have no known format.
            ConfigError: naming an option of a column that no file has.
        """
        from gdig.data.row_formats import open_readers, require_columns

        corpora = [self.candidates, *([self.seed_corpus] if self.config.seeds else [])]
        readers = [open_readers(self.config, corpus) for corpus in corpora]
        require_columns(self.config, list(zip(corpora, readers, strict=True)))
        return readers

    @property
    def renderings(self) -> dict[str, tuple[str, ...]]:
        """How the rows of each file become text, of `candidates` and of `seeds`."""
        return {"candidates": self.encoder.renderings, "seeds": self.seed_encoder.renderings}

    @cached_property
    def seed_examples(self) -> list[Example]:
        """The seeds' tokens.

        Raises:
            CorpusError: on the first seed that cannot be used.
        """
        return _encode_all(self.seed_encoder, self.seed_corpus)

    def read_examples(self, corpus: Corpus) -> list[Example]:
        """The tokens of every row of another corpus of the run's kind.

        Raises:
            CorpusError: on the first row that cannot be used.
        """
        from gdig.data.row_formats import open_readers

        return _encode_all(self._encoder(open_readers(self.config, corpus)), corpus)

    @cached_property
    def model(self) -> Model:
        """The frozen model on its device."""
        import torch

        from gdig.model.load import load_model

        if self.config.threads is not None:
            torch.set_num_threads(self.config.threads)
        model = load_model(self.config.with_options(device=self.ranks.device(self.config.device)))
        self.progress.say(f"model: {model.describe()}")
        return model

    def forget_model(self) -> None:
        """Let go of the model, to make room for another; it is loaded again when it is asked for."""
        self.__dict__.pop("model", None)

    def sample(self, purpose: str, k: int) -> Sample:
        """Up to `k` usable candidates chosen by a hash of (random_seed, purpose). A sample is encoded once.

        Raises:
            CorpusError: on a row that cannot be used, when bad_rows is "error"; or when no row of the sample can.
        """
        from gdig.data.sample import sample_of_rows

        if (purpose, k) not in self._samples:
            key = stream_key(purpose, self.config.random_seed)
            self._samples[purpose, k] = sample_of_rows(
                self.encoder, self.candidates, k, key, self.config.bad_rows, self.first_rows
            )
        return self._samples[purpose, k]

    @cached_property
    def fit_sample(self) -> Sample:
        """The candidates that the curvature is fitted on, chosen by a hash of random_seed: `fit_tokens` tokens of them.

        Raises: as `sample`.
        """
        from gdig.data.sample import sample_of_tokens

        config, n = self.config, self.first_rows
        key = stream_key("curvature", config.random_seed)
        return sample_of_tokens(self.encoder, self.candidates, config.fit_tokens, key, config.bad_rows, n)

    def require_all_files(self, stop: int) -> None:
        """Raise RunError if this start gives fewer files of the pool than a read up to the row `stop` needs."""
        if stop > len(self.candidates):
            raise RunError(
                f"candidates: rows up to {stop - 1:,} have to be read, and these files hold {len(self.candidates):,}; "
                "give all files of the run once, then the earlier ones again"
            )

    def encoder_of(self, corpus: Corpus) -> Encoder:
        """Return what turns rows outside the pool into tokens: by the readers of the corpus's own files.

        Raises:
            CorpusError: naming a file whose rows have no known format.
        """
        from gdig.data.row_formats import open_readers

        return self._encoder(open_readers(self.config, corpus))

    def _encoder(self, readers: Sequence[RowReader]) -> Encoder:
        from gdig.data.tokens import Encoder

        limits = self.limits
        window = limits.window or _NO_LIMIT
        has_text = any(reader.format != "tokens" for reader in readers)
        encoder = Encoder(
            self.config,
            readers,
            self.tokenizer if has_text else None,
            window,
            vocab_size=limits.vocab_size,
            today=self.today,
        )
        if not encoder.has_eos and has_text:
            self.progress.warn("the tokenizer has no EOS token: examples end without one")
        return encoder

    def _model_folder(self) -> Path:
        """The directory of the model, or of the adapter."""
        from gdig.model.directory import named_directory

        return named_directory(self.config)

    def _base_model(self) -> Path | None:
        """The directory that an adapter names as its base."""
        from gdig.model.directory import model_directory

        path = model_directory(self.config)
        return None if path == self._model_folder() else path

    def open_inputs(self) -> None:
        """Open the files and folders of the inputs beside the rows, as a start does when it begins.

        Raises:
            ModelError: when the tokenizer, the model or its base is not there.
            ConfigError: when the chat template cannot be read.
        """
        from gdig.model.hub import model_folder

        self._base_model()
        if self.config.tokenizer:
            model_folder(self.config.tokenizer, "tokenizer")
        _ = self._own_chat_template

    def _inputs(self) -> dict[str, dict]:
        """Fingerprint every input."""
        inputs: dict[str, Sequence[str | Path]] = {
            "model": [self._model_folder()],
            "candidates": self.candidates.files,
            "seeds": self.seed_corpus.files,
        }
        if self.config.tokenizer:
            from gdig.model.hub import model_folder

            inputs["tokenizer"] = [model_folder(self.config.tokenizer, "tokenizer")]
        if self._own_chat_template is not None:
            inputs["chat_template_file"] = [str(self.config.chat_template_file)]
        if self.config.output:
            check_place("output", self.config.output, self.config)
        if (base := self._base_model()) is not None:
            inputs["base_model"] = [base]
        return {name: fingerprint_paths(paths) for name, paths in inputs.items()}


def _encode_all(encoder: Encoder, corpus: Corpus) -> list[Example]:
    """The tokens of every row; raises on the first that cannot be used."""
    encoded = encoder.encode(corpus, range(len(corpus)))
    for example in encoded:
        if isinstance(example, CorpusError):
            raise example
    return [example for example in encoded if not isinstance(example, CorpusError)]
