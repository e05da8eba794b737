"""The command behind `python tune/sweep.py`: two phases (METHOD section 8), then the tables.

Phase 1: one Tune trial is one *setting*, which runs its tuning seeds in turn. So a setting is suggested, pruned,
scored and counted as a whole, schedulers compare settings at the same seed and task, and no mean is ever taken over
the seeds that happened to survive. Phase 2: one trial is one run, (setting, reporting seed), and nothing is pruned.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rich.console import Console

from ccsi.config import build, groups_help, shown
from ccsi.errors import UserError
from ccsi.sweep.book import Book, BrokenOffError
from ccsi.sweep.definition import Definition, compose, placed, read, resumed
from ccsi.sweep.phases import next_setting, trials
from ccsi.sweep.trial import LIVE, execute
from ccsi.sweep.warm import warm_start
from ccsi.sweep.watch import say_where

if TYPE_CHECKING:
    from ccsi.sweep.storage import Storage

HELP = """\
A sweep: settings are searched on tuning seeds by val accuracy, the best are run again on fresh seeds and reported.

  python tune/sweep.py                                        the default sweep on digits
  python tune/sweep.py dataset=pbcblood dataset.path=FILE sweep.dir=FOLDER sweep.num_samples=20
  python tune/sweep.py 'sweep.space={{learner.w_idc: {{choice: [0, 1]}}, training.lr: {{loguniform: [0.01, 0.2]}}}}'
  python tune/sweep.py experiment=rivals/digits               every learner, tuned alike, in one table
  python tune/sweep.py resume=FOLDER                          go on with an interrupted sweep (or its storage's URL)

The sweep (key=value):
  sweep.space={{KEY: {{choice|grid: [a, b, …]}}, KEY: {{uniform|loguniform|randint: [low, high]}}}}
                            any configuration key, or a group (learner: {{grid: [ccsi, finetune]}});
                            {{each: {{ccsi: {{KEY: …}}, lwf: null}}}} compares them, each in its space (sweep=rivals)
  sweep.search=random|grid|optuna  sweep.num_samples=N  sweep.seed=N  sweep.scheduler=none|asha|median
  sweep.seeds.tuning=[100,101]  sweep.seeds.reporting=[0,1,2]  sweep.top_k=2
  sweep.metric=val_average_incremental|val_macro|val_micro  sweep.minimize=null|seconds (both aims: Pareto fronts)
  sweep.budget.hours=H  sweep.budget.trials=N  sweep.patience=N  (where phase 1 ends early; phase 2 always runs)
  sweep.warm_start=[FOLDER, …]  earlier sweeps over the same keys, whose best settings are tried first
  sweep.dir=FOLDER (default sweeps/<name>)  sweep.name=NAME  sweep.max_concurrent=N  sweep.max_failures=N
  sweep.storage=URL         where runs are kept if machines share no folder: s3://bucket/folder (default: sweep.dir)
  sweep.debug=true          the first trial in this process, without Ray, for a debugger
  resources.cpu=X (of a trial; default: its threads)  resources.gpu=X|auto (0.25: four trials share a card)
  ray.address=null|auto|HOST:PORT  ray.autoscale=true|false  ray.dashboard=true|false  ray.num_cpus=N

Everything else is a setting of the runs, as for `python -m ccsi` (see its --help). Groups:
{groups}"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code.

    0: done. 1: it broke off, nothing could be reported, or a reported setting lacks seeds. 2: bad input.
    130: interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(arguments):
        print(HELP.format(groups=groups_help("sweep")))
        return 0
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)  # a log file has room for a table
    try:
        with opened(arguments) as definition:
            if definition.sweep.debug:
                return debug(Book(definition, console), console)
            return sweep(definition, console)
    except UserError as error:
        print(f"sweep: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sweep: interrupted.", file=sys.stderr)
        return 130


