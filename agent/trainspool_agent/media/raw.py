"""A staged array as NumPy has it: of an allowed type, of exactly the size it should have."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from trainspool.spool.events import shown

_DTYPES = frozenset("|b1 |i1 |u1 <i2 <u2 <i4 <u4 <i8 <u8 <f2 <f4 <f8 >i2 >u2 >i4 >u4 >i8 >u8 >f2 >f4 >f8".split())


def array(about: dict[str, Any], content: bytes) -> np.ndarray[Any, Any]:
    """Return the array that *content* is, not to be written to.

    Raises:
        ValueError: a type that is not allowed, or a shape that is not *content*'s.
    """
    dtype, shape = about["dtype"], shape_of(about)
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError(f"no type of numbers: {shown(dtype)}")
    if math.prod(shape) * np.dtype(dtype).itemsize != len(content):
        raise ValueError(f"shape {shape} of {dtype} has another size")
    return np.frombuffer(content, dtype).reshape(shape)


def shape_of(about: dict[str, Any]) -> tuple[int, ...]:
    shape = about["shape"]
    if type(shape) is not list or len(shape) > 32 or any(type(one) is not int or one < 0 for one in shape):
        raise ValueError(f"no shape: {shown(shape)}")
    return tuple(shape)
