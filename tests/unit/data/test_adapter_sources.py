"""Source files are found, downloaded and unpacked, or it is said in one line what to do instead."""

import io
import re
import tarfile
import zipfile
from pathlib import Path

import pytest

from unipinrec.data.adapters import sources
from unipinrec.data.adapters.sources import Download, one_file, source_files
from unipinrec.data.download import DownloadError
from unipinrec.data.events import EventFormatError
from unipinrec.data.prepared import PreparedDatasetError

FILES = {"set/data/log_1.csv": b"a", "set/data/log_2.csv": b"b", "set/LICENSE": b"c"}
MEMBERS = ("*/log_*.csv",)


def zipped() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    return packed.getvalue()


def tarred() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def answers(monkeypatch: pytest.MonkeyPatch, content: dict[str, bytes]) -> None:
    def download(host: str, path: str) -> bytes:
        if path not in content:
            raise DownloadError(f"{host} answered 404 Not Found; allowed: 200")
        return content[path]

    monkeypatch.setattr(sources, "download_https", download)


def downloaded(download: Download, out: Path) -> dict[str, bytes]:
    with source_files(None, [download], out, lambda _: None) as folder:
        files = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.*")}
    assert not folder.exists()
    return files


@pytest.mark.parametrize(("name", "archive"), [("/x/set.zip", zipped()), ("/x/set.tar.gz", tarred())])
def test_wanted_members_of_an_archive_are_unpacked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, archive: bytes
) -> None:
    answers(monkeypatch, {name: archive})
    files = downloaded(Download("host.example", name, MEMBERS), tmp_path / "out")
    assert files == {"set/data/log_1.csv": b"a", "set/data/log_2.csv": b"b"}
    assert list(tmp_path.iterdir()) == []


def test_a_plain_file_is_kept_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answers(monkeypatch, {"/x/Beauty.txt": b"1 2"})
    assert downloaded(Download("host.example", "/x/Beauty.txt"), tmp_path / "out") == {"Beauty.txt": b"1 2"}


@pytest.mark.parametrize("name", ["/set.zip", "/set.tar.gz"])
def test_a_damaged_archive_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    answers(monkeypatch, {name: b"<html>moved</html>"})
    with pytest.raises(EventFormatError, match=rf"^archive https://host.example{name} is unreadable: .+$"):
        downloaded(Download("host.example", name, MEMBERS), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_host_that_does_not_answer_is_told_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answers(monkeypatch, {"/a.txt": b""})
    downloads = [Download("host.example", "/a.txt"), Download("host.example", "/b.json")]
    urls = "https://host.example/a.txt and https://host.example/b.json"
    line = (
        f"host.example answered 404 Not Found; allowed: 200; download {urls} elsewhere, "
        "and name the file or folder with --path"
    )
    with (
        pytest.raises(DownloadError, match=f"^{re.escape(line)}$"),
        source_files(None, downloads, tmp_path / "out", lambda _: None),
    ):
        pass


def test_nothing_is_downloaded_when_the_dataset_exists(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reported: list[str] = []
    answers(monkeypatch, {})
    with (
        pytest.raises(PreparedDatasetError, match="which exists"),
        source_files(None, [Download("host.example", "/a.txt")], tmp_path, reported.append),
    ):
        pass
    assert reported == []


def test_a_local_path_is_used_as_it_is(tmp_path: Path) -> None:
    with source_files(tmp_path, [], tmp_path / "out", lambda _: None) as folder:
        assert folder == tmp_path
    with (
        pytest.raises(FileNotFoundError, match=r"none; allowed: a file or folder that exists$"),
        source_files(tmp_path / "none", [], tmp_path / "out", lambda _: None),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "archive"),
    [("set.zip", zipped()), ("SET.ZIP", zipped()), ("set.tar.gz", tarred()), ("set.tgz", tarred())],
)
def test_a_local_archive_is_unpacked(tmp_path: Path, name: str, archive: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(archive)
    download = Download("host.example", "/x.zip", MEMBERS)
    with source_files(path, [download], tmp_path / "out", lambda _: None) as folder:
        assert sorted(file.name for file in folder.rglob("*.*")) == ["log_1.csv", "log_2.csv"]
    assert list(tmp_path.iterdir()) == [path]


def damaged(archive: bytes) -> bytes:
    """The first member's content is another than its checksum says."""
    assert archive.count(b"log_1.csva") == 1
    return archive.replace(b"log_1.csva", b"log_1.csvb")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("set.zip", damaged(zipped()), r"is unreadable: Bad CRC-32 for file .*log_1\.csv'$"),
        ("set.zip", b"", r"is unreadable: File is not a zip file$"),
        ("set.tgz", tarred()[:-20], r"is unreadable: .+$"),
        ("set.tgz", tarred()[:30] + b"?" * 9 + tarred()[39:], r"is unreadable: .+$"),
    ],
)
def test_a_damaged_local_archive_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with (
        pytest.raises(EventFormatError, match=f"^archive {path} {message}"),
        source_files(path, [Download("host.example", "/x", MEMBERS)], tmp_path / "out", lambda _: None),
    ):
        pass
    assert list(tmp_path.iterdir()) == [path]


def test_an_archive_of_other_files_is_named(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    path.write_bytes(zipped())
    download = Download("host.example", "/x.zip", ("*behaviors.tsv", "*news.tsv"))
    with (
        pytest.raises(EventFormatError) as error,
        source_files(path, [download], tmp_path / "out", lambda _: None),
    ):
        pass
    assert str(error.value) == f"archive {path} has no file *behaviors.tsv or *news.tsv; allowed: 1 or more"


def test_one_file_is_found_at_any_depth_and_several_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    wanted = tmp_path / "train" / "log.csv"
    with pytest.raises(
        EventFormatError, match=r"has 0 files \*\.csv or \*\.tsv; allowed: 1, or name the file"
    ):
        one_file(tmp_path, "*.csv", "*.tsv")
    wanted.touch()
    assert one_file(tmp_path, "*.csv", "*.tsv") == wanted
    assert one_file(wanted, "*.txt") == wanted
    (tmp_path / "dev.csv").touch()
    with pytest.raises(
        EventFormatError, match=r"has 2 files \*\.csv \(dev\.csv, train/log\.csv\); allowed: 1"
    ):
        one_file(tmp_path, "*.csv")
