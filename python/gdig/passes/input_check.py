"""The check of the inputs that begins a run: every row becomes tokens once, before a model is loaded."""

from __future__ import annotations

from gdig.data.check_rows import check_rows, summary_of
from gdig.errors import BadRowError
from gdig.nouns import counted
from gdig.run.session import Workspace


def check_inputs(work: Workspace) -> int:
    """Check every seed and every row of the pool, and return the tokens of the pool.

    A start that goes on in the fit checks them again: that takes little beside a pass of the model, and the rows are
    those of now.

    Raises:
        CorpusError: on a seed that cannot be used; on a row of the pool that cannot be used, when bad_rows is "error";
            or when no row of the pool can be used.
    """
    _ = work.seed_examples
    pool = work.candidates
    with work.progress.stage("check", len(pool)) as bar:
        reports = check_rows(pool, work.encoder, bar.advance, stop=work.config.bad_rows == "error")
    not_whole = sum(report.not_whole for report in reports)
    seeds_not_whole = sum(not example.is_whole for example in work.seed_examples)
    if not_whole or seeds_not_whole:
        work.progress.warn(
            "the chat template leaves out the text of a turn, such as the system's, in "
            f"{counted(not_whole, 'row')} of the pool and {counted(seeds_not_whole, 'seed')}; gdig preview shows what "
            "is left. A training with this template does not see it either"
        )
    bad = sum(report.bad for report in reports)
    if bad == len(pool):
        first = next(report.first_error for report in reports)
        raise BadRowError(f"candidates: none of the {counted(bad, 'row')} can be used; the first: {first}")
    work.progress.say(summary_of("candidates", reports) + (f"; {counted(bad, 'row')} cannot be used" if bad else ""))
    return sum(report.tokens for report in reports)
