"""Weights & Biases receives only what is about the experiment: no key, account, machine or code.

A module called wandb.py would import itself. The package, an extra, takes a second to import: only where it is used.
"""

import importlib.util
import json
import netrc
import os
import re
import shutil
import sys
import tempfile
import urllib.parse
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from ccsi.errors import UserError
from ccsi.io.files import read_text
from ccsi.io.paths import home
from ccsi.io.text import all_printable, first_line, printable, warn
from ccsi.tracking.events import Progress, RunStart, TaskEnd

OPTIONS: Any = {  # of wandb.Settings
    **dict.fromkeys(("x_disable_meta", "x_disable_machine_info", "x_disable_stats"), True),  # host, user, git remote, …
    **dict.fromkeys(("disable_code", "disable_git", "disable_job_creation", "silent"), True),
    **dict.fromkeys(("x_save_requirements", "save_code", "symlink"), False),  # links would hold absolute paths
    **dict.fromkeys(("host", "username", "email"), ""),
    **{"program": "ccsi", "console": "off", "init_timeout": 30.0, "login_timeout": 30.0},
    "finish_timeout": 300.0,  # s for the upload at the end; what is left then stays on disk for `wandb sync`
}


class WeightsAndBiases:
    """Logs a run to W&B.

    Per logging point `<phase>/step` and `<phase>/<metric>`; per task the figures against `task` (1-based), the
    impressions and the confusion matrices as images; at the end every figure of result.json in the summary.

    Args:
        mode: `disabled` does nothing; `offline` writes `<run folder>/wandb`, for `wandb sync` later; `online`
            uploads as well.
        project, group, job_type: as in W&B. The account is the key's own, or WANDB_ENTITY of the environment: an
            account is written to no file of ours.
        name: shown for the run; None: the run's own name.

    Raises:
        UserError: the package or the key (of `online`) is missing; later, W&B refuses the key or cannot be reached.
    """

    def __init__(
        self,
        mode: Literal["offline", "online", "disabled"] = "disabled",
        project: str = "ccsi",
        group: str | None = None,
        job_type: str | None = "run",
        name: str | None = None,
    ) -> None:
        self.mode, self.project, self.group, self.job_type, self.name = mode, project, group, job_type, name
        self._run: Any = None  # wandb.Run
        self._warned = False
        self._clean_up = ExitStack()
        if mode != "disabled" and importlib.util.find_spec("wandb") is None:
            raise UserError(
                f"tracking.wandb.mode={mode} needs the package wandb: install ccsi[wandb], or set it to disabled."
            )
        if mode == "online" and not has_key():
            raise UserError(
                "tracking.wandb.mode=online found no key: set WANDB_API_KEY or run `wandb login` once, "
                "or use tracking.wandb.mode=offline and upload later with `wandb sync`."
            )

    def start(self, run: RunStart) -> None:
        """Start the W&B run, or resume it (online), under an id kept in the run's folder."""
        if self.mode == "disabled":
            return
        folder, self._class_names = run.folder.resolve(), list(chain(*run.tasks))
        self._scratch = self._clean_up.enter_context(only_inside(folder))
        import wandb

        id_file = folder / "wandb" / "run_id"
        id_file.parent.mkdir(exist_ok=True)
        if not id_file.exists():
            id_file.write_text(uuid.uuid4().hex[:12])
        try:
            self._run = wandb.init(
                mode=self.mode,
                id=read_text(id_file),
                project=self.project,
                group=self.group,
                job_type=self.job_type,
                name=printable(self.name or run.name),
                resume="allow",
                dir=str(folder),
                config=portable({key: value for key, value in run.config.items() if key != "tracking"}),
                settings=OPTIONS,
            )
        except (wandb.errors.Error, ValueError, OSError) as error:
            self.finish(None)
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise UserError(
                f"tracking.wandb.mode={self.mode}: W&B did not start ({reason}); check the key and the network, "
                "or use tracking.wandb.mode=offline."
            ) from error
        for names in ("val_*", "test_*", "confusion/*", "impressions"):
            self._run.define_metric(names, step_metric="task")

    def progress(self, event: Progress) -> None:
        if self._run is not None:
            values = {f"{event.phase}/{key}": value for key, value in {"step": event.step, **event.metrics}.items()}
            self._run.log({"task": event.task + 1} | values)

    def task_end(self, event: TaskEnd) -> None:
        if self._run is None:
            return
        row: dict[str, Any] = {}
        try:
            row = self._pictures(event)
        except Exception as error:  # the figures are worth more
            if not self._warned:
                warn(f"tracking.wandb: pictures were not drawn ({first_line(error)}); figures are logged.")
            self._warned = True
        self._run.log({"task": event.task + 1, **event.figures, **row})

    def _pictures(self, event: TaskEnd) -> dict[str, Any]:
        """Confusion matrices and impressions after a task, as W&B's images."""
        import wandb

        # pictures, not W&B's own confusion chart: that is an artifact, whose record holds an absolute path
        from ccsi.io.arrays import load_images
        from ccsi.report.run import draw_confusion, draw_impressions

        scratch, names = Path(tempfile.mkdtemp(dir=self._scratch)), self._class_names
        pictures = {
            f"confusion/{split}": draw_confusion(scratch / f"confusion_{split}.png", counts, names, split)
            for split, counts in event.confusion.items()
        }
        if event.impressions is not None:
            images, labels = load_images(event.impressions)
            pictures["impressions"] = draw_impressions(scratch / "impressions.png", images, labels, names)
        return {key: wandb.Image(str(path)) for key, path in pictures.items()}

    def finish(self, result: Mapping[str, Any] | None) -> None:
        """Put the final figures into the summary and end W&B's own process; a stopped run is marked failed."""
        run, self._run = self._run, None
        with self._clean_up:
            if run is not None:
                if result is not None:
                    run.summary.update(summary_of(result))
                run.finish(exit_code=0 if result is not None else 1)


