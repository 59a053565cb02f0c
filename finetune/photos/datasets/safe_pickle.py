"""Arrays of bytes out of a pickle that nobody vouches for, without running any of it.

A pickle is a program: it may call whatever it names. Here it may name five things that a pickled
NumPy array is made of, and even these are stand-ins, so that no code of NumPy's is called with what
the file says. Everything else is refused by name.

The unpickler is the one written in Python. The one in C sizes its memo by a number in the file and
can be made to take all memory.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC_MODULES = ("numpy.core.numeric", "numpy._core.numeric")


def load_plain(content: bytes) -> Any:
    """Returns what a pickle holds: numbers, text, bytes, lists, dicts, and arrays of bytes.

    Args:
        content: The pickle, of any protocol; text of Python 2 is read as latin-1.

    Returns:
        The value; an array is a read-only NumPy array of uint8.

    Raises:
        ValueError: It names anything else, or is damaged; says what. Nothing of it was run.
    """
    try:
        value = _Unpickler(io.BytesIO(content), encoding="latin-1").load()
    except _RefusedError as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # a hostile pickle makes its reader raise anything
        raise ValueError(f"it is no pickle, or a damaged one ({type(error).__name__})") from error
    return _with_arrays(value)


class _RefusedError(Exception):
    """Something that an array of bytes has no need of."""


class _StandIn:
    """What a pickle gets in the place of a function: it cannot be changed, only called."""

    __slots__ = ("_make",)

    def __init__(self, make: Any) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise _RefusedError("it changes what it has no right to")


class _Type:
    """An array's type of numbers."""

    __slots__ = ("code",)

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        """Takes byte order and such, which bytes do not have."""


class _Array:
    """An array of bytes before anyone has looked at what the pickle says of it."""

    __slots__ = ("data", "fortran", "kind", "shape")

    def __init__(self, shape: Any = (), kind: Any = None, fortran: Any = False, data: Any = b""):
        self.shape, self.kind, self.fortran, self.data = shape, kind, fortran, data

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.kind, self.fortran, self.data = state

    def checked(self) -> NDArray[np.uint8]:
        """Returns the NumPy array; raises _RefusedError where it is no array of bytes."""
        kind = self.kind.code if isinstance(self.kind, _Type) else None
        if kind not in ("u1", "|u1", "B", "uint8"):
            raise _RefusedError(f"it has an array of {kind!r:.20}, not of bytes")
        data = self.data.encode("latin-1") if isinstance(self.data, str) else self.data
        shape = self.shape
        whole = isinstance(shape, tuple) and all(type(side) is int and side >= 0 for side in shape)
        if not whole or not isinstance(data, bytes | bytearray) or len(shape) > 4:
            raise _RefusedError("it has an array without data or shape")
        size = 1
        for side in shape:
            size *= side
        if size != len(data):
            raise _RefusedError(f"it has an array of {shape} with {len(data):,} bytes")
        array = np.frombuffer(bytes(data), np.uint8)
        return array.reshape(shape, order="F" if self.fortran else "C")


def _encode(text: Any, encoding: Any) -> bytes:
    """How Python 3 writes bytes for Python 2."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _RefusedError("it encodes what is no bytes")
    return text.encode("latin-1")


def _from_buffer(data: Any, kind: Any, shape: Any, order: Any) -> _Array:
    return _Array(shape, kind, order == "F", data)


# Read as _pickle.Unpickler would be; see the module's docstring.
class _Unpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Returns the stand-in of a name that an array may use."""
        if module in _ARRAY_MODULES and name == "_reconstruct":
            return _StandIn(lambda *_: _Array())
        if module in _NUMERIC_MODULES and name == "_frombuffer":
            return _StandIn(_from_buffer)
        if (module, name) == ("numpy", "ndarray"):
            return _StandIn(lambda *_: _Array())
        if (module, name) == ("numpy", "dtype"):
            return _StandIn(_Type)
        if (module, name) == ("_codecs", "encode"):
            return _StandIn(_encode)
        raise _RefusedError(
            f"it asks for {module:.40}.{name:.40}, which pictures have no need of; nothing was run"
        )


def _with_arrays(value: Any) -> Any:
    """Replaces the arrays in a dict; deeper ones are left, and are of no use to anyone."""
    try:
        if isinstance(value, _Array):
            return value.checked()
        if isinstance(value, dict):
            return {
                key: item.checked() if isinstance(item, _Array) else item
                for key, item in value.items()
            }
    except _RefusedError as error:
        raise ValueError(str(error)) from None
    return value
