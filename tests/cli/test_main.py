"""Commands as somebody types them."""

from __future__ import annotations

import errno
import io
import json
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rmeeto.cli import main as door
from rmeeto.errors import DataError
from rmeeto.models import create
from rmeeto.ops import SlowPathWarning
from rmeeto.pipeline import measuring

from ..pipeline.conftest import digests
from .conftest import Told

Say = Callable[[str], Told]

COMMANDS = ("demo", "doctor", "models", "convert", "pretrain", "retrain", "evaluate", "benchmark", "push")
SIZES = "--img-size 8 --in-chans 3 --embed-dim 16 --depth 4 --state-size 4"
NANO = f"--model vim_nano {SIZES}"
PRETRAIN = f"pretrain {NANO} --epochs 1 --batch-size 8 --lr 1e-3 --warmup-epochs 0 --mixup 0 --cutmix 0"
RETRAIN = "retrain --epochs 1 --batch-size 8 --lr 1e-3 --speed-batch 1 --speed-repeats 1 --speed-warmup 0"
MODEL = "--model model --data photos"

# What is typed -> what the one line says.
REFUSED = [
    # data
    (f"{PRETRAIN} --data gone --output new", "data 'gone' does not exist; give a folder, a .tar, 'demo'"),
    (f"{PRETRAIN} --data nothing --output new", "data nothing cannot be opened (Found 0 images"),
    (f"{PRETRAIN} --data one --output new", "one/train has one class only (red)"),
    (f"{PRETRAIN} --data cut --output new1", "image green/1.png of cut/train cannot be read (image file is trunc"),
    (f"{PRETRAIN} --data text --batch-size 5 --output new2", "image red/note.jpg of text/train cannot be"),
    (f"{PRETRAIN} --data cut-val --output new3", "image green/1.png of cut-val/val cannot be read"),
    (f"{PRETRAIN} --data cut.tar --val-data photos/val --output new", "data cut.tar cannot be opened"),
    (f"{PRETRAIN} --data file --output new", "data 'file' is a file, but no .tar"),
    (f"{PRETRAIN} --data photos --val-data four/val --output new", "has 4 classes and photos/train (training) has 3"),
    (f"{PRETRAIN} --data photos --workers -1 --output new", "workers -1 is negative"),
    (f"{PRETRAIN} --data torch/strange:photos --output new", "Unknown torchvision dataset strange"),
    (f"{PRETRAIN} --data photos --batch-size 26 --output new", "24 training images do not fill a batch of 26; lower"),
    ("evaluate --model model --data cut-val", "image green/1.png of cut-val/val cannot be read"),
    ("evaluate --model model --data four", "model tells 3 classes apart and the data has 4; give the data it was"),
    ("evaluate --model model --data nothing", "folder nothing has no validation images in val/ or test/"),
    (f"{RETRAIN} --model model --data four --output new", "model tells 3 classes apart and the data has 4"),
    # models and weights
    ("evaluate", "vim_nano comes without trained weights; add --weights"),
    ("evaluate --model vim_huge", "vim_huge is no folder of this machine and no published model; did you mean vim_b"),
    ("evaluate --model photos", "model folder photos holds no config.json"),
    ("evaluate --model cut-model", "weight file cut-model/model.safetensors is cut short"),
    (f"evaluate {NANO} --data photos --weights cut.safetensors", "weight file cut.safetensors is cut short"),
    (f"evaluate {NANO} --data photos --weights gone.pth", "no weight file at gone.pth"),
    (f"evaluate {NANO} --data photos --weights file", "file is not a weight file"),
    (f"evaluate {NANO} --data photos --weights hostile.pth", "would run code when opened: it names `posix.system`"),
    (f"evaluate {NANO} --data photos --weights other.safetensors", "(layers.1.mixer.D is 5 and the model's is 32)"),
    (f"evaluate {NANO} --data four --weights nano.safetensors", "(head.weight is 3x16 and the model's is 4x16"),
    ("evaluate --model model --data photos --img-size 16", "model comes trained and brings its own img_size"),
    (f"{PRETRAIN} --data photos --img-size 7 --output new", "7x7 does not fit patches of 2 pixels"),
    (f"{PRETRAIN} --data photos --in-chans 4 --output new", "with 1 or 3 channels"),
    (f"{PRETRAIN} --data photos --model merged --output new", "merged comes trained and brings its own"),
    ("pretrain --model merged --data photos --batch-size 8 --output new", "merged is a merged model; re-train it with"),
    ("retrain --model vim_tiny --data photos --output new", "vim_tiny comes without trained weights"),
    # weight files and the hub
    ("convert gone.pth --model vim_nano --output new", "no weight file at gone.pth"),
    ("convert nano.safetensors --output new", "nano.safetensors is not called as a published file, so its network is"),
    ("convert nano.safetensors --model vim_huge --output new", "model 'vim_huge' is unknown; did you mean vim_base? "),
    ("convert nano.safetensors --model vim_nano --output new", "nano.safetensors does not fit the model: "),
    ("convert nano.safetensors --model vim_nano --output model", "model holds a model already, which this would"),
    ("convert nano.safetensors --model vim_nano --output file", "output file is a file; name a folder"),
    ("convert nano.safetensors --model vim_nano --part ema --output new", "has no part 'ema' with weights; parts it"),
    ("convert hostile.pth --model vim_nano --output new", "would run code when opened: it names `posix.system`"),
    ("convert cut.safetensors --model vim_nano --output new", "weight file cut.safetensors is cut short"),
    ("convert --output new", "Missing argument 'file'. See `rmeeto convert --help`."),
    ("push model nano", "'nano' is not a repository's name; write owner/name"),
    ("push gone me/nano --dry-run", "model folder gone does not exist"),
    ("push cut-model me/nano --dry-run", "weight file cut-model/model.safetensors is cut short"),
    ("evaluate --model hf-hub:me/na/no", "'me/na/no' is not a repository's name"),
    # schedules and settings
    (f"{RETRAIN} {MODEL} --r 9 --output new", "r = 9 after block 1 is too large: 17 tokens arrive there and at most 8"),
    (f"{RETRAIN} {MODEL} --r -1 --output new", "r = -1 is negative"),
    (f"{RETRAIN} {MODEL} --r 0 --output new", "removes nothing; give r of 1 or more"),
    (f"{RETRAIN} {MODEL} --final 1 --output new", "final length 1 cannot be reached"),
    (f"{RETRAIN} {MODEL} --removals [1,2] --output new", "the schedule has 2 entries for a model of 4 blocks"),
    (f"{RETRAIN} {MODEL} --r 4 --rank 0 --output new", "rank = 0 must be"),
    ("evaluate --model model --data photos --merge --r 9", "r = 9 after block 1 is too large"),
    ("evaluate --model model --data photos --r 9", "--r says how to merge, and --merge is not given; add it, or"),
    ("evaluate --model model --data photos --mode prune", "--mode says how to merge, and --merge is not given; add it"),
    ("benchmark --model model --r 9", "r = 9 after block 1 is too large"),
    ("benchmark --model model --r 4 --threads 99999", "threads = 99999 is more than the"),
    ("benchmark --model model --r 4 --speed-repeats 0", "speed_repeats = 0 measures nothing"),
    # recipes
    ("recipes vim_huge", "recipe 'vim_huge' is unknown; choose one of videomamba_base_15_epochs"),
    ("retrain --recipe vim_huge --output new", "recipe 'vim_huge' is unknown"),
    ("pretrain --recipe vim_tiny_3_epochs --output new", "is for `rmeeto retrain`, not for `rmeeto pretrain`"),
    ("reproduce table0", "table 'table0' is unknown; choose one of table1 (images), table2 (minutes), table3"),
    (f"pretrain {NANO} --data photos --epochs 1 --warmup-epochs 1 --output new", "1 warm-up epochs leave none of 1"),
    (f"{RETRAIN} {MODEL} --r 4 --lr nan --output new", "lr is nan; it must be a number above 0"),
    (f"{RETRAIN} {MODEL} --r 4 --min-lr 1 --output new", "min_lr 1 is above the peak"),
    (f"{RETRAIN} {MODEL} --r 4 --accumulate 3 --output new", "batch_size 8 does not divide by 3"),
    (f"{RETRAIN} {MODEL} --r 4 --auto-augment rand-q9 --output new", "auto_augment 'rand-q9' cannot be read by timm"),
    # places
    (f"{PRETRAIN} --data photos --output file", "output file is a file; name a folder"),
    (f"{RETRAIN} {MODEL} --r 4 --output file/new", "cannot write file/new"),
    (f"{RETRAIN} {MODEL} --r 4 --output run", "run holds a run already; add --resume auto"),
    (f"{RETRAIN} {MODEL} --r 4 --output run --resume auto", "no checkpoint in run/checkpoints is whole; start"),
    (f"{RETRAIN} {MODEL} --r 4 --output model", "model holds a model already, which the run would replace"),
    ("demo --output photos", "photos holds something else than a demo"),
    ("demo --output file", "output file is a file; name a folder"),
    # the command line itself
    ("retrain", "Missing option '--output'. See `rmeeto retrain --help`."),
    (f"{RETRAIN} {MODEL} --r 4 --output ''", "An empty value follows --output; say one, or leave the option out."),
    (f"{RETRAIN} {MODEL} --r 4 --output=", "An empty value follows --output; say one, or leave the option out."),
    ("evaluate --feature X", "Invalid value for '--feature'"),
    ("evaluate --r many", "Invalid value for '--r'"),
    ("evaluate --strange", "No such option: --strange"),
    ("strange", "No such command 'strange'. See `rmeeto --help`."),
]  # fmt: skip


