"""A model onto the hub, with a card that tells what was measured."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from rmeeto.errors import RmeetoError, SettingsError
from rmeeto.hub import Bundle, Hub, bundle_folder, read_bundle, save, upload
from rmeeto.hub.bundle import CONFIG, WEIGHTS
from rmeeto.hub.card import base_of, model_card
from rmeeto.pipeline.retraining import RESULT
from rmeeto.records import read_json
from rmeeto.report.table import result_table
from rmeeto.report.words import measured_on, verdict

CARD = "README.md"


def push_to_hub(
    model: nn.Module | Path | str,
    repo: str,
    *,
    licence: str | None = None,
    private: bool = False,
    dry_run: bool = False,
    hub: Hub | None = None,
) -> dict[str, Any]:
    """Put a model onto the Hugging Face hub: weights, config.json with the schedule, and a card.

    Only these: no image, log or path of the data leaves the machine. A README.md in the folder is taken as the card.

    Args:
        model: a folder that `rmeeto.load` reads, such as a run's, whose table is then on the card; or a Vision Mamba.
        repo: owner/name; made if it is not there.
        licence: of the weights, as SPDX names it; None takes that of the weights they were made of.
        private: whether a new repository is seen by its owner alone.
        dry_run: tell what would be put there, and put nothing.
        hub: where to; None takes the environment's settings.

    Returns:
        {"repo", "address" (None in a dry run), "files" with their sizes in bytes, "card"}.

    Raises:
        WeightsError: the folder holds no whole model, or the hub cannot be reached or refuses.
        SettingsError: `repo` is no name of a repository, or the model is no Vision Mamba.
    """
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise SettingsError(f"{repo!r} is not a repository's name; write owner/name")
    if not isinstance(model, Path | str):
        with TemporaryDirectory() as folder:
            save(model, folder)
            return push_to_hub(folder, repo, licence=licence, private=private, dry_run=dry_run, hub=hub)
    place = bundle_folder(model)
    bundle = read_bundle(place)
    card = _card(bundle, place, Path(model), repo, licence)
    files: dict[str, bytes | Path] = {WEIGHTS: place / WEIGHTS, CONFIG: place / CONFIG, CARD: card.encode("utf-8")}
    address = None
    if not dry_run:
        message = f"{bundle.architecture}, written by rmeeto {bundle.version or ''}".rstrip()
        address = upload(files, repo, hub or Hub(), message=message, private=private)
    sizes = {name: data.stat().st_size if isinstance(data, Path) else len(data) for name, data in files.items()}
    return {"kind": "upload", "repo": repo, "address": address, "files": sizes, "card": card}


def _card(bundle: Bundle, place: Path, run: Path, repo: str, licence: str | None) -> str:
    own = place / CARD
    if own.is_file():
        return own.read_text(encoding="utf-8")
    base = base_of(bundle)
    stated = licence or (base["license"] if base else None)
    result = next((folder / RESULT for folder in (place, run) if (folder / RESULT).is_file()), None)
    return model_card(bundle, repo, licence=stated, measured=_measured(bundle, result))


def _measured(bundle: Bundle, result: Path | None) -> str | None:
    """The run's table, or the accuracy that was published of weights that were only converted."""
    if result is None:
        published = bundle.records.get("origin", {})
        top1 = published.get("top1")
        return None if top1 is None else f"Published top-1 accuracy on {published['dataset']}: {top1} %."
    values = read_json(result)
    try:
        setting, conventions = values["speed_setting"], values["conventions"]
        how = (
            f"images/s: median of {setting['repeats']} forward passes of batch {setting['batch']} on "
            f"{measured_on(setting)} ({setting['dtype']}), the models in turn. GFLOPs: "
            f"{conventions['gflops']}; paper GFLOPs: {conventions['gflops_paper']}."
        )
        return f"{result_table(values).to_markdown()}\n\n{verdict(values)}\n\n{how}"
    except (KeyError, TypeError, AttributeError):
        raise RmeetoError(f"{result} is no result of a re-training; move it away or make it again") from None
