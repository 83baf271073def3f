"""How tokens are matched and merged, as one frozen value."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args

from rmeeto.errors import SettingsError
from rmeeto.reduction.matchers import MATCHERS
from rmeeto.schedule import MergeMode

Feature = Literal["hidden", "B", "C", "delta", "q", "k", "v", "x"]
Similarity = Literal["cosine", "l1", "l2"]
Order = Literal["ordered", "unordered", "shuffled"]
ClassPlace = Literal["exact", "official"]
Split = Literal["patches", "sequence"]

_CHOICES = {
    "feature": get_args(Feature),
    "similarity": get_args(Similarity),
    "mode": get_args(MergeMode),
    "order": get_args(Order),
    "class_place": get_args(ClassPlace),
    "split": get_args(Split),
}


@dataclass(frozen=True)
class Settings:
    """R-MeeTo's method and its published variants; the defaults are what we train with.

    Attributes:
        matcher: who leaves for whom: "bipartite", the most similar of every second token (the method); "adjacent", the
            same among neighbours only; "importance", those of least delta for their most similar; "class_token",
            those least like the class token for one of them; "random".
        feature: what is compared: "hidden" (the paper's X: the last mixer's output before the residual sum, in a ViT
            the stream after attention); a scan's "B", "C" or "delta", the directions averaged; a ViT's "q", "k" or
            "v", the heads averaged; or "x", the residual stream.
        similarity: "cosine", or minus the "l1" or "l2" distance of the normalised features.
        rank: each source joins its rank-th best destination; 1 is the method, more an ablation.
        mode: "sum" is the size-weighted mean whose sizes add up; "mean", "amax" and "amin" forget the sizes;
            "prune" drops the sources.
        order: "ordered" keeps the sequence, a group stands where its destination stood; "unordered" puts the
            staying sources, the most similar first, before the destinations (an ablation: Mamba suffers); "shuffled"
            orders the groups at random.
        class_place: "exact" puts a protected token after exactly the kept tokens that stood before it; "official"
            at floor(p (n - r) / n), which published weights were re-trained with (one protected token only).
        split: which tokens may leave: "patches", every second patch token from the first on (Vision Mamba), or
            "sequence", where protected tokens in front are counted, so that a ViT's class token sits among the sources
            and never leaves; unordered, the staying sources then keep their sequence.
        size_aware_scan: later scans let as much time pass at a token as it stands for (A times size).
        proportional_attention: later attention layers count a token as often as it stands for (log size added to
            its keys); a ViT's counterpart of size_aware_scan, and of no meaning to a Mamba.
        shuffle: share of the patch tokens that change places among themselves before each merge (analysis).
        seed: chooses what is random (matcher "random", order "shuffled", `shuffle`): another draw in each block, the
            same for all images of a batch and in every forward pass.

    Raises:
        SettingsError: an unknown choice, a rank below 1, or a share outside 0..1.
    """

    matcher: str = "bipartite"
    feature: Feature = "hidden"
    similarity: Similarity = "cosine"
    rank: int = 1
    mode: MergeMode = "sum"
    order: Order = "ordered"
    class_place: ClassPlace = "exact"
    split: Split = "patches"
    size_aware_scan: bool = False
    proportional_attention: bool = True
    shuffle: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in ({"matcher": tuple(MATCHERS)} | _CHOICES).items():
            if (value := getattr(self, name)) not in choices:
                raise SettingsError(f"{name} = {value!r} is unknown; choose one of {', '.join(choices)}")
        for name, least in (("rank", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise SettingsError(f"{name} = {value!r} must be an integer of {least} or more; the default is {least}")
        for name in ("size_aware_scan", "proportional_attention"):
            if not isinstance(value := getattr(self, name), bool):
                raise SettingsError(f"{name} = {value!r} is a switch; give true or false")
        if isinstance(self.shuffle, bool) or not isinstance(self.shuffle, (int, float)) or not 0 <= self.shuffle <= 1:
            raise SettingsError(f"shuffle = {self.shuffle!r} must be a share from 0 to 1; 0 shuffles nothing")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """Read what `to_dict` wrote; what is absent keeps its default.

        Raises:
            SettingsError: an unknown key or value.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise SettingsError(f"unknown settings {', '.join(unknown)}; known are {', '.join(known)}")
        return cls(**values)
