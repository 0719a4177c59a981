"""Figures as ``log_figure`` takes them: drawn at the call, for they change later; what can be, is left to the agent.

Source: log_figure of mlflow/tracking/client.py, MLflow 3.17.
"""

from __future__ import annotations

import io
import posixpath
import sys
from collections.abc import Mapping
from typing import Any

from trainspool import arrays
from trainspool.images import Picture

_PLOTLY_IMAGES = (".png", ".jpeg", ".webp", ".svg", ".pdf")


def captured(figure: Any, artifact_file: str, save_kwargs: Mapping[str, Any] | None) -> Picture | bytes:
    """Return a figure as pixels, of which the agent makes the file, or as the file itself.

    Raises:
        TypeError: neither matplotlib's nor plotly's, or a format that plotly has not.
    """
    extension = posixpath.splitext(artifact_file)[1]
    if arrays.is_from(figure, "matplotlib", "Figure"):
        drawn = None if save_kwargs or extension != ".png" else _drawn(figure)
        return drawn or _saved(figure, extension, dict(save_kwargs or {}))
    if arrays.is_from(figure, "plotly", "Figure"):
        return _of_plotly(figure, extension, dict(save_kwargs or {}))
    raise TypeError(f"Unsupported figure object type: '{type(figure)}'")


def _drawn(figure: Any) -> Picture | None:
    """Return the pixels that ``savefig`` would have put into a PNG; None where those are not to be had."""
    settings = sys.modules["matplotlib"].rcParams
    is_agg = any(kind.__name__ == "FigureCanvasAgg" for kind in type(figure.canvas).__mro__)
    is_plain = type(figure.canvas).__name__ == "FigureCanvasBase"  # of a figure without pyplot: Agg draws its PNG, too
    if not (is_agg or is_plain) or settings["savefig.bbox"] == "tight":
        return None
    file = io.BytesIO()
    figure.savefig(file, format="rgba")  # the same way as a PNG's, without the last step
    dpi = settings["savefig.dpi"]
    if dpi == "figure":
        dpi = getattr(figure, "_original_dpi", figure.dpi)
    width, height = (int(inches * dpi) for inches in figure.get_size_inches())
    data = file.getbuffer()
    if len(data) != 4 * width * height:
        return None
    return Picture({"dtype": "|u1", "shape": [height, width, 4], "mode": None}, data)


def _saved(figure: Any, extension: str, options: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    options.setdefault("format", extension[1:] or figure.canvas.get_default_filetype())
    figure.savefig(file, **options)
    return file.getvalue()


def _of_plotly(figure: Any, extension: str, options: dict[str, Any]) -> bytes:
    if extension == ".html":
        page = io.StringIO()
        figure.write_html(page, **{"include_plotlyjs": "cdn", "auto_open": False, **options})
        return page.getvalue().encode()
    if extension not in _PLOTLY_IMAGES:
        raise TypeError(f"Unsupported file extension for plotly figure: '{extension}'")
    file = io.BytesIO()
    figure.write_image(file, **{"format": extension[1:], **options})
    return file.getvalue()
