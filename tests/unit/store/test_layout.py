"""Names: what MLflow can read goes through unchanged, everything else gets a legal name of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainspool_agent.store.errors import Refused
from trainspool_agent.store.layout import (
    artifact_parts,
    file_of_key,
    file_text,
    is_experiment_id,
    is_key,
    is_run_id,
    legal_key,
)

_names = st.text(st.characters(), max_size=300)


@pytest.mark.parametrize("key", ["loss", "train/损失", "a b-c.d:e_f", ".hidden", "a/..b", " x ", "é" * 127])
def test_legal_keys_stay(key: str) -> None:
    assert legal_key(key) == key


@pytest.mark.parametrize(
    "key",
    [
        "",
        "a//b",
        "/a",
        "a/",
        "./a",
        "a/../b",
        "..foo",
        ".",
        "a\n",
        "x~",
        "a@b",
        "🙂",
        "é" * 128,
        "a" * 251,
        "a\0b",
        "a\\b",
    ],
)
def test_illegal_keys_get_a_legal_name(key: str) -> None:
    assert legal_key(key) != key and is_key(legal_key(key))


@given(_names, _names)
def test_every_key_has_a_legal_name_of_its_own(one: str, two: str) -> None:
    assert is_key(legal_key(one))
    assert one == two or legal_key(one) != legal_key(two)


def test_a_key_that_clashes_with_a_folder_or_a_file_steps_aside(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "b/c").mkdir(parents=True)
    for key in ("a/x", "a/x/y", "b", "b/c"):
        path = file_of_key(str(tmp_path), key)
        assert Path(path).parent == tmp_path and not Path(path).exists()
    assert file_of_key(str(tmp_path), "b/d") == f"{tmp_path}/b/d"


@pytest.mark.parametrize("path", ["", "/etc/x", "../x", "a/../x", "a//b", "a\\..\\b", "a\0", ".", "a/.", "x" * 256])
def test_artifact_paths_that_are_not_plain_are_refused(path: str) -> None:
    with pytest.raises(Refused):
        artifact_parts(path)


def test_ids() -> None:
    assert is_run_id("a" * 32) and not is_run_id("a" * 33) and not is_run_id("models") and not is_run_id("../x")
    assert is_experiment_id("0") and is_experiment_id("1" * 18)
    assert (
        not is_experiment_id("01")
        and not is_experiment_id("1" * 19)
        and not is_experiment_id("x")
        and not is_experiment_id("1\n")
    )


def test_text_has_unix_line_ends_and_is_utf_8() -> None:
    assert file_text("a\r\nb\rc\n损\udc80") == "a\nb\nc\n损?".encode()
