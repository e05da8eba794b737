"""The networks against their sizes in METHOD section 2, and against torchvision's own ResNets."""

import os
from pathlib import Path

import pytest
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from ccsi.errors import UserError
from ccsi.models import ContinualNorm2d, Tap, ccsi_large, ccsi_small, resnet
from ccsi.models.backbones import load_weights


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_ccsi_small_has_the_size_and_cost_of_the_method():
    net = ccsi_small(3, generator())
    convolutions = 3 * 16 * 9 + 2 * 16 * 16 * 9 + (16 * 32 + 32 * 32) * 9 + 16 * 32 + (32 * 64 + 64 * 64) * 9 + 32 * 64
    norms = 2 * (3 * 16 + 3 * 32 + 3 * 64)
    assert sum(p.numel() for p in net.parameters()) == convolutions + norms == 77392
    with FlopCounterMode(display=False) as count:
        features = net(torch.rand(1, 3, 32, 32))
    assert features.shape == (1, 256) == (1, net.n_features)
    assert count.get_total_flops() == 2 * 16 * 16 * convolutions  # every map is 16 x 16 at 32 px
    assert count.get_total_flops() / 1e6 == pytest.approx(39.3, abs=0.05)


def test_ccsi_small_takes_28_px_and_grey():
    assert ccsi_small(1, generator())(torch.rand(2, 1, 28, 28)).shape == (2, 256)


def test_ccsi_large_has_128_features_and_no_last_relu():
    net = ccsi_large(3, generator()).eval()
    sizes: list[Tap] = []
    features = net(torch.rand(2, 3, 224, 224), sizes)
    assert features.shape == (2, 128) and net.n_features == 128
    assert (features < 0).any()
    assert sizes[0].input.shape[-1] == 112 and sizes[-1].input.shape[-1] == 7
    assert (ccsi_small(3, generator()).eval()(torch.rand(2, 3, 32, 32)) >= 0).all()


def test_the_last_relu_can_be_switched_and_is_the_only_difference():
    for make, size in ((ccsi_small, 32), (ccsi_large, 224)):
        x = torch.rand(2, 3, size, size)
        with_relu, without = (make(3, generator(), last_relu=on).eval() for on in (True, False))
        assert (with_relu(x) >= 0).all() and (without(x) < 0).any()
        with_relu.pool = without.pool = x.shape[-1] // (2 if make is ccsi_small else 32)  # no pooling: maps compare
        assert torch.equal(with_relu(x), without(x).clamp(min=0))


@pytest.mark.parametrize("make", [ccsi_small, ccsi_large])
def test_all_norms_are_tapped_in_order_and_stay_without_update(make):
    net = make(3, generator())
    norms = [module for module in net.modules() if isinstance(module, ContinualNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    taps: list[Tap] = []
    net(torch.rand(4, 3, 32, 32), taps, moving=0)
    assert taps[0].norm is net.stem_norm and {id(tap.norm) for tap in taps} == {id(norm) for norm in norms}
    assert len(taps) == len(norms)
    assert all(torch.equal(norm.running_mean, old) for norm, old in zip(norms, before, strict=True))
    net(torch.rand(4, 3, 32, 32))
    assert not any(torch.equal(norm.running_mean, old) for norm, old in zip(norms, before, strict=True))


def test_the_start_is_the_generators_alone():
    torch.manual_seed(1)
    first = ccsi_small(3, generator(5)).state_dict()
    torch.manual_seed(2)
    second, other = ccsi_small(3, generator(5)).state_dict(), ccsi_small(3, generator(6)).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["stem.weight"], other["stem.weight"])
    # Kaiming, fan out: std = sqrt(2 / (9 * channels out))
    assert first["blocks.2.conv2.weight"].std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.03)


