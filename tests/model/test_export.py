"""Exported files against the learners they were made of: each classifier, each backbone, each way to be refused."""

import copy
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch
from tiny_run import tiny
from torch import Tensor, nn

import ccsi.config
from ccsi.data.scenario import make_tasks
from ccsi.errors import UserError
from ccsi.experiment.run import validate
from ccsi.learners.base import NetLearner
from ccsi.model import export
from ccsi.model.comparison import TOLERANCE, largest_difference, random_images
from ccsi.model.export import Probabilities, export_onnx, export_torch
from ccsi.stage import Stages

KINDS = ["acil", "ds_al", "ncm", "icarl", "fecam", "fetril", "pass", "bic", "lwf_mc", "ccsi"]
"""One learner of each kind of classifier."""
NAMES = [f"digit {c}" for c in range(10)]


@functools.lru_cache(maxsize=8)
def shared(learner: str, *overrides: str) -> NetLearner:
    """A learner after three tasks of ten digits: 4, 3 and 3 classes."""
    config = ccsi.config.load([f"learner={learner}", *tiny(learner), *overrides])
    setup = validate(**ccsi.config.build(config).keywords)
    data = setup.data
    for task in make_tasks(data.train, data.val, setup.plan, torch.device("cpu")):
        setup.learner.learn(task, Stages())
    return setup.learner


def learned(learner: str, *overrides: str) -> NetLearner:
    return copy.deepcopy(shared(learner, *overrides))


def images(n: int, size: int = 8) -> Tensor:
    return torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(n))


def expected(learner: NetLearner, x: Tensor, temperature: float) -> Tensor:
    with torch.no_grad():
        return (learner.scores(x) / temperature).softmax(1).float()


def run_onnx(path: Path, x: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["probabilities"], {"image": x.numpy()})[0])


def check(learner: NetLearner, temperature: float, folder: Path, size: int = 8) -> tuple[float, float]:
    """Both files give the learner's probabilities, at any batch size; their largest differences."""
    differences = (
        export_onnx(learner, temperature, NAMES, size, {}, folder / "m.onnx"),
        export_torch(learner, temperature, size, folder / "m.pt2"),
    )
    program = torch.export.load(folder / "m.pt2").module()
    assert max(differences) <= TOLERANCE
    for n in (1, 3, 7):
        x = images(n, size)
        wanted = expected(learner, x, temperature)
        for found in (run_onnx(folder / "m.onnx", x), program(x)):
            assert found.shape == (n, 10) and found.dtype == torch.float32
            torch.testing.assert_close(found, wanted, rtol=0, atol=TOLERANCE)
    return differences


@pytest.mark.parametrize("learner", ["acil", "fecam", "pass", "bic"])
def test_files_give_the_probabilities_of_the_learner(learner, tmp_path):
    check(learned(learner), 0.2, tmp_path)


def test_a_deeper_backbone_in_float64_is_exported_in_float32(tmp_path):
    check(learned("icarl", "model=ccsi_large", "dataset.size=32", "training.precision=float64"), 0.2, tmp_path, 32)


BACKBONES = [(model, norm) for model in ("ccsi_small", "ccsi_large", "resnet18") for norm in ("cn", "batch")]
CASES = [(*BACKBONES[0], learner) for learner in KINDS]
CASES += [(*backbone, learner) for backbone in BACKBONES[1:] for learner in ("ccsi", "fecam")]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "norm", "learner"), CASES)  # the classifier does not see what its features are from
def test_every_backbone_with_every_kind_of_classifier(model, norm, learner, tmp_path):
    one = learned(learner, f"model={model}", f"model.norm={norm}", "dataset.size=32")
    for temperature in (1.0, 0.2):
        differences = check(one, temperature, tmp_path, 32)
        print("\n", model, norm, learner, temperature, *differences)  # with pytest -s


