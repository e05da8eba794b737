"""All trackers as one, and their settings."""

import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

import ccsi.config
from ccsi.errors import UserError
from ccsi.tracking import Console, Progress, RunStart, TaskEnd, Tracker, Trackers, WeightsAndBiases

DEFAULT = Path(__file__).parents[2] / "configs" / "tracking" / "default.yaml"


class Recorder(Console):
    def __init__(self, fails: str = "", error: type[BaseException] = OSError) -> None:
        super().__init__(quiet=True)
        self.calls: list[str] = []
        self.fails, self.error = fails, error

    def _note(self, name: str) -> None:
        self.calls.append(name)
        if name == self.fails:
            raise self.error(name)

    def start(self, run: RunStart) -> None:
        self._note("start")

    def progress(self, event: Progress) -> None:
        self._note("progress")

    def task_end(self, event: TaskEnd) -> None:
        self._note("task_end")

    def finish(self, result: Mapping[str, Any] | None) -> None:
        self._note(f"finish {result}")


def test_every_event_reaches_every_tracker(run: RunStart) -> None:
    console = Recorder()
    trackers = Trackers(console=console)
    trackers.watch = watch = Recorder()
    trackers.start(run)
    trackers.progress(Progress(0, "training", 1, 1, {}))
    trackers.task_end(TaskEnd(0, 1, {}, {}))
    trackers.finish({})
    assert console.calls == watch.calls == ["start", "progress", "task_end", "finish {}"]
    assert trackers.files.lines == 2 == len((run.folder / "metrics.jsonl").read_text().splitlines())


def test_a_tracker_that_cannot_start_closes_the_others(run: RunStart) -> None:
    trackers = Trackers(console=Recorder(fails="start"))
    with pytest.raises(OSError, match="start"):
        trackers.start(run)
    with pytest.raises(RuntimeError):  # the file is closed
        trackers.files.progress(Progress(0, "training", 1, 1, {}))


def test_a_tracker_that_has_not_started_is_not_finished_and_none_is_finished_twice(run: RunStart) -> None:
    first, half, never = Recorder(), Recorder(fails="start"), Recorder(fails="finish None")
    trackers = Trackers(first=first, half=half, never=never)
    with pytest.raises(OSError, match="start"):
        trackers.start(run)
    trackers.finish(None)  # as a run does, however it ends
    assert first.calls == half.calls == ["start", "finish None"]
    assert never.calls == []


def test_files_are_closed_even_if_the_console_fails(run: RunStart, capsys: pytest.CaptureFixture[str]) -> None:
    trackers = Trackers(console=Recorder(fails="finish None"))
    trackers.start(run)
    trackers.finish(None)
    assert capsys.readouterr().err.startswith("ccsi: tracking.console failed (OSError: finish None)")
    with pytest.raises(RuntimeError):
        trackers.files.progress(Progress(0, "training", 1, 1, {}))


@pytest.mark.parametrize("event", ["progress", "task_end"])
def test_a_tracker_that_fails_is_dropped_with_one_warning(
    run: RunStart, event: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = Recorder(fails=event), Recorder()
    trackers = Trackers(bad=bad, good=good)
    trackers.start(run)
    for _ in range(2):
        trackers.progress(Progress(0, "training", 1, 1, {}))
        trackers.task_end(TaskEnd(0, 1, {}, {}))
    trackers.finish({})
    assert good.calls == ["start", *["progress", "task_end"] * 2, "finish {}"]
    assert bad.calls == [*["start", "progress", "task_end"][: 2 + (event == "task_end")], "finish None"]
    err = capsys.readouterr().err
    assert err == f"ccsi: tracking.bad failed (OSError: {event}); the run continues without it.\n"
    assert trackers.files.lines == 4


def test_a_warning_that_cannot_be_printed_stops_no_run(run: RunStart, monkeypatch: pytest.MonkeyPatch) -> None:
    trackers = Trackers(console=Recorder(fails="progress"))
    trackers.start(run)
    with open("/dev/full", "w", buffering=1) as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", full)
        trackers.progress(Progress(0, "training", 1, 1, {}))
        with suppress(OSError):
            full.close()
    trackers.finish({})


@pytest.mark.parametrize("event", ["progress", "finish {}"])
def test_ctrl_c_inside_a_tracker_stops_the_run(run: RunStart, event: str) -> None:
    trackers = Trackers(console=Recorder(fails=event, error=KeyboardInterrupt))
    trackers.start(run)
    with pytest.raises(KeyboardInterrupt):
        trackers.progress(Progress(0, "training", 1, 1, {}))
        trackers.finish({})


def test_files_that_fail_stop_the_run(run: RunStart, monkeypatch: pytest.MonkeyPatch) -> None:
    trackers = Trackers(console=Recorder())
    trackers.start(run)
    monkeypatch.setattr(trackers.files, "progress", lambda event: Recorder(fails="full")._note("full"))
    with pytest.raises(OSError, match="full"):
        trackers.progress(Progress(0, "training", 1, 1, {}))


def test_a_tracker_overrides_what_it_needs(run: RunStart) -> None:
    class Ends(Tracker):
        seen = 0

        def task_end(self, event: TaskEnd) -> None:
            self.seen += 1

    ends = Ends()
    trackers = Trackers(ends=ends)
    trackers.start(run)
    trackers.progress(Progress(0, "training", 1, 1, {}))
    trackers.task_end(TaskEnd(0, 1, {}, {}))
    trackers.finish(None)
    assert ends.seen == 1


def settings(**changes: Any) -> dict[str, Any]:
    tree = OmegaConf.load(DEFAULT)
    for key, value in changes.items():
        OmegaConf.update(tree, key.replace("__", "."), value)
    plain = OmegaConf.to_container(tree, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def made(config: dict[str, Any]) -> Trackers:
    ccsi.config.check(config)
    trackers = instantiate(config, _convert_="all")
    assert isinstance(trackers, Trackers)
    return trackers


def test_the_shipped_settings_make_trackers_with_wandb_off() -> None:
    trackers = made(settings())
    assert list(trackers.named) == ["wandb", "console"]
    wandb, console = trackers.named.values()
    assert isinstance(wandb, WeightsAndBiases) and wandb.mode == "disabled"
    assert isinstance(console, Console) and not console.quiet


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wandb__mode": "on"}, "wandb.mode=on: expected one of offline, online, disabled"),
        ({"console__quiet": "yes"}, "console.quiet=yes: expected true or false"),
        ({"wandb__grop": "x"}, "wandb.grop is not a setting; did you mean wandb.group?"),
        ({"wandb__project": None}, "wandb.project=null: expected text"),
        ({"mine": 3}, "mine: expected a group of settings with a _target_"),
        (
            {"mine": {"_target_": "nothing.Here"}},
            "mine._target_=nothing.Here: expected one of this package's own classes",
        ),
        (
            {"mine": {"_target_": "ccsi.tracking.Console", "quit": True}},
            "mine.quit is not a setting; did you mean mine",
        ),
    ],
)
def test_a_wrong_setting_is_named_with_its_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        ccsi.config.check(settings(**change))
    assert message in str(caught.value)


def test_settings_reach_wandb() -> None:
    trackers = made(settings(wandb__group="sweep 7"))
    wandb = trackers.named["wandb"]
    assert isinstance(wandb, WeightsAndBiases) and wandb.group == "sweep 7"
