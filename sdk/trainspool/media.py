"""A run's media: pictures, figures, sounds, tables, histograms, datasets; raw, for what costs CPU is the agent's.

Source: sdk/docs/artifacts.md, "Media"; sdk/docs/spool-format.md, kinds 14 and 15; MLflow for names and meanings.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from trainspool import arrays, images, staging, validation
from trainspool.artifacts import RunArtifacts
from trainspool.complaints import warn
from trainspool.errors import TrainspoolException
from trainspool.spool import events
from trainspool.spool.layout import STAGING
from trainspool.stream import stream

LOGGED_IMAGES = "mlflow.loggedImages"
BINS_MAX = 4096
CHANNELS_MAX = 64
INPUT_BYTES_MAX = 256 << 10  # of a dataset's description, in a ring of usual size

_time_ns = time.time_ns


class RunMedia(RunArtifacts):
    """The media calls of a run."""

    def log_image(
        self,
        image: Any,
        artifact_file: str | None = None,
        key: str | None = None,
        step: int | None = None,
        timestamp: int | None = None,
        synchronous: bool | None = False,
    ) -> None:
        """Log a picture, as a file or, by *key* and *step*, into the run's image grid. Taken as it is at the call.

        Args:
            image: an array or tensor (H, W) or (H, W, 1 | 3 | 4), of bool, integers in 0-255 or floats in 0-1 (others
                are rescaled); a Pillow image; an ``mlflow.Image``.
            artifact_file: where it lands below the artifacts; the extension is the format.
            timestamp: ms since the epoch; None is now.

        Raises:
            TypeError, ValueError, OSError: as MLflow does, for what is no picture or fits no file of that format.
        """
        place = images.place(artifact_file, key, step, timestamp)
        about, data = images.picture(image, place.path)
        parts = [(place.path, {"form": "image", **about})]
        if place.thumbnail is not None:
            parts.append((place.thumbnail, {"form": "thumbnail", **about}))
        self._log_media(data, parts)
        if key is not None:
            self._tell_of_images()

    def log_figure(self, figure: Any, artifact_file: str, *, save_kwargs: Mapping[str, Any] | None = None) -> None:
        """Log a figure of matplotlib or plotly, drawn at the call; the extension is the format.

        Args:
            save_kwargs: for matplotlib's ``savefig``, or plotly's ``write_html`` or ``write_image``.

        Raises:
            TypeError: it is no such figure. What drawing raises is raised.
        """
        from trainspool import figures

        path = staging.check_artifact_path(artifact_file)
        found = figures.captured(figure, path, save_kwargs)
        if isinstance(found, bytes):
            self._stage_written(path, lambda folder: staging.write(found, folder))
        else:
            self._log_media(found.data, [(path, {"form": "image", **found.about})])

    def log_table(self, data: Any, artifact_file: str) -> None:
        """Add rows to the table at *artifact_file*, which is made if the run has none.

        Args:
            data: a pandas.DataFrame, or a dictionary of columns. Images in cells are logged beside the table.
            artifact_file: ends in ``.json``, or ``.parquet``, which the agent writes if it has pandas and pyarrow.

        Raises:
            ValueError: MLflow would not take the path, or a column has images and other things.
            TrainspoolException: no table, or a cell that JSON has nothing for.
        """
        from trainspool import rows

        path = staging.check_artifact_path(rows.check_table_path(artifact_file))
        for part in rows.parts(data, path, self._log_cell):
            self._log_media(part, [(path, {"form": "rows"})])

    def _log_cell(self, image: Any, path: str, small: str) -> None:
        about, pixels = images.picture(image, path)
        self._log_media(pixels, [(path, {"form": "image", **about}), (small, {"form": "thumbnail", **about})])

    def log_stream(self, stream: Any, artifact_file: str) -> None:
        """Log what a binary stream holds, from where it is to its end; what reading raises is raised."""
        path = staging.check_artifact_path(artifact_file)
        self._stage_written(path, lambda folder: staging.pour(stream.read, folder))

    def log_audio(
        self,
        audio: Any,
        sample_rate: int,
        artifact_file: str | None = None,
        key: str | None = None,
        step: int | None = None,
        timestamp: int | None = None,
    ) -> None:
        """Log a sound as WAV of 16 bit, as a file or by *key* and *step* as ``audio/<key>+step+...wav``.

        Args:
            audio: (samples,) or (samples, channels): floats in ±1 (beyond, they are cut off), int8, int16, int32 or
                uint8.
            sample_rate: in Hz.

        Raises:
            TypeError: neither or both of *artifact_file* and *key*, or no such numbers.
            ValueError: no shape or rate of a sound, or a file that is no ``.wav``.
        """
        if (artifact_file is None) == (key is None):
            raise TypeError("Invalid arguments: Please specify exactly one of `artifact_file` or `key`.")
        dtype, shape, data = arrays.numbers(audio, "audio")
        if dtype[1:] not in ("i1", "i2", "i4", "u1", "f2", "f4", "f8"):
            raise TypeError(f"audio of {dtype}: floats, int8, int16, int32 or uint8 are samples")
        if len(shape) not in (1, 2) or (len(shape) == 2 and not 1 <= shape[1] <= CHANNELS_MAX):
            raise ValueError(f"audio must be (samples,) or (samples, channels), not {shape}")
        if isinstance(sample_rate, bool) or int(sample_rate) != sample_rate or not 1 <= sample_rate <= 1 << 20:
            raise ValueError(f"no sample rate in Hz: {sample_rate!r}")
        path = artifact_file if key is None else f"audio/{images.keyed(key, step, timestamp)}.wav"
        if not path or not path.endswith(".wav"):
            raise ValueError(f"a sound is written as .wav, not {artifact_file!r}")
        about = {"form": "audio", "dtype": dtype, "shape": list(shape), "rate": int(sample_rate)}
        self._log_media(data, [(staging.check_artifact_path(path), about)])

    def log_histogram(
        self, key: str, values: Any, step: int | None = None, bins: int = 64, timestamp: int | None = None
    ) -> None:
        """Log how *values* are spread: as JSON, ``histograms/<key>+step+...json``, and into the image grid.

        Args:
            values: numbers of any shape, or a sequence of them; NaN and infinities are counted apart.
            bins: of equal width between the smallest and the largest finite value.

        Raises:
            TypeError: no numbers.
            ValueError: no number of bins, or a key that MLflow would not take for an image.
        """
        dtype, shape, data = arrays.numbers(values, "values")
        if isinstance(bins, bool) or not isinstance(bins, int) or not 1 <= bins <= BINS_MAX:
            raise ValueError(f"bins must be a whole number from 1 to {BINS_MAX}, not {bins!r}")
        number = validation.step_number(key, "histogram", step)
        name = images.keyed(key, number, timestamp)
        about = {
            "form": "histogram", "dtype": dtype, "shape": list(shape), "bins": bins, "key": key, "step": number,
        }  # fmt: skip
        paths = (f"histograms/{name}.json", f"images/{name}.png", f"images/{name}+compressed.webp")
        self._log_media(data, [(path, about) for path in paths])
        self._tell_of_images()

    def log_input(
        self, dataset: Any = None, context: str | None = None, tags: Mapping[str, Any] | None = None, model: Any = None
    ) -> None:
        """Log a dataset that the run used.

        Args:
            dataset: one of ``mlflow.data``, or anything with its ``to_dict()``, or a mapping of name, digest,
                source_type, source, schema and profile.
            context: what for, such as ``training``: MLflow's tag ``mlflow.data.context``.

        Raises:
            TrainspoolException: no dataset that MLflow would take, or a *model*, which no store of ours has.
        """
        if model is not None:
            raise TrainspoolException("a logged model as an input needs a tracking server; trainspool logs datasets")
        if dataset is not None:  # else MLflow starts a run, if there is none, and logs nothing
            self.log_inputs([dataset], [context], [tags])

    def log_inputs(
        self,
        datasets: Sequence[Any] | None = None,
        contexts: Sequence[str | None] | None = None,
        tags_list: Sequence[Mapping[str, Any] | None] | None = None,
        models: Sequence[Any] | None = None,
    ) -> None:
        """Log several datasets, each with its context and tags; errors as ``log_input``."""
        from trainspool.datasets import described, tags_of

        lists = datasets or [], contexts or [], tags_list or []
        if len(set(map(len, lists))) != 1:
            raise TrainspoolException(
                "`mlflow.log_inputs` requires `datasets`, `contexts`, `tags_list` to be non-empty list and have the "
                "same length."
            )
        if models:
            raise TrainspoolException("'models' argument is only supported by Databricks managed MLflow.")
        told = [(one, tags_of(one, context, tags)) for one, context, tags in zip(*lists, strict=True)]
        for about, flat in [(described(one), flat) for one, flat in told if one is not None]:
            self._log_input(about, flat)

    def _log_input(self, about: dict[str, str | None], tags: list[str]) -> None:
        stream.ensure()
        if stream.pump is None:
            return
        room = min(INPUT_BYTES_MAX, stream.ring.chunk_bytes // 2)
        for name in ("profile", "schema"):
            if len(events.pack(about, tags)) > room:
                warn(
                    "dataset %s of run %s: its %s is too large for the ring and left out",
                    about["name"],
                    self.run_id,
                    name,
                )
                self.set_tag("trainspool.problem", f"the {name} of dataset {about['name']} was too large"[:500])
                about = {**about, name: None}
        self._log(events.INPUT, _time_ns(), about, tags)

    def _tell_of_images(self) -> None:
        if self.tags.get(LOGGED_IMAGES) != "True":
            self.set_tag(LOGGED_IMAGES, True)

    def _log_media(self, content: bytes | memoryview, parts: list[tuple[str, dict[str, Any]]]) -> None:
        """Stage *content*, then say what is to be made of it. A full disk is reported, not raised."""
        stream.ensure()
        if stream.pump is None:
            return
        try:
            staged = staging.write(content, f"{stream.folder}/{STAGING}")
        except staging.StagingFailed as error:
            self._report(parts[0][0], error)
            return
        stream.pump.staged.append(staged.path)
        now = _time_ns()
        for path, about in parts:
            self._log(events.MEDIA, now, path, staged.name, staged.size, about)