def test_what_the_caller_says_of_the_model_is_in_the_onnx_file(tmp_path):
    path = tmp_path / "m.onnx"
    learner = learned("ncm")
    export_onnx(learner, 0.25, NAMES, 8, {"data": "Ziffern, 8 × 8"}, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    kept = session.get_modelmeta().custom_metadata_map
    assert json.loads(kept["class_names"]) == NAMES
    assert float(kept["temperature"]) == 0.25 and kept["data"] == "Ziffern, 8 × 8"
    (image,), (output,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.type, image.shape[1:]) == ("image", "tensor(float)", [1, 8, 8])
    assert (output.name, output.type, output.shape[1:]) == ("probabilities", "tensor(float)", [10])
    assert isinstance(image.shape[0], str) and image.shape[0] == output.shape[0]
    torch.testing.assert_close(run_onnx(path, images(3)), expected(learner, images(3), 0.25), rtol=0, atol=TOLERANCE)


def test_an_export_is_one_file_without_paths_says_nothing_and_leaves_the_learner(tmp_path, capfd, recwarn):
    learner = learned("ncm")
    learner.net.train()
    before, names = copy.deepcopy(learner.state_dict()), set(vars(learner))
    trained = [value.requires_grad for value in learner.net.parameters()]
    export_onnx(learner, 1.0, NAMES, 8, {}, tmp_path / "m.onnx")
    export_torch(learner, 1.0, 8, tmp_path / "m.pt2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "m.pt2"]
    assert capfd.readouterr() == ("", "") and not recwarn.list
    for path in tmp_path.iterdir():
        assert b".py" not in path.read_bytes() and str(Path(ccsi.__file__).parent).encode() not in path.read_bytes()
    assert learner.net.training and set(vars(learner)) == names
    assert [value.requires_grad for value in learner.net.parameters()] == trained
    for part in ("net", "kept"):
        assert all(torch.equal(value, before[part][name]) for name, value in learner.state_dict()[part].items())


def test_only_what_classifies_is_in_the_module():
    buffers = {
        kind: {name for name, _ in Probabilities(learned(kind), 1.0).named_buffers() if name.startswith("learner_")}
        for kind in ("acil", "icarl", "ccsi")
    }
    assert not {"kept_images", "teacher"} & set(vars(Probabilities(learned("icarl"), 1.0)._learner))
    assert buffers == {
        "acil": {"learner_buffer", "learner_solution"},  # not the correlations of the training images
        "icarl": {"learner_means"},  # no exemplars
        "ccsi": set(),
    }


def test_the_module_does_not_follow_the_learner():
    learner, x = learned("ncm"), images(3)
    module = Probabilities(learner, 0.5)
    wanted = module(x)
    learner.means.mul_(-1)
    with torch.no_grad():
        learner.net.backbone.stem.weight.mul_(2)
    assert torch.equal(module(x), wanted) and not torch.equal(expected(learner, x, 0.5), wanted)


class Shifted(nn.Module):
    """Another model: its probabilities are those of the module, of the next class."""

    def __init__(self, module: Probabilities) -> None:
        super().__init__()
        self.module, self.net = module, module.net

    def forward(self, image: Tensor) -> Tensor:
        return self.module(image).roll(1, 1)


def test_a_wrong_file_is_refused_and_not_left(tmp_path, monkeypatch):
    learner, right, there = learned("ncm"), export._program, tmp_path / "there"
    monkeypatch.setattr(export, "_program", lambda module, *rest: right(Shifted(module), *rest))
    there.write_bytes(b"old")
    with pytest.raises(UserError, match=r"m.onnx is not written: its probabilities .* give another class"):
        export_onnx(learner, 0.05, NAMES, 8, {}, tmp_path / "m.onnx")
    with pytest.raises(UserError, match=r"there is not written: its probabilities .* give another class"):
        export_torch(learner, 0.05, 8, there)
    assert list(tmp_path.iterdir()) == [there] and there.read_bytes() == b"old"


def test_a_file_that_differs_by_more_than_the_tolerance_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "largest_difference", lambda *rest: 1.1e-5)
    with pytest.raises(UserError, match=r"differ by 1.1e-05 on random images; expected at most 1e-05"):
        export_torch(learned("ncm"), 0.2, 8, tmp_path / "m.pt2")
    assert not list(tmp_path.iterdir())


def test_numbers_that_are_none_are_refused():
    module = Probabilities(learned("ncm"), 1.0)
    assert largest_difference(module, module, 1, 8) == 0
    assert largest_difference(lambda x: module(x) * float("nan"), module, 1, 8) == float("inf")
    assert largest_difference(lambda x: module(x)[:, :5], module, 1, 8) == float("inf")
    assert 0 < largest_difference(lambda x: module(x) + 3e-6, module, 1, 8) < TOLERANCE


def test_the_images_of_the_check_cover_the_range():
    x = random_images(16, 3, 8, torch.Generator().manual_seed(0))
    assert x.shape == (16, 3, 8, 8) and x.min() == 0 and x.max() == 1
    assert all((x > low).logical_and(x < low + 0.1).any() for low in torch.arange(10) / 10)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"{package}.*pip install 'ccsi\[onnx\]'"):
        export_onnx(learned("ncm"), 1.0, NAMES, 8, {}, tmp_path / "m.onnx")


def test_input_that_fits_no_file_is_refused(tmp_path, monkeypatch):
    learner, path = learned("ncm"), tmp_path / "m.onnx"
    with pytest.raises(UserError, match="9 class names for a model of 10 classes"):
        export_onnx(learner, 1.0, NAMES[:9], 8, {}, path)
    for temperature in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="expected a positive number"):
            export_torch(learner, temperature, 8, path)
    empty = copy.deepcopy(learner)
    empty.heads = []
    with pytest.raises(UserError, match="has learned no task"):
        export_torch(empty, 1.0, 8, path)
    with monkeypatch.context() as patch:
        patch.setattr(export, "LARGEST", 1000)
        with pytest.raises(UserError, match=r"weights take .* GB"):
            export_onnx(learner, 1.0, NAMES, 8, {}, path)
    monkeypatch.setattr(type(learner), "classify_features", lambda self, f: torch.linalg.eigh(f.T @ f)[1][:, :10])
    with pytest.raises(UserError, match=r"learner=ncm cannot be exported as ONNX: .*linalg_eigh"):
        export_onnx(learner, 1.0, NAMES, 8, {}, path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        export_torch(learned("ncm"), 1.0, 8, tmp_path / "absent" / "m.pt2")


def test_no_telemetry(tmp_path):
    """onnxruntime's own import writes an identifier of the device into the home folder."""
    code = "from ccsi.model.export import _packages; _packages()"
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"HOME": str(tmp_path)}, check=True, timeout=100)
    assert not list(tmp_path.rglob("*onnxruntime*"))
