"""The figures of the documentation: tables between marks, and sentences, both from the records.

    python -m benches.figures           # after a bench: write every table anew
    python -m benches.figures --check   # say which pages differ from the records, and write nothing

A mark is a comment, which GitHub and the site do not show: <!-- figures: NAME --> before a table, <!-- end --> behind.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from benches.figures_parts import (
    costs,
    language_tables,
    layers,
    pretrained,
    pretrained_ahead,
    pretrained_others,
    real_pairs,
    redundancy_tables,
)
from benches.figures_parts.sentences import SENTENCES
from benches.shared.machine import ROOT

TABLES: dict[str, Callable[[], str]] = {
    "experts": costs.experts,
    "layers": layers.worth,
    "methods": pretrained.methods,
    "parity": costs.parity,
    "plan": costs.plan,
    "pretrained": pretrained.rules,
    "pretrained, README": pretrained.readme,
    "pretrained, ahead": pretrained_ahead.ahead,
    "pretrained, ahead after longer trainings": pretrained_ahead.ahead_longer,
    "pretrained, answers": pretrained.answers,
    "pretrained, budgets": pretrained.budgets,
    "pretrained, counterfactuals": pretrained.counterfactuals,
    "pretrained, effects": pretrained.effects,
    "pretrained, predicts": pretrained.datamodels,
    "pretrained, languages": pretrained.languages,
    "pretrained, longer": pretrained.longer,
    "pretrained, losing": pretrained.losing,
    "pretrained, others": pretrained_others.of_one_target,
    "pretrained, others, not behind": pretrained_others.not_behind,
    "pretrained, others, elsewhere": pretrained_others.elsewhere,
    "pretrained, pairs": pretrained.pairs,
    "pretrained, whole model": pretrained.whole_model,
    "predicts": language_tables.predicts,
    "predicts, all": language_tables.predicts_all,
    "real pairs, defaults": real_pairs.defaults_told_apart,
    "real pairs, defaults, chosen": real_pairs.defaults_chosen,
    "real pairs, drops": real_pairs.drops,
    "real pairs, drops, all": real_pairs.drops_all,
    "real pairs, drops, the paper's protocol": real_pairs.drops_in_the_papers_protocol,
    "real pairs, told apart": real_pairs.told_apart,
    "real pairs, told apart, larger": real_pairs.told_apart_larger,
    "redundancy, recall": redundancy_tables.recall,
    "redundancy, steps": redundancy_tables.steps,
    "redundancy, alarms": redundancy_tables.alarms,
    "removals": language_tables.removals,
    "report": costs.report,
    "rows an hour": costs.rows_an_hour,
    "seeds": real_pairs.seeds,
    "selections": language_tables.selections,
    "selections, all": language_tables.selections_all,
    "selections, references": language_tables.references,
    "selections, tenth": language_tables.tenth,
    "speed": costs.speed,
    "spoiled seeds": real_pairs.spoiled_seeds,
}
_BLOCK = re.compile(r"(<!-- figures: (.+?) -->\n)(.*?)(<!-- end -->)", re.S)


def pages() -> list[Path]:
    """README and the pages of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def written(text: str) -> str:
    """Return a page with each marked table as the records give it.

    Raises:
        KeyError: of a mark that no table has.
    """
    return _BLOCK.sub(lambda match: f"{match[1]}\n{TABLES[match[2]]()}\n\n{match[4]}", text)


def differences() -> list[str]:
    """What differs from the records: pages whose tables do, and sentences that a page does not have."""
    faults = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if written(text) != text:
            faults.append(f"{page.relative_to(ROOT)}: a table differs from the records; run python -m benches.figures")
    for name, sentence in SENTENCES:
        text = " ".join((ROOT / name).read_text(encoding="utf-8").split())
        if (said := sentence()) not in text:
            faults.append(f"{name}: expected, from the records: {said}")
    return faults


def main() -> None:
    """Write the tables, then say which sentences have to be written by hand."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 if something differs")
    if not parser.parse_args().check:
        for page in pages():
            text = page.read_text(encoding="utf-8")
            if (new := written(text)) != text:
                page.write_text(new, encoding="utf-8")
                print(f"written: {page.relative_to(ROOT)}")
    faults = differences()
    print("\n".join(faults) if faults else "every figure is that of its record")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
