"""Augmentation against torch's own flips and transpositions, plain shifts, and formulas."""

import math

import pytest
import torch

from ccsi.data import Augment


def images(n: int = 40, size: int = 9, channels: int = 3) -> torch.Tensor:
    return torch.rand(n, channels, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chosen(x: torch.Tensor, changed: torch.Tensor, candidates: dict) -> list:
    """Which candidate each image of `changed` is; fails if it is none of them, or several."""
    found = []
    for a, b in zip(x, changed, strict=True):
        fits = [name for name, make in candidates.items() if torch.allclose(make(a), b, atol=1e-9)]
        assert len(fits) == 1
        found.append(fits[0])
    return found


def test_all_off_is_the_same_tensor_and_draws_nothing():
    x, g = images(), generator()
    assert Augment()(x, g) is x
    assert torch.equal(g.get_state(), generator().get_state())


@pytest.mark.parametrize(
    ("setting", "change"),
    [
        ("flip_horizontal", lambda a: a.flip(-1)),
        ("flip_vertical", lambda a: a.flip(-2)),
        ("transpose", lambda a: a.transpose(-1, -2)),
    ],
)
@pytest.mark.parametrize("size", [8, 9])
def test_each_symmetry_alone_is_torchs_own_with_probability_one_half(setting, change, size):
    x = images(200, size)
    found = chosen(x, Augment(**{setting: True})(x, generator()), {"same": lambda a: a, "changed": change})
    assert 70 < found.count("changed") < 130


def test_all_three_make_the_eight_symmetries_of_the_square_equally_often():
    x = images(400)
    eight = {(k, flip): lambda a, k=k, flip=flip: (a.flip(-1) if flip else a).rot90(k, (-2, -1))
             for k in range(4) for flip in (False, True)}  # fmt: skip
    found = chosen(x, Augment(flip_horizontal=True, flip_vertical=True, transpose=True)(x, generator()), eight)
    assert all(25 < found.count(name) < 80 for name in eight)


def test_shifts_are_whole_pixels_with_zeros_behind():
    x = images(250)

    def shifted(dy: int, dx: int):
        def change(a):
            padded = torch.zeros(a.shape[0], 13, 13, dtype=a.dtype)
            padded[:, 2 + dy : 11 + dy, 2 + dx : 11 + dx] = a
            return padded[:, 2:11, 2:11]

        return change

    moves = {(dy, dx): shifted(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)}
    found = chosen(x, Augment(shift=2)(x, generator()), moves)
    assert set(found) == set(moves)


def test_rotation_turns_about_the_middle_within_its_range():
    dot = torch.zeros(200, 1, 33, 33, dtype=torch.float64)
    dot[:, :, 16, 26:29] = 1  # to the right of the middle
    turned = Augment(rotate=30)(dot, generator())
    rows, columns = torch.meshgrid(torch.arange(33.0) - 16, torch.arange(33.0) - 16, indexing="ij")
    weight = turned[:, 0] / turned[:, 0].sum((1, 2), keepdim=True)
    y, x = (weight * rows).sum((1, 2)), (weight * columns).sum((1, 2))
    angles = torch.atan2(y, x) * 180 / math.pi
    assert torch.allclose((x**2 + y**2).sqrt(), torch.full_like(x, 11), atol=0.2)
    assert angles.abs().max() <= 30.5 and angles.max() > 20 and angles.min() < -20


def test_scale_zooms_within_its_range():
    square = torch.zeros(200, 1, 32, 32, dtype=torch.float64)
    square[:, :, 12:20, 12:20] = 1
    area = Augment(scale=0.5)(square, generator()).sum((1, 2, 3)) / 64
    assert 1 / 1.5**2 - 0.03 < area.min() < 0.6 and 1.8 < area.max() < 1.5**2 + 0.1


@pytest.mark.parametrize("setting", ["brightness", "colour"])
def test_factors_are_log_uniform_and_one_an_image_or_one_a_channel(setting):
    x = images(2000, 4) * 0.4
    factors = Augment(**{setting: 0.5})(x, generator()) / x
    assert torch.allclose(factors, factors[:, :, :1, :1].expand_as(factors))
    assert torch.allclose(factors[:, 0], factors[:, 1]) == (setting == "brightness")
    logs = factors[:, 0, 0, 0].log() / math.log(1.5)
    assert logs.abs().max() <= 1 and logs.mean().abs() < 0.05 and abs(logs.var() - 1 / 3) < 0.03


def test_bright_images_stay_within_one():
    assert Augment(brightness=1.0)(images(), generator()).max() == 1.0


def test_gamma_is_a_power_an_image():
    x = images(2000, 4)
    powers = Augment(gamma=0.3)(x, generator()).log() / x.log()
    assert torch.allclose(powers, powers[:, :1, :1, :1].expand_as(powers))
    logs = powers[:, 0, 0, 0].log() / math.log(1.3)
    assert logs.abs().max() <= 1 + 1e-9 and logs.mean().abs() < 0.05 and abs(logs.var() - 1 / 3) < 0.03


def test_everything_at_once_keeps_zeros_range_type_and_is_the_generators():
    every = Augment(
        flip_horizontal=True, flip_vertical=True, transpose=True, shift=2, rotate=10, scale=0.2, brightness=0.3,
        colour=0.2, gamma=0.2, noise=0.1,
    )  # fmt: skip
    x = images().float()
    changed = every(x, generator())
    assert changed.dtype == torch.float32 and changed.shape == x.shape
    assert changed.min() >= 0 and changed.max() <= 1
    assert torch.equal(changed, every(x, generator())) and not torch.equal(changed, every(x, generator(2)))
    assert torch.equal(every(torch.zeros_like(x), generator()), torch.zeros_like(x))


def test_noise_has_a_deviation_of_its_own_an_image_up_to_the_given_one_and_leaves_padding():
    x = torch.full((400, 3, 24, 24), 0.5, dtype=torch.float64)
    x[:, :, :2] = 0
    noisy = Augment(noise=0.1)(x, generator())
    assert (noisy[:, :, :2] == 0).all() and noisy.min() >= 0 and noisy.max() <= 1
    added = noisy[:, :, 2:] - 0.5
    deviations = added.std((1, 2, 3))
    assert 0 < deviations.min() < 0.005 and 0.095 < deviations.max() < 0.105
    assert abs(deviations.mean() - 0.05) < 0.005 and abs(added.mean()) < 1e-3
