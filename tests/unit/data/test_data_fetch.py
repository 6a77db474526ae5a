"""`unipinrec data fetch` reads local files, or says which to download."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from commands.app import app
from unipinrec.data.adapters import sources
from unipinrec.data.download import DownloadError
from unipinrec.data.prepared import read_prepared


def fetch(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["data", "fetch", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_local_files_become_a_dataset(tmp_path: Path) -> None:
    (tmp_path / "Beauty.txt").write_text("1 20 10\n2 10 30\n")
    out = tmp_path / "new" / "beauty"
    code, stdout, _ = fetch("amazon", "--path", tmp_path / "Beauty.txt", "--out", out)
    assert (code, stdout) == (0, f"4 purchases written to {out}\n")
    assert len(read_prepared(out).events) == 4


@pytest.mark.parametrize(
    ("arguments", "urls"),
    [
        (
            ("amazon", "--category", "Toys_and_Games"),
            "https://raw.githubusercontent.com/RUCAIBox/CIKM2020-S3Rec/master/data/Toys_and_Games.txt and "
            "https://raw.githubusercontent.com/RUCAIBox/CIKM2020-S3Rec/master/data/"
            "Toys_and_Games_item2attributes.json",
        ),
        (("kuairand",), "https://zenodo.org/records/10439422/files/KuaiRand-Pure.tar.gz"),
        (("ebnerd",), "https://ebnerd-dataset.s3.eu-west-1.amazonaws.com/ebnerd_small.zip"),
        (("mind",), "https://recodatasets.z20.web.core.windows.net/newsrec/MINDsmall_train.zip"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_without_network_the_files_to_get_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: tuple[str, ...], urls: str
) -> None:
    def unreachable(_host: str, _path: str) -> bytes:
        raise DownloadError("no route")

    monkeypatch.setattr(sources, "download_https", unreachable)
    code, _, stderr = fetch(*arguments, "--out", tmp_path / "out")
    assert code == 2
    assert stderr == f"no route; download {urls} elsewhere, and name the file or folder with --path\n"
    assert list(tmp_path.iterdir()) == []


def test_movielens_comes_from_local_files_too(tmp_path: Path) -> None:
    (tmp_path / "ratings.dat").write_text("1::1193::5::978300760\n1::661::3::978302109\n")
    out = tmp_path / "out"
    code, stdout, _ = fetch("movielens", "--path", tmp_path / "ratings.dat", "--out", out)
    assert (code, stdout) == (0, f"2 ratings written to {out}\n")
    code, _, stderr = fetch("movielens", "--out", out)
    assert code == 2
    assert stderr == f"folder is {out}, which holds movielens; allowed: movielens-100k, or no folder\n"


@pytest.mark.parametrize("name", ["movielens", "amazon", "kuairand", "ebnerd", "mind"])
def test_a_folder_without_the_files_is_one_line(tmp_path: Path, name: str) -> None:
    code, _, stderr = fetch(name, "--path", tmp_path, "--out", tmp_path / "out")
    assert code == 2
    assert stderr.startswith(f"folder {tmp_path} has ")
    assert stderr.count("\n") == 1