@pytest.fixture
def like_torchvision(tmp_path):
    """A torchvision ResNet with random weights and moments, and ours made from its state_dict file."""

    def make(arch: str, **options):
        torch.manual_seed(0)
        theirs = getattr(torchvision.models, arch)(weights=None)
        for name, buffer in theirs.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 1.5)
        torch.save(theirs.state_dict(), tmp_path / "weights.pt")
        ours = resnet(3, generator(), arch=arch, weights=str(tmp_path / "weights.pt"), **options)
        theirs.fc = torch.nn.Identity()
        return ours.double(), theirs.double()

    return make


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_resnet_with_batch_norm_is_torchvisions(arch, like_torchvision):
    ours, theirs = like_torchvision(arch, norm="batch")
    x = torch.rand(3, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
    torch.testing.assert_close(ours.train()(x), theirs.train()(x))
    moments = [m.running_var for m in ours.modules() if isinstance(m, ContinualNorm2d)]
    wanted = [m.running_var for m in theirs.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for a, b in zip(moments, wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_resnet_with_cn_is_torchvisions_with_a_group_norm_before_each_batch_norm(like_torchvision):
    ours, theirs = like_torchvision("resnet18", norm="cn", groups=16)
    for parent in list(theirs.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, torch.nn.BatchNorm2d):
                gn = torch.nn.GroupNorm(16, child.num_features, affine=False)
                setattr(parent, name, torch.nn.Sequential(gn, child))
    x = torch.rand(3, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
    torch.testing.assert_close(ours.train()(x), theirs.train()(x))


@pytest.mark.parametrize("channels", [1, 3])
def test_small_stem_keeps_the_resolution(channels):
    net = resnet(channels, generator(), stem="small")
    taps: list[Tap] = []
    assert net(torch.rand(2, channels, 16, 16), taps).shape == (2, 512)
    assert taps[0].input.shape == (2, 64, 16, 16) and taps[1].input.shape == (2, 64, 16, 16)


def test_grey_images_need_no_pretrained_stem(like_torchvision, tmp_path):
    assert resnet(1, generator())(torch.rand(2, 1, 32, 32)).shape == (2, 512)
    like_torchvision("resnet18")  # leaves its weights file
    with pytest.raises(UserError, match=r"model\.weights=.*RGB"):
        resnet(1, generator(), weights=str(tmp_path / "weights.pt"))


def test_weights_that_do_not_fit_or_are_not_there(like_torchvision, tmp_path):
    like_torchvision("resnet18")
    with pytest.raises(UserError, match=r"model\.weights=.*resnet50"):
        resnet(3, generator(), arch="resnet50", weights=str(tmp_path / "weights.pt"))
    with pytest.raises(UserError, match=r"model\.weights=.*nowhere\.pt"):
        resnet(3, generator(), weights=str(tmp_path / "nowhere.pt"))
    with pytest.raises(UserError, match=r"model\.weights=IMAGENET9.*IMAGENET1K_V1"):
        resnet(3, generator(), weights="IMAGENET9")
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(UserError, match=r"pipe\.pt: cannot be used .* a named pipe, not a regular file"):
        resnet(3, generator(), weights=str(tmp_path / "pipe.pt"))


@pytest.mark.parametrize("wrap", [lambda s: {"state_dict": s}, lambda s: {f"module.{k}": v for k, v in s.items()}])
def test_weights_under_other_names_are_not_passed_over(like_torchvision, tmp_path, wrap):
    like_torchvision("resnet18")
    path = tmp_path / "weights.pt"
    torch.save(wrap(torch.load(path, weights_only=True)), path)
    with pytest.raises(UserError, match=r"model\.weights=.*names do not match"):
        resnet(3, generator(), weights=str(path))


@pytest.mark.parametrize("make", [ccsi_small, ccsi_large, resnet])
def test_groups_that_do_not_divide_name_their_key(make):
    with pytest.raises(UserError, match=r"model\.groups=5 does"):
        make(3, generator(), groups=5)
    make(3, generator(), groups=5, norm="batch")  # means nothing there


def test_a_tilde_in_the_path_of_weights_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save({}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="its names do not match"):
        load_weights(torch.nn.Linear(1, 1), "resnet18", "~/w.pth")
    with pytest.raises(
        UserError, match=rf"model\.weights=~/none\.pth: .*No such file or directory: '{tmp_path}/none.pth'"
    ):
        load_weights(torch.nn.Linear(1, 1), "resnet18", "~/none.pth")
