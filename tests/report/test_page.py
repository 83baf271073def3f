"""The page holds all it needs, escapes all it shows, and is made from a folder of any completeness."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from rmeeto.errors import OutputError, RmeetoError
from rmeeto.report import page as page_module
from rmeeto.report import write_report

from .samples import result, write_folder

# Drawing takes most of the time, and these tests are of what stands around the charts.
without_charts = pytest.mark.usefixtures("_no_charts")


@pytest.fixture
def _no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "CHARTS", ())


VOID = {"meta", "img", "source", "br"}


class Reader(HTMLParser):
    """Checks that tags close in order; gathers text, addresses and images."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "a":
            self.links.append(values["href"] or "")
        if tag == "img":
            self.images.append(values)
        assert tag not in ("script", "link", "iframe")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def _read(page: Path) -> tuple[str, Reader]:
    text, reader = page.read_text(encoding="utf-8"), Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return text, reader


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a complete folder, charts included."""
    return write_report(write_folder(tmp_path_factory.mktemp("run")))


def test_the_whole_page(whole: Path) -> None:
    page, folder = whole, whole.parent
    assert page == folder / "report.html"
    text, reader = _read(page)
    words = " ".join(" ".join(reader.words).split())
    for said in (
        "1.7x faster at 0.4 points less accuracy; re-trained in 3 min 40 s on 2 cores.",
        "Merging alone cost 8.3 points (39.1 with the class token at the published place)",
        "vim_nano on demo",
        "merged, official class place",
        "90.80",
        "counted by torch",
        "median of 30 timed forward passes of 16 images, after 5",
        "3,000 validation images",
        "torch 2.14.1, mamba_ssm none",
        "0.9, 0.999",
    ):
        assert said in words
    assert reader.links == ["images.json", "log.jsonl", "model.safetensors", "result.json", "run.json"]
    assert all((folder / link).is_file() for link in reader.links)
    assert len(reader.images) == 4 + 2
    assert "(prefers-color-scheme: dark)" in text


def test_nothing_is_fetched(whole: Path) -> None:
    text, reader = _read(whole)
    assert all((image["src"] or "").startswith("data:image/") and image["alt"] for image in reader.images)
    for address in re.findall(r"""(?:src|srcset|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", text):
        assert address.startswith("data:") or address in reader.links
    assert "default-src 'none'" in text
    assert not re.search(r"@import|@font-face|https?://", text)


HOSTILE = '<script>alert("x")</script>&"\''


@without_charts
@pytest.mark.parametrize(
    "changes",
    [
        {"model": HOSTILE},
        {"data": HOSTILE},
        {"conventions": {"gflops": HOSTILE, HOSTILE: HOSTILE}},
        {"environment": {HOSTILE: HOSTILE, "gpus": [HOSTILE]}, "speed_setting": {"device": HOSTILE}},
        {"reduction": {"class_place": HOSTILE, HOSTILE: [HOSTILE, {HOSTILE: HOSTILE}]}},
        {"recipe": {HOSTILE: HOSTILE}, "augment": {HOSTILE: HOSTILE}, "schedule": [HOSTILE]},
        {"speed_setting": {"batch": HOSTILE, "repeats": HOSTILE, "warmup": HOSTILE, "threads": HOSTILE}},
        {"retrained": {"top1": HOSTILE, "tokens": HOSTILE}, "speedup": HOSTILE, "lengths": HOSTILE},
    ],
)
def test_text_is_escaped(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_folder(tmp_path, result(**changes))
    text, _ = _read(write_report(tmp_path))
    assert "<script" not in text


@without_charts
def test_captions_of_pictures_come_from_the_records_and_are_escaped(tmp_path: Path) -> None:
    text, _ = _read(write_report(write_folder(tmp_path)))
    assert "boot, seen as &lt;b&gt;shoe&lt;/b&gt;" in text
    assert "<b>shoe" not in text
    assert text.count("4 tokens") == 2


@without_charts
def test_names_of_files_are_escaped(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "a <b>&#?.json").write_text("{}")
    _, reader = _read(write_report(tmp_path))
    assert reader.links[0] == "a%20%3Cb%3E%26%23%3F.json"


@without_charts
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"kind": "result"},
        result(merged_official_place=None),
        result(retrained=None, retrain_seconds=None),
        result(merged=None, merged_official_place=None, retrained=None, speedup=None),
        result(unmerged=None),
        result(images={"validation": 0}, lengths=[], schedule=[], reduction={}, environment={}, conventions={}),
        result(unmerged=3, merged=[], retrained="x", lengths=3, environment=[], speed_setting=1, images=2),
        result(speedup=float("nan"), retrain_seconds=float("inf"), token_reduction=None),
        result(unmerged={"top1": 0, "images_per_second": 0}, retrained={"top1": 0, "images_per_second": 0}),
    ],
)
def test_results_of_any_completeness(tmp_path: Path, values: dict[str, Any]) -> None:
    (tmp_path / "result.json").write_text(json.dumps(values))
    text, reader = _read(write_report(tmp_path))
    assert reader.links == ["result.json"]
    assert "nan" not in re.sub(r"data:[^\"]+", "", text).replace("nano", "")


@without_charts
def test_absolute_place_of_the_data_is_not_told(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps(result(data="/home/somebody/secret/flowers.tar")))
    text, _ = _read(write_report(tmp_path))
    assert "vim_nano on flowers.tar" in text
    assert "somebody" not in text


@without_charts
@pytest.mark.parametrize("content", [None, "", "[1]", "{"])
def test_folder_without_a_result(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    with pytest.raises(RmeetoError, match=r"result\.json") as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()


@without_charts
def test_broken_records_beside_the_result(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "tokens" / "00.png").write_bytes(b"not a picture")
    (tmp_path / "images.json").write_text('{"images": [3, null]}')
    (tmp_path / "log.jsonl").write_bytes(b"\xff\xfe\n[1]\n3\n")
    _, reader = _read(write_report(tmp_path))
    assert len(reader.images) == 1
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(RmeetoError, match=r"run\.json"):
        write_report(tmp_path)


@without_charts
def test_sheet_stands_in_for_single_pictures(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "tokens" / "00.png").rename(tmp_path / "tokens" / "sheet.png")
    _, reader = _read(write_report(tmp_path))
    assert len(reader.images) == 1
    (tmp_path / "tokens" / "01.png").unlink()
    _, reader = _read(write_report(tmp_path))
    assert len(reader.images) == 1


@without_charts
def test_page_that_cannot_be_written(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "report.html").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        write_report(tmp_path)


@without_charts
def test_same_folder_gives_the_same_page(tmp_path: Path) -> None:
    write_folder(tmp_path)
    assert write_report(tmp_path).read_bytes() == write_report(str(tmp_path)).read_bytes()


def test_no_torch_is_imported(tmp_path: Path) -> None:
    write_folder(tmp_path)
    code = (
        "import sys; from rmeeto.report import write_report; write_report(sys.argv[1]); "
        "print(sorted({'torch', 'timm', 'torchvision', 'accelerate', 'matplotlib.pyplot'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
