"""One run shared by several workers, on this machine or a cluster (Ray Train).

One run shared by several workers, on this machine or on a cluster (Ray Train).

  ccsi train workers=2                two workers on this machine's CPUs
  ccsi train best.yaml workers=4      a run's complete configuration, changed
  ccsi train model=resnet50 workers=4 resources.gpu=1 ray.address=auto

All is as for ccsi run; the same command resumes an interrupted run. Batch
and learning rate are those of all workers together. Beside a run's own keys:
  workers=N                           processes that share the run
  max_failures=N                      restarts in a row without progress
  resources.cpu=X  resources.gpu=X    of each worker; default: threads, and 0
  ray.address=null|auto|HOST:PORT  ray.autoscale=true|false
  ray.dashboard=true|false  ray.num_cpus=N
  run_dir=FOLDER                      a folder that all machines share

Options:
  --help            this text
  --show            print the resolved configuration and stop
  --config-dir DIR  a folder of configs beside the package's own

Groups:
{groups}
"""

import sys

from ccsi.cli.help import print_text

RESUME = "the same command resumes it"
CONFIG = "train"


def main(arguments: list[str], show: bool = False) -> int:
    """Train with `arguments`, or only show the configuration; returns the exit code: 0 done, 1 stopped by an error."""
    from ccsi.sweep.recorder import SweepInterruptedError
    from ccsi.sweep.train import configuration, train

    if show:
        from ccsi.config import to_yaml

        print_text(to_yaml(configuration(arguments)).rstrip())
        return 0
    try:
        train(arguments)
    except SweepInterruptedError as error:
        print(f"ccsi: interrupted: {error}; {RESUME}.", file=sys.stderr)
        return 1
    return 0
