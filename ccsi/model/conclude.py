"""The record of a task that a model has just learned."""

import dataclasses
import inspect
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ccsi.config import flat
from ccsi.data import Dataset, Labelled
from ccsi.data.input import InputFormat
from ccsi.distributed import ProcessGroup
from ccsi.experiment.checkpoint import sha256_of
from ccsi.experiment.environment import hardware, versions
from ccsi.experiment.tasks import RunSession
from ccsi.io.arrays import load_images
from ccsi.io.files import read_text
from ccsi.io.text import first_line, warn
from ccsi.learners.base import NetLearner
from ccsi.model.classes import counts_of
from ccsi.model.measure import accuracy, figures_of, measure_calibration, score
from ccsi.model.record import SCHEMA, Figures, ModelRecord, Shown, StoredRecord, TaskRecord
from ccsi.model.reference import reference_of
from ccsi.model.snapshot import Snapshot
from ccsi.tracking.files import NAME as METRICS

METHOD = ("model", "learner", "training", "seed")
NOT_KEPT = ("path", "root", "groups", "class_names")
"""Keys of a data set that are of one machine or one folder."""


@dataclass(frozen=True)
class Learned:
    """A task that has just been learned. data: its images alone; shown: labelled images of old classes, if any."""

    learner: NetLearner
    data: Dataset
    session: RunSession
    config: Mapping[str, Any]
    shown: Labelled | None


def conclude(learned: Learned, old: Snapshot | None, form: InputFormat) -> Snapshot:
    """The new model: what was learned, and the record of the old one with this task."""
    learner, data = learned.learner, learned.data
    n_old = len(old.class_names) if old is not None else 0
    names = (*(old.class_names if old is not None else ()), *data.class_names)
    classes = range(n_old, len(names))
    train, val, test = (Labelled(part.images, part.labels + n_old) for part in (data.train, data.val, data.test))
    net = learner.net if old is None else old.learner.net
    reference = reference_of(learner, train, val, classes, None if old is None else old.reference, net)
    scored = score(learner, val)
    temperature, calibration = measure_calibration(learner, val, scored, reference.features)
    own = figures_of(scored, classes)
    assert own is not None  # `check_counts`: each class has an image in val
    task = task_record(learned, old, own, figures_of(score(learner, test), classes))
    task = dataclasses.replace(task, calibration=calibration, shown=shown_figures(learned, old))
    record = ModelRecord(
        schema=SCHEMA,
        learner=learner.name,
        about=about(learner),
        data_free=not any(item.kind == "exemplars" for item in learner.stored()),
        parameters=sum(value.numel() for value in learner.net.parameters()),
        pretrained=pretrained(learned, old),
        class_names=list(names),
        input=form,
        temperature=temperature,
        reference=reference.stored(),
        config=kept_config(learned.config),
        tasks=[*(old.record.tasks if old is not None else []), task],
    )
    return Snapshot(record, learner, reference, pictures(learned, names) if learned.config["report"] else {})


def task_record(learned: Learned, old: Snapshot | None, val: Figures, test: Figures | None) -> TaskRecord:
    """The record of the task, without its calibration."""
    learner, session, data = learned.learner, learned.session, learned.data
    made = session.record["impressions_sha256"][sum_of_made(old) :]
    return TaskRecord(
        classes=list(data.class_names),
        images=counts_of(data),
        data=data.name,
        data_sha256=data.checksum,
        date=datetime.now(UTC).date().isoformat(),
        versions={"ccsi": version("ccsi"), **versions()},
        device=hardware(session.device),
        threads=torch.get_num_threads(),
        workers=ProcessGroup.current().world_size,
        seconds=session.total(),
        changes=changed(old.record.config, learned.config) if old is not None else {},
        weights_sha256=sha256_of(learner.net.state_dict()),
        impressions_sha256=made[0] if made else None,
        stored=[StoredRecord(item.kind, item.count, item.bytes) for item in learner.stored()],
        val=val,
        test=test,
        calibration=[],
        shown=None,
    )


def sum_of_made(old: Snapshot | None) -> int:
    """How many of the old model's tasks made impressions."""
    return 0 if old is None else sum(task.impressions_sha256 is not None for task in old.record.tasks)


def shown_figures(learned: Learned, old: Snapshot | None) -> Shown | None:
    """Accuracy on the labelled images that were shown, before and after; None without any."""
    if learned.shown is None or old is None:
        return None
    n_old, part = len(old.class_names), learned.shown
    after, is_old = score(learned.learner, part), part.labels < n_old
    before = score(old.learner, Labelled(part.images[is_old], part.labels[is_old]))
    n = after.scores.shape[1]
    return Shown(len(part), accuracy(before), accuracy(after.of(range(n_old))), accuracy(after.of(range(n_old, n))))


def kept_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a model keeps of a configuration: what an extension is to have again, and no path of this machine."""
    kept = {key: config[key] for key in (*METHOD, "threads", "device")}
    if kept["model"].get("weights") is not None:  # the start of a network that is learned by now
        kept["model"] = kept["model"] | {"weights": None}
    return kept | {"dataset": {key: value for key, value in config["dataset"].items() if key not in NOT_KEPT}}


def changed(old: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of the method's configuration that are not as the old model has them, with their values."""
    parts = [{key: one[key] for key in (*METHOD, "threads")} for one in (old, kept_config(config))]
    before, after = map(flat, parts)
    return {key: value for key, value in after.items() if before.get(key) != value}


def about(learner: NetLearner) -> str:
    """The first paragraph of the method's description."""
    return " ".join(inspect.cleandoc(type(learner).__doc__ or "").split("\n\n")[0].split())


def pretrained(learned: Learned, old: Snapshot | None) -> str:
    """The name of the weights that the network started from; "" for a random start."""
    if old is not None:
        return old.record.pretrained
    weights = learned.config["model"].get("weights")
    return "" if weights is None else Path(weights).name


def pictures(learned: Learned, names: Sequence[str]) -> dict[str, bytes]:
    """What the method dreamt of old classes, and the curve of its training, as PNG files by name.

    What cannot be drawn is one warning.
    """
    files: dict[str, bytes] = {}
    work, index = learned.session.folder, len(learned.learner.heads)
    try:
        from ccsi.report.run import draw_impressions  # matplotlib takes a second to import
        from ccsi.report.training import draw_training

        events = [event for event in map(json.loads, read_text(work / METRICS).splitlines()) if event["task"] == index]
        with tempfile.TemporaryDirectory(prefix="ccsi-") as folder:
            drawn = [draw_training(Path(folder, "training.png"), events)]
            if (made := work / "impressions" / f"task{index}.npz").exists():
                images, labels = load_images(made)
                drawn.append(draw_impressions(Path(folder, "impressions.png"), images, labels, names))
            files = {path.name: path.read_bytes() for path in drawn if path is not None}
    except Exception as error:
        warn(f"not all pictures were drawn ({first_line(error)})")
    return files
