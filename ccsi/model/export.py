"""A learned model as a file for other programs, ONNX or torch.export: images in, class probabilities out."""

import contextlib
import copy
import importlib
import io
import json
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ccsi.errors import UserError
from ccsi.io.atomic import write_atomically
from ccsi.learners.base import NetLearner
from ccsi.model.comparison import TOLERANCE, largest_difference
from ccsi.models import Backbone
from ccsi.models.norm import Tap

LARGEST = 2_000_000_000
"""Bytes of weights that fit one ONNX file: protobuf ends at 2 GiB, and the graph needs some of it."""
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class Probabilities(nn.Module):
    """p(class | image) = softmax(scores / T) of a learner, as one module in eval mode on the CPU.

    It has copies of the learner's net and, as buffers, of those tensors that `classify_features` uses (means,
    solutions, …), in their own dtypes; exemplars and what else is only for learning are not in it. The learner is not
    changed.

    Args:
        learner: has learned at least one task.
        temperature: T > 0.

    Raises:
        UserError: no task is learned, or T is no positive number.
    """

    def __init__(self, learner: NetLearner, temperature: float) -> None:
        super().__init__()
        if not learner.heads:
            raise UserError(f"learner={learner.name} has learned no task; expected a learned model.")
        if not (math.isfinite(temperature) and temperature > 0):
            raise UserError(f"temperature={temperature}: expected a positive number.")
        self.temperature = temperature
        self.net = copy.deepcopy(learner.net).cpu().requires_grad_(False)
        self._learner = copy.copy(learner)
        self._learner.net, self._learner.device = self.net, torch.device("cpu")
        tensors = {name: value.detach().cpu() for name, value in vars(learner).items() if isinstance(value, Tensor)}
        vars(self._learner).update(tensors)
        with _Arguments() as arguments, torch.no_grad():
            self._learner.classify_features(self.net.old.new_zeros(1, self.net.backbone.n_features))
        self._names = [name for name, value in tensors.items() if id(value) in arguments.ids]
        for name in self._names:
            self.register_buffer(f"learner_{name}", tensors[name].clone())
        for name in {"teacher", *learner.stored_buffers}.difference(self._names):  # a copy of the module has none of it
            vars(self._learner).pop(name, None)
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """Probabilities, float32 [N, n_classes], of float32 images [N, C, S, S] in [0, 1]."""
        learner = copy.copy(self._learner)
        learner.net = self.net
        vars(learner).update({name: getattr(self, f"learner_{name}") for name in self._names})
        return F.softmax(learner.scores(image) / self.temperature, 1).float()


class _Arguments(TorchFunctionMode):
    """Within it, `ids` collects the id of every tensor that a torch function is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[int] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.ids.update(id(value) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor))
        return func(*args, **(kwargs or {}))


class _Float32Backbone(Backbone):
    """A float64 backbone, computed in float32: float64 [N, C, H, W] to [N, n_features]."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone, self.n_features = backbone.float(), backbone.n_features

    def forward(self, x: Tensor, taps: list[Tap] | None = None, moving: int | None = None) -> Tensor:
        return self.backbone(x.float(), taps, moving).double()


def export_onnx(
    learner: NetLearner,
    temperature: float,
    class_names: Sequence[str],
    size: int,
    metadata: Mapping[str, str],
    path: Path,
) -> float:
    """Write an ONNX file of the learner's `Probabilities`, and return the largest difference of a probability in it.

    Its input is `image`, float32 [N, C, S, S] in [0, 1] with any N >= 1; its output is `probabilities`, float32
    [N, n_classes]. Its metadata are `class_names` (a JSON list), `temperature`, and `metadata`. It is one file, and
    names no path of this machine. A float64 network is computed in float32, because onnxruntime has no convolution in
    float64; what classifies its features stays float64.

    Args:
        temperature: T > 0, that the scores are divided by.
        class_names: one for each class, in the order of the scores.
        size: S, height and width of the images.
        metadata: more strings to keep in the file, by name.
        path: the file; it is replaced whole, and only if the new one is right.

    Raises:
        UserError: a package of the extra `onnx` is missing, the names do not fit, the learner cannot be exported, is
            too large for one file, or the file's probabilities are not the model's (see `TOLERANCE`).
    """
    runtime = _packages()
    module = Probabilities(learner, temperature)
    n = sum(len(head) for head in learner.heads)
    if len(class_names) != n:
        raise UserError(f"{path.name}: {len(class_names)} class names for a model of {n} classes; expected {n}.")
    weights = sum(value.numel() * value.element_size() for value in module.state_dict().values())
    if weights > LARGEST:
        raise UserError(
            f"{path.name}: the model's weights take {weights / 1e9:.2f} GB, and one ONNX file holds "
            f"{LARGEST / 1e9:.2f} GB; expected a smaller model, or an export as a torch.export program."
        )
    # the file's own entries are last: they describe what is in it
    entries = {**metadata, "class_names": json.dumps(list(class_names)), "temperature": repr(float(temperature))}
    with _refusing(learner, "ONNX"), _quiet():
        data = _onnx_bytes(module, learner.in_channels, size, entries)
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
        session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        difference = largest_difference(
            lambda x: torch.from_numpy(session.run(["probabilities"], {"image": x.numpy()})[0]),
            module,
            learner.in_channels,
            size,
        )
    return _written(data, difference, learner, path)


