"""Arrays on disk, as `.npz`: what was measured comes back as it was. Nothing is unpickled."""

import io
import zipfile
from pathlib import Path

import numpy as np

from helpers import files


class RowError(RuntimeError):
    """A file of rows, or of their arrays, that cannot be used; the message names file and line."""


BITS = "bits/"  # before the name of a bool array (N,) that is stored as bits


def pack(bits: np.ndarray) -> np.ndarray:
    """A bool array (N,) as uint8 (1 + ⌈N / 8⌉,): how many bits of the last byte are unused, then the bits."""
    return np.concatenate([np.array([-len(bits) % 8], np.uint8), np.packbits(bits)])


def unpack(packed: np.ndarray) -> np.ndarray:
    """The bool array (N,) that `pack` packed."""
    return np.unpackbits(packed[1:], count=8 * (len(packed) - 1) - int(packed[0])).astype(bool)


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays as one compressed `.npz`, whole or not at all. `append` and `replace` do it for the arrays of a row.

    float64 becomes float32 where it loses digits only (1e300 and 1e-300 stay float64); a bool array (N,) is stored as bits.
    raises ValueError for NaN, infinity, and what is neither numbers, truth values nor text
    """
    content = encoded(arrays)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, content)
    except OSError as error:
        raise RowError(f"could not write {path} ({error})") from error


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a `.npz` that `save_arrays` wrote: as they were given, but for float64 that became float32."""
    try:
        arrays = {}
        with zipfile.ZipFile(path) as file:
            for member in file.infolist():
                array = np.lib.format.read_array(io.BytesIO(file.read(member)), allow_pickle=False)
                name = member.filename.removesuffix(".npy")
                bits = name.startswith(BITS)
                arrays[name.removeprefix(BITS)] = unpack(array) if bits else array
        return arrays
    except Exception as error:  # numpy and zipfile raise a dozen kinds for a damaged file
        raise RowError(
            f"{path} is missing or damaged ({error}): restore it, or delete its row to have both computed again"
        ) from error


def encoded(arrays: dict[str, np.ndarray]) -> bytes:
    """The content of a `.npz`: equal arrays give equal bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        for name, array in arrays.items():
            check_array(name, array)
            if array.dtype == bool and array.ndim == 1:
                name, array = BITS + name, pack(array)
            member = io.BytesIO()
            np.lib.format.write_array(member, _single(array), allow_pickle=False)
            file.writestr(zipfile.ZipInfo(name + ".npy"), member.getvalue(), zipfile.ZIP_DEFLATED)
    return content.getvalue()


def check_array(name, array) -> None:
    """raises ValueError for a name or an array that is not stored"""
    if not isinstance(name, str) or name.startswith(BITS) or "\0" in name:
        raise ValueError(f"an array cannot be named {name!r}: give it another text that does not start with '{BITS}'")
    plain = isinstance(array, np.ndarray) and not isinstance(array, np.ma.MaskedArray)
    if not plain or array.dtype.kind not in "biufcU":
        kind = f"an array of {array.dtype}" if plain else f"a {type(array).__name__}"
        raise ValueError(f"'{name}' is {kind}: give a numpy array of numbers, truth values or text")
    if array.dtype.kind in "fc" and not np.isfinite(array).all():
        raise ValueError(f"'{name}' holds NaN or infinity: such arrays are not stored")


def _single(array: np.ndarray) -> np.ndarray:
    """float64 as float32, where no value leaves its range at either end; any other array as it is."""
    if array.dtype != np.float64:
        return array
    with np.errstate(over="ignore", under="ignore"):
        single = array.astype(np.float32)
    size, limits = np.abs(array), np.finfo(np.float32)
    inside = np.isfinite(single) & ((size >= limits.tiny) | (array == 0))
    return single if inside.all() else array
