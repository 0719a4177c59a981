"""Media at the call: taken as they are now, raw; what is no picture, sound or table is told at once."""

from __future__ import annotations

import array
import errno
import io
import json
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from spooled import Held, Place

import trainspool as mlflow
from trainspool.errors import TrainspoolException
from trainspool.spool import events, files

pytestmark = pytest.mark.usefixtures("here")
RGB = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)


class Media:
    """The media events of the stream: path → what is to be made of it, and the staged bytes."""

    def __init__(self, held: Held) -> None:
        assert held.folder is not None
        self.about: dict[str, dict[str, Any]] = {event[3]: event[6] for event in held.of(events.MEDIA)}
        self.staged: dict[str, str] = {event[3]: event[4] for event in held.of(events.MEDIA)}
        self.bytes = {path: (held.folder / "staging" / name).read_bytes() for path, name in self.staged.items()}
        self.sizes = {event[3]: event[5] for event in held.of(events.MEDIA)}
        assert self.sizes == {path: len(data) for path, data in self.bytes.items()}
        self.held = held


@pytest.fixture
def logged(here: Place) -> Callable[[], Media]:
    def look() -> Media:
        assert mlflow.flush(timeout=20)
        return Media(here.stream())

    return look


Logged = Callable[[], Media]


def test_an_array_is_staged_raw_and_as_it_was(logged: Logged) -> None:
    picture = RGB.copy()
    mlflow.log_image(picture, "a/b.png")
    picture[:] = 0
    seen = logged()
    assert seen.bytes["a/b.png"] == RGB.tobytes()
    assert seen.about["a/b.png"] == {"form": "image", "dtype": "|u1", "shape": [5, 4, 3], "mode": None}


@pytest.mark.parametrize("view", [RGB[::-1], RGB[:, ::2], np.asfortranarray(RGB), RGB.astype(">i2"), RGB[:, :, 0].T])
def test_whatever_lies_in_memory_otherwise_arrives_in_order(logged: Logged, view: Any) -> None:
    mlflow.log_image(view, "a.png")
    seen = logged()
    about = seen.about["a.png"]
    again = np.frombuffer(seen.bytes["a.png"], about["dtype"]).reshape(about["shape"])
    assert (again == view).all()


def test_what_offers_an_array_is_taken_as_one(logged: Logged) -> None:
    class Tensor:
        def __array__(self, *_: object) -> Any:
            return RGB

    mlflow.log_image(Tensor(), "a.png")
    assert logged().bytes["a.png"] == RGB.tobytes()


def test_a_tensor_is_detached_and_brought_to_the_processor_first(logged: Logged) -> None:
    class Tensor:
        """As torch's: none of these may be left out for one that has a gradient on a GPU."""

        steps: list[str] = []  # noqa: RUF012

        def __getattr__(self, name: str) -> Any:
            self.steps.append(name)
            return (lambda: RGB) if name == "numpy" and self.steps.count("float") else self._step(name)

        def _step(self, name: str) -> Callable[[], Any]:
            if name == "numpy":
                return lambda: (_ for _ in ()).throw(TypeError("Got unsupported ScalarType BFloat16"))
            return lambda: self

    Tensor.__module__ = "torch"
    mlflow.log_image(Tensor(), "a.png")
    assert [name for name in Tensor.steps if not name.startswith("to_pil")] == [
        "detach",
        "cpu",
        "numpy",
        "float",
        "numpy",
    ]
    assert logged().bytes["a.png"] == RGB.tobytes()


def test_a_pillow_image_keeps_its_mode_and_palette(logged: Logged) -> None:
    picture = Image.fromarray(RGB).convert("P")
    picture.info["transparency"] = 2
    mlflow.log_image(picture, "p.png")
    mlflow.log_image(Image.fromarray(RGB).convert("1"), "1.png")
    seen = logged()
    assert seen.about["p.png"]["mode"] == "P" and seen.about["p.png"]["transparency"] == 2
    assert seen.about["p.png"]["palette"] == ["RGB", bytes(picture.getpalette() or ())]
    assert seen.about["1.png"]["mode"] == "1" and len(seen.bytes["1.png"]) == 5


