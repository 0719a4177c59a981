"""What other libraries hold as arrays, as bytes in C order: nothing is imported, objects say what they are.

NumPy's arrays, torch's and TensorFlow's tensors, whatever offers ``__array__``; where one of those is, so is NumPy.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

from trainspool.errors import TrainspoolException

ARRAY_BYTES_MAX = 256 << 20  # what the agent takes for one picture, sound or histogram
_KINDS = {**dict.fromkeys("bhilq", "i"), **dict.fromkeys("BHILQ", "u"), "f": "f", "d": "f"}  # of Python's array


class Raw(NamedTuple):
    """An array as it is at the call: *dtype* as NumPy has it, such as ``|u1``; *data* may be the caller's memory."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


def is_from(value: object, package: str, name: str) -> bool:
    """Whether *value* is an instance of class *name* of *package*, wherever in the package that lives."""
    return any(kind.__name__ == name and kind.__module__.partition(".")[0] == package for kind in type(value).__mro__)


def array_of(value: Any) -> Any:
    """Return the NumPy array that *value* is or offers, or None."""
    if is_from(value, "torch", "Tensor"):
        value = value.detach().cpu()
        try:
            return value.numpy()
        except TypeError:  # bfloat16, which NumPy does not have
            return value.float().numpy()
    if not is_from(value, "numpy", "ndarray") and callable(getattr(value, "__array__", None)):
        value = value.__array__()
    return value if is_from(value, "numpy", "ndarray") else None


def numbers(values: Any, what: str) -> Raw:
    """Return numbers of any shape, in an array of someone's or in plain sequence, as bytes.

    Raises:
        TypeError: they are none.
        TrainspoolException: there are more of them than the agent takes.
    """
    array = array_of(values)
    if array is not None:
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{what} must be numbers, not {array.dtype}")
        return raw(array, what)
    import array as sequences

    try:
        data = values if isinstance(values, sequences.array) else sequences.array("d", values)
    except TypeError as error:
        raise TypeError(f"{what} must be numbers in an array or a sequence, not {type(values)}") from error
    if data.typecode not in _KINDS:
        raise TypeError(f"{what} must be numbers, not letters")
    order = "|" if data.itemsize == 1 else "<" if sys.byteorder == "little" else ">"
    dtype = f"{order}{_KINDS[data.typecode]}{data.itemsize}"
    return Raw(dtype, (len(data),), memoryview(data.tobytes()))


def raw(array: Any, what: str) -> Raw:
    """Return a NumPy array of numbers as bytes in C order and this machine's byte order.

    Raises:
        TrainspoolException: there are more of them than the agent takes.
    """
    numpy = sys.modules["numpy"]  # the array is its
    if not array.dtype.isnative or array.dtype.itemsize > 8:  # long double is another thing on every machine
        array = array.astype(array.dtype.newbyteorder("=") if array.dtype.itemsize <= 8 else "f8")
    if array.nbytes > ARRAY_BYTES_MAX:
        raise TrainspoolException(
            f"{what} of {array.nbytes:,} bytes is more than the {ARRAY_BYTES_MAX:,} that one may have: log a part of it"
        )
    whole = numpy.ascontiguousarray(array)
    return Raw(whole.dtype.str, tuple(map(int, array.shape)), memoryview(whole.reshape(-1).view("u1")))
