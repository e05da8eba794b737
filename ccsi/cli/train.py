"""`ccsi train …`: one run shared by several workers, on Ray Train."""

import sys
from collections.abc import Sequence

from ccsi.config import groups_help
from ccsi.errors import UserError
from ccsi.sweep.recorder import SweepInterruptedError
from ccsi.sweep.train import train

HELP = """\
One run shared by several workers, on this machine or on a cluster (Ray Train).

  ccsi train model=resnet50 workers=4 resources.gpu=1 dataset=… ray.address=auto
  ccsi train workers=2                      two workers on this machine's CPUs
  ccsi train best.yaml workers=4            a file with a run's configuration, and changes to it

Everything is as for `ccsi run` (see its --help), and the same command resumes an interrupted run.
The batch and the learning rate are those of all workers together. Beside it:
  workers=N                 processes that share the run        max_failures=N  restarts, in a row, that get no further
  resources.cpu=X resources.gpu=X  of each worker (default: the run's threads, and no GPU)
  ray.address=null|auto|HOST:PORT  ray.num_cpus=N
  run_dir=FOLDER            a folder that all machines share
Groups:
{groups}"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code (0 done, 1 interrupted by an error, 2 bad input, 130 interrupted)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(arguments):
        print(HELP.format(groups=groups_help("train")))
        return 0
    try:
        train(arguments)
        return 0
    except UserError as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    except SweepInterruptedError as error:
        print(f"train: interrupted: {error}; the same command resumes from the last checkpoint.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("train: interrupted; the same command resumes from the last checkpoint.", file=sys.stderr)
        return 130
