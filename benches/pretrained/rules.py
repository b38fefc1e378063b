"""Rules of choice, each a function of one pool's signals. A rule that wins here goes into the package."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benches.pretrained.order import blend, by_turns, even_draw, ranks, reaching, relative, steady, top
from benches.pretrained.shipped import shipped
from benches.pretrained.view import View
from gdig import resample

Rule = Callable[[View, int, int], np.ndarray]
"""f(view, k, random_seed) -> rows, the first choice first."""


def bids(view: View, k: int) -> np.ndarray:
    """BIDS (arXiv 2501.12147)."""
    z, total, chosen = relative(view.influence), np.zeros(view.influence.shape[1]), []
    free = np.ones(len(z), bool)
    for n in range(k):
        gain = (z - (total / n if n else 0.0)).max(1)
        row = int(np.argmax(np.where(free, gain, -np.inf)))
        free[row] = False
        total += z[row]
        chosen.append(row)
    return np.array(chosen)


def gist(view: View, k: int) -> np.ndarray:
    """GIST (arXiv 2602.18584) in the metric of H^-1, with the components of half of the seeds' energy."""
    values, vectors = np.linalg.eigh(view.gram.astype(np.float64))
    values, vectors = values[::-1].clip(min=0), vectors[:, ::-1]
    n = int((np.cumsum(values) / values.sum() < 0.9).sum()) + 1
    s = np.sqrt(values[:n])
    rows = view.influence @ vectors[:, :n] / s
    targets = vectors[:, :n] * s
    means = np.stack([targets[view.task_of_seed == t].mean(0) for t in np.unique(view.task_of_seed)])
    cosine = (rows @ means.T) / np.linalg.norm(rows, axis=1, keepdims=True) / np.linalg.norm(means, axis=1)
    return top(cosine.max(1), k)


def balanced(view: View, k: int, random_seed: int) -> np.ndarray:
    """Random rows, as many of each source."""
    return resample(np.unique(view.source, return_inverse=True)[1].astype(np.int64), k, random_seed)


def shortlist(score: Callable[[View], np.ndarray], factor: float) -> Rule:
    """Even draws from the clusters among the `factor` k rows with the highest score."""

    def rule(view: View, k: int, random_seed: int) -> np.ndarray:
        eligible = np.zeros(len(view.loss), bool)
        eligible[top(score(view), round(factor * k))] = True
        return even_draw(view, eligible, k, random_seed)

    return rule


def best(score: Callable[[View], np.ndarray]) -> Rule:
    """The rows with the highest score."""
    return lambda view, k, random_seed: top(score(view), k)


def filtered(order: Rule, max_similarity: float = 0.98) -> Rule:
    """The rule's rows in its order, less those near to one that is taken (DEITA, arXiv 2312.15685)."""

    def rule(view: View, k: int, random_seed: int) -> np.ndarray:
        rows = np.asarray(order(view, len(view.loss), random_seed))
        taken: list[int] = []
        for row in rows:
            if len(taken) < k and (not taken or (view.sketch[taken] @ view.sketch[row]).max() <= max_similarity):
                taken.append(int(row))
        rest = rows[~np.isin(rows, taken)]
        return np.array([*taken, *rest[: k - len(taken)]])

    return rule


def discounted(score: Callable[[View], np.ndarray], discount: float) -> Rule:
    """Best first, where the r-th row of a cluster (by score, from 1) loses discount * log2(r)."""

    def rule(view: View, k: int, random_seed: int) -> np.ndarray:
        labels, x = view.labels(k, random_seed), score(view)
        order = np.argsort(-x, kind="stable")
        place, seen = np.zeros(len(x)), dict.fromkeys(np.unique(labels).tolist(), 0)
        for row in order:
            seen[labels[row]] += 1
            place[row] = seen[labels[row]]
        return top(x - discount * np.log2(place), k)

    return rule


def turns_in_clusters(x: Callable[[View], np.ndarray], discount: float) -> Rule:
    """Seeds take turns; a row loses discount * log2(1 + n) where n rows of its cluster are taken."""

    def rule(view: View, k: int, random_seed: int) -> np.ndarray:
        own, labels = x(view), view.labels(k, random_seed)
        counts, free, chosen = np.zeros(labels.max() + 1), np.ones(len(own), bool), []
        seeds = _in_turn(view.task_of_seed)
        for turn in range(k):
            value = own[:, seeds[turn % len(seeds)]] - discount * np.log2(1 + counts[labels])
            row = int(np.argmax(np.where(free, value, -np.inf)))
            free[row] = False
            counts[labels[row]] += 1
            chosen.append(row)
        return np.array(chosen)

    return rule


