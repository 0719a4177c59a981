"""The same media, logged with MLflow and with trainspool: the same files, pixel for pixel, tables, tags and datasets.

Where we differ on purpose:

- numbers in tables have 15 digits, MLflow's ten;
- rows that are added leave the earlier ones as they are; MLflow reads the table and writes what pandas made of it;
- in a table, whole numbers and ones with a point are told apart as they were given, not by what else is in the column;
- the tag of logged tables is in the tables' order, not in that of the calls;
- ``log_stream`` of an unreadable stream leaves nothing.
"""

from __future__ import annotations

import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from box import SHARED_MEMORY, Box, until
from conformance import recipe
from PIL import Image

pytestmark = [
    pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no shared memory here"),
    pytest.mark.filterwarnings("ignore"),
]

SCRIPT = Path(__file__).with_name("media_script.py")
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
NOW = re.compile(r"timestamp\+17[1-9]\d{10}|timestamp\+1[89]\d{11}")  # not the one that the script gave


class Logged:
    """What one library made of the script."""

    def __init__(self, root: Path, said: dict[str, Any]) -> None:
        self.root, self.said = root, said
        self.runs = {seen["info"]["run_name"]: run_id for run_id, seen in recipe.snapshot(root).items()}

    @property
    def folder(self) -> Path:
        (folder,) = self.root.glob(f"*/{self.runs['all of it']}")
        return folder

    def files(self) -> dict[str, bytes]:
        """Every artifact, as MLflow's client lists and downloads it; what is random in names is left out."""
        import mlflow

        client, run_id = mlflow.MlflowClient(str(self.root)), self.runs["all of it"]
        listed = set(_walk(client, run_id, None))
        there = {str(path.relative_to(self.folder / "artifacts")) for path in (self.folder / "artifacts").rglob("*.*")}
        assert listed == {path for path in there if (self.folder / "artifacts" / path).is_file()} | {"streams/empty"}
        named = {
            NOW.sub("timestamp+now", UUID.sub("uuid", path)): path for path in listed if "table_images" not in path
        }
        return {name: (self.folder / "artifacts" / path).read_bytes() for name, path in named.items()}

    def table(self, path: str) -> tuple[list[str], list[list[Any]]]:
        found = json.loads((self.folder / "artifacts" / path).read_bytes())
        return found["columns"], found["data"]


