"""How many numbers a network has, told from its sizes alone."""

from __future__ import annotations

from rmeeto.models.configs import VimConfig


def parameters_of(config: VimConfig) -> int:
    """Parameters of the network with these sizes; a test compares it with the networks themselves."""
    c, e, s, rank = config.embed_dim, config.inner_dim, config.state_size, config.time_rank
    direction = e * config.conv_width + e + e * (rank + 2 * s) + rank * e + e + e * s + e
    block = c * 2 * e + 2 * direction + e * c + c
    patches = config.in_chans * config.patch_size**2 * c + c
    positions = (config.frame_patches + 1 + (config.num_frames or 0)) * c
    head = config.num_classes * (c + 1)
    return c + positions + patches + config.depth * block + c + head
