"""What the teacher said of an image is not computed again, and nothing else changes."""

from __future__ import annotations

import pytest
import torch

from rmeeto.retrain.teacher import AROUND, Memory

from .conftest import Rates, net, recipe, train

IMAGES = torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(1))


class Teacher:
    """Notes how many images it was shown at a time."""

    def __init__(self):
        self.model, self.shown = net(1).eval(), []

    @torch.no_grad()
    def __call__(self, images):
        self.shown.append(len(images))
        return self.model(images)


@pytest.mark.parametrize(
    ("batches", "most", "shown"),
    [
        ([[0, 1, 2], [2, 1, 0]], 1 << 20, [3]),
        ([[0, 1], [1, 2], [3, 0]], 1 << 20, [2, 1, 1]),
        ([[0, 0, 1]], 1 << 20, [3]),  # twice in a batch: computed twice, kept once
        ([[0, 1], [0, 1], [0, 1]], AROUND + 4 * 4, [2, 1, 1]),  # room for one image's four classes
        ([[0], [0]], 0, [1, 1]),
    ],
)
def test_images_are_shown_once(batches, most, shown):
    teacher = Teacher()
    memory = Memory(teacher, most)
    for rows in batches:
        torch.testing.assert_close(memory(IMAGES[rows]), teacher.model(IMAGES[rows]))
    assert teacher.shown == shown


@pytest.mark.parametrize("changed", [IMAGES.flip(-1), IMAGES + 1e-6, IMAGES.roll(1, 0) * 2])
def test_another_image_is_another(changed):
    teacher = Teacher()
    memory = Memory(teacher)
    memory(IMAGES)
    torch.testing.assert_close(memory(changed), teacher.model(changed))
    assert teacher.shown == [6, 6]


def test_a_view_is_the_image_it_shows():
    teacher = Teacher()
    memory = Memory(teacher)
    memory(IMAGES)
    memory(IMAGES.flip(-1).contiguous().flip(-1))
    assert teacher.shown == [6]


def test_a_run_learns_the_same(tmp_path, data):
    losses = {}
    for cached in (False, True):
        student, teacher, progress = net(), net(1), Rates()
        calls = []
        teacher.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        settings = recipe(epochs=3, mixup=0.0, cutmix=0.0, cache_teacher=cached)
        train(student, teacher, data, settings, tmp_path / str(cached), progress=progress, trackers=(), log_every=1)
        losses[cached] = [report.loss for report in progress.reports], len(calls), student.state_dict()
    assert losses[True][0] == losses[False][0]
    assert (losses[False][1], losses[True][1]) == (15, 5)
    assert all(torch.equal(value, losses[True][2][name]) for name, value in losses[False][2].items())
