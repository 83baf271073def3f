"""Every published weight file that is read here, as plain values: where it is, what it holds, what it reaches.

The files are their authors' own: Vim (arXiv 2401.09417), VideoMamba (arXiv 2403.06977), and both re-trained with merged
tokens by R-MeeTo (arXiv 2412.12496). Accuracies are those of the papers, on one view of ImageNet-1K's validation
images, or on 4 clips x 3 crops of Kinetics-400.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from rmeeto.models.configs import timm_parts
from rmeeto.schedule import Schedule

Dataset = Literal["imagenet-1k", "kinetics-400"]

_CLASSES: dict[Dataset, int] = {"imagenet-1k": 1000, "kinetics-400": 400}


@dataclass(frozen=True)
class Origin:
    """One published weight file.

    Attributes:
        model: the network's name in timm's manner, such as vim_tiny_patch16_224.
        tag: which weights of that network, such as midclstok_in1k.
        parameters: numbers in the network.
        depth: blocks of the network.
        repo: the repository on the Hugging Face hub.
        file: the file's name there; the re-trained ones are known without their ending.
        part: the entry of the file whose weights reach `top1`; None where the weights are the file itself, or where
            it is not known how they are wrapped. A file without this entry is read as any other.
        licence: of the weights, as SPDX names it; None where none is stated.
        papers: arXiv numbers, the one that made the weights first.
        dataset: what it was trained on.
        top1: published accuracy in percent; None where we know of none.
        r: tokens that leave at each merge of the published model; None for an un-merged one.
        num_frames: of one input; None for images.
        input_size: (channels, height, width).
        mean, std: per channel, of values in 0..1.
        interpolation: how images are resized.
        crop_pct: the short side is resized to height / crop_pct and the centre cropped.
        every: distance between merges in blocks.
        class_place: the rule by which the class token was placed when the weights were re-trained.
    """

    model: str
    tag: str
    parameters: int
    depth: int
    repo: str
    file: str
    part: str | None
    licence: str | None
    papers: tuple[str, ...]
    dataset: Dataset
    top1: float | None
    r: int | None = None
    num_frames: int | None = None
    input_size: tuple[int, int, int] = (3, 224, 224)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: str = "bicubic"
    crop_pct: float = 0.875
    every: int = 2
    class_place: Literal["exact", "official"] = "official"

    @property
    def name(self) -> str:
        """Network and weights, as timm writes them: model.tag."""
        return f"{self.model}.{self.tag}"

    @property
    def short(self) -> str:
        """The network's name without its sizes, such as vim_tiny or videomamba_tiny_k400_f8."""
        return self.model.removesuffix("_224").removesuffix("_patch16")

    @property
    def num_classes(self) -> int:
        """Outputs of the head."""
        return _CLASSES[self.dataset]

    @property
    def schedule(self) -> Schedule | None:
        """Tokens that leave after each block of the published model; None for an un-merged one."""
        return None if self.r is None else Schedule.constant(self.r, self.depth, every=self.every)

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """What timm's `pretrained_cfg` says of the weights and their input, but for where they are."""
        return {
            "input_size": self.input_size,
            "mean": self.mean,
            "std": self.std,
            "interpolation": self.interpolation,
            "crop_pct": self.crop_pct,
            "crop_mode": "center",
            "num_classes": self.num_classes,
            **timm_parts(self.model),
            "tag": self.tag,
            "license": self.licence,
            "origin_url": f"https://huggingface.co/{self.repo}",
            "paper_ids": tuple(f"arXiv:{paper}" for paper in self.papers),
        }

    @property
    def reduction(self) -> dict[str, str] | None:
        """How the published model is merged, as `rmeeto.Settings.from_dict` reads it; None for an un-merged one."""
        return None if self.r is None else {"class_place": self.class_place}


def find(name: str) -> Origin | None:
    """The weights that a name means, with its tag or without, long or short; without a tag the un-merged ones.

    Example:
        find("vim_tiny") == find("vim_tiny_patch16_224.midclstok_in1k")
    """
    model, _, tag = name.partition(".")
    return next((o for o in ORIGINS if model in (o.model, o.short) and tag in ("", o.tag)), None)


