"""Templates: what was asked for comes out, what is wrong is said."""

import numpy as np
import pytest
import torch
from group_cases import MIXED

from learndyn import groups
from learndyn.errors import InputError


@pytest.mark.parametrize("text", [*MIXED, "cyclic(8)", "cyclic(4) x cyclic(4)"])
@pytest.mark.parametrize("make", [groups.powers, groups.generic])
def test_powers_are_those_asked_for(text, make):
    group = groups.named(text)
    wanted = [0.0, *(2.0 + 3 * i for i in range(len(groups.irreps(group)) - 1))]
    x = make(group, wanted)
    assert np.allclose(groups.power(group, x), wanted, atol=1e-12) and abs(x.mean()) < 1e-14
    assert abs(x.square().sum() - sum(wanted)) < 1e-11
    if make is groups.powers:
        for block in groups.fourier(group, x):
            assert (block - block[0, 0] * torch.eye(len(block)).double()).abs().max() < 1e-12


def test_scalar_blocks_have_the_value_of_the_closed_form():
    """√(N P)/n for the real type (arXiv:2602.03655, the released code)."""
    x = groups.powers(groups.dihedral(3), [0, 30, 3000])
    blocks = groups.fourier(groups.dihedral(3), x)
    assert abs(blocks[1][0, 0] - (6 * 30) ** 0.5) < 1e-12 and abs(blocks[2][0, 0] - (6 * 3000) ** 0.5 / 2) < 1e-11