def _in_turn(tasks: np.ndarray) -> list[int]:
    """Seeds in the order of their turns: tasks take turns, and the seeds of a task inside them."""
    groups = [np.flatnonzero(tasks == task) for task in np.unique(tasks)]
    turns_of_all = len(groups) * int(np.lcm.reduce([len(group) for group in groups]))
    return [int(groups[i % len(groups)][i // len(groups) % len(groups[i % len(groups)])]) for i in range(turns_of_all)]


def by_mass(score: Callable[[View], np.ndarray], power: float) -> Rule:
    """Clusters share the budget in proportion to the sum of max(score, 0)^power over their rows; best rows first."""

    def rule(view: View, k: int, random_seed: int) -> np.ndarray:
        labels, x = view.labels(k, random_seed), score(view)
        mass = np.bincount(labels, np.maximum(x, 0) ** power)
        place = np.zeros(len(x))
        for label in np.unique(labels):
            own = np.flatnonzero(labels == label)
            own = own[np.argsort(-x[own], kind="stable")]
            place[own] = (np.arange(len(own)) + 0.5) / max(mass[label], 1e-12)
        return np.lexsort((-x, np.where(x > 0, place, np.inf)))[:k]

    return rule


def votes(x: Callable[[View], np.ndarray], tau: float, reach: float = 1.0) -> Rule:
    """gdig with the votes x > 0; tau falls to what `reach` times the budget needs."""

    def rule(view: View, k: int, random_seed: int) -> np.ndarray:
        return even_draw(view, reaching((x(view) > 0).mean(1), tau, round(reach * k)), k, random_seed)

    return rule


def rank_votes(x: Callable[[View], np.ndarray], share: float, reach: float) -> Rule:
    """A seed votes for the rows at the top of its column, `share` times the budget; the rows with most votes are drawn
    from evenly, `reach` times the budget; ties by the mean rank."""

    def rule(view: View, k: int, random_seed: int) -> np.ndarray:
        r = ranks(x(view))
        agreement = (r >= 1 - share * k / len(r)).mean(1) + 1e-3 * r.mean(1)
        eligible = np.zeros(len(r), bool)
        eligible[top(agreement, round(reach * k))] = True
        return even_draw(view, eligible, k, random_seed)

    return rule


def turns(x: Callable[[View], np.ndarray]) -> Rule:
    """Round robin over the seeds, tasks in turn."""
    return lambda view, k, random_seed: by_turns(x(view), k, view.task_of_seed)


def _influence(view: View) -> np.ndarray:
    return view.influence


def _relative(view: View) -> np.ndarray:
    return relative(view.influence)


def _relative_cosine(view: View) -> np.ndarray:
    return relative(view.cosine)


def _relative_scaled(view: View) -> np.ndarray:
    """As relative cosines, with the root mean square of a row's influences in place of the row's length."""
    rms = np.sqrt((view.influence**2).mean(1, keepdims=True))
    return relative(view.influence / np.maximum(rms, 1e-30))


def _score(view: View) -> np.ndarray:
    """Mean relative cosine, in standard deviations over the pool's rows."""
    x = _relative_cosine(view).mean(1)
    return x / x.std()


def _blend(view: View) -> np.ndarray:
    return blend(view.cosine)


def per_length(view: View) -> np.ndarray:
    """Influence by the length of the row's sketch, which every sweep keeps. [N, S]"""
    return view.influence / np.maximum(view.sketch_length, 1e-30)[:, None]


def _half_length(view: View) -> np.ndarray:
    return relative(view.influence / np.sqrt(np.maximum(view.length, 1e-30))[:, None])


RULES: dict[str, Rule] = {
    "random": lambda view, k, random_seed: resample(np.zeros(len(view.loss), np.int64), k, random_seed),
    "random, balanced by source": balanced,
    "diverse": lambda view, k, random_seed: even_draw(view, np.ones(len(view.loss), bool), k, random_seed),
    "loss": best(lambda view: -view.loss),
    "BM25, by turns": turns(lambda view: view.bm25),
    "sketch cosine, by turns": turns(lambda view: view.sketch_cosine),
    "RDS+": turns(lambda view: view.hidden_cosine),
    "agreement, tau 0.55": votes(_influence, 0.55),
    "agreement, tau 1": votes(_influence, 1.0),
    "top, steady": best(lambda view: steady(view.influence)),
    "top, mean": best(lambda view: view.influence.mean(1)),
    "bids": lambda view, k, random_seed: bids(view, k),
    "gist": lambda view, k, random_seed: gist(view, k),
    "influence, by turns": turns(_influence),
    "cosine, by turns": turns(lambda view: view.cosine),
    "relative votes": votes(_relative, 0.55),
    "relative votes, tau 1": votes(_relative, 1.0),
    "relative votes, tau 1, twice the budget": votes(_relative, 1.0, 2),
    "relative cosine votes": votes(_relative_cosine, 0.55),
    "relative scaled votes": votes(_relative_scaled, 0.55),
    "relative cosine votes, twice the budget": votes(_relative_cosine, 0.55, 2),
    "relative cosine votes, tau 1, twice the budget": votes(_relative_cosine, 1.0, 2),
    "rank votes": rank_votes(_influence, 1, 2),
    "rank votes, cosine": rank_votes(lambda view: view.cosine, 1, 2),
    "top, relative mean": best(lambda view: _relative(view).mean(1)),
    "top, relative steady": best(lambda view: steady(_relative(view))),
    "top, relative cosine": best(lambda view: _relative_cosine(view).mean(1)),
    "top, relative cosine steady": best(lambda view: steady(_relative_cosine(view))),
    "top, relative scaled": best(lambda view: _relative_scaled(view).mean(1)),
    "relative scaled, clusters of 2 budgets": shortlist(lambda view: _relative_scaled(view).mean(1), 2),
    "top, mean rank": best(lambda view: ranks(view.influence).mean(1)),
    "top, half length": best(lambda view: _half_length(view).mean(1)),
    "relative mean, clusters of 2 budgets": shortlist(lambda view: _relative(view).mean(1), 2),
    "relative steady, clusters of 2 budgets": shortlist(lambda view: steady(_relative(view)), 2),
    "relative steady, clusters of 1.5 budgets": shortlist(lambda view: steady(_relative(view)), 1.5),
    "relative cosine, clusters of 2 budgets": shortlist(lambda view: _relative_cosine(view).mean(1), 2),
    "relative cosine, clusters of 1.5 budgets": shortlist(lambda view: _relative_cosine(view).mean(1), 1.5),
    "relative cosine, clusters of 4 budgets": shortlist(lambda view: _relative_cosine(view).mean(1), 4),
    "half length, clusters of 2 budgets": shortlist(lambda view: _half_length(view).mean(1), 2),
    "mean rank, clusters of 2 budgets": shortlist(lambda view: ranks(view.influence).mean(1), 2),
    "relative cosine, filtered": filtered(best(lambda view: _relative_cosine(view).mean(1))),
    "cosine, by turns, filtered": filtered(turns(lambda view: view.cosine)),
    "RDS+, filtered": filtered(turns(lambda view: view.hidden_cosine)),
    "relative cosine, discount 0.25": discounted(_score, 0.25),
    "relative cosine, discount 0.5": discounted(_score, 0.5),
    "relative cosine, discount 1": discounted(_score, 1.0),
    "relative cosine, by mass": by_mass(_score, 1),
    "relative cosine, by squared mass": by_mass(_score, 2),
    "relative cosine, by cubed mass": by_mass(_score, 3),
    "relative cosine, by turns": turns(_relative_cosine),
    "blended cosine, by turns": turns(_blend),
    "cosine, by turns, clusters 0.5": turns_in_clusters(_relative_cosine, 0.5),
    "blended cosine, by turns, clusters 0.5": turns_in_clusters(_blend, 0.5),
    "blended cosine, by turns, no repeats": filtered(turns(_blend), 0.9999),
    "RDS+, no repeats": filtered(turns(lambda view: view.hidden_cosine), 0.9999),
    "gdig": lambda view, k, random_seed: shipped(view, k, random_seed, "fisher"),
    "gdig, raw sketches": lambda view, k, random_seed: shipped(view, k, random_seed, "raw"),
    "per length, by turns": turns(per_length),
    "per length, blended, by turns": turns(lambda view: blend(per_length(view))),
    "per length, blended, by turns, no repeats": filtered(turns(lambda view: blend(per_length(view))), 0.9999),
    "top, relative per length": best(lambda view: relative(per_length(view)).mean(1)),
}
"""Rules by name: the baselines first, then the candidates for the default."""