@contextmanager
def only_inside(folder: Path) -> Iterator[Path]:
    """Let W&B write in `folder` and a temporary folder (yielded) only, report no errors to its makers, and end it."""
    with tempfile.TemporaryDirectory(prefix="ccsi-wandb-", ignore_cleanup_errors=True) as scratch:
        argv, sys.argv = sys.argv, sys.argv[:1]  # W&B reads it: paths, which it sends, and cannot if they are not UTF-8
        changes = {f"WANDB_{kind}_DIR": scratch for kind in ("CACHE", "CONFIG", "DATA", "ARTIFACT")}
        changes |= {"WANDB_DIR": str(folder), "WANDB_ERROR_REPORTING": "false"}
        before = {key: os.environ[key] for key in changes if key in os.environ}
        os.environ.update(changes)
        try:
            yield Path(scratch)
        finally:
            sys.argv = argv
            import wandb

            wandb.teardown()  # or its process and its options would outlive this run
            for key in changes:
                os.environ.pop(key, None)
            os.environ.update(before)
            for logs in (folder / "wandb").glob("*run-*/logs"):
                shutil.rmtree(logs, ignore_errors=True)  # W&B's own debug logs: they name absolute paths


def has_key() -> bool:
    """Whether W&B would find a key without asking: environment, or the netrc file's entry for its host."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urllib.parse.urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    at_home = [] if (folder := home()) is None else [folder / ".netrc", folder / "_netrc"]
    for path in (os.environ.get("NETRC"), *at_home):
        with suppress(OSError, netrc.NetrcParseError):
            if path and netrc.netrc(str(path)).authenticators(host):
                return True
    return False


def portable(value: Any) -> Any:
    """A configuration with the home folder written as `~`: its path usually holds the account's name.

    Every text in it is `printable`: W&B takes no other.
    """
    text, folder = json.dumps(all_printable(value), default=str, ensure_ascii=False), home()
    if folder is not None and folder.is_absolute() and folder.name:  # not `/`, a home that says nothing
        path = re.escape(json.dumps(str(folder), ensure_ascii=False)[1:-1])
        text = re.sub(rf"(?<![\w.~-]){path}(?![\w.-])", "~", text)  # whole: not in /var/home for /home, nor in /home2
    return json.loads(text)


def summary_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of result.json and the accuracy matrices, in one level: those of a split are `<split>_<name>`."""
    values = dict(result)
    for prefix, part in (("test_", "test"), ("val_", "val"), ("seconds/", "seconds")):
        values |= {f"{prefix}{key}": value for key, value in result.get(part, {}).items()}
    shown = {k: v for k, v in values.items() if isinstance(v, int | float) or (v and k.endswith("accuracy_matrix"))}
    return shown | {"stored_bytes": sum(item["bytes"] for item in result.get("stored") or [])}
