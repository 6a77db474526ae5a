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

import polars as pl

from unipinrec.data.download import DownloadError, Report, download_https
from unipinrec.data.events import EventFormatError
from unipinrec.data.prepared import require_new


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

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.path.rsplit("/", 1)[-1]

    def wants(self, member: str) -> bool:
        """Whether a member of the archive is to be unpacked."""
        return any(fnmatch(member, pattern) for pattern in self.members)


@contextmanager
def source_files(
    path: Path | None, downloads: Sequence[Download], out: Path, report: Report
) -> Iterator[Path]:
    """`path`, or a folder with the downloads, unpacked, that lasts as long as the context.

    `out` is the prepared dataset to be made; that it does not exist is checked before anything is downloaded.

    Raises:
        DownloadError: a host does not answer with the file.
        EventFormatError: a downloaded archive cannot be unpacked.
        FileNotFoundError: there is no `path`.
        PreparedDatasetError: `out` exists.
    """
    require_new(out)
    if path is not None:
        if not path.exists():
            raise FileNotFoundError(f"path is {path}; allowed: a file or folder that exists")
        yield path
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=out.parent) as temporary:
        for download in downloads:
            report(f"downloading {download.url}")
            try:
                content = download_https(download.host, download.path)
            except DownloadError as error:
                urls = " and ".join(each.url for each in downloads)
                raise DownloadError(
                    f"{error}; download {urls} elsewhere, unpack, and name the folder with --path"
                ) from error
            unpack(content, download, Path(temporary))
        yield Path(temporary)


def unpack(content: bytes, download: Download, folder: Path) -> None:
    """Write a downloaded file, or the members of a downloaded archive, into `folder`.

    Raises:
        EventFormatError: the archive is damaged.
    """
    if not download.members:
        (folder / download.name).write_bytes(content)
        return
    try:
        if download.name.endswith(".zip"):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                for name in filter(download.wants, archive.namelist()):
                    archive.extract(name, folder)
        else:
            with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive_tar:
                for member in archive_tar:
                    if download.wants(member.name):
                        archive_tar.extract(member, folder, filter="data")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        raise EventFormatError(f"archive {download.url} is unreadable: {error}") from error


def one_file(path: Path, *patterns: str) -> Path:
    """`path` if it is a file, else the one file below it whose name matches one of the patterns.

    Raises:
        EventFormatError: there are none or several.
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
    """Files in the folder and the folders in it whose name matches one of the patterns, sorted."""
    return sorted({found for pattern in patterns for found in folder.rglob(pattern) if found.is_file()})


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What is wrong with a source file is said in one line that names it, as an `EventFormatError`."""
    try:
        yield
    except EventFormatError as error:
        raise EventFormatError(f"file {path}: {error}") from error
    except (pl.exceptions.PolarsError, EOFError, OSError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise EventFormatError(f"file {path} is unreadable: {reason}") from error


def require_columns(found: Sequence[str], required: Sequence[str]) -> None:
    """Refuse a table that lacks a column.

    Raises:
        EventFormatError: naming the first missing column.
    """
    for name in required:
        if name not in found:
            raise EventFormatError(f"{name} is missing; allowed: columns {', '.join(required)}")