@pytest.mark.parametrize(("line", "told"), REFUSED, ids=[told[:40] for _, told in REFUSED])
def test_bad_input(line: str, told: str, rmeeto_says: Say, desk: Path) -> None:
    """One line that says what is wrong, exit code 2, nothing on standard output, nothing that was there lost."""
    before = digests(desk)
    said = rmeeto_says(line)
    assert (said.code, said.out) == (2, "")
    last = said.err.splitlines()[-1]
    assert last.startswith("rmeeto: ")
    assert told in last
    assert "Traceback" not in said.err
    assert said.err.count("rmeeto: ") == 1
    after = digests(desk)
    assert {name: after.get(name) for name in before} == before


def test_the_whole_way(rmeeto_says: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train, make faster, evaluate, benchmark: JSON on standard output, and nothing else there."""
    for name in ("write_charts", "write_report"):  # they take seconds, and the tests of the pipeline draw them
        monkeypatch.setattr(f"rmeeto.pipeline.retraining.{name}", lambda *_arguments: None)
    own, faster = tmp_path / "own", tmp_path / "faster"
    run = _json(rmeeto_says(f"{PRETRAIN} --data photos --output {own} --json"))
    result = _json(rmeeto_says(f"{RETRAIN} --model {own} --data photos --r 4 --output {faster} --json"))
    assert (run["kind"], result["kind"]) == ("run", "result")
    assert result == json.loads((faster / "result.json").read_text())
    assert result["unmerged"]["top1"] == run["epochs"][-1]["top1"]
    accuracy = _json(rmeeto_says(f"evaluate --model {faster} --data photos --json"))
    assert (accuracy["kind"], accuracy["top1"]) == ("accuracy", result["retrained"]["top1"])
    text = rmeeto_says(f"evaluate --model {own} --data photos --merge --r 4")
    assert text.out.startswith(f"top-1 {result['merged']['top1']:.2f}  top-5 100.00  on 12 images in ")
    assert (text.code, text.err) == (0, "")  # no bar where there is no terminal
    speed = "--speed-batch 1 --speed-repeats 1 --speed-warmup 0"
    for given, schedule in (("", result["schedule"]), ("--rank 2", result["schedule"]), ("--r 2", [0, 2, 0, 0])):
        measured = _json(rmeeto_says(f"benchmark --model {faster} {given} {speed} --json"))
        assert measured["merged"]["schedule"] == schedule
    table = rmeeto_says(f"benchmark --model {own} --r 4 {speed}").out
    assert "un-merged" in table
    assert "merged" in table


def test_weights_in_and_out(rmeeto_says: Say, tmp_path: Path) -> None:
    """Of a network at its published size, with numbers of our own."""
    torch.manual_seed(0)
    torch.save({"model": create("vim_nano").state_dict()}, tmp_path / "mine.pth")
    line = f"convert {tmp_path}/mine.pth --model vim_nano --output {tmp_path}"
    said = rmeeto_says(f"{line}/one")
    assert said.out.splitlines() == [
        "vim_nano: 0.43 M parameters", "weights of mine.pth, its part model", f"The model is in {tmp_path}/one",
    ]  # fmt: skip
    done = _json(rmeeto_says(f"{line}/two --json"))
    assert (done["kind"], done["output"]) == ("conversion", f"{tmp_path}/two")
    shown = rmeeto_says(f"push {tmp_path}/one me/nano --dry-run --license mit").out
    assert shown.startswith("---\nlibrary_name: rmeeto\nlicense: mit\n")
    assert "Would be put into me/nano: model.safetensors (1." in shown
    assert _json(rmeeto_says(f"push {tmp_path}/one me/nano --dry-run --json"))["kind"] == "upload"


def test_models(rmeeto_says: Say) -> None:
    said = rmeeto_says("models")
    (line,) = (line for line in said.out.splitlines() if line.startswith("vim_base.midclstok_in1k "))
    assert line.split() == [
        "vim_base.midclstok_in1k", "97.60", "M", "3x224x224", "81.9", "hustvl/Vim-base-midclstok", "apache-2.0",
    ]  # fmt: skip
    assert max(map(len, said.out.splitlines())) <= 120
    assert _json(rmeeto_says("models --json"))["kind"] == "models"


def test_recipes(rmeeto_says: Say, tmp_path: Path) -> None:
    assert "vim_small_3_epochs" in rmeeto_says("recipes").out
    shown = rmeeto_says("recipes vim_small_3_epochs")
    assert "epochs = 3" in shown.out
    assert "published: top1 79.3" in shown.out
    assert json.loads(rmeeto_says("recipes vim_small_3_epochs --json").out)["groups"]["schedule"]["r"] == 11
    (tmp_path / "own.toml").write_text(shown.out)  # what is shown can be run
    assert "epochs = 3" in rmeeto_says(f"recipes {tmp_path / 'own.toml'}").out


def test_doctor(rmeeto_says: Say) -> None:
    assert _json(rmeeto_says("doctor --json"))["kind"] == "doctor"
    said = rmeeto_says("doctor")
    assert (said.code, said.err) == (0, "")
    assert "selective_scan" in said.out


def _json(said: Told) -> dict:
    assert said.code == 0, said.err
    values = json.loads(said.out)
    assert isinstance(values, dict)
    return values


FAULTS = [
    (DataError("the value, the rule; the cure"), 2, "rmeeto: the value, the rule; the cure\n"),
    (OSError(errno.ENOSPC, "No space left on device", "/x"), 2, "rmeeto: No space left on device: /x; free"),
    (MemoryError(), 2, "rmeeto: the memory does not suffice; use smaller batches"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 2, "rmeeto: the memory does not suffice"),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), 2,
     "rmeeto: a process that decodes images was ended from outside (Killed), mostly because the memory"),
    (KeyboardInterrupt(), 130, "rmeeto: interrupted; what was written stays, and --resume auto continues"),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "code", "told"), FAULTS, ids=[type(fault).__name__ for fault, _, _ in FAULTS])
def test_faults(fault: BaseException, code: int, told: str, rmeeto_says: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmeeto.pipeline.measuring.doctor", lambda: _raise(fault))
    said = rmeeto_says("doctor")
    assert (said.code, said.out, said.err.count("\n")) == (code, "", 1)
    assert said.err.startswith(told)


@pytest.mark.parametrize("fault", [RuntimeError("a bug"), OSError(errno.EBADF, "a bug"), KeyError("a bug")], ids=repr)
def test_faults_of_the_program_keep_their_traceback(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmeeto.pipeline.measuring.doctor", lambda: _raise(fault))
    monkeypatch.setattr(sys, "argv", ["rmeeto", "doctor"])
    with pytest.raises(type(fault), match="a bug"):
        door.main()


@pytest.mark.parametrize(
    ("kind", "line", "others"), [(SlowPathWarning, "rmeeto: warning: slow\n", []), (UserWarning, "", [UserWarning])]
)
@pytest.mark.filterwarnings("always")
def test_warnings_of_this_package_are_one_line(
    kind: type[Warning], line: str, others: list, rmeeto_says: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, shown = measuring.doctor, []

    def doctor() -> dict:
        warnings.warn("slow", kind, stacklevel=2)
        return asked()

    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # what the command puts there is taken back
    monkeypatch.setattr(measuring, "doctor", doctor)
    monkeypatch.setattr(door, "_show_warning", lambda _message, category, *_: shown.append(category))
    said = rmeeto_says("doctor --json")
    assert (said.code, said.err, shown) == (0, line, others)


def _raise(fault: BaseException) -> None:
    raise fault


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_log_that_meets_a_full_disk_in_its_own_thread_is_silent(
    rmeeto_says: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tells the main thread, which tells the user."""

    def found() -> dict:
        thread = threading.Thread(target=_raise, args=(OSError(errno.ENOSPC, "No space left on device"),))
        thread.start()
        thread.join()
        raise DataError("told once")

    monkeypatch.setattr("rmeeto.pipeline.measuring.doctor", found)
    assert rmeeto_says("doctor").err == "rmeeto: told once\n"


class FullPipe(io.StringIO):
    def flush(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_standard_output_is_told(rmeeto_says: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", FullPipe())
    said = rmeeto_says("doctor")
    assert said.code == 2
    assert said.err.startswith("rmeeto: No space left on device; free some space")


HELP_OF_ALL = """
import sys
from rmeeto.cli.main import main
for line in ([], ["--help"], *([name, "--help"] for name in sys.argv[1:])):
    sys.argv = ["rmeeto", *line]
    try:
        main()
    except SystemExit as ended:
        assert ended.code == 0, (line, ended.code)
heavy = sorted({"torch", "timm", "torchvision", "accelerate", "matplotlib", "numpy"} & set(sys.modules))
assert not heavy, heavy
"""


def test_help_is_light_and_shows_examples() -> None:
    """In a new process: this one has imported everything."""
    ended = subprocess.run([sys.executable, "-c", HELP_OF_ALL, *COMMANDS], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    for name in COMMANDS:
        assert ended.stdout.count(f"rmeeto {name} --") + ended.stdout.count(f" rmeeto {name} ") > 1
    assert ended.stdout.count("Examples:") == len(COMMANDS)


def test_a_closed_output_ends_nothing(rmeeto_says: Callable[[str], Told], monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, None)
        assert rmeeto_says("models").code == 0
        monkeypatch.undo()


def test_letters_that_the_output_lacks_are_spelt(
    rmeeto_says: Callable[[str], Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", plain)
    monkeypatch.setattr(door, "app", lambda *_, **__: 0 * sys.stdout.write("caf\u00e9\n"))
    assert rmeeto_says("models").code == 0
    plain.flush()
    assert plain.buffer.getvalue() == b"caf\\xe9\n"