def test_a_generic_template_depends_on_its_seed_alone():
    group = groups.quaternion()
    one, same, other = (groups.generic(group, [0, 1, 1, 1, 4], seed) for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.allclose(one, other)


def test_one_hot_has_the_power_of_every_irrep_in_proportion():
    group = groups.special_linear(3)
    raw = groups.one_hot(group, centred=False)
    expected = [irrep.dimension**2 / irrep.norm / 24 for irrep in groups.irreps(group)]
    assert np.allclose(groups.power(group, raw), expected, atol=1e-14)
    assert np.allclose(groups.power(group, groups.one_hot(group)), [0, *expected[1:]], atol=1e-14)


def test_magnitudes_are_those_of_numpys_transform():
    x = groups.magnitudes(groups.cyclic(12), {1: 5.0, 6: 2.0, 10: 3.0}, {1: 0.7, 6: np.pi})
    waves = np.fft.fft(x.numpy())
    assert np.allclose(abs(waves), [0, 5, 3, 0, 0, 0, 2, 0, 0, 0, 3, 5], atol=1e-13)
    assert abs(np.angle(waves[1]) - 0.7) < 1e-13 and waves[6].real < 0
    group = groups.named("cyclic(4) x cyclic(6)")
    waves = np.fft.fftn(groups.magnitudes(group, {(1, 5): 2.0, (2, 3): 1.0}).reshape(4, 6).numpy())
    assert np.allclose([abs(waves[1, 5]), abs(waves[3, 1]), waves[2, 3].real], [2, 2, 1])
    assert abs(np.square(abs(waves)).sum() - 9) < 1e-12


def test_data_and_bumps_are_centred():
    pixels = torch.arange(12.0).square().reshape(3, 4)
    x = groups.from_data(groups.named("cyclic(3) x cyclic(4)"), pixels)
    assert abs(x.mean()) < 1e-15 and abs(x.square().sum() - 12) < 1e-12
    assert np.corrcoef(x, pixels.flatten())[0, 1] > 1 - 1e-12
    wave = groups.bumps(groups.cyclic(20), [19.5], [3.0], [2.0])
    assert abs(wave.mean()) < 1e-15 and int(wave.argmax()) in (19, 0) and abs(wave[19] - wave[0]) < 1e-12
    expected = torch.fft.rfft(wave)[1:5].abs()  # a wrapped Gaussian has a Gaussian transform
    assert torch.allclose(
        expected, 2 * 3 * (2 * np.pi) ** 0.5 * (-((2 * np.pi * torch.arange(1, 5) * 3 / 20) ** 2) / 2).double().exp()
    )


def test_text_gives_the_same_templates():
    group = groups.cyclic(7)
    assert torch.equal(groups.template(group, "powers(0, 3, 2, 1)"), groups.powers(group, [0, 3, 2, 1]))
    assert torch.equal(groups.template(group, "generic(0,3,2,1)", 4), groups.generic(group, [0, 3, 2, 1], 4))
    assert torch.equal(groups.template(group, "one_hot"), groups.one_hot(group))
    assert torch.equal(groups.template(group, "raw_one_hot()"), groups.one_hot(group, centred=False))
    assert torch.equal(groups.template(group, "magnitudes(5, 2.5)"), groups.magnitudes(group, {1: 5.0, 2: 2.5}))


def test_concerns_are_values_and_sentences():
    group = groups.dihedral(3)
    fine = groups.concerns(
        group, groups.powers(group, [0, 10, 40]), groups.utilities(group, groups.powers(group, [0, 10, 40]), 2)
    )
    assert fine == groups.Concerns(0.0, (), (), ())
    with_mean = groups.concerns(group, groups.powers(group, [6, 10, 40]))
    assert abs(with_mean.mean - 1) < 1e-12 and "The mean of the template is 1, not 0" in with_mean.sentences[0]
    blocks = torch.zeros(1, 1), torch.ones(1, 1), torch.tensor([[1.0, 2], [2, 4]])
    flat = groups.inverse(group, [block.double() for block in blocks])
    found = groups.concerns(group, flat)
    assert found.unidentifiable == (2,) and "2a" in found.sentences[0]
    cyclic = groups.cyclic(7)
    x = groups.magnitudes(cyclic, {1: 3.0, 2: 2.97, 3: 1.0})
    found = groups.concerns(cyclic, x, groups.utilities(cyclic, x, 2))
    assert found.tied == ((1, 2),) and "agree within 5 %" in found.sentences[0]


def test_rounding_of_float32_is_no_mean_and_no_irrep():
    group = groups.named("special_linear(3)")
    x = groups.generic(group, [0, 3, 0, 2, 1]).float().double() + 1e-8
    assert groups.concerns(group, x).sentences == ()
    assert groups.learning_order(group, x, 2) == groups.learning_order(group, groups.generic(group, [0, 3, 0, 2, 1]), 2)
    assert len(groups.predict(group, x).stages) == 3


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda g, c: groups.powers(g, [1, 2]),
            r"2 powers do not fit the 3 irreps .* trivial \(1\), 1a \(1\), 2a \(2\)",
        ),
        (lambda g, c: groups.powers(g, [0, -1, 2]), "must be finite, not negative, and one of them above 0"),
        (lambda g, c: groups.powers(g, [0, 0, 0]), "one of them above 0"),
        (lambda g, c: groups.generic(g, [0, float("nan"), 1]), "must be finite"),
        (lambda g, c: groups.magnitudes(g, {1: 1.0}), "products of cyclic groups, not to dihedral"),
        (lambda g, c: groups.magnitudes(c, {8: 1.0}), "Frequency 8 is not one of"),
        (lambda g, c: groups.magnitudes(c, {1: 1.0, 7: 2.0}), "Frequency 7 is given twice"),
        (lambda g, c: groups.magnitudes(c, {1: -1.0}), "Magnitude -1 of frequency 1"),
        (lambda g, c: groups.magnitudes(c, {4: 1.0}, {4: 0.5}), "phase 0.5 must be 0 or pi"),
        (lambda g, c: groups.magnitudes(c, {}), "with a magnitude above 0"),
        (lambda g, c: groups.from_data(g, torch.zeros(5)), r"shape \(5,\) must be 6 finite numbers"),
        (lambda g, c: groups.from_data(g, torch.full((6,), 3.0)), "all equal encode nothing"),
        (lambda g, c: groups.bumps(g, [0.0], [1.0], [1.0]), "circle of a cyclic group"),
        (lambda g, c: groups.bumps(c, [0.0], [1.0, 2.0], [1.0]), "must be as many"),
        (lambda g, c: groups.bumps(c, [0.0], [0.0], [1.0]), "width=0"),
        (lambda g, c: groups.template(g, "power(0, 1, 2)"), "did you mean 'powers'"),
        (lambda g, c: groups.template(g, "powers(0, 1"), "Cannot read the template"),
        (lambda g, c: groups.template(g, "one_hot(3)"), "takes no numbers"),
    ],
)
def test_templates_that_make_no_sense_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make(groups.dihedral(3), groups.cyclic(8))
