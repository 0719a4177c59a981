"""Logs media with the library and into the folder it is told: ``python media_script.py mlflow|trainspool ROOT``.

Prints one JSON object: what each call that is to be refused raised, and what ``load_table`` gave.
"""

from __future__ import annotations

import importlib
import io
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import mlflow.data
import numpy as np
import pandas as pd
import plotly.graph_objects
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

EXPECTED = (TypeError, ValueError, OSError, KeyError)
random = np.random.default_rng(7)
RGB = random.integers(0, 256, (40, 60, 3), dtype=np.uint8)
BIG = np.kron(random.integers(0, 256, (13, 7, 3), dtype=np.uint8), np.ones((40, 40, 1), np.uint8))


def arrays() -> dict[str, Any]:
    return {
        "uint8": RGB,
        "grey": RGB[:, :, 0],
        "grey3d": RGB[:, :, :1],
        "rgba": random.integers(0, 256, (9, 5, 4), dtype=np.uint8),
        "bool": RGB[:, :, 0] > 99,
        "int64": RGB.astype(np.int64),
        "big-endian": RGB.astype(">i4"),
        "float32": (RGB / 255).astype(np.float32),
        "float16": (RGB[:, :, 0] / 255).astype(np.float16),
        "float64": RGB / 255,
        "beyond": random.normal(size=(30, 20, 3)),
        "fortran": np.asfortranarray(RGB),
        "reversed": RGB[::-1, ::2],
        "one": np.zeros((1, 1), np.uint8),
    }


def pictures() -> dict[str, Any]:
    full = Image.fromarray(RGB)
    palette = full.convert("P", palette=Image.Palette.ADAPTIVE, colors=17)
    see_through = palette.copy()
    see_through.info["transparency"] = 3
    modes = {mode: full.convert(mode) for mode in ("1", "L", "LA", "RGB", "RGBA")}
    wide = Image.fromarray((RGB[:, :, 0].astype(np.uint16) << 8) + 5)
    return {
        **modes,
        "P": palette,
        "Pt": see_through,
        "I16": wide,
        "odd1": full.resize((13, 5)).convert("1"),
    }


def images(library: Any) -> None:
    for name, array in arrays().items():
        library.log_image(array, f"arrays/{name}.png")
    for name, picture in pictures().items():
        library.log_image(picture, f"pictures/{name}.png")
    for extension in ("jpg", "jpeg", "webp", "bmp", "gif", "tiff"):
        library.log_image(RGB, f"formats/a.{extension}")
        library.log_image(pictures()["L"], f"formats/l.{extension}")
    library.log_image(pictures()["P"], "formats/p.bmp")
    for mode in ("I", "F", "CMYK"):
        library.log_image(pictures()["RGB" if mode == "CMYK" else "L"].convert(mode), f"formats/{mode}.tiff")
    library.log_image(mlflow.Image(RGB), "mlflow.png")


def keyed(library: Any) -> None:
    library.log_image(BIG, key="val/big picture", step=3, timestamp=1_700_000_000_123)
    library.log_image(pictures()["P"], key="p")
    library.log_image(Image.fromarray(BIG).convert("RGBA"), key="tall", step=1)
    library.log_image(RGB, key="small", step=-2)


def figures(library: Any) -> None:
    figure, axes = plt.subplots()
    axes.plot([1, 3, 2])
    axes.set_title("Größe 损失"[:5])
    library.log_figure(figure, "figures/plain.png")
    axes.plot([3, 1])
    library.log_figure(figure, "figures/later.png")
    library.log_figure(figure, "figures/kwargs.png", save_kwargs={"dpi": 50, "bbox_inches": "tight"})
    library.log_figure(figure, "figures/a.svg")
    library.log_figure(figure, "figures/a.jpg")
    odd = Figure(figsize=(3.33, 2.77), dpi=77, facecolor="beige")
    odd.subplots().bar([1, 2], [3, 4])
    library.log_figure(odd, "figures/odd.png")
    with mpl.rc_context({"savefig.bbox": "tight", "savefig.dpi": 60}):
        library.log_figure(figure, "figures/tight.png")
    with mpl.rc_context({"savefig.transparent": True, "savefig.dpi": 60}):
        library.log_figure(figure, "figures/transparent.png")
    plt.close(figure)
    lively = plotly.graph_objects.Figure(plotly.graph_objects.Scatter(y=[1, 3, 2]))
    library.log_figure(lively, "figures/lively.html")
    library.log_figure(lively, "figures/whole.html", save_kwargs={"include_plotlyjs": False, "full_html": False})