def test_a_key_makes_two_artifacts_of_one_staged_file_and_a_tag(logged: Logged) -> None:
    mlflow.log_image(RGB, key="val/cats", step=7, timestamp=1_700_000_000_000)
    mlflow.log_image(RGB, key="val/cats", step=8)
    seen = logged()
    first, small = list(seen.about)[:2]
    assert first.startswith("images/val~cats+step+7+timestamp+1700000000000+") and first.endswith(".png")
    assert small == first.replace(".png", "+compressed.webp")
    assert seen.staged[first] == seen.staged[small] and seen.about[small]["form"] == "thumbnail"
    assert seen.held.tags["mlflow.loggedImages"] == "True" and len(seen.held.of(events.TAGS)) == 1


def test_a_refused_picture_leaves_nothing(here: Place, logged: Logged) -> None:
    for call in (
        lambda: mlflow.log_image(np.full((2, 2), 256), "a.png"),
        lambda: mlflow.log_image(RGB, "../a.png"),
        lambda: mlflow.log_image(RGB, key="a" * 200),
        lambda: mlflow.log_image(RGB, key="a", step=1.5),  # type: ignore[arg-type]
        lambda: mlflow.log_image(np.lib.stride_tricks.as_strided(RGB, (1 << 14, 1 << 15), (0, 0)), "a.png"),
    ):
        with pytest.raises(ValueError):
            call()
    seen = logged()
    assert seen.about == {} and not list(here.spool.glob("streams/*/*/staging/*"))


def test_a_full_disk_is_reported_and_not_raised(
    logged: Logged, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mlflow.log_param("a", 1)
    assert mlflow.flush(timeout=20)

    class Full(files.Files):
        def write(self, fd: int, data: bytes | memoryview) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "fs", Full())
        mlflow.log_image(RGB, key="a")
        mlflow.log_table({"a": [1]}, "t.json")
        mlflow.log_stream(io.BytesIO(b"x"), "x")
        mlflow.log_histogram("h", [1.0])
    seen = logged()
    assert seen.about == {} and len(caplog.records) == 4
    assert "No space left" in str(seen.held.tags["trainspool.problem"])


def test_a_stream_is_read_from_where_it_is(logged: Logged) -> None:
    source = io.BytesIO(b"0123456789" * 300_000)
    source.seek(5)
    mlflow.log_stream(source, "a.bin")
    assert logged().held.artifacts == {"a.bin": b"56789" + b"0123456789" * 299_999}


def test_what_reading_a_stream_raises_is_raised_and_nothing_is_left(here: Place, logged: Logged) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 1 << 20:
                raise OSError(errno.EIO, "the network went away")
            return super().read(size)

    with pytest.raises(OSError, match="the network went away"):
        mlflow.log_stream(Broken(bytes(3 << 20)), "a.bin")
    seen = logged()
    assert seen.held.of(events.ARTIFACT) == [] and not list(here.spool.glob("streams/*/*/staging/*"))


def test_rows_are_json_of_columns_and_data(logged: Logged) -> None:
    mlflow.log_table({"a": [1, 2.5, None], "b": ["x", "é", "z/"], "c": True}, "t.json")
    mlflow.log_table({"a": float("inf"), "b": np.float32(0.5), "c": np.array([1, 2])}, "one.json")
    mlflow.log_table({"a": [1, 2], "b": [1]}, "odd.json")
    mlflow.log_table(pd.DataFrame({"a": [0.123456789012345], "s": ["x"]}), "f.json")
    found = {path: json.loads(data) for path, data in logged().bytes.items()}
    assert found["t.json"] == {
        "columns": ["a", "b", "c"],
        "data": [[1, "x", True], [2.5, "é", True], [None, "z/", True]],
    }
    assert found["one.json"] == {"columns": ["a", "b", "c"], "data": [[None, 0.5, 1], [None, 0.5, 2]]}
    assert found["odd.json"] == {"columns": ["a", "b"], "data": [[[1, 2], [1]]]}
    assert found["f.json"] == {"columns": ["a", "s"], "data": [[0.123456789012345, "x"]]}


