"""Tables of time and memory: the plan beside the run, rows an hour, and the speed beside other libraries."""

from __future__ import annotations

from typing import Any

from benches.figures_parts.cells import percent, record, table


def plan() -> str:
    """What `gdig plan` told, beside what the run took."""
    labels = {"pretrained": "SmolLM2-135M", "many seeds": "SmolLM2-135M", "small": "small Llama"}
    rows = []
    cases = record("plan")["cases"]
    for name, model in ((name, model) for name, model in labels.items() if name in cases):
        case = cases[name]
        label = f"{model}, {case['rows']:,} rows, {case['seeds']} seeds"
        for kind, unit, digits in (("time", "s", 1), ("memory", "gb", 2)):
            planned, measured = (case[f"{word}_{unit}"] for word in ("planned", "measured"))
            shown = "peak memory" if kind == "memory" else kind
            unit_shown = "GB" if unit == "gb" else unit
            rows.append([
                f"{label}: {shown}", *(f"{x:.{digits}f} {unit_shown}" for x in (planned, measured)),
                percent(case[f"{kind}_error"], 1),
            ])  # fmt: skip
    return table(["model", "planned", "measured", "error"], *map(list, zip(*rows, strict=True)))


def _rate(rows: float, seconds: float) -> str:
    """Rows an hour, to two digits."""
    rate = 3600 * rows / seconds
    step = 10 ** (len(str(int(rate))) - 2)
    return f"{round(rate / step) * step:,.0f}"


def rows_an_hour() -> str:
    """Rows an hour of a plain pass, a sweep and a fit, by the size of the model."""
    sweep = record("sweep")
    rows = []
    for name in ("tiny", "small", "100m"):
        size = sweep["sizes"][name]
        passes: dict[str, Any] = size["passes"]

        def rate(kind: str, size: dict[str, Any] = size, passes: dict[str, Any] = passes) -> str:
            return _rate(size["examples"], passes[kind]["seconds"]["median"]) if kind in passes else ""

        cores = f"{size['measured']['threads']} cores"
        length = f"{size['tokens'] / size['examples']:.0f}"
        scored = rate("scores at 0.99") or rate("256 seeds, third blocks") + " (256 seeds of rank 32)"
        rows.append([
            f"{size['model']['parameters'] / 1e6:.0f}M, random weights", cores, length, rate("plain, sorted"), scored,
            rate("fit"),
        ])  # fmt: skip
    real = record("real_model")["cases"]["the defaults"]
    rates = [_rate(real["rows"], real["steps"][step]["cpu_seconds"]) for step in ("plain", "sweep", "fit")]
    length = f"{real['tokens'] / real['rows']:.0f}"
    rows.append(
        [
            f"SmolLM2-135M, {real['seeds']} seeds, the default layers",
            "1 core, by its own time",  # other programs ran beside it
            length,
            *rates,
        ]
    )
    heads = ["model", "CPU", "tokens a row", "plain forward and backward pass", "sweep", "fit"]
    return table(heads, *map(list, zip(*rows, strict=True)))


def _kmeans(dtype: str, rows: int, k: int, ours: str = "gdig", name: str = "kmeans") -> float:
    """How many times as fast as faiss an iteration of k-means is, by the record `name`."""
    for own in record(name)["tables"]:
        if (own["dtype"], own["rows"], own["k"]) == (dtype, rows, k) and ours in own["methods"]:
            seconds = {name: method["seconds"]["median"] for name, method in own["methods"].items()}
            return float(seconds["faiss"] / seconds[ours])
    raise KeyError((dtype, rows, k, ours))


def _half_taken(figures: dict[str, float]) -> list[tuple[str, str, str]]:
    """The peak where other programs hold half of the memory, where it was measured."""
    peak = figures.get("peak GB, half of the memory taken")
    what = "a run at the defaults where half of the memory is taken"
    return [] if peak is None else [(what, "", f"{peak:.1f} GB at the peak")]


def _other_layers() -> list[tuple[str, str, str]]:
    """Fit and sweep of more layers than the defaults."""
    rows = []
    for name, case in record("real_model")["cases"].items():
        if name != "the defaults":
            figures = case["figures"]
            rows.append((
                f"SmolLM2-135M, {name}, {case['seeds']} seeds: fit without the seeds / sweep",
                "plain forward and backward pass",
                f"{figures['fit without the seeds']:.2f} / {figures['sweep']:.2f} of its time",
            ))  # fmt: skip
    return rows


