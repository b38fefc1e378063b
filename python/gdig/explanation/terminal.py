"""An explanation as text for the terminal, coloured where the terminal has colours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.text import Text

from gdig.control_characters import visible
from gdig.data.show import shortened
from gdig.explanation.facts import NEAR, Facts, NearRow, Piece, Place, RowExplanation, SeedExplanation

_WIDTH = 160
"""Characters of a text that stands on one line."""
_SHADES = 5
"""Shades of green for tokens that help, and of red for tokens that harm."""
_N_LAYERS = 8


def explanation_lines(facts: Facts) -> list[Text]:
    """Return the lines of an explanation. `str(line)` is the same line without colour."""
    lines: list[Text] = [Text(f"note: {note}", style="yellow") for note in facts.notes]
    for row in facts.rows:
        lines += [*_row(row, facts.method), Text()]
    for seed in facts.seeds:
        lines += [*_seed(seed), Text()]
    return lines[:-1] if lines else lines


def one_line(text: str, most: int = _WIDTH) -> str:
    """Return a text on one line, without its middle where it is long."""
    return shortened(visible(" ".join(text.split())), most)


def _row(row: RowExplanation, method: str) -> Iterator[Text]:
    number = "a row outside the pool" if row.row is None else f"row {row.row}"
    yield Text(f"{number}: {visible(row.where)}", style="bold cyan")
    if row.problem is not None:
        yield Text(f"  cannot be selected: {visible(row.problem)}", style="red")
        return
    yield Text(f"  {_whether_chosen(row, method)}")
    yield Text(f"  {_figures(row)}")
    yield from _text(row)
    for title, effects, style in (("helps most", row.helped, "green"), ("harms most", row.harmed, "red")):
        if effects:
            yield Text(f"  {title}", style="bold")
        for effect in effects:
            rank = f"rank {effect.rank:,} of {row.pool_rows:,} for this seed"
            yield Text(f"    seed {effect.seed}  {effect.relative:+.3g}  ({rank})  ", style=style).append(
                one_line(effect.text), style="default"
            )
    yield from _places(row.places)
    yield from _cluster(row)
    yield from _layers(row)


def _whether_chosen(row: RowExplanation, method: str) -> str:
    if row.row is None:
        return "as it would be in the pool"
    if row.chosen_of is None:
        return "nothing is selected yet"
    if row.chosen_place is None:
        return f"not among the {row.chosen_of:,} rows that {method} chose"
    return f"chosen by {method}: place {row.chosen_place:,} of {row.chosen_of:,}"


def _figures(row: RowExplanation) -> str:
    figures = []
    if row.score is not None and row.votes is not None:
        figures += [f"score {row.score:.3g}", f"agreement {row.votes / row.voters:.3f} ({row.votes} of {row.voters})"]
    figures.append(f"loss {row.loss:.3f}")
    if row.seen is not None:
        figures.append(f"{row.seen.tokens} tokens, {row.seen.target_tokens} of them target")
        if row.seen.cut:
            figures.append(f"{row.seen.cut} cut to fit the window")
    return "; ".join(figures)


def _text(row: RowExplanation) -> Iterator[Text]:
    """The row as the model saw it: the target in ⟦ ⟧, tokens that help green, tokens that harm red."""
    if row.seen is None:
        return
    largest = max((abs(piece.influence) for piece in row.seen.pieces), default=0.0)
    body, target = Text("  "), False
    for piece in row.seen.pieces:
        if piece.target != target:
            body.append("⟦" if piece.target else "⟧")
            target = piece.target
        body.append(visible(piece.text).replace("\n", "\n  "), style=_shade(piece, largest))
    yield body.append("⟧" if target else "")
    if row.sums is None:
        return
    stored = "" if row.sums.stored is None else f"; the sweep has stored {row.sums.stored:.6g}"
    yield Text(f"  mean influence {row.sums.tokens:.6g}, the sum over the tokens{stored}", style="dim")
    strongest = row.seen.strongest()
    shown = ", ".join(f"{one_line(piece.name, 20)} {piece.influence:+.2g}" for piece in strongest)
    yield Text(f"  strongest tokens: {shown}", style="dim")


def _shade(piece: Piece, largest: float) -> str:
    if not largest or not piece.influence:
        return "default" if piece.target else "dim"
    depth = round(_SHADES * abs(piece.influence) / largest)
    level = 38 + 20 * depth  # dark enough for white letters, whatever the colours of the terminal
    if depth == 0:
        return "default" if piece.target else "dim"
    return f"white on rgb(0,{level},0)" if piece.influence > 0 else f"white on rgb({level},0,0)"


def _places(places: Iterable[Place]) -> Iterator[Text]:
    shown = [_place(place) for place in places]
    if shown:
        yield Text("  by method", style="bold")
        for start in range(0, len(shown), 2):
            yield Text("    " + "".join(text.ljust(46) for text in shown[start : start + 2]).rstrip())


def _place(place: Place) -> str:
    if place.chosen:
        return f"{place.method:<12} chosen, {place.place:,} of {place.of:,}"
    if place.place is not None:
        return f"{place.method:<12} place {place.place:,} of {place.of:,}"
    return f"{place.method:<12} not among its {place.of:,}"


def _cluster(row: RowExplanation) -> Iterator[Text]:
    cluster = row.cluster
    if cluster is not None:
        others = f"other chosen rows of it: {cluster.chosen:,}" if row.chosen_of is not None else ""
        yield Text(
            f"  cluster {cluster.number}: {cluster.rows:,} rows, {cluster.nearer:,} of them nearer to its centroid"
            + (f"; {others}" if others else ""),
            style="bold",
        )
        yield from (_near(near) for near in cluster.best)
    if row.near:
        yield Text("  nearest rows, by the cosine of the sketches", style="bold")
        yield from (_near(near) for near in row.near)
    if row.repeats:
        more = ", ..." if len(row.repeats) > _N_LAYERS else ""
        rows = ", ".join(map(str, row.repeats[:_N_LAYERS]))
        yield Text(f"  the same tokens as {len(row.repeats):,} other rows: {rows}{more}", style="yellow")


def _near(near: NearRow) -> Text:
    marks = ["repeat"] if near.repeat else ["near-repeat"] if near.cosine >= NEAR else []
    if near.place is not None:
        marks.append(f"chosen, place {near.place:,}")
    note = f" ({', '.join(marks)})" if marks else ""
    return Text(f"    row {near.row}  {near.cosine:+.3f}{note}  {one_line(near.text)}")


def _layers(row: RowExplanation) -> Iterator[Text]:
    if not row.layers:
        return
    yield Text("  layers with the largest share of the influence", style="bold")
    largest = max(layer.share for layer in row.layers) or 1  # 0 for a row that no layer gets a gradient from
    for layer in sorted(row.layers, key=lambda layer: -layer.share)[:_N_LAYERS]:
        bar = "█" * round(20 * layer.share / largest)
        yield Text(f"    {layer.share:6.1%}  {layer.influence:<+8.2g}  {bar:<20}  {layer.name}")


def _seed(seed: SeedExplanation) -> Iterator[Text]:
    yield Text(f"seed {seed.seed}: {visible(seed.where)}", style="bold cyan")
    yield Text(f"  {one_line(seed.text)}")
    chosen = "" if seed.chosen_share is None else f" and {seed.chosen_share:.1%} of the chosen rows"
    yield Text(f"  helped by {seed.helped_share:.1%} of the pool{chosen}; loss {seed.loss:.3f}")
    yield Text(f"  correlation of its influences with the mean of the other seeds': {seed.agreement:+.3f}")
    for title, rows, style in (("helped most by", seed.best, "green"), ("harmed most by", seed.worst, "red")):
        yield Text(f"  {title}", style="bold")
        for row in rows:
            place = "" if row.place is None else f"  chosen, place {row.place:,}"
            yield Text(f"    row {row.row}  {row.influence:+.3g}{place}  ", style=style).append(
                one_line(row.text), style="default"
            )
