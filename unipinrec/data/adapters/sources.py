"""Source files of a public dataset: local ones, or downloaded from where they are published."""

import io
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import BinaryIO

from unipinrec.data.download import DownloadError, Report, download_https
from unipinrec.data.events import EventFormatError
from unipinrec.data.prepared import require_new

ARCHIVES = (".zip", ".tar.gz", ".tgz")


@dataclass(frozen=True, slots=True)
class Download:
    """A file at its official address."""

    host: str
    path: str
    members: tuple[str, ...] = ()
    """Name patterns of what to unpack from a zip or tar.gz archive; none when the file is no archive."""

    @property
    def url(self) -> str:
        """The address to open in a browser."""
        return f"https://{self.host}{self.path}"


@contextmanager
def source_files(
    path: Path | None, downloads: Sequence[Download], out: Path, report: Report
) -> Iterator[Path]:
    """Yield `path`, or a folder with what it or the downloads have unpacked, gone when the context ends.

    `out` is the prepared dataset to be made; that it does not exist is checked before anything is downloaded.

    Raises `DownloadError` if a host does not answer with the file, `EventFormatError` if an archive cannot be
    unpacked or has none of the files, `FileNotFoundError` if there is no `path`, and `PreparedDatasetError`
    if `out` exists.
    """
    require_new(out)
    if path is not None and not path.exists():
        raise FileNotFoundError(f"path is {path}; allowed: a file or folder that exists")
    members = [member for download in downloads for member in download.members]
    if path is not None and not (members and path.is_file() and path.name.lower().endswith(ARCHIVES)):
        yield path
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=out.parent) as temporary:
        folder = Path(temporary)
        if path is not None:
            with path.open("rb") as stream:
                unpack(stream, str(path), members, folder)
        else:
            for download in downloads:
                report(f"downloading {download.url}")
                _fetch(download, downloads, folder)
        yield folder


def unpack(stream: BinaryIO, name: str, members: Sequence[str], folder: Path) -> None:
    """Write the members of an archive whose names match one of the patterns into `folder`.

    `name` says what the archive is, and by its ending of which kind: zip, or else a compressed tar.
    Raises `EventFormatError` if the archive is damaged, or has no such member.
    """
    try:
        if name.lower().endswith(".zip"):
            with zipfile.ZipFile(stream) as archive:
                found = [member for member in archive.namelist() if _matches(member, members)]
                for member in found:
                    archive.extract(member, folder)
        else:
            with tarfile.open(fileobj=stream, mode="r:gz") as packed:
                wanted = [member for member in packed if _matches(member.name, members)]
                packed.extractall(folder, wanted, filter="data")
                found = [member.name for member in wanted]
    except Exception as error:
        # Decompressors raise what they like.
        raise EventFormatError(f"archive {name} is unreadable: {error}") from error
    if not found:
        raise EventFormatError(f"archive {name} has no file {' or '.join(members)}; allowed: 1 or more")


def _matches(member: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(member, pattern) for pattern in patterns)


def _fetch(download: Download, all_downloads: Sequence[Download], folder: Path) -> None:
    try:
        content = download_https(download.host, download.path)
    except DownloadError as error:
        urls = " and ".join(each.url for each in all_downloads)
        raise DownloadError(
            f"{error}; download {urls} elsewhere, and name the file or folder with --path"
        ) from error
    if download.members:
        unpack(io.BytesIO(content), download.url, download.members, folder)
    else:
        (folder / Path(download.path).name).write_bytes(content)


def one_file(path: Path, *patterns: str) -> Path:
    """Return `path` if it is a file, else the only file below it whose name matches one of the patterns.

    Raises `EventFormatError` if there are none or several.
    """
    if path.is_file():
        return path
    found = files_below(path, *patterns)
    if len(found) != 1:
        names = ", ".join(str(each.relative_to(path)) for each in found)
        has = f"{len(found)} files {' or '.join(patterns)}{f' ({names})' if found else ''}"
        raise EventFormatError(f"folder {path} has {has}; allowed: 1, or name the file itself")
    return found[0]


def files_below(folder: Path, *patterns: str) -> list[Path]:
    """Return the files in the folder and those in it whose name matches one of the patterns, sorted."""
    return sorted({found for pattern in patterns for found in folder.rglob(pattern) if found.is_file()})
