"""Pages from templates/: every value is escaped by Jinja, every picture is inside the page."""

import base64
import functools
import io
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
from PIL import Image

from dgseg.evaluation.report.chart import Chart

_WIDEST = 960  # of an embedded picture, in pixels


def render(template: str, **values: Any) -> str:
    """templates/page.html says which values every page takes."""
    return _templates().get_template(template).render(**values) + "\n"


def data_uri(content: Chart | npt.NDArray[np.uint8], smooth: bool = True) -> str:
    """A chart as SVG; a photograph as JPEG; with smooth=False a label map as PNG, whose colours stay as they are."""
    if isinstance(content, Chart):
        return _uri("svg+xml", content.svg())
    image = Image.fromarray(content)
    if image.width > _WIDEST:
        size = (_WIDEST, max(1, round(image.height * _WIDEST / image.width)))
        image = image.resize(size, Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST)
    file, kind = io.BytesIO(), "jpeg" if smooth else "png"
    image.save(file, kind, **({"quality": 85} if smooth else {"optimize": True}))
    return _uri(kind, file.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


@functools.cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("dgseg.evaluation.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
