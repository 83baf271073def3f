"""Patches and positions."""

import pytest
import torch

from rmeeto.errors import ShapeError
from rmeeto.models.configs import VimConfig
from rmeeto.models.embed import PatchDropout, PatchEmbed, fit_positions, resize_frames, resize_positions
from rmeeto.tokens import Tokens

SIZES = {"patch_size": 4, "in_chans": 1, "embed_dim": 3, "depth": 1, "num_classes": 2}


def table(side: int, place: int) -> torch.Tensor:
    """Positions whose first number is the row, second the column, third 0; the class token's are 9."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    grid = torch.stack((rows, columns, torch.zeros_like(rows)), dim=-1).reshape(-1, 3).float()
    return torch.cat((grid[:place], torch.full((1, 3), 9.0), grid[place:]))[None]


@pytest.mark.parametrize(("class_token", "old", "new"), [("middle", 8, 32), ("first", 0, 0)])
def test_positions_grow_with_the_grid_and_the_class_token_keeps_its_own(class_token, old, new):
    config = VimConfig(img_size=32, class_token=class_token, **SIZES)
    fitted = resize_positions(table(4, old), config)
    assert fitted.shape == (1, 65, 3)
    assert fitted[0, new].tolist() == [9, 9, 9]
    patches = torch.cat((fitted[0, :new], fitted[0, new + 1 :])).reshape(8, 8, 3)
    assert (patches[1:, :, 0] > patches[:-1, :, 0] - 0.2).all()
    torch.testing.assert_close(patches[..., 0], patches[..., 1].T)
    assert patches[0, 0, 0] < 0.1 < 2.9 < patches[-1, 0, 0]


def test_positions_of_the_right_length_are_left_alone():
    positions = table(4, 8)
    assert resize_positions(positions, VimConfig(img_size=16, **SIZES)) is positions


def test_positions_of_no_square_grid_are_refused():
    with pytest.raises(ShapeError, match="12 positions, which is no square grid"):
        resize_positions(torch.zeros(1, 12, 3), VimConfig(img_size=32, **SIZES))


def test_patches_come_in_reading_order():
    embed = PatchEmbed(VimConfig(img_size=(8, 12), **SIZES))
    with torch.no_grad():
        embed.proj.weight.fill_(1 / 16)
        embed.proj.bias.zero_()
    image = torch.arange(6.0).reshape(1, 1, 2, 3).repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    assert embed(image)[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(("rows", "columns"), [(2, 8), (8, 2)])
def test_positions_of_any_grid_are_fitted_where_the_grid_is_told(rows, columns):
    config = VimConfig(img_size=16, **SIZES)
    fitted = resize_positions(torch.ones(1, 17, 3), config, (rows, columns))
    torch.testing.assert_close(fitted, torch.ones(1, 17, 3))
    assert resize_positions(
        torch.ones(1, 17, 3), VimConfig(img_size=(4 * rows, 4 * columns), **SIZES), (rows, columns)
    )[0, 0].tolist() == [1, 1, 1]


def test_frames_are_fitted_along_time():
    table = torch.arange(8.0).reshape(1, 8, 1).expand(1, 8, 3)
    fitted = resize_frames(table, 16)
    assert fitted.shape == (1, 16, 3)
    torch.testing.assert_close(fitted[0, 1:-1, 0], torch.arange(0.25, 7.0, 0.5))  # between the middles of the frames
    assert resize_frames(table, 8) is table


@pytest.mark.parametrize("frames", [None, 4])
def test_weights_are_fitted_and_what_cannot_be_is_left(frames):
    config = VimConfig(img_size=32, num_frames=frames, **SIZES)
    state = {"pos_embed": table(4, 8), "temporal_pos_embedding": torch.ones(1, 2, 3), "head.bias": torch.ones(2)}
    fitted = fit_positions(state, config)
    assert fitted["pos_embed"].shape == (1, 65, 3)
    assert fitted["temporal_pos_embedding"].shape == (1, frames or 2, 3)
    assert fitted["head.bias"] is state["head.bias"]
    odd = {"pos_embed": torch.ones(1, 12, 3)}
    assert fit_positions(odd, config)["pos_embed"] is odd["pos_embed"]


def numbered(batch: int, n: int, place: int) -> Tokens:
    """Tokens that hold their own number."""
    x = torch.arange(float(n)).view(1, n, 1).expand(batch, -1, 2)
    return Tokens(x=x, places=torch.full((batch, 1), place))


@pytest.mark.parametrize(
    ("n", "place", "share", "before", "after"),
    [(17, 8, 0.5, 4, 4), (17, 0, 0.5, 0, 8), (10, 4, 0.5, 2, 3), (10, 4, 0.24, 4, 4), (9, 4, 0.99, 1, 1)],
)
def test_patches_are_left_out_on_either_side_and_the_rest_keep_their_order(n, place, share, before, after):
    tokens, likings = numbered(3, n, place), torch.rand(3, n)
    left = PatchDropout(place).leave_out(tokens, share, likings)
    assert left.places.tolist() == [[before]] * 3
    assert left.x.shape == (3, before + 1 + after, 2)
    for image in range(3):
        stay = left.x[image, :, 0].long()
        assert stay.tolist() == sorted(stay.tolist())
        assert stay[before] == place
        for side in (slice(0, place), slice(place + 1, n)):
            gone = sorted(set(range(n)[side]) - set(stay.tolist()))
            kept = [token for token in stay.tolist() if token in range(n)[side]]
            assert all(likings[image, token] >= likings[image, gone].max() for token in kept if gone)


def test_patches_are_left_out_in_training_alone_and_in_other_numbers_each_time():
    layer, tokens = PatchDropout(32), numbered(2, 65, 32)
    assert layer(tokens) is tokens
    layer.rate = 0.5
    assert layer.eval()(tokens) is tokens
    lengths = {layer.train()(tokens).x.shape[1] for _ in range(40)}
    assert len(lengths) > 5
    assert min(lengths) >= 33
    assert max(lengths) > 50


@pytest.mark.parametrize(
    ("weights", "images", "says"),
    [
        (torch.float32, torch.uint8, r"torch.uint8 do not fit .* weights of torch.float32; scale and normalise"),
        (torch.float32, torch.float64, r"torch.float64 do not fit .* torch.float32; call \.to\(torch.float32\)"),
        (torch.bfloat16, torch.float32, r"torch.float32 do not fit .* torch.bfloat16; call \.to\(torch.bfloat16\)"),
    ],
)
def test_images_of_another_dtype_are_refused(weights, images, says):
    model, images = PatchEmbed(VimConfig(img_size=8, **SIZES)).to(weights), torch.zeros(2, 1, 8, 8, dtype=images)
    with pytest.raises(ShapeError, match=says):
        model(images)


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("images", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.uint8], ids=str)
def test_autocast_takes_what_it_casts(weights, images):
    model, images = PatchEmbed(VimConfig(img_size=8, **SIZES)).to(weights), torch.zeros(2, 1, 8, 8, dtype=images)
    with torch.autocast("cpu", torch.bfloat16):
        if images.dtype in (torch.float64, torch.uint8):
            with pytest.raises(ShapeError, match=f"{images.dtype} do not fit"):
                model(images)
        else:
            assert model(images).dtype is torch.bfloat16


def test_shapes_without_values():
    model = PatchEmbed(VimConfig(img_size=8, **SIZES)).to("meta")
    assert model(torch.zeros(2, 1, 8, 8, device="meta")).shape == (2, 4, 3)
    with pytest.raises(ShapeError, match=r"torch.float64 do not fit"):
        model(torch.zeros(2, 1, 8, 8, dtype=torch.float64, device="meta"))