def export_torch(learner: NetLearner, temperature: float, size: int, path: Path) -> float:
    """Write a `torch.export` program (.pt2) of `Probabilities`, and return the largest difference of a probability.

    `torch.export.load(path).module()` maps images, float32 [N, C, S, S] in [0, 1] with any N >= 1, to probabilities,
    float32 [N, n_classes].

    Args: as in `export_onnx`.

    Raises:
        UserError: the learner cannot be exported, or the file's probabilities are not the model's.
    """
    module = Probabilities(learner, temperature)
    with _refusing(learner, "a torch.export program"), _quiet():
        data = _torch_bytes(module, learner.in_channels, size)
        loaded = torch.export.load(io.BytesIO(data)).module()
        difference = largest_difference(loaded, module, learner.in_channels, size)
    return _written(data, difference, learner, path)


def _packages() -> Any:
    """The module `onnxruntime`, without its telemetry; UserError if it or another package of the extra is missing.

    Otherwise its import writes an identifier of the device into the home folder, and reports to its maker.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        with _quiet():
            return [importlib.import_module(name) for name in PACKAGES][-1]
    except ImportError as error:
        raise UserError(
            f"an ONNX file needs the packages {', '.join(PACKAGES)} ({error}); pip install 'ccsi[onnx]'."
        ) from error


def _program(module: Probabilities, channels: int, size: int) -> ExportedProgram:
    """The module as a graph for any batch size, without the source lines (paths of this machine) that made it."""
    with torch.no_grad():
        example = (torch.zeros(2, channels, size, size),)
        program = torch.export.export(module, example, dynamic_shapes={"image": {0: Dim("N", min=1)}}, strict=False)
    for part in program.graph_module.modules():  # a block of torch.autocast is a graph of its own
        for node in part.graph.nodes if isinstance(part, GraphModule) else []:
            node.meta.pop("stack_trace", None)
    return program


def _torch_bytes(module: Probabilities, channels: int, size: int) -> bytes:
    file = io.BytesIO()
    torch.export.save(_program(module, channels, size), file)
    return file.getvalue()


def _onnx_bytes(module: Probabilities, channels: int, size: int, entries: Mapping[str, str]) -> bytes:
    """The ONNX file of a module, with these metadata; the module is not changed."""
    from onnx import helper

    if module.net.scale.dtype == torch.float64:
        module = copy.deepcopy(module)
        module.net.backbone = _Float32Backbone(module.net.backbone)
    program = _program(module, channels, size).run_decompositions(
        {torch.ops.aten.cdist.default: _distances, torch.ops.aten.group_norm.default: _group_norm}
    )
    exported = torch.onnx.export(
        program, dynamo=True, verbose=False, input_names=["image"], output_names=["probabilities"]
    )
    assert exported is not None
    model = exported.model_proto
    for node in [*model.graph.node, *(node for function in model.functions for node in function.node)]:
        del node.metadata_props[:]  # the exporter's notes, several times the graph's own size
    helper.set_model_props(model, dict(entries))
    return model.SerializeToString()


def _distances(x: Tensor, y: Tensor, p: float = 2.0, mode: int | None = None) -> Tensor:
    """`torch.cdist` for p = 2, which ONNX does not have, from the differences: [N, D] and [n, D] to [N, n]."""
    if p != 2:
        raise NotImplementedError(f"torch.cdist with p={p}")
    return (x.unsqueeze(-2) - y.unsqueeze(-3)).square().sum(-1).sqrt()


def _group_norm(
    x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float, cudnn_enabled: bool = True
) -> Tensor:
    """GroupNorm of [N, C, H, W], of maps that are centered first.

    onnxruntime sums a map in float32 for its mean; where the map varies little about a large mean (a black image), that
    error would be magnified by up to 1/sqrt(eps). After centering the mean is nearly 0, and so is its error.
    """
    maps = x.reshape(x.shape[0], groups, -1)
    centered = (maps - maps.mean(2, keepdim=True)).reshape(x.shape)
    area = x.shape[2] * x.shape[3]
    return torch.ops.aten.native_group_norm(centered, weight, bias, x.shape[0], x.shape[1], area, groups, eps)[0]


def _written(data: bytes, difference: float, learner: NetLearner, path: Path) -> float:
    """`difference`, after the file is written; UserError, and no file, if it is more than the tolerance."""
    if not difference <= TOLERANCE:
        wrong = f"differ by {difference:.1e}" if math.isfinite(difference) else "give another class"
        raise UserError(
            f"{path.name} is not written: its probabilities and those of learner={learner.name} {wrong} on random "
            f"images; expected at most {TOLERANCE:g}."
        )
    write_atomically(path, data)
    return difference


@contextlib.contextmanager
def _refusing(learner: NetLearner, form: str) -> Iterator[None]:
    """Raise UserError, with the first line of the reason, for what an exporter or a runtime cannot do."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # the exporter's own errors are pages of advice
            cause = cause.__cause__
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise UserError(f"learner={learner.name} cannot be exported as {form}: {reason}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing of what the exporters print, log and warn of is shown."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