@contextlib.contextmanager
def opened(arguments: Sequence[str]) -> Iterator[Definition]:
    """The sweep that was asked for, its folder made or found, and locked.

    A new folder in which nothing ran is removed again when the user's input turns out to be at fault.

    Raises:
        UserError: anything wrong with the input; a folder that is taken, in use, or cannot be written.
    """
    resume = [argument.partition("=")[2] for argument in arguments if argument.startswith("resume=")]
    overrides = [argument for argument in arguments if not argument.startswith("resume=")]
    fresh = not resume or resume[-1] == "null"
    if fresh:
        definition = compose(overrides)
        unique = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        chosen = definition.sweep.dir or f"sweeps/{definition.sweep.name or unique}"
        definition = placed(definition, Path(chosen).expanduser().absolute())
    else:
        where = fetched(resume[-1]) if "://" in resume[-1] else Path(resume[-1]).expanduser().absolute()
        definition = resumed(where, overrides)
    folder = definition.folder
    with locked(folder) as made:
        if fresh and visible(folder):
            raise UserError(
                f"sweep.dir={folder} exists already; choose another, or go on with it by resume={shown(chosen)}."
            )
        try:
            furnish(definition, fresh)
            yield definition
        except UserError:
            if fresh and not visible(folder / "runs"):
                empty(folder, made)
            raise
        finally:
            shutil.rmtree(definition.shared_data, ignore_errors=True)
            forget(folder)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Make a folder, if need be, and hold its lock; gives whether it was made.

    Raises:
        UserError: another process holds it; the folder cannot be made or written.
    """
    path = folder / ".lock"
    try:
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        lock = taken(path)
    except BlockingIOError:
        raise UserError(f"sweep.dir={folder} is in use: another sweep process works on it.") from None
    except OSError as error:
        raise unwritable(folder, error) from error
    with lock:
        try:
            yield made
        finally:
            path.unlink(missing_ok=True)


def taken(path: Path) -> TextIO:
    """A lock file, locked; where a file system has no locks it is only there.

    Raises:
        BlockingIOError: another process holds it.
    """
    for attempt in (1, 2, 3):
        lock = path.open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # perhaps tune/status.py has just asked whether it is held
            lock.close()
            if attempt == 3:
                raise
            time.sleep(0.2)
            continue
        except OSError:
            return lock
        if path.exists() and os.fstat(lock.fileno()).st_ino == path.stat().st_ino:
            return lock
        lock.close()  # who held it has removed it meanwhile: it is nobody's lock any more
    raise BlockingIOError


def forget(folder: Path) -> None:
    """Remove what trials note beside their runs: locks, and how often they broke off."""
    for left in (folder / "runs").glob(".*"):
        if left.suffix in (".lock", ".attempts"):
            left.unlink(missing_ok=True)


def furnish(definition: Definition, fresh: bool) -> None:
    """Write what a sweep's folder holds before anything ran.

    Raises:
        UserError: there is no room.
    """
    from ccsi.io.atomic import write_atomically

    folder = definition.folder
    room = folder / ".room"  # a full disk is better found now than at the first checkpoint
    try:
        room.write_bytes(bytes(8 * 2**20))
        room.unlink()
        write_atomically(folder / "sweep.yaml", definition.dump().encode())  # resume= may have changed what is free
        (folder / "runs").mkdir(exist_ok=True)
        forget(folder)  # of a driver that was killed; what failed gets a new chance
    except OSError as error:
        room.unlink(missing_ok=True)
        raise unwritable(folder, error) from error


def unwritable(folder: Path, error: OSError) -> UserError:
    """What to say of a folder that cannot be written."""
    return UserError(f"sweep.dir={folder} cannot be written ({error.strerror}); choose another folder.")


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, hidden files (locks) aside."""
    return [path for path in folder.glob("*") if not path.name.startswith(".")]


def empty(folder: Path, made: bool) -> None:
    """Take back what `furnish` wrote."""
    if made:
        shutil.rmtree(folder, ignore_errors=True)
        return
    shutil.rmtree(folder / "runs", ignore_errors=True)
    for name in ("sweep.yaml", "journal.jsonl"):
        with contextlib.suppress(OSError):
            (folder / name).unlink(missing_ok=True)


def debug(book: Book, console: Console) -> int:
    """The first setting's first tuning seed in this process: breakpoints work, exceptions come through."""
    rehearse(book.definition)
    book.definition.runs.mkdir(parents=True, exist_ok=True)
    warm_start(book)
    number = 0 if book.settings else next_setting(book)
    assert number is not None
    phase = 2 if number in book.given else 1
    seed, run = book.runs(phase, number)[0]
    result = execute(book.config(phase, number, seed, run), on_task_end=lambda event: None)
    metric = book.definition.sweep.metric
    console.print(f"{run}: {metric} {result['val'][LIVE[metric]]:.3f}  ({book.folder(run)})", highlight=False)
    return 0


def sweep(definition: Definition, console: Console) -> int:
    """Both phases and the tables; see `main` for the exit code."""
    book = Book(definition, console)
    warm_start(book)
    console.print(f"Sweep {definition.name} in {definition.folder}", highlight=False)
    if definition.sweep.storage is not None:
        book.storage = stored(book, definition.sweep.storage)
        book.keep()
    try:
        return to_the_end(book, console)
    finally:
        book.keep()
        if book.storage is not None:
            book.storage.release()


def to_the_end(book: Book, console: Console) -> int:
    """See `sweep`."""
    definition = book.definition
    try:
        if not book.complete():
            both_phases(book, console)
    except KeyboardInterrupt:
        from ccsi.sweep.tables.leaderboard import write_trials

        write_trials(book)
        done = sum(row["status"] == "done" for row in book.rows())
        console.print(f"Interrupted: {done} runs are done (trials.csv). Go on with:", highlight=False)
        console.print(f"  python tune/sweep.py resume={definition.folder}", highlight=False, soft_wrap=True)
        return 130
    except BrokenOffError as error:
        print(f"sweep: broke off: {error}; mend it, and go on with resume={definition.folder}.", file=sys.stderr)
        return 1
    return tables(book, console)


