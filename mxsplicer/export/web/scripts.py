"""Data of the web page as scripts, because a browser reads no other files of a page that was opened from a disk.

``data/obs_0.js`` calls ``receive("data/obs_0", "...")``. Arrays and images are base64; arrays are compressed by zlib
before.
"""

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

_LEVEL = 6  # of zlib


def write_script(folder: Path, key: str, data: Any) -> int:
    """Write the script that hands ``data`` (anything that JSON can hold) to the page; return its size in bytes.

    Parameters
    ----------
    folder
        Folder of the page.
    key
        Path of the script in it, without its ending.
    """
    path = folder / f"{key}.js"
    path.parent.mkdir(parents=True, exist_ok=True)
    # ASCII and no "<", so that names of markers can neither end a script nor depend on an encoding.
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return path.write_text(f"receive({json.dumps(key)},{text});\n", encoding="ascii")


def pack(values: np.ndarray) -> str:
    """Return numbers as text: little-endian bytes, compressed by zlib, in base64.

    Examples
    --------
    >>> pack(np.zeros(1000, np.uint8))
    'eJxjYBgFo2AUDHcAAAPoAAE='
    """
    little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return base64.b64encode(zlib.compress(little.tobytes(), _LEVEL)).decode()


def pack_image(jpeg: bytes | bytearray) -> str:
    """Return an encoded image as text."""
    return base64.b64encode(jpeg).decode()
