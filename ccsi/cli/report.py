"""Pictures of finished runs, and tables of sweeps, once more from their files.

Pictures of finished runs, and tables and pictures of sweeps, drawn once more
from their files. Nothing is computed again, and no image is read but the
impressions: pictures that showed real images do not show them any more.

  ccsi report RUN [RUN …]    pictures, in RUN/plots
  ccsi report SWEEP          tables, in SWEEP, and pictures, in SWEEP/plots
"""

from pathlib import Path

from ccsi.errors import UserError
from ccsi.io.paths import absolute

EXPECTED = "folders of runs or sweeps"


def main(arguments: list[str]) -> int:
    """Draw the folders in `arguments`; returns the exit code: 2 for a folder that is neither, 1 for a failure."""
    if not arguments:
        raise UserError(f"expected {EXPECTED}, e.g. ccsi report runs/NAME; see --help.")
    from ccsi.io.text import first_line, warn

    codes = []
    for argument in arguments:
        folder = Path(argument)
        try:
            folder = absolute(argument, "FOLDER")
            codes.append(report(folder))
        except UserError as error:  # the next folder may be sound
            warn(str(error))
            codes.append(2)
        except Exception as error:
            warn(f"{folder}: not all pictures were drawn ({first_line(error)}).")
            codes.append(1)
    return max(codes)


def report(folder: Path) -> int:
    """Draw what is to be drawn of a run or a sweep; returns the exit code."""
    if (folder / "sweep.yaml").is_file():
        from ccsi.sweep.progress import open_console
        from ccsi.sweep.report import report_sweep

        return report_sweep(folder, open_console())
    from ccsi.io.text import printable
    from ccsi.report import draw_run

    draw_run(folder)
    print(f"pictures: {printable(str(folder / 'plots'))}")
    return 0
