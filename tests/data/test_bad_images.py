from __future__ import annotations

import json

import pytest

from rmeeto.data.bad_images import BadImage, BadImages
from rmeeto.errors import DataError, OutputError


def bad(number, data="photos/train"):
    return BadImage(data, f"cat/{number}.jpg", "it is no image")


def test_each_image_counts_once_and_each_part_for_itself():
    found = BadImages(0.02)
    for data in ("photos/train", "photos/val"):
        for number in (0, 1, 0, 1):
            found.note(bad(number, data), 100)
    assert len(found) == 4


@pytest.mark.parametrize(
    ("share", "images", "most"), [(0.0, 10**6, 0), (0.001, 999, 0), (0.001, 3000, 3), (0.29, 100, 29), (1.0, 4, 4)]
)
def test_one_too_many_ends_the_pass(share, images, most):
    found = BadImages(share)
    for number in range(most):
        found.note(bad(number), images)
    if most == images:
        return
    with pytest.raises(DataError) as caught:
        found.note(bad(most), images)
    line = str(caught.value)
    assert line.startswith(f"image cat/{most}.jpg of photos/train cannot be read (it is no image); repair or remove ")
    assert f"{most + 1} bad of {images} images" in line
    assert f"lets {most} pass" in line
    assert "raise --max-bad-images" in line
    assert "\n" not in line


def test_what_is_found_is_kept_once(tmp_path):
    file = tmp_path / "run" / "bad_images.jsonl"
    for _ in range(2):  # two processes, or a run and its resumption
        found = BadImages(0.5)
        found.note(bad(0), 100)
        found.keep_in(file)
        found.note(bad(1), 100)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["path"] for line in lines] == ["cat/0.jpg", "cat/1.jpg"]
    assert lines[0] == {"data": "photos/train", "path": "cat/0.jpg", "reason": "it is no image"}
    first = "image cat/0.jpg of photos/train cannot be read (it is no image)"
    assert found.summary() == f"bad images left out: 2; {first} and 1 more; see {file}"


def test_nothing_is_said_of_nothing():
    assert BadImages(0.1).summary() is None


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    found = BadImages(0.5)
    found.keep_in(tmp_path / "file" / "bad_images.jsonl")
    with pytest.raises(OutputError, match=r"cannot write .*bad_images\.jsonl: "):
        found.note(bad(0), 10)