def test_a_large_table_goes_in_parts(logged: Logged) -> None:
    column = ["x" * 1000] * 20_000
    mlflow.log_table({"a": column}, "a.json")
    mlflow.log_table(pd.DataFrame({"a": column}), "f.json")
    held = logged().held
    assert held.folder is not None
    for path in ("a.json", "f.json"):
        parts = [
            (held.folder / "staging" / event[4]).read_bytes() for event in held.of(events.MEDIA) if event[3] == path
        ]
        assert len(parts) == 4 and all(len(part) <= 8 << 20 for part in parts)
        assert sum(len(json.loads(part)["data"]) for part in parts) == 20_000


def test_a_frame_is_not_changed_by_logging_it(logged: Logged) -> None:
    frame = pd.DataFrame({"picture": [Image.fromarray(RGB), Image.fromarray(RGB)], "n": [1, 2]})
    mlflow.log_table(frame, "t.json")
    assert isinstance(frame["picture"][0], Image.Image)
    seen = logged()
    cells = [row[0] for row in json.loads(seen.bytes["t.json"])["data"]]
    assert [seen.about[cell["filepath"]]["form"] for cell in cells] == ["image", "image"]
    assert [seen.about[cell["compressed_filepath"]]["form"] for cell in cells] == ["thumbnail", "thumbnail"]


def test_a_cell_that_json_has_nothing_for_is_told(logged: Logged) -> None:
    with pytest.raises(TrainspoolException, match="not JSON serializable"):
        mlflow.log_table({"a": [object()]}, "t.json")
    assert logged().about == {}


@pytest.mark.parametrize(
    "values",
    [
        [1.0, 2.0, 3.0],
        array.array("f", [1, 2, 3]),
        np.array([1, 2, 3]),
        pd.Series([1, 2, 3]),
        np.array([[1], [2], [3]]),
    ],
    ids=["list", "array", "numpy", "series", "nested"],
)
def test_a_histogram_takes_numbers_of_any_kind(logged: Logged, values: Any) -> None:
    mlflow.log_histogram("weights/fc", values, step=4, bins=7)
    seen = logged()
    json_path, png, webp = seen.about
    assert json_path.startswith("histograms/weights~fc+step+4+timestamp+") and json_path.endswith(".json")
    assert png.startswith("images/weights~fc+step+4") and webp.endswith("+compressed.webp")
    about = seen.about[json_path]
    assert (about["bins"], about["key"], about["step"]) == (7, "weights/fc", 4)
    assert np.frombuffer(seen.bytes[json_path], about["dtype"]).tolist() == [1, 2, 3]
    assert len(set(seen.staged.values())) == 1 and seen.held.tags["mlflow.loggedImages"] == "True"


def test_what_is_no_histogram_is_told(logged: Logged) -> None:
    for values in (["a"], None, np.array(["a"]), np.zeros(3, complex)):
        with pytest.raises(TypeError):
            mlflow.log_histogram("h", values)
    for bins in (0, True, 1.5, 5000):
        with pytest.raises(ValueError):
            mlflow.log_histogram("h", [1.0], bins=bins)  # type: ignore[arg-type]
    assert logged().about == {}


def test_a_sound_has_a_rate_and_a_shape(logged: Logged) -> None:
    mlflow.log_audio(np.zeros((100, 2), np.float32), 16_000, "a/b.wav")
    mlflow.log_audio([0.0, 0.5], 8000, key="speech/en", step=2)
    seen = logged()
    assert seen.about["a/b.wav"] == {"form": "audio", "dtype": "<f4", "shape": [100, 2], "rate": 16_000}
    assert [
        path for path in seen.about if path.startswith("audio/speech~en+step+2+timestamp+") and path.endswith(".wav")
    ]
    assert struct.unpack("=2d", next(data for path, data in seen.bytes.items() if path.startswith("audio/"))) == (
        0.0,
        0.5,
    )


