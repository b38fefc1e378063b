"""The chosen rows in the format of a training program, and what that program would not read of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gdig.config.options import OutputFormat
from gdig.data.conversions import alternates, convert, has_silent_turns, has_tools
from gdig.data.dataset_info import remove_entry, write_entry
from gdig.data.row_forms import RowError
from gdig.errors import CorpusError, OutputError
from gdig.nouns import counted
from gdig.run.session import Workspace


class Conversion:
    """Makes rows of another format of the pool's rows.

    Args:
        work: the pool, its readers, and for tokens its encoder.
        output_format: the format.
    """

    def __init__(self, work: Workspace, output_format: OutputFormat) -> None:
        self._work, self._format = work, output_format
        # Rows by number: a Parquet file is written in two passes.
        self._with_tools: set[int] = set()
        self._silent: set[int] = set()
        self._out_of_turn: set[int] = set()

    def __call__(self, row: int, content: dict[str, Any]) -> dict[str, Any]:
        """Return a row in the format.

        Args:
            row: its number in the pool.
            content: its fields.

        Raises:
            CorpusError: naming the row, if the format has no place for what it holds.
        """
        if self._format == "tokens":
            return self._tokens(row)
        work, corpus = self._work, self._work.candidates
        try:
            converted = convert(work.readers[0][corpus.file_of(row)](content), self._format)
        except RowError as error:
            raise OutputError(f"{corpus.where(row)}: format={self._format}: {error}") from None
        if self._format == "messages":
            self._with_tools |= {row} if has_tools(converted) else set()
            self._silent |= {row} if has_silent_turns(converted) else set()
        if self._format != "alpaca":
            self._out_of_turn |= set() if alternates(converted) else {row}
        return converted

    def finish(self, output: Path) -> None:
        """Name the file in dataset_info.json where LLaMA-Factory can read it, and warn of what would be trained
        otherwise than it was measured.

        Args:
            output: the file of the converted rows.

        Raises:
            CorpusError: if the file dataset_info.json is damaged or cannot be written.
        """
        progress = self._work.progress
        if self._format == "tokens":
            remove_entry(output)
            return
        if not self._work.config.chat_template:
            progress.warn(
                f"format={self._format}: the rows were measured without a chat template (chat_template=False), but a "
                "training program puts turns through its own"
            )
        if self._silent:
            silent = counted(len(self._silent), "row has", "rows have")
            progress.warn(
                f"format=messages: {silent} turns without a loss (weight, train or loss), which "
                "most programs train on; choose the format tokens, which holds the labels"
            )
        if self._with_tools:
            remove_entry(output)
            with_tools = counted(len(self._with_tools), "row has", "rows have")
            progress.say(
                f"{output}: not named for LLaMA-Factory: {with_tools} tools, "
                "which it reads from the format sharegpt alone"
            )
        elif entry := write_entry(output, self._format):
            skips = f", which skips {counted(len(self._out_of_turn), 'row')} whose turns do not alternate"
            progress.say(f"{entry}: names the file for LLaMA-Factory{skips if self._out_of_turn else ''}")

    def _tokens(self, row: int) -> dict[str, Any]:
        (example,) = self._work.encoder.encode(self._work.candidates, [row])
        if isinstance(example, CorpusError):
            raise example
        return {"input_ids": example.input_ids.tolist(), "labels": example.labels.tolist()}