def speed() -> str:
    """What README says of the speed."""
    sizes = record("sweep")["sizes"]

    def of_plain(size: str, kind: str) -> float:
        return float(sizes[size]["passes"][kind]["against_sorted"]["median"])

    graph = record("neighbours")["around 256 centres, 200,000 x 512"]["exact"]
    times = graph["faiss IndexFlatIP"]["cpu_seconds_for_all"] / graph["amx-bf16"]["cpu_seconds"]
    scale = record("scale")["steps"]["predict"]
    real = record("real_model")["cases"]["the defaults"]
    steps, figures, peers = real["steps"], real["figures"], real["peers"]["steps"]
    faiss, plain = "faiss-cpu", "plain forward and backward pass"
    rows = [
        ("k-means iteration, 1M x 512 float16 rows, 512 clusters, AMX", faiss,
         f"{_kmeans('float16', 1_000_000, 512):.1f} times as fast"),
        ("the same, int8 rows", faiss, f"{_kmeans('int8', 1_000_000, 512):.1f} times as fast"),
        ("k-means iteration, 200k rows, 4,096 clusters, float16 / int8, AMX", faiss,
         f"{_kmeans('float16', 200_000, 4096):.1f} / {_kmeans('int8', 200_000, 4096):.1f} times as fast"),
        ("k-means iteration with AVX-512 alone", faiss,
         f"{_kmeans('float16', 200_000, 512, 'gdig avx512'):.1f} times as fast"),
        ("k-means iteration, 200k rows, 512 / 4,096 clusters, float16, Zen 5 (AVX512-BF16), CPU time", faiss,
         " / ".join(f"{_kmeans('float16', 200_000, k, name='kmeans-zen5'):.1f}" for k in (512, 4096))
         + " times as fast"),
        ("the same, int8 rows (AVX-512 VNNI)", faiss,
         " / ".join(f"{_kmeans('int8', 200_000, k, name='kmeans-zen5'):.1f}" for k in (512, 4096))
         + " times as fast"),
        ("exact graph of 10 neighbours, 200k x 512 rows, AMX", "faiss-cpu exact search", f"{times:.1f} times as fast"),
        ("labels of 10⁹ rows of 16 int8 columns", "",
         f"{scale['seconds']:.0f} s, {scale['anonymous_bytes'] / 1e6:.0f} MB of memory"),
        ("sweep, sketch alone, 110M parameters, CPU", plain, f"{of_plain('100m', 'sketch'):.2f} of its time"),
        ("sweep with 256 seeds of rank 32", plain, f"{of_plain('100m', '256 seeds, third blocks'):.2f} of its time"),
        ("EK-FAC fit, 1M / 4M parameters", plain,
         f"{of_plain('tiny', 'fit'):.1f} / {of_plain('small', 'fit'):.1f} of its time"),
        (f"SmolLM2-135M at the defaults, {real['seeds']} seeds: fit without the seeds / sweep", plain,
         f"{figures['fit without the seeds']:.2f} / {figures['sweep']:.2f} of its time, "
         f"{figures['peak GB']:.1f} GB at the peak (plain: {steps['plain']['peak_gb']:.1f} GB)"),
        (f"the fit's part for the {real['seeds']} seeds", f"{plain} over 300 rows",
         f"{figures['seeds']:.2f} of its time"),
        *_half_taken(figures),
        *_other_layers(),
        ("the same fit by kronfluence / bergson", plain,
         f"{peers['kronfluence: fit']['of_plain']:.1f} / {peers['bergson: fit']['of_plain']:.1f} of its time"),
    ]  # fmt: skip
    return table(["what", "against", "measured"], *map(list, zip(*rows, strict=True)))


def parity() -> str:
    """The largest differences of gdig's scores from those of two libraries and of a dense reference."""
    largest = {"float32": 0.0, "float64": 0.0}
    for cases in record("parity")["models"].values():
        for case in cases.values():
            for pair, numbers in case["compared"].items():
                ours = pair.partition(" - ")[0]
                if ours == "gdig":
                    largest["float32"] = max(largest["float32"], numbers["largest"])
                elif ours == "gdig, float64":
                    largest["float64"] = max(largest["float64"], numbers["largest"])
    cells = [f"{value:.1e}".replace("e-0", "e-") for value in largest.values()]
    return table(["number format", "largest difference, as a share of a seed's largest score"], list(largest), cells)


def report() -> str:
    """What the report of a pool costs."""
    pools = record("report")["pools"]
    return table(
        ["rows of the pool", "seconds of a core", "peak memory", "page"],
        [f"{pool['rows']:,}" for pool in pools],
        [f"{pool['cpu_s']:.0f}" for pool in pools],
        [f"{pool['peak_bytes'] / 1e9:.1f} GB" for pool in pools],
        [f"{pool['page_bytes'] / 1e6:.1f} MB" for pool in pools],
    )


def experts() -> str:
    """CPU seconds of a mixture beside a dense model with the same active parameters."""
    rows = []
    for case in sorted(record("experts").values(), key=lambda case: case["rows"]):
        for stage, seconds in case["cpu_seconds"].items():
            ratio = seconds["experts"] / seconds["dense"]
            tokens = f"{case['rows'] * case['tokens']:,}" if stage == "fit" else ""
            rows.append([tokens, stage, f"{seconds['dense']:.1f}", f"{seconds['experts']:.1f}", f"{ratio:.2f}"])
    return table(
        ["tokens of sample and pool", "stage", "dense", "experts", "ratio"], *map(list, zip(*rows, strict=True))
    )
