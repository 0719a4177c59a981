from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from trainspool.spool import plainyaml

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
KEY_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=100)  # YAML takes keys of 1024 bytes, escaped
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63), TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEY_TEXTS, inner, max_size=3)),
    max_leaves=5,
)


@given(values=st.dictionaries(KEY_TEXTS, VALUES, max_size=5))
def test_what_is_written_is_read_back_by_us_and_by_any_yaml_library(values: dict[str, Any]) -> None:
    data = plainyaml.render(values)
    assert plainyaml.parse(data) == values == yaml.safe_load(data or b"{}")


KEYS = ["name", "status", '"a b"', "yes", "1", "'x'"]
ITEMS = """
plain | 'single' | "double" | "\\x41" | "\\e" | 5 | 05 | 1_000 | 0x1F | 1e5 | 1.0 | -3 | true | yes | null | ~ | | []
{} | [a] | {a: b} | ["a", 1] | # note | "x" # note | NaN | [1e5] | 2024-01-01 | "\\UFFFFFFFF" | "\\U00000041" | *a
&a x | -0 | "\t" | "a\\ | 1:30 | Infinity | > | {"a": [null, {"b": false}]} | "\\/" | "\\uD83D\\uDE00"
"""
LINES = st.lists(
    st.builds(
        "{}: {}".format,
        st.sampled_from(KEYS),
        st.sampled_from([one.strip() for line in ITEMS.splitlines() for one in line.split(" | ")]),
    ),
    max_size=4,
)


@given(lines=LINES)
def test_what_others_write_is_refused_or_read_as_yaml_reads_it(lines: list[str]) -> None:
    data = "".join(f"{line}\n" for line in lines).encode()
    try:
        values = plainyaml.parse(data)
    except ValueError:
        return
    assert values == (yaml.safe_load(data) or {})


@pytest.mark.parametrize(
    "data", [b"name: mnist\n", b"- a\n", b"name:\n  a: 1\n", b"\x80", b"---\na: 1\n", b"a: 1\r\n\rb: 2"]
)
def test_another_form_is_left_to_a_library(data: bytes) -> None:
    with pytest.raises(ValueError):
        plainyaml.parse(data)


def test_what_nests_for_ever_ends_no_process() -> None:
    with pytest.raises(ValueError):
        plainyaml.parse(b"a: " + b"[" * 100_000 + b"]" * 100_000 + b"\n")