def _walk(client: Any, run_id: str, path: str | None) -> Iterator[str]:
    for one in client.list_artifacts(run_id, path):
        if one.is_dir:
            yield from _walk(client, run_id, one.path)
        else:
            yield one.path


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Logged, Logged]]:
    """MLflow's and ours."""
    with Box(tmp_path_factory.mktemp("media")) as box:
        box.start_agent()
        environment = {**box.environment, "MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
        made = []
        for library in ("mlflow", "trainspool"):
            done = subprocess.run(
                [sys.executable, str(SCRIPT), library, str(box.folder / library)],
                env=environment, cwd=box.folder, capture_output=True, text=True, timeout=300, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr[-4000:] + box.agent_log()[-2000:]
            made.append(Logged(box.folder / library, json.loads(done.stdout.splitlines()[-1])))
        until(box.is_quiet, "the run is settled, its account is among its tags")
        yield made[0], made[1]


def test_pictures_are_equal_pixel_for_pixel(both: tuple[Logged, Logged]) -> None:
    theirs, ours = (logged.files() for logged in both)
    assert theirs.keys() == ours.keys()
    pictures = [name for name in theirs if name.endswith((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tiff"))]
    assert len(pictures) > 45
    assert [name for name in pictures if not _same_picture(theirs[name], ours[name])] == []


def _same_picture(they: bytes, we: bytes) -> bool:
    first, second = Image.open(io.BytesIO(they)), Image.open(io.BytesIO(we))
    if (first.mode, first.size, first.format) != (second.mode, second.size, second.format):
        return False
    if first.mode == "P":
        return _same_picture(_png(first.convert("RGBA")), _png(second.convert("RGBA")))
    return first.tobytes() == second.tobytes()


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def test_other_files_are_equal_byte_for_byte(both: tuple[Logged, Logged]) -> None:
    theirs, ours = (logged.files() for logged in both)
    names = [name for name in theirs if name.startswith("streams/")]
    assert len(names) == 3 and [name for name in names if theirs[name] != ours[name]] == []
    for name in ("figures/lively.html", "figures/whole.html"):
        assert UUID.sub("uuid", theirs[name].decode()) == UUID.sub("uuid", ours[name].decode())
    assert b"cdn.plot.ly" in ours["figures/lively.html"] and b"cdn.plot.ly" not in ours["figures/whole.html"]
    drawn = [_drawing(files["figures/a.svg"]) for files in (theirs, ours)]
    assert drawn[0] == drawn[1] and len(drawn[0]) > 5000


def _drawing(svg: bytes) -> str:
    """An SVG without the date in it and the random names of its parts."""
    text = re.sub(r"<dc:date>.*?</dc:date>", "", svg.decode())
    return re.sub(r"(id=\"|#)[mp][0-9a-f]{10}", r"\1part", text)


@pytest.mark.parametrize("path", ["eval/results.json", "broadcast.json", "nested.json", "numpy.json", "t.json"])
def test_tables_say_the_same(both: tuple[Logged, Logged], path: str) -> None:
    (columns, theirs), (ours_columns, ours) = (logged.table(path) for logged in both)
    assert columns == ours_columns and len(theirs) == len(ours)
    for they, we in zip(theirs, ours, strict=True):
        assert all(map(_same_cell, they, we)), (they, we)


def _same_cell(they: Any, we: Any) -> bool:
    if isinstance(they, float) or isinstance(we, float):
        return they is not None and we is not None and math.isclose(they, we, rel_tol=1e-9)
    return bool(they == we)


def test_images_in_tables_are_where_their_cells_say(both: tuple[Logged, Logged]) -> None:
    found = []
    for logged in both:
        columns, rows = logged.table("with images.json")
        assert columns == ["text", "picture"] and [row[0] for row in rows] == ["x", "y"]
        for _, cell in rows:
            assert cell["type"] == "image" and cell["filepath"].startswith("table_images/with images/")
            full, small = (logged.folder / "artifacts" / cell[name] for name in ("filepath", "compressed_filepath"))
            found.append((full.read_bytes(), small.read_bytes()))
    for they, we in zip(found[:2], found[2:], strict=True):
        assert all(map(_same_picture, they, we))


def test_load_table_gives_the_same(both: tuple[Logged, Logged]) -> None:
    theirs, ours = (logged.said for logged in both)
    assert theirs["runs"] == ours["runs"] == 2
    for they, we in zip(theirs["loaded"], ours["loaded"], strict=True):
        assert json.loads(they) == json.loads(we)


def test_mistakes_are_told_in_the_same_words(both: tuple[Logged, Logged]) -> None:
    theirs, ours = (logged.said["raised"] for logged in both)
    assert "nothing" not in theirs.values()
    assert {name: kind.replace("MlflowException", "TrainspoolException") for name, kind in theirs.items()} == ours


def test_tags_are_the_same(both: tuple[Logged, Logged]) -> None:
    tables, images = [], []
    for logged in both:
        tags = recipe.snapshot(logged.root)[logged.runs["all of it"]]["tags"]
        assert not {key for key in tags if key.startswith("trainspool.")} - {"trainspool.account"}, tags
        tables.append(sorted(json.loads(tags["mlflow.loggedArtifacts"]), key=str))
        images.append(tags["mlflow.loggedImages"])
    assert tables[0] == tables[1] and len(tables[0]) == 7
    assert images == ["True", "True"]


def test_datasets_are_the_same_to_mlflow(both: tuple[Logged, Logged]) -> None:
    import mlflow

    seen = []
    for logged in both:
        run = mlflow.MlflowClient(str(logged.root)).get_run(logged.runs["all of it"])
        seen.append(sorted((_dataset(one.dataset), _tags(one)) for one in run.inputs.dataset_inputs))
    assert seen[0] == seen[1] and len(seen[0]) == 2


def _dataset(one: Any) -> tuple[str, ...]:
    source = re.sub(r'"mlflow\.source\.name": "[^"]*"', "", one.source)
    return one.name, one.digest, one.source_type, source, one.schema, one.profile


def _tags(one: Any) -> list[tuple[str, str]]:
    return sorted((tag.key, tag.value) for tag in one.tags)


def test_the_store_migrates(both: tuple[Logged, Logged], tmp_path: Path) -> None:
    _, ours = both
    recipe.check_bytes(ours.root, recipe.snapshot(ours.root))
    recipe.check_migration(ours.root, recipe.snapshot(ours.root), tmp_path)
