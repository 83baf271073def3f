"""Pictures of merged tokens: the pixels are what the record says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rmeeto.errors import OutputError, ShapeError
from rmeeto.records import MergedImage
from rmeeto.report import draw_batch, draw_sheet, draw_tokens, write_picture

SIDE = 80
GAP = 6


def _record(groups: tuple[int, ...], grid: tuple[int, int] = (2, 2), **names: str) -> MergedImage:
    return MergedImage(grid, groups, (0,), len(set(groups)) + 1, **names)


def _panels(picture: Image.Image, width: int) -> list[np.ndarray]:
    pixels = np.asarray(picture)
    return [pixels[:, place * (width + GAP) : place * (width + GAP) + width, :3].astype(int) for place in range(3)]


def _patch_colours(panel: np.ndarray, grid: tuple[int, int] = (2, 2)) -> list[list[int]]:
    """The colour in the middle of each patch, in reading order."""
    height, width = panel.shape[0] // grid[0], panel.shape[1] // grid[1]
    return [
        panel[row * height + height // 2, column * width + width // 2].tolist()
        for row in range(grid[0])
        for column in range(grid[1])
    ]


def _quarters(colours: list[tuple[int, int, int]]) -> np.ndarray:
    """An 8 x 8 image of four patches."""
    return np.kron(np.array(colours).reshape(2, 2, 3), np.ones((4, 4, 1))).astype(np.uint8)


def test_patches_of_one_token_share_their_mean_colour() -> None:
    image = _quarters([(200, 0, 0), (0, 100, 0), (0, 0, 60), (100, 0, 0)])
    original, merged, largest = _panels(draw_tokens(image, _record((3, 1, 2, 3)), side=SIDE), SIDE)
    assert _patch_colours(original) == [[200, 0, 0], [0, 100, 0], [0, 0, 60], [100, 0, 0]]
    assert _patch_colours(merged) == [[150, 0, 0], [0, 100, 0], [0, 0, 60], [150, 0, 0]]
    first, second, third, fourth = _patch_colours(largest)
    blue = [0, 114, 178]
    assert all(abs(a - b) < 60 for a, b in zip(first, blue, strict=True))
    assert all(abs(a - b) < 60 for a, b in zip(fourth, blue, strict=True))
    for single in (second, third):  # faded and grey
        assert len(set(single)) == 1
        assert single[0] > 150


def test_means_weigh_every_pixel() -> None:
    image = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    _, merged, _ = _panels(draw_tokens(image, _record((0, 1, 1, 1)), side=SIDE), SIDE)
    rest = (image.sum() - image[:4, :4].sum()) / 48
    expected = [round(float(image[:4, :4].mean())), round(float(rest))]
    assert _patch_colours(merged) == [[expected[0]] * 3, [expected[1]] * 3, [expected[1]] * 3, [expected[1]] * 3]


def test_lines_run_only_where_the_token_changes() -> None:
    image = np.full((8, 8), 100, dtype=np.uint8)
    _, merged, _ = _panels(draw_tokens(image, _record((0, 0, 1, 0)), side=SIDE), SIDE)
    assert (merged[:40, :, 0][:, 30:50] == 100).all(), "a line inside a token"
    assert (merged[40:, 40, 0] != 100).all(), "no line between the lower patches"
    assert (merged[40, :40, 0] != 100).all(), "no line below the upper left patch"
    assert (merged[40, 41:, 0] == 100).all(), "a line inside a token"


@pytest.mark.parametrize("value", [0, 30, 128, 255])
def test_lines_show_on_every_ground(value: int) -> None:
    image = np.full((8, 8), value, dtype=np.uint8)
    _, merged, _ = _panels(draw_tokens(image, _record((0, 1, 2, 3)), side=SIDE), SIDE)
    assert abs(int(merged[10, 40, 0]) - value) > 40


def test_pruned_patches_are_hatched_and_lend_no_colour() -> None:
    image = _quarters([(200, 0, 0), (0, 100, 0), (0, 0, 60), (100, 0, 0)])
    _, merged, largest = _panels(draw_tokens(image, _record((-1, 1, -1, 3)), side=SIDE), SIDE)
    assert _patch_colours(merged)[1] == [0, 100, 0]
    inside = merged[2:38, 2:38].reshape(-1, 3)
    assert {tuple(colour) for colour in inside.tolist()} == {(228, 232, 238), (150, 160, 172)}
    assert len(set(_patch_colours(largest)[0])) == 1, "pruned patches are no token and have no colour"


@pytest.mark.parametrize(
    ("shape", "grid"),
    [
        ((8, 8, 3), (2, 2)),
        ((8, 8, 1), (2, 2)),
        ((8, 8), (2, 2)),
        ((30, 20, 3), (7, 3)),
        ((3, 5, 3), (4, 9)),
        ((1, 1), (1, 1)),
    ],
)
def test_any_image_and_any_grid(shape: tuple[int, ...], grid: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    record = _record(tuple(range(grid[0] * grid[1])), grid)
    picture = draw_tokens(image, record, side=64)
    assert picture.height >= max(grid[0], 40)
    assert picture.width > 3 * picture.height * shape[1] / shape[0]


@pytest.mark.parametrize(
    ("image", "groups", "word"),
    [
        (np.zeros((4, 4, 3), np.float32), (0, 0, 0, 0), "float32"),
        (np.zeros((4, 4, 2), np.uint8), (0, 0, 0, 0), r"\(4, 4, 2\)"),
        (np.zeros((0, 4, 3), np.uint8), (0, 0, 0, 0), r"\(0, 4, 3\)"),
        (np.zeros((4,), np.uint8), (0, 0, 0, 0), r"\(4, 1\)|\(4,\)"),
        (np.zeros((4, 4, 3), np.uint8), (0, 0, 0), "3 groups"),
        (np.zeros((4, 4, 3), np.uint8), (), "0 groups"),
    ],
)
def test_what_cannot_be_drawn(image: np.ndarray, groups: tuple[int, ...], word: str) -> None:
    with pytest.raises(ShapeError, match=word):
        draw_tokens(image, _record(groups))


def test_sheet_holds_every_picture() -> None:
    image = _quarters([(200, 0, 0), (0, 100, 0), (0, 0, 60), (100, 0, 0)])
    records = [
        _record((0, 0, 1, 2), label="bag", predicted="bag"),
        _record((0, 0, 1, 2), label="bag", predicted="a class with a very long name\nof two lines " * 4),
        _record((0, 0, 1, 2)),
    ]
    one = draw_sheet([image], records[:1], side=SIDE)
    three = draw_sheet([image] * 3, records, columns=2, side=SIDE)
    assert three.mode == "RGB"
    assert three.width == 2 * one.width - 18
    assert three.height > 1.7 * one.height - 60
    red = (np.asarray(three) == (200, 0, 0)).all(axis=2)
    assert red.sum() == 3 * (SIDE // 2) ** 2


def test_sheet_needs_one_record_per_image() -> None:
    with pytest.raises(ShapeError, match="1 images and 2 records"):
        draw_sheet([np.zeros((4, 4), np.uint8)], [_record((0, 0, 0, 0))] * 2)
    with pytest.raises(ShapeError, match="0 images"):
        draw_sheet([], [])


def test_pictures_are_written_whole(tmp_path: Path) -> None:
    picture = draw_tokens(np.zeros((4, 4), np.uint8), _record((0, 0, 1, 1)), side=SIDE)
    write_picture(tmp_path / "tokens" / "00.png", picture)
    with Image.open(tmp_path / "tokens" / "00.png") as again:
        assert np.array_equal(np.asarray(again), np.asarray(picture))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError):
        write_picture(tmp_path / "file" / "00.png", picture)


def test_a_batch_is_drawn_as_it_comes_with_its_labels():
    images = [np.full((8, 6, 1), value, np.uint8) for value in (0, 120, 250)]
    sheet = np.asarray(draw_batch(images, ["a", "a label that is far too long for its place", "b"], columns=2, side=80))
    assert {int(image[0, 0, 0]) for image in images} <= set(np.unique(sheet).tolist())
    assert sheet.shape[0] > 2 * 80
    assert 2 * 60 < sheet.shape[1] < 3 * 60 + 60


@pytest.mark.parametrize(("images", "labels"), [([], []), ([np.zeros((4, 4), np.uint8)], [])])
def test_a_batch_needs_a_label_for_each_image(images, labels):
    with pytest.raises(ShapeError, match="make no sheet"):
        draw_batch(images, labels)
