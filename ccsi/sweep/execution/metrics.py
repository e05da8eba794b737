"""A run's progress as Ray metrics, which Prometheus reads from each node, and as the title of its process."""

import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import ray
from ray.util.metrics import Counter, Gauge

from ccsi.sweep.events import RunId
from ccsi.tracking.events import Progress, RunStart, TaskEnd

SECONDS_BETWEEN_BEATS = 5.0  # Ray forgets a gauge after 20 s of silence, which ends those of ended runs
GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "ccsi_task": ("The task the run is at, counted from 1", ()),
    "ccsi_phase": ("1 for the phase the run is in", ("phase",)),
    "ccsi_loss": ("Each part of the loss, and their sum as part=total, at the last logging point", ("phase", "part")),
    "ccsi_images_per_second": ("Training images a second between the last two logging points", ()),
    "ccsi_gpu_memory_bytes": ("What the run's process holds of its GPU's memory", ()),
    "ccsi_val_accuracy": ("Accuracy on the current task's own val images, in training", ()),
    "ccsi_val_micro": ("Accuracy on val of all classes seen, after the last task done", ()),
    "ccsi_val_macro_over_tasks": ("Mean over the tasks seen of the accuracy on val, after the last task done", ()),
    "ccsi_val_macro_over_classes": ("Mean of the recall on val of the classes seen, after the last task done", ()),
    "ccsi_val_average_incremental": ("Mean over the tasks done of val_micro", ()),
}
"""Name -> description, and the tags beside sweep, trial and run. Prometheus sees `ray_<name>`."""
TASKS_DONE = "ccsi_tasks_done"
"""A counter, by sweep alone, as Ray keeps a counter for ever; Prometheus sees `ray_ccsi_tasks_done_total`."""


class RayMetrics:
    """A tracker that exports a run's progress to Ray's metrics agent. No error here reaches the run.

    The tag `run` is the name of the run's folder, from which `trial` follows.
    """

    def __init__(self, sweep: str) -> None:
        self._tags = {"sweep": sweep}
        self._values: dict[tuple[str, ...], float] = {}  # by name and further tags' values
        self._gauges: dict[str, Any] = {}
        self._batch_size, self._last, self._clock = 0, Progress(0, "start", 0, 0, {}), 0.0
        self._ended = threading.Event()

    def start(self, run: RunStart) -> None:
        with suppress(Exception):
            self._tags |= dict.fromkeys(("trial", "run"), run.folder.name)
            with suppress(ValueError):  # a run outside a sweep is its own trial
                self._tags["trial"] = str(RunId.parse(run.folder.name).job)
            self._gauges = {name: Gauge(name, text, (*self._tags, *more)) for name, (text, more) in GAUGES.items()}
            self._done = Counter(TASKS_DONE, "Tasks learned and evaluated", ("sweep",))
            self._batch_size = run.config.get("training", {}).get("batch_size", 0)
            threading.Thread(target=self._beat, name="ccsi-metrics", daemon=True).start()

    def progress(self, event: Progress) -> None:
        with suppress(Exception):
            last, now = self._last, time.monotonic()
            if (last.task, last.phase) != (event.task, event.phase):
                self._leave_phase()
            elif event.phase == "training":
                images = (event.step - last.step) * self._batch_size
                self._values["ccsi_images_per_second",] = images / (now - self._clock)
            self._last, self._clock = event, now
            self._values["ccsi_task",] = event.task + 1
            self._values["ccsi_phase", event.phase] = 1
            losses = {name: value for name, value in event.metrics.items() if name.startswith("loss")}
            self._values |= {("ccsi_loss", event.phase, name[5:] or "total"): losses[name] for name in losses}
            if "val_accuracy" in event.metrics:
                self._values["ccsi_val_accuracy",] = event.metrics["val_accuracy"]
            torch = sys.modules.get("torch")
            if torch is not None and torch.cuda.is_initialized():
                self._values["ccsi_gpu_memory_bytes",] = torch.cuda.memory_reserved()
            self._export()

    def task_end(self, event: TaskEnd) -> None:
        with suppress(Exception):
            self._values |= {(n,): event.figures[n[5:]] for n in GAUGES if n[5:] in event.figures}
            self._done.inc(tags={"sweep": self._tags["sweep"]})
            self._export()

    def finish(self, result: Mapping[str, Any] | None) -> None:
        with suppress(Exception):
            self._ended.set()
            self._leave_phase()

    def _leave_phase(self) -> None:
        """Export once that the phase has ended, and drop its values."""
        for name, *more in [key for key in self._values if key[0] == "ccsi_phase"]:
            self._gauges[name].set(0, self._tags | {"phase": more[0]})
        of_phase = ("ccsi_phase", "ccsi_loss", "ccsi_images_per_second")
        self._values = {key: value for key, value in self._values.items() if key[0] not in of_phase}

    def _export(self) -> None:
        for (name, *more), value in dict(self._values).items():
            self._gauges[name].set(value, self._tags | dict(zip(GAUGES[name][1], more, strict=True)))

    def _beat(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN_BEATS):
            with suppress(Exception):
                self._export()
                title = f"ray::Trial {self._tags['run']} task {self._last.task + 1} {self._last.phase}"
                ray._raylet.setproctitle(title)  # type: ignore[attr-defined]  # until the trial's next report
