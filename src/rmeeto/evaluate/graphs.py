"""A forward pass as one CUDA graph: on a GPU Python is what small models wait for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rmeeto.errors import SettingsError, ShapeError
from rmeeto.evaluate.mode import evaluating


class Replay:
    """A model's forward pass on images of one shape, recorded once and replayed without Python.

    The graph reads the model's weights where they lie: what changes in place is seen, and moving the model or
    attaching another schedule to it needs a new graph. What is recorded is the pass in eval mode and under the
    autocast that is on at the time.

    Args:
        model: from images to logits; its shapes must not depend on the images' values, as those of merging do not.
        example: (b, c, h, w) images on a GPU; every later call has their shape and type.
        warmup: passes before the one that is recorded, in which kernels are compiled and chosen.

    Raises:
        SettingsError: the images are not on a GPU.

    Example:
        >>> fast = rmeeto.evaluate.Replay(model.cuda(), images)
        >>> logits = fast(images)
    """

    def __init__(self, model: Callable[[Tensor], Tensor], example: Tensor, *, warmup: int = 3) -> None:
        if not example.is_cuda:
            raise SettingsError(f"the example is on {example.device} and only a GPU has CUDA graphs; use .cuda()")
        self._model = model  # whose weights the graph reads
        self._images = example.detach().clone()
        self._graph = torch.cuda.CUDAGraph()
        aside = torch.cuda.Stream(example.device)
        with torch.cuda.device(example.device), evaluating(model):
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(warmup):
                    model(self._images)
            torch.cuda.current_stream().wait_stream(aside)
            torch.clear_autocast_cache()  # a graph would read the weights in it after they are gone
            with torch.cuda.graph(self._graph):
                self._logits = model(self._images)
            torch.clear_autocast_cache()  # nobody else reads what lies in the graph's memory

    def __call__(self, images: Tensor) -> Tensor:
        """Logits of images of the recorded shape.

        Raises:
            ShapeError: images of another shape, type or device.
        """
        wanted, given = (f"{tuple(x.shape)} {x.dtype} on {x.device}" for x in (self._images, images))
        if given != wanted:
            raise ShapeError(f"the images are {given} and the graph is of {wanted}; give such, or record another graph")
        self._images.copy_(images)
        self._graph.replay()
        return self._logits.clone()
