"""Locations of images: a path on this machine, or a URL that fsspec reads (https, s3, gs, memory, ...)."""

import re
from pathlib import Path, PurePath
from typing import Any
from zipfile import ZipFile

from mxsplicer.errors import InputError

Location = Path | str  # a str is a URL

# At least two letters, since C:/ is a drive. Path objects turn "https://host" into "https:/host", or r"https:\host".
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)
_PACKAGES = {"http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}


def locate(path: PurePath | str) -> Location:
    """Return a path as a Path and a URL as a str; ``file://`` is a path on this machine.

    Examples
    --------
    >>> locate(Path("https://host/slide.ome.zarr/"))
    'https://host/slide.ome.zarr'
    >>> locate("file:///data/slide.ome.tif").as_posix()
    '/data/slide.ome.tif'
    """
    match = _URL.fullmatch(path.as_posix() if isinstance(path, PurePath) else path)
    if match is None or Path(path).exists():
        return Path(path)
    scheme, rest = match[1].lower(), match[2].rstrip("/")
    return Path("/", rest) if scheme in ("file", "local") else f"{scheme}://{rest}"


def absolute(location: Location) -> str:
    """Return a location, path or URL, that is valid in any folder."""
    return location if isinstance(location, str) else str(location.resolve())


def below(location: Location, part: str) -> Location:
    """Return the location of ``part``, a relative path with slashes, in a folder or below a URL."""
    return location / part if isinstance(location, Path) else f"{location}/{part}".rstrip("/")


def name_of(location: Location) -> str:
    """Return the last part of a location, a path or URL."""
    return Path(location).name


def inside_zip(archive: Path) -> str:
    """Return the location of the top folder of a zip file, or of its only folder, to which :func:`below` adds."""
    with ZipFile(archive) as opened:
        top = {Path(name).parts[0] for name in opened.namelist() if name.strip("/")}
        folder = top.pop() if len(top) == 1 else ""
        is_folder = any(name.startswith(f"{folder}/") for name in opened.namelist())
    location = f"zip://{archive.resolve().as_posix().lstrip('/')}"
    return f"{location}/{folder}" if folder and is_folder else location


def archive_of(location: Location) -> tuple[Path, str] | None:
    """Return the zip file that a location of :func:`inside_zip` lies in, and the path in it; None for others."""
    if not isinstance(location, str) or not location.startswith("zip://"):
        return None
    place = location.removeprefix("zip://")
    path = Path(place) if Path(place).drive else Path("/", place)
    archive = next((one for one in (path, *path.parents) if one.is_file()), path)
    return archive, path.relative_to(archive).as_posix().removeprefix(".")


def read_small_file(location: Location) -> bytes | None:
    """Return the content of a small file at a location, a path or URL, or None if it does not exist."""
    if isinstance(location, Path):
        return location.read_bytes() if location.is_file() else None
    archive = archive_of(location)
    if archive is not None:
        with ZipFile(archive[0]) as opened:
            return opened.read(archive[1]) if archive[1] in opened.namelist() else None
    system, path = file_system(location)
    try:
        content: bytes = system.cat_file(path)
    except (FileNotFoundError, IsADirectoryError):
        return None
    except Exception as error:  # each backend of fsspec has its own
        raise unreachable(location, error) from error
    return content


def file_system(url: str, **options: Any) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path in it."""
    scheme = url.partition("://")[0]
    try:
        from fsspec.core import url_to_fs

        system, path = url_to_fs(url, **options)
    except ImportError as error:
        needed = sorted({"fsspec", _PACKAGES.get(scheme, "fsspec")})
        msg = f"{url} cannot be read: {error}."
        raise InputError(msg, f"Install support for {scheme}:// with `pip install {' '.join(needed)}`.") from error
    except ValueError as error:
        msg = f"{url} is a URL that cannot be read ({error})."
        raise InputError(msg, "Pass a path, or an https, s3, file or memory URL.") from error
    return system, str(path)


def unreachable(location: Location, error: Exception) -> InputError:
    """Return the error for a location that cannot be read."""
    reason = " ".join(str(error).split()) or type(error).__name__
    public = "; a public bucket needs FSSPEC_S3_ANON=true in the environment" if "credentials" in reason else ""
    return InputError(
        f"{location} cannot be read ({reason[:200]}).", f"Check the address, the network and your access{public}."
    )
