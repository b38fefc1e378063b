"""Checks of the values of options. They run when a Config is built, so stages rely on good values."""

from __future__ import annotations

import math
import os
import re
from functools import cache
from typing import TYPE_CHECKING, Any, get_type_hints

from gdig.config.budget import parse_budget
from gdig.config.convert import WRONG, convert, describe
from gdig.config.layer_choice import parse_layers
from gdig.config.options.selection import OUTPUT_ENDINGS
from gdig.errors import ConfigError, MissingOptionError
from gdig.patterns import PatternError, search

if TYPE_CHECKING:
    from gdig.config.config import Config, Training, Trial

_POSITIVE = (
    "fit_tokens", "cg_rows", "cg_iterations", "seed_rank", "probe_rows", "projection_dim", "projection_side",
    "feature_side", "rows_per_shard", "kmeans_max_iter", "token_batch_size", "max_length", "n_clusters",
    "n_neighbours", "n_probe", "threads", "hidden_layers",
)  # fmt: skip

_PATHS = (
    "model", "base_model", "tokenizer", "candidates", "seeds", "exclude", "checkpoints", "chat_template_file",
    "features", "difficulty", "source_quotas", "output", "run_path",
)  # fmt: skip

_MOST_THREADS, _MOST_WORKERS = 1024, 128
_MOST_SHOWN = 1000
"""The longest value in a message, in characters."""


def check_types(options: Any) -> None:
    """Bring every value of a dataclass of options to its declared type.

    Raises:
        ConfigError: naming the option whose value is of another type.
    """
    kind: type = type(options)
    for name, hint in _hints(kind).items():
        value = getattr(options, name)
        converted = convert(value, hint)
        if converted is WRONG:
            raise wrong(name, value, describe(hint))
        object.__setattr__(options, name, converted)


def check_config(c: Config) -> None:
    """Check the values of all options of a run, and that they go together.

    Raises:
        ConfigError: naming the option, its value and what was expected.
    """
    _check_numbers(c)
    _check_combinations(c)
    _check_texts(c)


def check_training(t: Training) -> None:
    """Check the values of the options of gdig score-net.

    Raises:
        ConfigError: naming the option, its value and what was expected.
    """
    for name, least in (("epochs", 1), ("batch_size", 2), ("accumulate", 1), ("save_steps", 1)):
        if getattr(t, name) < least:
            reason = ", because the score net weighs the rows of a batch against each other"
            expected = f"a whole number of at least {least}" + (reason if name == "batch_size" else "")
            raise wrong(name, getattr(t, name), expected)
    for name in ("learning_rate", "score_learning_rate"):
        if not 0 <= getattr(t, name) < math.inf:
            raise wrong(name, getattr(t, name), "a finite number of at least 0")
    if t.score_learning_rate == 0:
        raise wrong("score_learning_rate", 0, "a number above 0, because at 0 the score net learns nothing")


def check_trial(t: Trial) -> None:
    """Check the values of the options of the short trainings.

    Raises:
        ConfigError: naming the option, its value and what was expected.
    """
    for name, least in (("train_steps", 1), ("train_batch_size", 1), ("lora_rank", 0), ("trainings", 1)):
        if getattr(t, name) < least:
            raise wrong(name, getattr(t, name), f"a whole number of at least {least}")
    if not 0 < t.learning_rate < math.inf:
        raise wrong("learning_rate", t.learning_rate, "a finite number above 0")
    if not t.held_out:
        raise MissingOptionError("held_out: required by train; give a file of rows that judge the trainings")


def wrong(name: str, value: Any, expected: str) -> ConfigError:
    """Return the error for an option whose value is not what was expected."""
    return ConfigError(f"{name}={shown(value)}: expected {expected}")


