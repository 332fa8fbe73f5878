"""An evaluation as one page that needs nothing but itself: tables, plots, pictures, and how the scores were made."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from PIL import Image

from dgseg.data.labels import CLASSES, COLOURS
from dgseg.evaluation import charts
from dgseg.evaluation.page_style import SCRIPT, STYLE
from dgseg.evaluation.pictures import Example, legend_entries, views
from dgseg.evaluation.result import DomainResult, Evaluation, class_names
from dgseg.evaluation.table import Table, percent, tables

_WIDEST = 960  # of an embedded picture, in pixels

Section = tuple[str, str]  # title, HTML


def page(found: Evaluation, facts: Mapping[str, Any], examples: Mapping[str, Sequence[Example]]) -> str:
    """facts: what was scored, by name ("weights", "model", "data" …), shown at the head and at the end."""
    weights = Path(str(facts.get("weights", "a model"))).name
    sections = [
        ("Scores", _scores(found)),
        ("Classes", _classes(found)),
        ("Boundaries", _boundaries(found)),
        ("Confusion", _confusion(found)),
        ("Calibration", _calibration(found)),
        ("Out of distribution", _ood(found)),
        ("Pictures", pictures(examples, "Chosen by rank in mIoU, the worst first.")),
        ("How this was scored", _method(found, facts)),
    ]
    named = [facts.get("model", ""), f"protocol {found.protocol.name}", f"{found.images:,} images"]
    named.append(f"{found.images_per_second:,.1f} images/s")
    subtitle = " · ".join(str(part) for part in named if part)
    return document(f"{weights}: evaluation", weights, subtitle, sections, before=_warning(found))


def document(title: str, heading: str, subtitle: str, sections: Sequence[Section], *, before: str = "") -> str:
    """A whole page; sections without a body are left out."""
    kept = [(name, body) for name, body in sections if body]
    contents = "".join(f'<li><a href="#{_anchor(name)}">{name}</a></li>' for name, _ in kept)
    bodies = "".join(f'<section id="{_anchor(name)}"><h2>{name}</h2>{body}</section>' for name, body in kept)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f"<nav><p>Contents</p><ol>{contents}</ol></nav>"
        f"<main><header><h1>{escape(heading)}</h1><p>{escape(subtitle)}</p></header>{before}{bodies}</main>"
        f"<div id=zoom></div><script>{SCRIPT}</script></body></html>\n"
    )


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _warning(found: Evaluation) -> str:
    if not found.corrupt:
        return ""
    return (
        f'<p class="warning">{len(found.corrupt)} images could not be read and are in no score; they are named '
        '<a href="#how-this-was-scored">below</a>.</p>'
    )


def _scores(found: Evaluation) -> str:
    tiles = "".join(
        f'<div class="tile"><b>{percent(value)}</b><span>{escape(name)}</span></div>'
        for name, value in found.averages().items()
    )
    shown = tables(found)[0]
    column = shown.head.index("mIoU")
    rows = []
    for row in shown.rows[: len(found.domains)]:  # the tiles are the averages
        cells = []
        for c, cell in enumerate(row):
            bar = f' class="bar" style="--share:{cell}%"' if c == column and cell != "–" else ""
            inside = " class=inside" if c == 0 and cell.startswith("  ") else ""
            cells.append(f"<td{bar}{inside}>{escape(cell.strip())}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(f"<th>{escape(name)}</th>" for name in shown.head)
    if tiles:
        tiles = f"<div class=tiles>{tiles}</div><p class=note>Averages of mIoU over their domains, %</p>"
    return (
        f"{tiles}<div class=scroll><table class=scores><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        "<p class=note>Percent. mIoU: mean over classes of intersection over union; mAcc: mean over classes of the "
        "share of their pixels that were found.</p>"
    )


def _classes(found: Evaluation) -> str:
    first = next(iter(found.domains.values()))
    names = class_names(first.confusion.num_classes)
    head = "".join(f"<th>{escape(name)}</th>" for name in found.domains)
    rows = []
    for place, c in enumerate(first.scores.classes):
        cells = "".join(_heat_cell(float(result.scores.iou[place])) for result in found.domains.values())
        rows.append(f"<tr><td>{_swatch(c, names)}{escape(names[c])}</td>{cells}</tr>")
    return (
        f"<div class=scroll><table class=heat><thead><tr><th>IoU, %</th>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        "<p class=note>–: the class occurs neither in the labels nor in the predictions.</p>"
    )


def _swatch(c: int, names: Sequence[str]) -> str:
    if tuple(names) != CLASSES:
        return ""
    return f'<i style="background:rgb{tuple(COLOURS[c].tolist())}"></i>'


def _heat_cell(share: float) -> str:
    """White to green; the text stays readable on both."""
    if math.isnan(share):
        return "<td class=none>–</td>"
    return f'<td style="--heat:{share:.3f}">{100 * share:.1f}</td>'


def _boundaries(found: Evaluation) -> str:
    parts = [(name, result) for name, result in _parts(found) if result.scores.pixels]
    counted = {name: result.boundary for name, result in parts if result.boundary is not None}
    if not counted:
        return ""
    per_class = {
        name: plot(charts.class_boundary_errors(tally, class_names(tally.num_classes)), f"{name}: errors by class")
        for name, tally in counted.items()
    }
    curves = charts.trimap_curves(counted, parts[0][1].classes)
    return (
        "<div class=pair>"
        f"<div><h3>How often pixels are wrong</h3>{plot(charts.boundary_errors(counted), 'error by distance')}</div>"
        f"<div><h3>mIoU near boundaries</h3>{plot(curves, 'mIoU within a distance')}</div>"
        "</div>" + table_of(_named(found, "Wrong pixels")) + "<h3>By class</h3>" + tabs("boundary", per_class)
    )


def _confusion(found: Evaluation) -> str:
    shown = {
        name: plot(
            charts.confusion_heat_map(result.confusion, class_names(result.confusion.num_classes)),
            f"{name}: what each class was taken for",
        )
        for name, result in found.domains.items()
        if result.scores.pixels
    }
    note = "<p class=note>Rows are the truth: where the pixels of each class went, in percent.</p>"
    return note + tabs("confusion", shown) if shown else ""


def _calibration(found: Evaluation) -> str:
    parts = [(name, result) for name, result in _parts(found) if result.scores.pixels]
    counted = {name: result.calibration.result() for name, result in parts if result.calibration is not None}
    if not counted:
        return ""
    table = table_of(_named(found, "Calibration"))
    note = (
        "<p class=note>ECE: mean over pixels of the gap between confidence and accuracy in their bin. Entropies are "
        "means in nats: a model that knows when it is wrong is less certain there.</p>"
    )
    return f"<div class=pair>{plot(charts.reliability_diagram(counted), 'reliability')}<div>{table}{note}</div></div>"


def _ood(found: Evaluation) -> str:
    counted = {name: result.ood for name, result in _parts(found) if result.ood}
    if not counted:
        return ""
    curves = {
        name: plot(
            charts.ood_curves({kind: tally.curves() for kind, tally in ood.items()}),
            f"{name}: precision, recall and ROC",
        )
        for name, ood in counted.items()
    }
    note = (
        "<p class=note>Scores of every pixel: 1 minus the largest softmax, the softmax's entropy, the energy of the "
        "logits and, where the model gives one, its own uncertainty. Scores are rounded to fp16 before they are "
        "sorted; ± bounds what that can have changed. sIoU, PPV and F1 are of connected components, at the threshold "
        "that is best for pixels.</p>"
    )
    return table_of(_named(found, "Out-of-distribution")) + note + tabs("ood", curves)


def pictures(examples: Mapping[str, Sequence[Example]], rule: str) -> str:
    """rule: how they were chosen."""
    if not any(examples.values()):
        return ""
    shown = {}
    for domain, some in examples.items():
        rows = []
        for example in some:
            cells = "".join(
                f"<figure>{_picture(view, smooth, f'{title}: {example.caption}')}"
                f"<figcaption>{escape(title)}</figcaption></figure>"
                for title, (view, smooth) in views(example).items()
            )
            rows.append(f"<p class=caption>{escape(example.caption)}</p><div class=views>{cells}</div>")
        shown[domain] = "".join(rows)
    every = [example for some in examples.values() for example in some]
    legend = "".join(
        f'<span><i style="background:rgb{colour}"></i>{escape(name)}</span>' for name, colour in legend_entries(every)
    )
    return (
        f"<p class=note>{escape(rule)} A click enlarges a picture.</p>"
        f"<div class=legend>{legend}</div>{tabs('pictures', shown)}"
    )


def _method(found: Evaluation, facts: Mapping[str, Any]) -> str:
    words = {name: ", ".join(value) if isinstance(value, list) else str(value) for name, value in facts.items()}
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(text)}</td></tr>" for name, text in words.items())
    # The description is wrapped for terminals: indented lines go on.
    sentences = "".join(f"<li>{escape(line)}</li>" for line in found.describe().replace("\n  ", " ").split("\n"))
    skipped = "".join(
        f"<li><code>{escape(sample)}</code> {escape(reason)}</li>" for sample, reason in found.corrupt.items()
    )
    return f"<ul>{sentences}</ul><div class=scroll><table class=facts><tbody>{rows}</tbody></table></div>" + (
        f"<h3>Images that could not be read</h3><ul class=skipped>{skipped}</ul>" if skipped else ""
    )


def _parts(found: Evaluation) -> list[tuple[str, DomainResult]]:
    """Without the sums over conditions, which lines of a plot would only repeat."""
    sums = {name.partition("/")[0] for name in found.domains if "/" in name}
    return [(name, result) for name, result in found.domains.items() if name not in sums]


def _named(found: Evaluation, beginning: str) -> Table:
    return next(table for table in tables(found) if table.title.startswith(beginning))


def table_of(table: Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.head)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return (
        f"<h3>{escape(table.title)}</h3><div class=scroll><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def tabs(group: str, bodies: Mapping[str, str]) -> str:
    """One of several at a time, without a script: radio buttons."""
    if len(bodies) == 1:
        return next(iter(bodies.values()))
    parts = [
        f'<input type=radio name="{group}" id="{group}-{place}"{" checked" if place == 0 else ""}>'
        f'<label for="{group}-{place}">{escape(name)}</label><div class=tab>{body}</div>'
        for place, (name, body) in enumerate(bodies.items())
    ]
    return f"<div class=tabs>{''.join(parts)}</div>"


def plot(figure: Figure, what: str) -> str:
    text = io.BytesIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return f'<img class=plot alt="{escape(what)}" src="{_data("image/svg+xml", text.getvalue())}">'


def _picture(pixels: npt.NDArray[np.uint8], smooth: bool, what: str) -> str:
    """Photographs as JPEG; label maps as PNG, whose colours stay what the legend says."""
    image = Image.fromarray(pixels)
    if image.width > _WIDEST:
        size = (_WIDEST, max(1, round(image.height * _WIDEST / image.width)))
        image = image.resize(size, Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST)
    file, kind = io.BytesIO(), "jpeg" if smooth else "png"
    image.save(file, kind, **({"quality": 85} if smooth else {"optimize": True}))
    return f'<img loading=lazy alt="{escape(what)}" src="{_data(f"image/{kind}", file.getvalue())}">'


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