_VIM, _VIDEOMAMBA, _RMEETO = "2401.09417", "2403.06977", "2412.12496"


def _vim(size: str, parameters: int, file: str, top1: float, part: str = "model") -> Origin:
    repo, model = f"hustvl/Vim-{size}-midclstok", f"vim_{size}_patch16_224"
    papers = (_VIM,)
    return Origin(
        model, "midclstok_in1k", parameters, 24, repo, file, part, "apache-2.0", papers, "imagenet-1k", top1
    )  # fmt: skip


def _videomamba(size: str, parameters: int, depth: int, top1: float | None) -> Origin:
    file, model = f"videomamba_{size[0]}16_in1k_res224.pth", f"videomamba_{size}_patch16_224"
    papers, repo = (_VIDEOMAMBA,), "OpenGVLab/VideoMamba"
    return Origin(model, "in1k", parameters, depth, repo, file, "model", "apache-2.0", papers, "imagenet-1k", top1)


def _kinetics(size: str, parameters: int, depth: int, top1: float) -> Origin:
    file, model = f"videomamba_{size[0]}16_k400_f8_res224.pth", f"videomamba_{size}_k400_f8_224"
    papers, repo = (_VIDEOMAMBA,), "OpenGVLab/VideoMamba"
    origin = Origin(model, "k400", parameters, depth, repo, file, None, "apache-2.0", papers, "kinetics-400", top1)
    # Of a video the short side is resized to 224 and three crops are taken along the long one.
    return replace(origin, num_frames=8, crop_pct=1.0)


def _retrained(origin: Origin, file: str, top1: float, r: int, part: str | None = None) -> Origin:
    tag = f"rmeeto_{origin.tag.removeprefix('midclstok_')}"
    papers = (_RMEETO, *origin.papers)
    return replace(
        origin, tag=tag, repo="Soptq/R-Meeto", file=file, part=part, licence=None, papers=papers, top1=top1, r=r
    )  # fmt: skip


_PUBLISHED = (
    _vim("tiny", 7_148_008, "vim_t_midclstok_76p1acc.pth", 76.1),
    _vim("small", 25_796_584, "vim_s_midclstok_80p5acc.pth", 80.5),
    # The 81.9 % are those of the moving average.
    _vim("base", 97_598_440, "vim_b_midclstok_81p9acc.pth", 81.9, part="model_ema"),
    _videomamba("tiny", 7_148_008, 24, 76.9),
    _videomamba("small", 25_796_584, 24, 81.2),
    _videomamba("middle", 74_217_448, 32, None),
    _videomamba("base", 97_598_440, 24, 82.7),
    _kinetics("tiny", 7_033_744, 24, 76.9),
    _kinetics("small", 25_568_656, 24, 79.3),
    _kinetics("middle", 73_875_856, 32, 80.5),
)
_BY_SHORT = {origin.short: origin for origin in _PUBLISHED}

ORIGINS: tuple[Origin, ...] = (
    *_PUBLISHED,
    _retrained(_BY_SHORT["vim_tiny"], "Vim-Ti_30epoch_75.3", 75.3, 5),
    _retrained(_BY_SHORT["vim_small"], "Vim-S_15epoch_80.0", 80.0, 11),
    _retrained(_BY_SHORT["vim_base"], "Vim-B_15epochs_81.3", 81.3, 11, part="model_ema"),
    _retrained(_BY_SHORT["videomamba_tiny"], "VideoMamba-Ti_30epoch_75.9", 75.9, 5),
    _retrained(_BY_SHORT["videomamba_small"], "VideoMamba-S_15epochs_80.1", 80.1, 11),
    _retrained(_BY_SHORT["videomamba_base"], "VideoMamba-B_15epochs_81.9", 81.9, 11),
    _retrained(_BY_SHORT["videomamba_tiny_k400_f8"], "K400_VideoMamba-Ti_30epochs_76.5", 76.5, 88),
    _retrained(_BY_SHORT["videomamba_small_k400_f8"], "K400_VideoMamba-S_15epochs_78.5", 78.5, 88),
    _retrained(_BY_SHORT["videomamba_middle_k400_f8"], "K400_VideoMamba-M_15epochs_78.9", 78.9, 88),
)
