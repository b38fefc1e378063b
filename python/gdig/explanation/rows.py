"""Explain rows: what the sweep, the clusters, the methods and a pass of the model say of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from gdig.data.corpus import Corpus
from gdig.data.show import row_text
from gdig.data.tokens import IGNORED
from gdig.errors import ConfigError, CorpusError, OtherRunError
from gdig.explanation.facts import (
    ClusterView,
    LayerShare,
    NearRow,
    Piece,
    Place,
    RowExplanation,
    SeedEffect,
    Seen,
    Sum,
)
from gdig.explanation.model_passes import ModelPasses
from gdig.explanation.neighbourhood import Target, look_around
from gdig.explanation.pieces import split_pieces
from gdig.explanation.places import places_of
from gdig.explanation.subject import Subject
from gdig.kmeans import KMeans, load_labels
from gdig.selection.finished_run import FinishedRun

N_SEEDS = 3
"""Seeds that an explanation names on either side."""
N_NEAR = 5
"""Nearest rows, and chosen rows of the cluster, that an explanation shows."""


class RowExplainer:
    """Explains rows of one run.

    Args:
        run: the run.
        methods: whose places of a row are looked up (`possible_methods`).
        model_pass: whether to pass the model for tokens and layers.
    """

    def __init__(self, run: FinishedRun, methods: Sequence[str], model_pass: bool) -> None:
        self._run, self._methods = run, methods
        self._work, self._store, self._judge = run.work, run.sweep.store, run.sweep.judge
        self._passes = ModelPasses(run, by_token=model_pass)

    def of_pool(self, rows: Sequence[int]) -> list[RowExplanation]:
        """Explain rows of the pool.

        Raises:
            ConfigError: when the pool has no row of such a number.
            RunError: when a row's tokens are not those of the sweep.
        """
        n = self._run.sweep.survey.rows
        for row in rows:
            if not 0 <= row < n:
                raise ConfigError(f"row {row}: expected a row of the pool, 0 to {n - 1}")
        subjects = [self._subject(row) for row in rows]
        self._passes.of_pool([subject for subject in subjects if subject.target is not None])
        return self._explained(subjects)

    def of_corpus(self, corpus: Corpus) -> list[RowExplanation]:
        """Explain rows that are not in the pool: each is passed through the model."""
        subjects = []
        encoded = self._work.encoder_of(corpus).encode(corpus, range(len(corpus)))
        for number, (example, content) in enumerate(zip(encoded, corpus.rows(0, len(corpus)), strict=True)):
            subject = Subject(None, corpus.where(number), row_text(content))
            if isinstance(example, CorpusError):
                subject.problem = str(example)
            else:
                subject.example = example
                self._passes.of_outside(subject, example)
            subjects.append(subject)
        return self._explained(subjects)

    def _subject(self, row: int) -> Subject:
        """What the sweep stores of a row."""
        corpus, store = self._work.candidates, self._store
        subject = Subject(row, corpus.where(row), row_text(corpus.take([row])[0]))
        (example,) = self._work.encoder.encode(corpus, [row])
        if isinstance(example, CorpusError):
            subject.problem = str(example)
            return subject
        shard, at = row // store.rows_per_shard, row % store.rows_per_shard
        subject.example = example
        if int(store.tensor(shard, "hash")[at]) != example.hash:
            raise OtherRunError(
                f"{subject.where}: its tokens are not those of the sweep; give the tokenizer and the options that the "
                "run was made with"
            )
        if not store.tensor(shard, "valid")[at]:
            subject.problem = "its loss or its gradient is not finite, so it is never selected"
            return subject
        influence = np.array(store.tensor(shard, "influence")[at])
        sketch = store.rows_float32(shard)[at]
        subject.target = Target(row, sketch, influence, example.hash)
        subject.loss = float(store.tensor(shard, "loss")[at])
        return subject

    def _explained(self, subjects: list[Subject]) -> list[RowExplanation]:
        usable = [subject for subject in subjects if subject.target is not None]
        targets = [subject.target for subject in usable if subject.target is not None]
        if targets:
            look_around(self._store, targets, N_NEAR)
        in_pool = [subject.row for subject in usable if subject.row is not None]
        places = places_of(self._run, np.array(in_pool, np.int64), self._methods) if in_pool else []
        by_row = dict(zip(in_pool, places, strict=True))
        return [self._explain(subject, by_row) for subject in subjects]

    def _explain(self, subject: Subject, places: dict[int, list[Place]]) -> RowExplanation:
        pool = self._run.sweep.survey
        base = RowExplanation(
            subject.row, subject.where, subject.text, problem=subject.problem, pool_rows=pool.valid, voters=pool.voters
        )
        if subject.target is None:
            return base if subject.example is None else replace(base, seen=self._seen(subject, []))
        target, chosen = subject.target, self._run.chosen
        helped, harmed = self._effects(target)
        named = [effect.seed for effect in (*helped, *harmed)]
        facts: dict[str, Any] = {
            "seen": self._seen(subject, named),
            "loss": subject.loss,
            "helped": helped,
            "harmed": harmed,
            "cluster": self._cluster(target),
            "near": self._rows([(cosine, row) for cosine, row in target.near], target),
            "repeats": tuple(target.repeats),
            "layers": self._layers(subject),
            "sums": self._sums(subject),
            "chosen_of": len(chosen.rows) if chosen is not None else None,
            "chosen_place": chosen.place.get(subject.row) if chosen is not None and subject.row is not None else None,
        }
        if pool.voters:
            influence = target.influence[None]
            facts |= {
                "score": float(np.float32(self._judge.score_of(influence)[0])),
                "votes": int(self._judge.votes_of(influence).sum()),
            }
        facts["places"] = tuple(places[subject.row]) if subject.row is not None else self._ranks(facts)
        return replace(base, **facts)

    def _ranks(self, facts: dict[str, Any]) -> tuple[Place, ...]:
        """Where a row outside the pool would stand by score and by loss."""
        store, valid = self._store, self._run.sweep.survey.valid
        higher = lower = 0
        for shard in store.shards:
            start, stop = store.shard_range(shard)
            rows = np.arange(start, stop)[store.tensor(shard, "valid") != 0]
            columns = self._run.sweep.row_columns(rows)
            lower += int((columns["loss"] < facts["loss"]).sum())
            if "score" in facts:
                higher += int((columns["score"] > facts["score"]).sum())
        places = [Place("loss", False, lower + 1, valid + 1)]
        return (Place("top", False, higher + 1, valid + 1), *places) if "score" in facts else tuple(places)

    def _effects(self, target: Target) -> tuple[tuple[SeedEffect, ...], tuple[SeedEffect, ...]]:
        """The seeds that the row helps and harms most."""
        influence = target.influence
        relative = self._judge.relative(influence[None])[0]
        order = np.argsort(-relative, kind="stable")
        texts = self._work.seed_corpus

        def effect(seed: int) -> SeedEffect:
            text = row_text(texts.take([seed])[0])
            return SeedEffect(seed, text, float(influence[seed]), float(relative[seed]), int(target.ranks[seed]))

        best = [seed for seed in order[:N_SEEDS].tolist() if relative[seed] > 0]
        worst = [seed for seed in order[::-1][:N_SEEDS].tolist() if relative[seed] < 0]
        return tuple(map(effect, best)), tuple(map(effect, worst))

    def _rows(self, pairs: list[tuple[float, int]], target: Target) -> tuple[NearRow, ...]:
        texts = self._work.candidates.take([row for _, row in pairs])
        place = self._run.chosen.place if self._run.chosen is not None else {}
        repeats = set(target.repeats)
        return tuple(
            NearRow(row, row_text(text), cosine, row in repeats, place.get(row))
            for (cosine, row), text in zip(pairs, texts, strict=True)
        )

    @cached_property
    def _labels(self) -> tuple[np.ndarray, np.ndarray]:
        assert self._run.sweep.labels is not None
        return load_labels(self._run.sweep.labels)

    def _cluster(self, target: Target) -> ClusterView | None:
        """The cluster of a row, or the nearest one of a row outside the pool."""
        if self._run.sweep.labels is None or self._run.sweep.centroids is None:
            return None
        labels, distances = self._labels
        if target.row is not None:
            number, distance = int(labels[target.row]), float(distances[target.row])
        else:
            prediction = KMeans.load(self._run.sweep.centroids).predict_with_distances(target.sketch[None])
            number, distance = int(prediction[0][0]), float(prediction[1][0])
        members = labels == number
        rows = self._run.chosen.rows if self._run.chosen is not None else np.zeros(0, np.int64)
        in_cluster = [int(row) for row in rows if members[row] and row != target.row]
        unit = target.sketch / (np.linalg.norm(target.sketch) or 1)
        pairs = []
        for row in in_cluster[:N_NEAR]:
            sketch = self._store.rows_float32(row // self._store.rows_per_shard)[row % self._store.rows_per_shard]
            pairs.append((float(sketch @ unit / (np.linalg.norm(sketch) or 1)), row))
        return ClusterView(
            number,
            int(members.sum()),
            distance,
            int((distances[members] < distance).sum()),
            len(in_cluster),
            self._rows(pairs, target),
        )

    def _seen(self, subject: Subject, named: Sequence[int]) -> Seen:
        """The row as the model saw it, with the influence of its tokens where the model was passed."""
        example, passed = subject.example, subject.passed
        assert example is not None
        tokenizer = self._work.encoder.tokenizer
        weight = self._judge.weight_of(subject.target.influence[None])[0] if passed and subject.target else 0.0
        pieces = []
        for text, tokens in split_pieces(example.input_ids, tokenizer):
            positions = list(tokens)
            target = bool((example.labels[positions] != IGNORED).any())
            if passed is None:
                pieces.append(Piece(text, target))
                continue
            x = passed.by_token[positions].sum(0)
            seeds = {seed: float(x[seed]) for seed in named}
            pieces.append(Piece(text, target, float(x.mean()), float(x.sum() * weight), seeds))
        return Seen(len(example), example.n_target, example.cut, tuple(pieces))

    def _layers(self, subject: Subject) -> tuple[LayerShare, ...]:
        if subject.passed is None:
            return ()
        means = subject.passed.by_layer.mean(1)
        total = np.abs(means).sum() or 1.0
        names = [layer.name for layer in self._work.model.layers]
        return tuple(
            LayerShare(name, float(mean), float(abs(mean) / total)) for name, mean in zip(names, means, strict=True)
        )

    def _sums(self, subject: Subject) -> Sum | None:
        if subject.passed is None or subject.target is None:
            return None
        influence = subject.target.influence
        stored = float(influence.mean(dtype=np.float64)) if subject.row is not None else None
        baselines = self._judge.baselines
        weight = self._judge.weight_of(influence[None])[0]
        offset = 0.0 if baselines is None else float(-baselines.sum() * weight)
        return Sum(float(subject.passed.by_token.mean(1).sum()), stored, offset)
