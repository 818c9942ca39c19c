"""Bad input: one sentence on stderr, status 2, no traceback, nothing written.

Every case is a command as somebody would type it, in a process of its own, and the words that its sentence must hold:
the value, and what would have been right.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from runs import fingerprints, words

STRANGE = Path(__file__).with_name("strange.py")


@pytest.fixture
def place(tmp_path):
    """A working directory with some files of a user's."""
    shutil.copy(STRANGE, tmp_path)
    (tmp_path / "syntax.py").write_text("def network(:\n")
    (tmp_path / "missing.py").write_text("import package_that_is_not_there\n")
    (tmp_path / "failing.py").write_text("raise RuntimeError('first line\\nsecond line')\n")
    (tmp_path / "leaving.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "empty.py").write_text("")
    images = np.arange(128, dtype=np.uint8).reshape(8, 4, 4)
    whole = {f"{split}_images": images for split in ("train", "test")}
    whole |= {f"{split}_labels": np.arange(8) % 2 for split in ("train", "test")}
    np.savez(tmp_path / "good.npz", **whole)
    (tmp_path / "torn.npz").write_bytes((tmp_path / "good.npz").read_bytes()[:300])
    (tmp_path / "text.npz").write_text("not an archive")
    np.savez(tmp_path / "lacking.npz", train_images=images)
    (tmp_path / "cifar").mkdir()
    (tmp_path / "cifar" / "data_batch_1.bin").write_bytes(b"12")
    (tmp_path / "a file").write_text("")
    return tmp_path


def spoken(case) -> list[str]:
    """A command: the small setting with other values, or the words themselves."""
    return words(**case) if isinstance(case, dict) else case.split()


# Refused before anything is computed: (command, words of the sentence).
DOOR = [
    # commands
    ("runn two-phase", "'runn' 'run'"),
    ("run", "Say which experiment"),
    ("run two-fase", "'two-fase' 'two-phase'"),
    ("list everything", "everything"),
    ("report", "Say which run"),
    ("report nowhere", "nowhere"),
    ("report .", "settings.yaml"),
    # options
    ("run two-phase --stepz 30", "'--stepz' '--steps'"),
    ("run two-phase --steps abc", "--steps 'abc'"),
    ("run two-phase --steps", "'--steps' --help"),
    ("run two-phase --seeds 1.5", "--seeds '1.5'"),
    ("run two-phase --t0 a b", "--t0 'a'"),
    ("run two-phase --dtype float16", "'float16' 'float32' 'float64'"),
    ("run two-phase --engine jax", "'jax' 'loop'"),
    ("run two-phase --preset", "'--preset'"),
    ("run two-phase --preset quik", "'quik' 'quick'"),
    ("run two-phase --preset=", "preset"),
    ("run two-phase here", "here"),
    # numbers
    ({"steps": 0}, "steps=0 1"),
    ({"steps": -5}, "steps=-5 1"),
    ({"seeds": 0}, "seeds=0 1"),
    ({"directions": -1}, "directions=-1 1"),
    ({"probes": -1}, "probes=-1 negative"),
    ({"points": 2}, "points=2 3"),
    ({"threads": 0}, "threads=0 1"),
    ({"jobs": 0}, "jobs=0 1"),
    ({"jobs": -2}, "jobs=-2 1"),
    ({"epsilon": "-1e-7"}, "epsilon=-1e-07 positive"),
    ({"epsilon": "0"}, "epsilon=0 positive"),
    ({"epsilon": "nan"}, "epsilon=nan finite"),
    ({"epsilon": "inf"}, "epsilon=inf finite"),
    # steps
    ({"t0": (0, 48)}, "t0=48 steps=48"),
    ({"t0": (0, 500)}, "t0=500 steps=48"),
    ({"t0": (20, 0)}, "t0=(20, 0) increase"),
    ({"t0": (5, 5)}, "t0=(5, 5) increase"),
    ({"t0": (-5, 3)}, "t0=(-5, 3) negative"),
    ({"t0": ()}, "t0"),
    ({"t1": ()}, "t1"),
    ({"t1": (49,)}, "t1=49 steps=48"),
    ({"t0": (30,), "t1": (24,)}, "t0=30 t1 (24,)"),
    ({"horizons": (10, 5)}, "horizons=(10, 5) increase"),
    ({"steps": 30}, "t1=48 steps=30"),
    # names
    ({"perturbation": "gausian"}, "'gausian' 'gaussian'"),
    ({"device": "nonsense"}, "'nonsense' cpu"),
    ({"device": "cuda:77"}, "'cuda:77' cpu"),
    ({"model": ""}, "mlp(width=64)"),
    ({"model": "mlp(8)"}, "'mlp(8)' keyword"),
    ({"model": "mlp(width=8"}, "'mlp(width=8'"),
    ({"model": "mlp(width=__import__('os').getpid())"}, "keyword"),
    # places
    ({"runs": "a file"}, "--runs"),
    ({"runs": "/proc/learndyn"}, "/proc/learndyn --runs"),
    ({"runs": "/dev/null"}, "/dev/null --runs"),
    ({"settings": "nowhere.yaml"}, "nowhere.yaml"),
    ({"settings": "."}, "settings.yaml"),
]

# Refused when the task, the network or the optimizer is built or tried.
BUILT = [
    ({"task": "digitz"}, "'digitz' 'digits'"),
    ({"model": "mlpp"}, "'mlpp' 'mlp'"),
    ({"optimizer": "sgdd"}, "'sgdd' 'sgd'"),
    ({"schedule": "cosin"}, "'cosin' 'cosine'"),
    # data
    ({"task": "cifar10"}, "cifar10 data_dir"),
    ({"task": "cifar10", "data_dir": "nowhere"}, "nowhere CIFAR-10"),
    ({"task": "cifar10", "data_dir": "cifar"}, "cifar data_batch_2"),
    ({"task": "mnist", "data_dir": "nowhere"}, "nowhere train-images"),
    ({"task": "npz(path='nowhere.npz')"}, "nowhere.npz"),
    ({"task": "npz(path='torn.npz')"}, "torn.npz"),
    ({"task": "npz(path='text.npz')"}, "text.npz"),
    ({"task": "npz(path='lacking.npz')"}, "lacking.npz train_labels"),
    ({"task": "npz(path='good.npz', batch_size=9)"}, "batch_size=9 8"),
    ({"task": "digits(label_noise=2)"}, "label_noise=2"),
    # optimizers and schedules
    ({"optimizer": "sgd(lr=-1)"}, "sgd(lr=-1) learning rate"),
    ({"optimizer": "sgd(lr='x')"}, "sgd(lr='x')"),
    ({"optimizer": "sgd(learning_rate=0.1)"}, "learning_rate lr"),
    ({"optimizer": "lbfgs"}, "lbfgs closure"),
    ({"optimizer": "sparseadam"}, "sparseadam dense"),
    ({"optimizer": "muon"}, "muon"),
    ({"perturbation": "top_lyapunov", "optimizer": "adagrad(lr=0.1)"}, "Adagrad"),
    ({"perturbation": "bit_flip", "epsilon": "1.5"}, "bit_flip whole 1.5"),
    ({"schedule": "milestones(at=(30, 10))"}, "(30, 10) increase"),
    ({"schedule": "milestones(at=5)"}, "milestones(at=5)"),
    ({"schedule": "milestones(at='ab')"}, ""),
    ({"schedule": "cosine(warmup=100)"}, "warmup=100 48"),
    ({"schedule": "strange.py:text"}, ""),
    ({"schedule": "strange.py:number"}, "strange.py:number int function"),
    ({"optimizer": "strange.py:number"}, "strange.py:number"),
    ({"optimizer": "strange.py:of_others"}, "none of the model's parameters"),
    # networks
    ({"model": "mlp(width=-1)"}, "width=-1 1"),
    ({"model": "mlp(width='x')"}, "mlp(width='x')"),
    ({"model": "mlp(widht=8)"}, "widht width"),
    ({"model": "resnet8"}, "(6,) (channels, height, width)"),
    ({"model": "strange.py:number"}, "strange.py:number int torch.nn.Module"),
    ({"model": "strange.py:nothing"}, "NoneType torch.nn.Module"),
    ({"model": "strange.py:raising"}, "strange.py:raising KeyError 'weights'"),
    ({"model": "strange.py:raising_lines"}, "RuntimeError first line"),
    ({"model": "strange.py:leaving"}, "strange.py:leaving SystemExit"),
    ({"model": "strange.py:netwrk"}, "'netwrk' 'Network' strange.py"),
    ({"model": "strange.py:AssertingNothing"}, "AssertingNothing AssertionError"),
    ({"model": "strange.py:TwoOutputs"}, "TwoOutputs tuple"),
    ({"model": "strange.py:NoForward"}, "NoForward forward"),
    ({"model": "strange.py:Frozen"}, "Frozen trainable"),
    ({"model": "strange.py:Drifting"}, "twice different"),
    ({"model": "torch.nn:Linear"}, "torch.nn:Linear in_features"),
    ({"model": "torch.nn:Linear(in_features=5, out_features=3)"}, "cannot be trained on teacher"),
    # files
    ({"model": "nowhere.py:network"}, "nowhere.py"),
    ({"model": "nowhere:network"}, "'nowhere'"),
    ({"model": ":network"}, ":network"),
    ({"model": "strange.py:"}, "strange.py"),
    ({"model": "empty.py:network"}, "'network' empty.py"),
    ({"model": "syntax.py:network"}, "syntax.py SyntaxError line 1"),
    ({"model": "missing.py:network"}, "missing.py package_that_is_not_there"),
    ({"model": "failing.py:network"}, "failing.py RuntimeError first line"),
    ({"model": "leaving.py:network"}, "leaving.py SystemExit"),
    # tasks
    ({"task": "strange.py:number"}, "int batch loss evaluation"),
    ({"task": "strange.py:Impure"}, "batch(1) twice generator"),
    ({"task": "strange.py:Counting"}, "batch(1) twice generator"),
    ({"task": "strange.py:BatchIsNone"}, "BatchIsNone NoneType"),
    ({"task": "strange.py:BatchOfLists"}, "BatchOfLists list"),
    ({"task": "strange.py:LossOfEach"}, "LossOfEach scalar"),
    ({"task": "strange.py:LossIsFloat"}, "LossIsFloat float"),
    ({"task": "strange.py:LossOfNothing"}, "LossOfNothing"),
    ({"task": "strange.py:NoTrainingData"}, "NoTrainingData train.bin"),
    ({"task": "strange.py:LabelsBeyond"}, "LabelsBeyond out of bounds"),
    ({"task": "strange.py:Unequal"}, "Unequal (64) (10)"),
    ({"task": "strange.py:NaNInputs"}, ""),
    ({"task": "strange.py:of_lists"}, "of_lists"),
    ({"task": "strange.py:empty"}, "train empty"),
]


def named(case) -> str:
    return case if isinstance(case, str) else " ".join(f"{key}={value}" for key, value in case.items())


@pytest.mark.parametrize("case, expected", DOOR + BUILT, ids=map(named, [case for case, _ in DOOR + BUILT]))
def test_one_sentence_and_nothing_written(nursery, place, case, expected):
    before = fingerprints(place)
    sentence = nursery.run(*spoken(case), cwd=place).error()
    for word in expected.split():
        assert word in sentence, sentence
    assert fingerprints(place) == before
    assert not list(place.glob("runs/*"))


# Found out only on the way: what was measured up to there stays.
ON_THE_WAY = [
    ({"task": "strange.py:LossIsNaN"}, "seed 0 diverged at step 0 nan"),
    ({"task": "strange.py:NaNAtStep21"}, "seed 0 diverged at step 21 nan"),
    ({"schedule": "strange.py:nan_at_step_30"}, "seed 0 diverged at step 31 nan"),
    ({"optimizer": "sgd(lr=1e300)"}, "seed 0 diverged at step 1 nan"),
    ({"engine": "vmap", "task": "strange.py:NaNAtStep21"}, "seed 0 diverged at step 21"),
    ({"seeds": 2, "jobs": 2, "task": "strange.py:NaNAtStep21"}, "diverged at step 21"),
    ({"task": "strange.py:EndsAtStep10"}, "strange.py in batch IndexError"),
    ({"schedule": "strange.py:dividing_by_zero_at_step_25"}, "strange.py ZeroDivisionError"),
    ({"seeds": 2, "jobs": 2, "task": "strange.py:EndsAtStep10"}, "strange.py in batch IndexError"),
    ({"engine": "vmap", "optimizer": "asgd(lr=0.1)"}, "ASGD loop"),
    ({"engine": "vmap", "perturbation": "noise_swap"}, "loop"),
    ({"dtype": "float32", "epsilon": "1e-30", "t0": (20, 30)}, "1e-30 vanishes float32 float64"),
]


@pytest.mark.parametrize("case, expected", ON_THE_WAY, ids=map(named, [case for case, _ in ON_THE_WAY]))
def test_one_sentence_on_the_way(nursery, place, case, expected):
    options = {"model": "torch.nn:Linear(in_features=6, out_features=3)"} if "dtype" in case else {}
    sentence = nursery.run(*words(**options | case), cwd=place, forked=True).error()
    for word in expected.split():
        assert word in sentence, sentence
    assert not list(place.rglob("results.nc")) and not list(place.rglob("*.tmp"))


SETTINGS_FILES = {
    "stepz: 30": "'stepz' 'steps'",
    "steps: many": "steps='many' int",
    "steps: 30.5": "steps=30.5 int",
    "steps: true": "steps=True int",
    "t0: 5": "t0=5",
    "t0: [a, b]": "t0",
    "t0: [0, 2.5]": "t0",
    "t0: [0, null]": "t0",
    "dtype: float16": "dtype float16 float32",
    "engine: jax": "engine jax",
    "data_dir: 5": "data_dir=5",
    "task: [digits]": "task",
    "1: 2": "1",
    "experiment: three-phase": "three-phase two-phase",
    "- a list": "settings.yaml",
    "text": "settings.yaml",
    "": "settings.yaml",
    "steps: [": "settings.yaml",
    "a: 2020-13-45": "settings.yaml",
}


@pytest.mark.parametrize("content", SETTINGS_FILES)
def test_a_settings_file(nursery, place, content):
    (place / "settings.yaml").write_text(content)
    sentence = nursery.run("run", "two-phase", "--settings", "settings.yaml", cwd=place).error()
    for word in SETTINGS_FILES[content].split():
        assert word in sentence, sentence
    assert not list(place.glob("runs"))


def test_a_settings_file_that_is_right(nursery, place, reference):
    """What a run directory holds feeds back into the command line, and finds that directory."""
    file = reference() / "settings.yaml"
    shutil.copytree(reference(), place / "runs" / reference().name)
    life = nursery.run("run", "two-phase", "--settings", file, cwd=place)
    assert life.status == 0 and reference().name in life.out, life.err
    content = yaml.safe_load(file.read_text()) | {"steps": 0}
    (place / "other.yaml").write_text(yaml.safe_dump(content))
    assert "steps=0" in nursery.run("run", "two-phase", "--settings", "other.yaml", cwd=place).error()
    again = nursery.run("run", "two-phase", "--settings", "other.yaml", "--steps", "48", cwd=place)
    assert again.status == 0 and reference().name in again.out  # an option overrides the file


def test_help_and_lists(nursery, place):
    for command in ("", "--help", "-h", "help", "run --help", "report --help", "list --help"):
        life = nursery.run(*command.split(), cwd=place)
        assert life.status == 0 and "learndyn run EXPERIMENT" in life.out and not life.err, command
    life = nursery.run("run", "two-phase", "--help", cwd=place)
    assert life.status == 0 and "--epsilon" in life.out and "--preset" in life.out and not life.err
    life = nursery.run("list", cwd=place)
    assert life.status == 0 and all(name in life.out for name in ("two-phase", "cifar10", "resnet20", "bit_flip"))
    assert nursery.run("--version", cwd=place).out.startswith("learndyn ")


def test_a_folder_that_cannot_be_written(nursery, place):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (place / "runs").mkdir(mode=0o500)
    assert "runs" in nursery.run(*words(), cwd=place).error()


def test_the_installed_command(place):
    """No nursery: the command as it was installed."""
    command = "run two-phase --model mlpp --jobs 1"
    installed = Path(sys.executable).with_name("learndyn")
    called = [installed] if installed.exists() else [sys.executable, "-m", "learndyn"]
    ended = subprocess.run([*called, *command.split()], cwd=place, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2 and not ended.stdout
    assert ended.stderr.startswith("learndyn: ") and ended.stderr.count("\n") == 1, ended.stderr


def test_a_reader_that_goes_away(place):
    """`learndyn list | head -1` says nothing on stderr."""
    command = f"{sys.executable} -m learndyn list | head -1"
    ended = subprocess.run(["bash", "-c", command], cwd=place, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0 and ended.stdout.count("\n") == 1 and not ended.stderr