def test_what_is_no_sound_is_told(logged: Logged) -> None:
    silence = np.zeros(9, np.float32)
    for call, error in (
        (lambda: mlflow.log_audio(silence, 8000), TypeError),
        (lambda: mlflow.log_audio(silence, 8000, "a.wav", key="k"), TypeError),
        (lambda: mlflow.log_audio(silence, 8000, "a.mp3"), ValueError),
        (lambda: mlflow.log_audio(silence, 0, "a.wav"), ValueError),
        (lambda: mlflow.log_audio(silence.reshape(3, 3, 1), 8000, "a.wav"), ValueError),
        (lambda: mlflow.log_audio(np.zeros((2, 48_000)), 8000, "a.wav"), ValueError),
        (lambda: mlflow.log_audio(np.zeros(9, bool), 8000, "a.wav"), TypeError),
    ):
        with pytest.raises(error):
            call()
    assert logged().about == {}


def test_a_dataset_is_its_six_texts_and_its_tags(logged: Logged) -> None:
    about = {"name": "digits", "digest": "5e1f", "source_type": "local", "source": {"uri": "x"}, "schema": None}
    mlflow.log_input(about, context="train", tags={"n": 3})
    ((_, _, _, told, tags),) = logged().held.of(events.INPUT)
    assert told == {**about, "source": '{"uri": "x"}', "profile": None}
    assert tags == ["n", "3", "mlflow.data.context", "train"]


def test_a_dataset_that_mlflow_would_not_take_is_told(logged: Logged) -> None:
    good = {"name": "digits", "digest": "5e1f", "source_type": "local", "source": "x"}
    for bad in (
        "data.csv",
        7,
        {},
        {**good, "digest": "x" * 40},
        {**good, "name": ""},
        {**good, "source": "x" * 70_000},
    ):
        with pytest.raises(TrainspoolException):
            mlflow.log_input(bad)
    assert logged().held.of(events.INPUT) == []


def test_a_description_that_the_ring_cannot_take_is_left_out_and_told(
    here: Place, logged: Logged, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = {"name": "digits", "digest": "5e1f", "source_type": "local", "source": "x", "schema": "s" * 1000}
    mlflow.log_input({**good, "profile": "p" * 900_000})
    ((_, _, _, told, _),) = logged().held.of(events.INPUT)
    assert told["schema"] == "s" * 1000 and told["profile"] is None
    assert "too large" in str(logged().held.tags["trainspool.problem"]) and len(caplog.records) == 1


def test_logging_media_imports_no_library_of_pictures(here: Place) -> None:
    done = here.run(
        """
        import sys
        import trainspool as mlflow
        before = set(sys.modules)
        mlflow.log_histogram("h", [1.0, 2.0])
        mlflow.log_audio([0.0], 8000, "a.wav")
        mlflow.log_table({"a": [1]}, "t.json")
        mlflow.log_input({"name": "n", "digest": "d", "source_type": "t", "source": "s"})
        print(sorted({name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))
        """
    )
    assert done.out.strip() == "['trainspool']"


def test_what_only_media_need_is_imported_when_they_come(here: Place) -> None:
    """Importing trainspool has a budget of 50 ms: here, beside others on this machine, of processor time."""
    done = here.run(
        """
        import sys, time
        begun = time.process_time()
        import trainspool
        print(time.process_time() - begun)
        late = {f"trainspool.{name}" for name in ("figures", "rows", "reading.tables", "datasets")}
        print(sorted(set(sys.modules) & (late | {"array", "uuid", "decimal", "numpy", "PIL"})))
        """
    )
    seconds, loaded = done.out.splitlines()
    assert float(seconds) < 0.2 and loaded == "[]"


def test_a_picture_costs_the_caller_little_more_than_writing_it(logged: Logged, tmp_path: Path) -> None:
    """3 ms for a megapixel; here, beside others on this machine, the least of many, against a bare write of it."""
    picture = np.zeros((1024, 1024, 3), np.uint8)
    mlflow.log_image(picture, key="a")
    calls, writes = [], []
    for number in range(30):
        begun = time.perf_counter()
        mlflow.log_image(picture, key="a")
        calls.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        (tmp_path / f"bare{number}").write_bytes(picture.data)
        writes.append(time.perf_counter() - begun)
    assert min(calls) < max(0.003, 2 * min(writes)), (min(calls), min(writes))