def shown(value: Any) -> str:
    """Return a value as messages show it: YAML can hold long texts, and numbers that Python does not write out."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


@cache
def _hints(options: type) -> dict[str, Any]:
    """Name and type of every option."""
    return get_type_hints(options)


def _check_numbers(c: Config) -> None:
    for name in _POSITIVE:
        value = getattr(c, name)
        if isinstance(value, int) and value < 1:
            raise wrong(name, value, "a whole number of at least 1")
    # A run directory may ask for more than the machine can start.
    if c.workers is not None and not 0 <= c.workers <= _MOST_WORKERS:
        raise wrong("workers", c.workers, f"a whole number from 0 to {_MOST_WORKERS}")
    if c.threads is not None and c.threads > _MOST_THREADS:
        raise wrong("threads", c.threads, f"at most {_MOST_THREADS:,}")
    for name in ("random_seed", "projection_seed"):
        if not 0 <= getattr(c, name) < 2**63:
            raise wrong(name, getattr(c, name), "a whole number from 0 to 2^63 - 1")
    for name in ("damping_factor", "kmeans_tol", "cg_tolerance", "cluster_discount"):
        if not 0 <= getattr(c, name) < math.inf:
            raise wrong(name, getattr(c, name), "a finite number of at least 0")
    for name in ("seed_energy", "tau"):
        if not 0 < getattr(c, name) <= 1:
            raise wrong(name, getattr(c, name), "a share above 0 and up to 1")
    for name in ("max_similarity", "exclude_similarity"):
        if not 0 < getattr(c, name) <= 1:
            raise wrong(name, getattr(c, name), "a cosine above 0 and up to 1")
    if isinstance(c.train_rows, int) and c.train_rows < (c.n_clusters or 1):
        reason = f", because there are {c.n_clusters} clusters" if c.n_clusters else ""
        raise wrong("train_rows", c.train_rows, f"all or a whole number of at least {c.n_clusters or 1}{reason}")
    if c.hidden_layers > c.projection_dim:
        raise wrong("hidden_layers", c.hidden_layers, f"at most projection_dim={c.projection_dim}, a column each")
    if any(not 0 <= weight < math.inf for weight in c.checkpoint_weights):
        raise wrong("checkpoint_weights", list(c.checkpoint_weights), "finite numbers of at least 0")


def _check_combinations(c: Config) -> None:
    if c.damping_mode == "factored_tikhonov" and c.inversion != "kfac":
        raise wrong(
            "damping_mode", c.damping_mode,
            f"relative or absolute with inversion={c.inversion}; factored_tikhonov needs inversion=kfac",
        )  # fmt: skip
    if c.kfac_approx == "reduce" and c.inversion in ("ekfac", "cg"):
        raise wrong(
            "kfac_approx", c.kfac_approx,
            f"expand with inversion={c.inversion}, because EK-FAC's eigenvalues are per example already",
        )  # fmt: skip
    if c.sketch_space == "fisher" and c.inversion == "identity":
        raise wrong(
            "sketch_space", c.sketch_space,
            "auto or raw with inversion=identity; fisher needs the curvature of another inversion",
        )  # fmt: skip
    if not c.gradients and c.sketch_space == "fisher":
        raise wrong("sketch_space", "fisher", "'auto' or 'raw' with gradients=False, which makes a forward pass alone")
    if not c.gradients:
        needless: tuple[tuple[str, object], ...] = (("torch_compile", False), ("checkpoints", ()))
        for name, off in needless:
            if getattr(c, name) != off:
                raise wrong(name, getattr(c, name), f"{off!r} with gradients=False, which makes a forward pass alone")
    if c.torch_compile:
        for name, off in (("gradient_checkpointing", False), ("device_map", "none"), ("quantization", "none")):
            if getattr(c, name) != off:
                raise wrong("torch_compile", True, f"False with {name}={getattr(c, name)}; switch one of the two off")
    for given, missing in (("prompt_template", "target_template"), ("target_template", "prompt_template")):
        if getattr(c, given) is not None and getattr(c, missing) is None:
            raise wrong(missing, None, f"a template, because {given} is given; give both or neither")
    if c.chat_template_file is not None:
        if not c.chat_template:
            raise wrong("chat_template", False, "true beside chat_template_file; leave one of the two out")
        if c.prompt_template is not None:
            raise wrong(
                "chat_template_file", c.chat_template_file,
                "no file beside prompt_template, which makes the whole text of a row; give one of the two",
            )  # fmt: skip
    _check_columns(c)
    if c.row_format == "template" and c.prompt_template is None:
        raise wrong("row_format", c.row_format, "another format, or prompt_template and target_template beside it")
    if not c.gradients and c.similarity_of == "sketch":
        raise wrong("similarity_of", c.similarity_of, "'hidden' with gradients=False, which makes a forward pass alone")
    if c.agreement == "tasks" and c.task_field is None:
        raise wrong("agreement", c.agreement, "seeds without task_field; task_field names the field of a seed's task")


def _check_columns(c: Config) -> None:
    columns = ("prompt_column", "completion_column", "conversation_column", "system_column")
    for name in columns:
        if getattr(c, name) is not None and c.prompt_template is not None:
            raise wrong(name, getattr(c, name), "no column beside prompt_template, which names the fields itself")
    if c.prompt_column is not None and c.completion_column is None:
        raise wrong("completion_column", None, "the column that is trained on, because prompt_column is given")
    if c.conversation_column is not None and c.completion_column is not None:
        raise wrong(
            "conversation_column", c.conversation_column,
            "either this column or prompt_column and completion_column; give one of the two",
        )  # fmt: skip


def _check_texts(c: Config) -> None:
    for name in _PATHS:
        given = getattr(c, name)
        for path in (given,) if isinstance(given, str) else given or ():
            if not _is_path(path):
                raise wrong(name, path, "a name that a file can have")
    if c.output is not None and not c.output.lower().endswith(OUTPUT_ENDINGS):
        raise wrong("output", c.output, "a name that ends in .jsonl, .jsonl.gz or .parquet")
    if c.filter_modules is not None:
        try:
            search([c.filter_modules])
        except PatternError as error:
            raise wrong("filter_modules", c.filter_modules, f"a regular expression, but {error}") from None
    parse_budget(c.budget)
    if c.layers is not None:
        parse_layers(c.layers)
    if c.sweep_part is not None:
        match = re.fullmatch(r"([1-9][0-9]*)/([1-9][0-9]*)", c.sweep_part)
        if match is None or int(match[1]) > int(match[2]):
            raise wrong("sweep_part", c.sweep_part, "K/N with K from 1 to N, such as 2/4")


def _is_path(text: str) -> bool:
    """Whether a text can be the name of a file: YAML and JSON can hold characters that no system takes."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False
