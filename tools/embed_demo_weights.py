"""Put trained weights into the package as the demo's, with the records of their training and their test accuracy.

    python tools/embed_demo_weights.py sets/ runs/nano-14 runs/nano-28
    python tools/embed_demo_weights.py sets/ --further runs/nano-28-on

The first folder is what tools/unpack_fashion_mnist.py wrote, the others are runs of `rmeeto pretrain` in their order;
the weights are the last one's. docs/demo-weights.md names the commands.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rmeeto.data import DataSpec
from rmeeto.pipeline import ModelSpec, evaluate
from rmeeto.pipeline.opening import open_model
from rmeeto.pipeline.training import write_model
from rmeeto.records import Run

TARGET = Path(__file__).parents[1] / "src/rmeeto/data/demo/vim_nano"


def main() -> None:
    """Evaluate, then write the bundle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of Fashion-MNIST in torchvision's layout")
    parser.add_argument("runs", type=Path, nargs="+", help="folders of the runs, the first one first")
    parser.add_argument("--further", action="store_true", help="the runs went on from the weights that are there")
    arguments = parser.parse_args()
    last = ModelSpec(model=str(arguments.runs[-1]))
    data = DataSpec(data=f"torch/fashion_mnist:{arguments.images}", val_split="test")
    accuracy = evaluate(last, data)
    print(f"top-1 {accuracy.top1:.2f} on {accuracy.images} test images")
    earlier = json.loads((TARGET / "config.json").read_text(encoding="utf-8"))["rmeeto"]["records"]["runs"]
    runs = [Run.read(run / "run.json").to_dict() for run in arguments.runs]
    runs = [*earlier, *runs] if arguments.further else runs
    records = {"test_accuracy": accuracy.to_dict(), "runs": runs}
    write_model(open_model(last), TARGET, records)


if __name__ == "__main__":
    main()
