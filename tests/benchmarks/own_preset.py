"""What `experiment=own` reaches on small parts of PBC blood.

    python tests/benchmarks/own_preset.py pbcblood_28.npz --images 30 100 500 --seeds 0 1 2 3 4 [key=value …]

For each number of images a class and each seed, 60 % of so many images of each class train and 20 % are val, as of a
folder without split folders; the seed draws them from the collection's train split, and the order of the classes. The
figures are those of the collection's whole test split, or with `--split val` of its val split: to choose settings.
"""

import argparse
import contextlib
import io
import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import fmean, stdev

import numpy as np

from ccsi.cli import main as ccsi
from ccsi.confidence import half_width


def subset(source: Path, path: Path, images: int, seed: int, split: str) -> None:
    """Write the file of one run."""
    with np.load(source) as file:
        pixels, labels = file["train_images"], file["train_labels"].ravel()
        draw = np.random.default_rng([images, seed])
        rows = [draw.permutation(np.flatnonzero(labels == c)) for c in range(labels.max() + 1)]
        n_val = images // 5
        n_train = images - 2 * n_val
        arrays = {"test_images": file[f"{split}_images"], "test_labels": file[f"{split}_labels"]}
        for name, part in (("train", slice(n_train)), ("val", slice(n_train, n_train + n_val))):
            chosen = np.concatenate([row[part] for row in rows])
            arrays |= {f"{name}_images": pixels[chosen], f"{name}_labels": labels[chosen]}
    np.savez(path, **arrays)


def one_run(source: Path, images: int, seed: int, split: str, typed: list[str]) -> tuple[float, float, float]:
    """Macro over tasks and average incremental accuracy in %, and seconds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subset(source, folder / "part.npz", images, seed, split)
        where = [f"dataset.path={folder / 'part.npz'}", f"run_dir={folder / 'run'}", f"seed={seed}", "report=false"]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
            code = ccsi(["run", "experiment=own", *where, "scenario.class_order=shuffle", *typed])
        if code:
            raise SystemExit(said.getvalue())
        result = json.loads((folder / "run" / "result.json").read_text())
    figures = result["test"]
    return 100 * figures["macro_over_tasks"], 100 * figures["average_incremental"], result["seconds"]["total"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[30, 100, 500])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--split", choices=["test", "val"], default="test")
    parser.add_argument("--processes", type=int, default=2)
    options, typed = parser.parse_known_args()
    print("| images a class | macro over tasks | average incremental | seconds |\n|---|---|---|---|")
    with ProcessPoolExecutor(options.processes) as pool:
        runs = {
            images: [pool.submit(one_run, options.source, images, seed, options.split, typed) for seed in options.seeds]
            for images in options.images
        }
        for images, submitted in runs.items():
            macro, average, seconds = zip(*(run.result() for run in submitted), strict=True)
            cells = [
                f"{fmean(values):.1f} ± {stdev(values):.1f} "
                f"[{fmean(values) - half_width(values):.1f}, {fmean(values) + half_width(values):.1f}]"
                for values in (macro, average)
            ]
            print(f"| {images} | {' | '.join(cells)} | {fmean(seconds):.0f} |", flush=True)


if __name__ == "__main__":
    main()
