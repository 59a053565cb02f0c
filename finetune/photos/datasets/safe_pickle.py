"""Restricted unpickler for arrays of bytes from untrusted files.

A pickle can call anything that it names. Here it can name only the five globals of a pickled NumPy
array, each replaced by a stub, so that no NumPy code runs on the file's content. Any other name is
refused.

Built on the pure-Python unpickler: the C one sizes its memo by a number in the file, which can
exhaust the memory.
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
        ValueError: It is damaged or names another global. None of it was run.
    """
    try:
        value = _Unpickler(io.BytesIO(content), encoding="latin-1").load()
    except _RefusedError as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # a hostile pickle can raise anything
        raise ValueError(f"it is no pickle, or a damaged one ({type(error).__name__})") from error
    return _with_arrays(value)


class _RefusedError(Exception):
    """A pickle with something other than plain values and arrays of bytes."""


class _Stub:
    """Immutable stub that replaces a global."""

    __slots__ = ("_make",)

    def __init__(self, make: Any) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise _RefusedError("it changes what it has no right to")


class _Type:
    """Stub of ``numpy.dtype``."""

    __slots__ = ("code",)

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        """Ignores byte order and alignment, which uint8 does not have."""


class _Array:
    """Unchecked array of bytes."""

    __slots__ = ("data", "fortran", "kind", "shape")

    def __init__(self, shape: Any = (), kind: Any = None, fortran: Any = False, data: Any = b""):
        self.shape, self.kind, self.fortran, self.data = shape, kind, fortran, data

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.kind, self.fortran, self.data = state

    def checked(self) -> NDArray[np.uint8]:
        """Returns the NumPy array; raises _RefusedError unless it is an array of bytes."""
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
    """Stub of ``_codecs.encode``, by which protocol 2 stores bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _RefusedError("it encodes what is no bytes")
    return text.encode("latin-1")


def _from_buffer(data: Any, kind: Any, shape: Any, order: Any) -> _Array:
    return _Array(shape, kind, order == "F", data)


# Read as _pickle.Unpickler would be; see the module's docstring.
class _Unpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Returns the stub of a global that a pickled array uses."""
        if module in _ARRAY_MODULES and name == "_reconstruct":
            return _Stub(lambda *_: _Array())
        if module in _NUMERIC_MODULES and name == "_frombuffer":
            return _Stub(_from_buffer)
        if (module, name) == ("numpy", "ndarray"):
            return _Stub(lambda *_: _Array())
        if (module, name) == ("numpy", "dtype"):
            return _Stub(_Type)
        if (module, name) == ("_codecs", "encode"):
            return _Stub(_encode)
        raise _RefusedError(
            f"it asks for {module:.40}.{name:.40}, which is not part of an array; nothing was run"
        )


def _with_arrays(value: Any) -> Any:
    """Replaces the arrays in a dict; arrays nested deeper stay unchecked stubs."""
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