def stored(book: Book, url: str) -> "Storage":
    """The storage of a sweep whose machines share no folder; what is finished there is brought here.

    Raises:
        UserError: it cannot be written, or holds another sweep.
    """
    from ccsi.sweep.storage import Storage

    storage, mark = Storage(url), book.definition.folder / ".stored"
    storage.check()
    if not mark.exists() and storage.holds_a_sweep():
        raise UserError(f"sweep.storage={url} holds another sweep; choose an empty place.")
    storage.claim()
    mark.touch()
    for run in storage.results():
        storage.fetch_result(run, book.folder(run))
    return storage


def fetched(url: str) -> Path:
    """The folder of a sweep whose machine is gone, brought here from its storage.

    Raises:
        UserError: there is none; or it is here already.
    """
    from ccsi.sweep.storage import Storage

    storage = Storage(url)
    folder = Path("sweeps", storage.root.rpartition("/")[2]).absolute()
    if folder.exists():
        raise UserError(f"resume={url}: {folder} exists already; go on with resume={folder}, or move it away.")
    storage.check()
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        storage.pull("sweep", part)
        if not (part / "sweep.yaml").exists():
            raise UserError(f"resume={url}: there is no sweep; expected the sweep.storage of an earlier sweep.")
        (part / ".stored").touch()
        definition = read(part)
        if not Path(definition.cwd).is_dir():  # another machine: relative paths begin here
            (part / "sweep.yaml").write_text(replace(definition, cwd=os.getcwd()).dump())
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def rehearse(definition: Definition) -> None:
    """Find out whether data, scenario, model and learner fit together, from where the command was typed at first.

    Raises:
        UserError: they do not; or that place is gone.
    """
    try:
        os.chdir(definition.cwd)
    except OSError as error:
        raise UserError(
            f"{definition.cwd}, where this sweep was started and its relative paths begin, cannot be entered "
            f"({error.strerror}): put it back, or start a new sweep."
        ) from error
    for base in definition.bases.values():
        if base["_target_"] == "ccsi.experiment.run":
            shared = base.get("share_data") or str(definition.shared_data)
            as_in_phase_1 = {"evaluate_test": False, "share_data": shared}
            build(base | {"_target_": "ccsi.experiment.validate"} | as_in_phase_1)()


def keep_ray_private() -> None:
    """Set what Ray reads when it is imported: stay on the loopback device, and take a token of our own."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # the name tells where this is the default
    if "RAY_AUTH_MODE" not in os.environ:  # without a token Ray would write ~/.ray/auth_token
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def both_phases(book: Book, console: Console) -> None:
    """Start Ray and run what is left of the two phases."""
    if book.definition.ray.address is None:
        rehearse(book.definition)  # a cluster's nodes may have data that this machine lacks
        keep_ray_private()
    console.print(f"Starting Ray ({shown(book.definition.ray.address or 'local')}) …", highlight=False)
    try:
        from ccsi.sweep.schedule import TUNE, cluster, run_trials  # seconds to import
    except ModuleNotFoundError as error:
        raise UserError(f"a sweep needs the package {error.name}: pip install 'ccsi[sweep]'.") from error

    book.take_up()
    try:
        with cluster(book.definition.ray, dashboard=book.definition.resources.workers > 1) as dashboard:
            if dashboard is not None:
                say_where(console, dashboard)
            run_trials(book.definition, book, trials(book))
    finally:  # only now nobody writes there any more
        with contextlib.suppress(OSError):  # a full disk
            book.lay_down()
        shutil.rmtree(book.definition.folder / TUNE, ignore_errors=True)
        if book.storage is not None:
            shutil.rmtree(book.definition.runs, ignore_errors=True)


def tables(book: Book, console: Console) -> int:
    """Write and print what came out; returns the exit code."""
    from ccsi.sweep.tables.comparison import write_comparison
    from ccsi.sweep.tables.leaderboard import leaderboard, pictures, write_leaderboard, write_trials

    rows = write_trials(book)
    failed = rows[rows["status"] == "failed"]
    for _, row in failed.iterrows():
        console.print(f"failed: {row['trial']}: {row['error']}", highlight=False, markup=False)
    board = leaderboard(book)
    if not any(row["status"] == "done" for row in board):
        phase = 2 if board else 1
        why = f"; the first error: {failed.iloc[0]['error']}" if len(failed) else ""
        print(f"sweep: nothing to report: no setting completed phase {phase}{why} (see trials.csv)", file=sys.stderr)
        return 1
    write_leaderboard(book, console)
    compared = [] if book.definition.compared is None else write_comparison(book, console)
    problem = pictures(book)
    if problem:
        print(f"sweep: {problem}", file=sys.stderr)
    best = "best.yaml" if book.definition.compared is None else "best/"
    console.print(f"Tables, {best} and plots: {book.definition.folder}", highlight=False, soft_wrap=True)
    incomplete = compared or [row["setting"] for row in board if row["status"] != "done"]
    if incomplete:
        print(
            f"sweep: {', '.join(incomplete)} lack reporting seeds and are not averaged; "
            f"try them again with resume={book.definition.folder}",
            file=sys.stderr,
        )
        return 1
    return 0