def tables(library: Any) -> None:
    library.log_table({"q": ["a", "b"], "score": [0.5, 1.0], "n": [1, 2]}, "eval/results.json")
    library.log_table(pd.DataFrame({"q": ["c/d", "é损"], "score": [0.25, None], "n": [3, 4]}), "eval/results.json")
    library.log_table({"q": "one", "score": 1.5, "n": 5}, "eval/results.json")
    library.log_table({"q": ["other"], "extra": [True]}, "eval/results.json")
    library.log_table({"a": [1, 2], "b": 7}, "broadcast.json")
    library.log_table({"a": [[1, 2], [3]], "b": [{"x": 1}, None]}, "nested.json")
    library.log_table({"a": np.arange(3), "b": (1.5, float("nan"), float("inf"))}, "numpy.json")
    library.log_table(
        pd.DataFrame({"when": pd.to_datetime(["2024-01-02T03:04:05Z", "2024-01-02"], format="mixed", utc=True)}),
        "t.json",
    )
    library.log_table({"a": [1, 2], "b": [0.5, None], "s": ["x", "y"]}, "p.parquet")
    library.log_table({"a": [3], "b": [1.5], "s": ["z"]}, "p.parquet")
    picture = Image.fromarray(BIG)
    library.log_table({"text": ["x", "y"], "picture": [picture, mlflow.Image(RGB)]}, "with images.json")


def datasets(library: Any) -> None:
    array = mlflow.data.from_numpy(np.arange(12.0).reshape(3, 4), targets=np.arange(3), name="digits with spaces")
    frame = mlflow.data.from_pandas(pd.DataFrame({"a": [1, 2], "b": ["x", "é"]}), source="data.csv")
    library.log_input(array, context="training")
    library.log_input(array, context="again, and ignored")
    library.log_input(frame, tags={"split": "all", "n": "2"})
    library.log_inputs([array, frame], contexts=["a", None], tags_list=[None, {"x": "y"}])


def streams(library: Any) -> None:
    library.log_stream(io.BytesIO(b"x" * 3_000_000), "streams/x.bin")
    half = io.BytesIO(b"0123456789")
    half.seek(5)
    library.log_stream(half, "streams/half.bin")
    library.log_stream(io.BytesIO(b""), "streams/empty")


def mistakes(library: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    yield "both places", lambda: library.log_image(RGB, "a.png", key="k")
    yield "no place", lambda: library.log_image(RGB)
    yield "a list", lambda: library.log_image([[1, 2]], "a.png")
    yield "one dimension", lambda: library.log_image(np.zeros(3), "a.png")
    yield "two channels", lambda: library.log_image(np.zeros((3, 3, 2)), "a.png")
    yield "texts", lambda: library.log_image(np.array([["a"]]), "a.png")
    yield "complex", lambda: library.log_image(np.zeros((2, 2), complex), "a.png")
    yield "beyond", lambda: library.log_image(np.full((2, 2), 256), "a.png")
    yield "negative", lambda: library.log_image(np.full((2, 2), -1, np.int8), "a.png")
    yield "no pixels", lambda: library.log_image(np.zeros((0, 2), np.uint8), "a.png")
    yield "key", lambda: library.log_image(RGB, key="a+b")
    yield "extension", lambda: library.log_image(RGB, "a.txt")
    yield "jpeg of rgba", lambda: library.log_image(np.zeros((2, 2, 4), np.uint8), "a.jpg")
    yield "figure", lambda: library.log_figure("no figure", "a.png")
    yield "format of plotly", lambda: library.log_figure(plotly.graph_objects.Figure(), "a.txt")
    yield "table", lambda: library.log_table([1], "a.json")
    yield "table path", lambda: library.log_table({"a": [1]}, "a.csv")
    yield "table letters", lambda: library.log_table({"a": [1]}, "a:b.json")
    yield "mixed images", lambda: library.log_table({"a": [Image.fromarray(RGB), 1]}, "a.json")
    yield "no such table", lambda: library.load_table("nowhere.json")
    yield "context of nothing", lambda: library.log_inputs([None], ["x"], [None])
    yield "extra column", lambda: library.load_table("eval/results.json", extra_columns=["nothing.of.that.name"])
    yield "lists of other lengths", lambda: library.log_inputs([None], contexts=[])
    yield "models", lambda: library.log_inputs([], [], [], models=[1])


def refused(library: Any) -> dict[str, str]:
    found = {}
    for name, call in mistakes(library):
        try:
            call()
        except Exception as error:  # noqa: BLE001  whatever it raises is compared
            found[name] = next(kind.__name__ for kind in type(error).__mro__ if kind in EXPECTED
                               or kind.__name__ in ("MlflowException", "TrainspoolException"))  # fmt: skip
        else:
            found[name] = "nothing"
    return found


def main() -> None:
    warnings.simplefilter("ignore")
    library: Any = importlib.import_module(sys.argv[1])
    out, sys.stdout = sys.stdout, sys.stderr  # MLflow greets there
    library.set_tracking_uri(sys.argv[2])
    library.set_experiment("media")
    with library.start_run(run_name="all of it") as run:
        library.log_param("lr", 0.5)
        for part in (images, keyed, figures, tables, datasets, streams):
            part(library)
        raised = refused(library)
    with library.start_run(run_name="another"):
        library.log_table({"q": ["z"], "score": [9.0]}, "eval/results.json")
        both = library.load_table("eval/results.json", extra_columns=["run_id", "status"])
        one = library.load_table("eval/results.json", run_ids=[run.info.run_id], extra_columns=["params.lr"])
        parquet = library.load_table("p.parquet")
    loaded = [frame.drop(columns=["run_id"], errors="ignore").to_json(orient="split") for frame in (both, one, parquet)]
    print(json.dumps({"raised": raised, "loaded": loaded, "runs": len(set(both["run_id"]))}), file=out)


main()
