"""The table of `dgseg profile` (120 columns, plain text), its JSON and its picture."""

import dataclasses
import textwrap
from pathlib import Path
from typing import Any

from dgseg.bench.models import Result, Row, Settings

LIBRARIES = (
    ("torchvision", "torchvision"),
    ("timm", "timm"),
    ("transformers", "transformers"),
    ("segmentation_models", "segmentation-models-pytorch"),
    ("onnxruntime", "onnxruntime"),
)
CONVENTION = (
    'MACs: multiply-adds as fvcore counts them (the papers\' "FLOPs"), normalisation and resizing included; '
    "FLOPs: torch.utils.flop_counter's, 2 per multiply-add of convolutions, matrix products and attention alone. Both "
    "of one image in inference; times of one batch"
)


def settings_text(settings: Settings) -> str:
    height, width = settings.size
    words = [
        f"{settings.batch}x3x{height}x{width}",
        "forward + backward" if settings.train else "inference",
        str(settings.dtype).removeprefix("torch."),
        f"{settings.num_classes} classes",
        f"{settings.rounds} rounds in turns",
    ]
    words += [f"{name}={value}" for name, value in settings.options.items()]
    return ", ".join(words + (["channels_last"] if settings.channels_last else []))


def _line(row: Row, batch: int) -> str:
    label = f"{row.name} ({row.way})"
    if row.failed:
        return textwrap.shorten(f"  {label}: does not run: {row.failed}", 118)
    assert row.parameters
    assert row.arithmetic
    assert row.times
    params = f"{row.parameters.total / 1e6:.2f}/{row.parameters.trainable / 1e6:.2f}"
    peak = "-" if row.peak_extra is None else f"{row.peak_extra / 1e6:.0f}"
    return (
        f"  {label:42}{params:>14}{row.arithmetic.macs / 1e9:>8.2f}{row.arithmetic.flops / 1e9:>9.2f}"
        f"{row.times.median * 1e3:>10.2f}{row.times.p95 * 1e3:>9.2f}{batch / row.times.median:>8.2f}"
        f"{row.parameters.bytes / 1e6:>8.0f}{peak:>8}"
    )


def text(result: Result, settings: Settings) -> str:
    lines = [
        "",
        f"{result.name}: {settings_text(settings)}",
        f"  {'':42}{'params M':>14}{'MACs':>8}{'FLOPs':>9}{'median':>10}{'p95':>9}{'':>8}{'weights':>8}{'peak +':>8}",
        f"  {'':42}{'all/trained':>14}{'G':>8}{'G':>9}{'ms':>10}{'ms':>9}{'FPS':>8}{'MB':>8}{'MB':>8}",
        *(_line(row, settings.batch) for row in result.rows),
    ]
    for row in result.published:
        size = f"{row.size[0]}x{row.size[1]}"
        fps = f"{row.fps:.2f}" if row.fps else "-"
        lines.append(
            f"  {f'published: {row.name}, {size}':42}{row.params_m:>14.2f}{row.gflops:>8.2f}{'':9}"
            f"{row.milliseconds:>10.2f}{'':9}{fps:>8}"
        )
    if result.published:
        lines.append(f"    ({result.published[0].paper})")
    for verdict in result.verdicts:
        wrapped = textwrap.wrap(f"target: {verdict.text}", 90)
        lines += [f"    {part}" for part in wrapped[:-1]]
        lines.append(f"    {wrapped[-1]:90}{verdict.reached:>9.2f}x  {'OK' if verdict.ok else 'BELOW'}")
    for note in result.notes:
        lines += textwrap.wrap(f"note: {note}", 116, initial_indent="    ", subsequent_indent="          ")
    return "\n".join(lines)


def as_json(header: dict[str, Any], settings: Settings, results: list[Result]) -> dict[str, Any]:
    return header | {
        "unit": "seconds, bytes; counts of one image, times of one batch",
        "convention": CONVENTION,
        "profile": {
            key: value if isinstance(value, (bool, int, str, dict, tuple)) else str(value)
            for key, value in vars(settings).items()
        },
        "results": [dataclasses.asdict(result) for result in results],
    }


def plot(results: list[Result], settings: Settings, where: str, path: Path) -> None:
    """Parameters against latency, each model one point; the area is its multiply-adds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib import ticker

    rows = [row for result in results for row in result.rows if row.times and row.parameters and row.arithmetic]
    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    for colour, kind, chosen in [
        ("#1f6f8b", "dgseg", [row for row in rows if row.way != "peer"]),
        ("#c8553d", "peers", [row for row in rows if row.way == "peer"]),
    ]:
        if chosen:
            axes.scatter(
                [row.parameters.total / 1e6 for row in chosen if row.parameters],
                [row.times.median * 1e3 for row in chosen if row.times],
                s=[20 + 2.5 * row.arithmetic.macs / 1e9 for row in chosen if row.arithmetic],
                color=colour,
                alpha=0.6,
                linewidths=0,
                label=kind,
            )
    counts = [row.parameters.total for row in rows if row.parameters]
    middle = (min(counts) * max(counts)) ** 0.5
    for row in rows:
        assert row.parameters
        assert row.times
        left = row.parameters.total > middle  # of the point, where there is room
        below = row.way == "folded" or row.name.startswith("smp")  # they lie where another one does
        label = row.name if row.way in ("eager", "peer") else f"{row.name}, {row.way}"
        axes.annotate(
            label,
            (row.parameters.total / 1e6, row.times.median * 1e3),
            xytext=(-7 if left else 7, -9 if below else 3),
            textcoords="offset points",
            ha="right" if left else "left",
            fontsize=8,
        )
    axes.set(xscale="log", yscale="log", xlabel="parameters (millions)", ylabel="median latency of a batch (ms)")
    axes.set_title(f"{settings_text(settings)}\n{where}; areas: multiply-adds", fontsize=9)
    axes.grid(visible=True, which="both", alpha=0.2)
    for axis, values in (
        (axes.xaxis, [row.parameters.total / 1e6 for row in rows if row.parameters]),
        (axes.yaxis, [row.times.median * 1e3 for row in rows if row.times]),
    ):
        axis.axes.set(**{f"{axis.axis_name}lim": (min(values) / 2, max(values) * 2)})
        for formatter in (axis.set_major_formatter, axis.set_minor_formatter):
            formatter(ticker.LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
