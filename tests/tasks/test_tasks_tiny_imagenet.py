"""Tiny ImageNet: its folder layout, in the forms in which people have it, whole and damaged."""

import numpy as np
import pytest
import torch
from PIL import Image

from learndyn.errors import InputError
from learndyn.tasks import tiny_imagenet
from learndyn.tasks.tiny_imagenet import list_folder

NAMES = ["n02124075", "n04067472", "n04540053"]


def picture(path, label, i, mode="RGB"):
    """A flat colour that tells class and number; JPEG keeps it within a grey level or two."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = (40 * label + 20, 10 * i + 20, 128)
    image = Image.new("RGB", (64, 64), colour).convert(mode)
    image.save(path, quality=95)
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)[:, 0, 0]


def archive(root, layout="official"):
    root.mkdir(parents=True, exist_ok=True)
    (root / "wnids.txt").write_text("\n".join(NAMES) + "\n")
    lines = []
    for label, name in enumerate(NAMES):
        for i in range(4):
            picture(root / "train" / name / "images" / f"{name}_{i}.JPEG", label, i, "L" if i == 3 else "RGB")
        for i in range(2):
            file = f"val_{2 * label + i}.JPEG"
            if layout == "official":
                picture(root / "val" / "images" / file, label, i)
                lines.append(f"{file}\t{name}\t0\t0\t63\t63")
            else:
                folder = root / "val" / name / ("images" if layout == "nested" else "")
                picture(folder / file, label, i)
    if lines:
        (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize("layout", ["official", "by class", "nested"])
def test_every_layout_gives_the_same_task(layout, tmp_path):
    root = archive(tmp_path / "tiny-imagenet-200", layout)
    for given in (tmp_path, root):
        task = tiny_imagenet(given, batch_size=4, augment=False)
        assert task.classes == 3 and task.input_shape == (3, 64, 64)
        assert sorted(task.train.targets.tolist()) == [0] * 4 + [1] * 4 + [2] * 4
        assert sorted(task.test.targets.tolist()) == [0, 0, 1, 1, 2, 2]
        red = task.train.inputs[:, 0].mean((1, 2))
        coloured = [red[(task.train.targets == c)].sort().values[:2] for c in range(3)]
        assert coloured[0].max() < coloured[1].min()  # the colour of a class stays with its label


def test_pixels_are_those_of_the_pictures(tmp_path):
    root = archive(tmp_path)
    train, validation, classes = list_folder(root)
    assert classes == 3 and [label for _, label in train] == [0] * 4 + [1] * 4 + [2] * 4 and len(validation) == 6
    task = tiny_imagenet(root, batch_size=4, augment=False)
    mean, std = task.train.inputs.mean((0, 2, 3)), task.train.inputs.std((0, 2, 3))
    torch.testing.assert_close(mean, torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(std, torch.ones(3), atol=1e-3, rtol=0)


def test_examples_take_turns_among_the_classes(tmp_path):
    task = tiny_imagenet(archive(tmp_path), batch_size=2, examples=5, test_examples=3)
    assert task.train.targets.tolist() == [0, 1, 2, 0, 1] and task.test.targets.tolist() == [0, 1, 2]
    with pytest.raises(InputError, match="examples=13 must lie between 1 and the 12 pictures"):
        tiny_imagenet(tmp_path, examples=13)


def test_what_is_missing_or_damaged_is_named(tmp_path):
    with pytest.raises(InputError, match="There is no Tiny ImageNet in .*wnids.txt is missing"):
        tiny_imagenet(tmp_path)
    root = archive(tmp_path / "whole")
    broken = root / "train" / NAMES[1] / "images" / f"{NAMES[1]}_0.JPEG"
    content = broken.read_bytes()
    broken.write_bytes(content[:100])
    with pytest.raises(InputError, match=f"{NAMES[1]}_0.JPEG cannot be read"):
        tiny_imagenet(root, batch_size=4)
    Image.new("RGB", (32, 32)).save(broken)
    with pytest.raises(InputError, match="has 32x32 pixels, the first picture 64x64"):
        tiny_imagenet(root, batch_size=4)
    broken.write_bytes(content)
    (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn000\t0\t0\t63\t63\n")
    with pytest.raises(InputError, match="names no class of wnids.txt"):
        tiny_imagenet(root, batch_size=4)
    (root / "wnids.txt").write_text("\n".join([*NAMES, "n000"]))
    with pytest.raises(InputError, match="has no picture of class n000"):
        tiny_imagenet(root, batch_size=4)
