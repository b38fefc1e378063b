"""The benches' generated language, the stacked models, and the arithmetic of the linear datamodelling score."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from transformers import LlamaConfig, LlamaForCausalLM

from benches.generated_language.language import (
    ADJECTIVES,
    CLEAN,
    CORRUPTIONS,
    DUPLICATE,
    SKILLS,
    VERBS,
    Language,
    make_corpus,
)
from benches.generated_language.lds import Datamodel, Ranked, halves, spearman
from benches.generated_language.stacked import Recipe, Tokens, evaluate, logits, stack, train, unstack
from gdig.data.tokens import IGNORED, Example

SIZES = {"base": 300, "pool": 500, "seeds": 50, "test": 100}


@pytest.fixture(scope="module")
def corpus():
    return make_corpus(**SIZES, random_seed=3)


def test_the_pool_has_the_shares_asked_for(corpus):
    assert {name: len(getattr(corpus, name)) for name in SIZES} == SIZES
    faults = Counter(row["fault"] for row in corpus.pool)
    assert faults == {CLEAN: 350, DUPLICATE: 50, **{kind: 20 for kind in CORRUPTIONS}}
    for field in ("base", "seeds", "test"):
        assert {row["fault"] for row in getattr(corpus, field)} == {CLEAN}
        skills = Counter(row["skill"] for row in getattr(corpus, field))
        assert skills == {skill: SIZES[field] // 5 for skill in SKILLS}
    assert min(Counter(row["skill"] for row in corpus.pool).values()) > 80


def test_the_same_seed_draws_the_same_corpus(corpus):
    assert make_corpus(**SIZES, random_seed=3) == corpus
    assert make_corpus(**SIZES, random_seed=4).pool != corpus.pool


def test_no_source_is_in_two_parts_and_duplicates_are_of_the_pool(corpus):
    sources = {name: [row["source"] for row in getattr(corpus, name)] for name in SIZES}
    for name in ("base", "seeds", "test"):
        assert len(set(sources[name])) == len(sources[name])
    assert len(set().union(*map(set, sources.values()))) == sum(len(set(s)) for s in sources.values())
    assert len({(row["prompt"], row["completion"]) for row in corpus.pool}) == len(corpus.pool)
    for row in corpus.pool:
        if row["fault"] == DUPLICATE:
            first = corpus.pool[row["family"]]
            twins = [other for other in corpus.pool if other["source"] == row["source"]]
            assert row["completion"] == first["completion"] and len(twins) == 6


def test_spoiled_rows_are_wrong_and_others_right():
    right = {
        row["source"]: row["completion"] for row in make_corpus(**SIZES, corrupted=0, duplicated=0, random_seed=3).pool
    }
    pool = make_corpus(**SIZES, corrupted=0.2, duplicated=0, random_seed=3).pool
    first_draws = [row for row in pool if row["source"] in right]
    assert len(first_draws) == len(pool)  # the same draws: spoiling comes after them
    for row in first_draws:
        assert (row["completion"] == right[row["source"]]) == (row["fault"] == CLEAN), row


@pytest.mark.parametrize("skill", SKILLS)
def test_a_source_has_one_target(skill):
    language, rng, seen = Language(0), random.Random(0), {}
    for source, target in (language.draw(skill, rng) for _ in range(3000)):
        assert seen.setdefault(source, target) == target
        assert set((source + " " + target).split()) <= set(language.vocabulary)


def test_the_grammar_says_what_the_heading_shows():
    language, rng, word = Language(0), random.Random(1), Language(0).words
    answers = dict(language.draw(skill, rng) for skill in ("numbers", "clock") for _ in range(20_000))
    assert answers["four thousand and twenty"] == "4 0 2 0"
    assert answers["quarter to nine on friday"] == f"{word['friday']} 8 : 45"
    assert answers["zero past twelve on sunday"] == f"{word['sunday']} 12 : 00"
    assert answers["twenty nine to one on sunday"] == f"{word['sunday']} 12 : 31"
    for _ in range(500):
        source, target = language.draw("lexicon", rng)
        assert target.split() == [word[stem] for stem in source.split(" and ")]
        source, target = language.draw("order", rng)
        match source.split():
            case ["the", first, subject, verb, "the", second, thing] if first in ADJECTIVES and second in ADJECTIVES:
                assert target.split()[:4] == [word[subject], word[first], word[thing], word[second]]
                assert verb.startswith(next(stem for stem in VERBS if word[stem] == target.split()[4]))
        source, target = language.draw("morphology", rng)
        match source.split():
            case [count, nouns, verb] if count != "the":
                noun, agreement = nouns[:-1], ("+os", "+as", "+es")[language.noun_class[nouns[:-1]]]
                assert target.split()[1:] == [word[noun], "+i", word[verb[:-2]], "+ta", agreement]
            case ["the", noun, "will", verb]:
                agreement = ("+o", "+a", "+e")[language.noun_class[noun]]
                assert target.split() == [word[noun], word[verb], "+ru", agreement]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=30, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, tie_word_embeddings=True, bos_token_id=None, eos_token_id=1, pad_token_id=0,
        initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def _tokens(n: int = 12) -> Tokens:
    rng = np.random.default_rng(0)
    examples = []
    for _ in range(n):
        ids = rng.integers(2, 30, rng.integers(4, 10)).astype(np.int32)
        labels = np.where(np.arange(len(ids)) < 2, IGNORED, ids).astype(np.int32)
        examples.append(Example(ids, labels))
    return Tokens.of(examples)


def test_stacked_logits_are_those_of_transformers(model):
    other = LlamaForCausalLM(model.config).eval()
    weights = {name: torch.cat([w, stack(other, 1)[name]]) for name, w in stack(model, 1).items()}
    ids = _tokens().ids
    every = torch.arange(len(ids) * (ids.shape[1] - 1)).expand(2, -1)
    got = logits(model.config, weights, ids.expand(2, -1, -1), every)
    for index in range(2):
        with torch.no_grad():
            expected = unstack(weights, index, model.config)(input_ids=ids).logits[:, :-1].flatten(0, 1)
        # Two orders of float32 sums of at most 24 terms in some 20 operations: 500 half-units of rounding on logits of
        # order 10; a wrong rotation or norm gives differences of order 1.
        assert torch.allclose(got[index], expected, atol=500 * 6e-8 * 10)


@pytest.mark.slow
def test_a_model_learns_the_same_alone_and_beside_another(model):
    data, start = _tokens(), stack(model, 2)
    rng = np.random.default_rng(1)
    batches = rng.integers(0, len(data.ids), (2, 8, 4))
    both = train(model.config, start, data, batches, Recipe(1e-2))
    last_row = {name: w[1:] for name, w in start.items()}
    alone = train(model.config, last_row, data, batches[1:], Recipe(1e-2))
    before, _ = evaluate(model.config, last_row, data)
    after, _ = evaluate(model.config, alone, data)
    together, _ = evaluate(model.config, both, data)
    assert after.mean() < before.mean() - 0.5
    # Rounding grows over eight steps of Adam, whose steps do not shrink with the gradient: 1e-3 of a loss of order 1
    # is far above it, and far below what another batch makes.
    assert np.abs(together[1] - after[0]).max() < 1e-3 < np.abs(together[0] - after[0]).max()


def test_the_loss_is_the_mean_over_the_targets(model):
    data = _tokens()
    losses, right = evaluate(model.config, stack(model, 1), data, batch_size=5)
    with torch.no_grad():
        guesses = model(input_ids=data.ids).logits.log_softmax(-1)
    for i, length in enumerate(data.lengths):
        nll = [-guesses[i, t - 1, data.ids[i, t]].item() for t in range(2, length)]
        assert losses[0, i] == pytest.approx(np.mean(nll), rel=1e-4)
        best = [guesses[i, t - 1].argmax().item() for t in range(2, length)]
        assert right[0, i] == (best == data.ids[i, 2:length].tolist())


def test_spearman_is_scipys_for_any_resampling():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 8, (20, 5)).astype(float), rng.normal(size=(20, 5))
    x[:, 4] = 1.0  # does not vary
    for times in (np.ones(20, dtype=int), np.bincount(rng.integers(0, 20, 20), minlength=20)):
        correlations = spearman(Ranked(x), Ranked(y), times)
        index = np.repeat(np.arange(20), times)
        for j in range(4):
            assert correlations[j] == pytest.approx(spearmanr(x[index, j], y[index, j])[0], abs=1e-12)
        assert correlations[4] == 0


def test_scores_that_predict_have_a_score_of_one_and_random_ones_none():
    rng = np.random.default_rng(0)
    members, truth = halves(60, 40, random_seed=0), rng.normal(size=(60, 8))
    assert members.sum(1).tolist() == [30] * 40
    assert len(np.unique(members, axis=0)) == 40
    model = Datamodel(members, members @ truth)
    exact, noise = model.score(3 * truth + 1), model.score(rng.normal(size=truth.shape))
    assert exact.value == pytest.approx(1) and exact.low == pytest.approx(1)
    assert noise.low < 0 < noise.high
    # Half the variance of the prediction is noise: a correlation of sqrt(1/2), Spearman's a little less.
    half = model.score(truth + rng.normal(size=truth.shape))
    assert half.low < 0.7 < half.high and half.low < half.value < half.high
