"""The peak of resident memory while data are loaded, in a process of its own: tracemalloc does not see torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status, which only Linux has")

MEASURE = """
import json, sys
from pathlib import Path
import ccsi.data
from ccsi.data import Digits, open_dataset
from PIL import Image
import pydantic

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

for case in json.loads(sys.argv[1]):
    share = case.pop("share", None)
    source = getattr(ccsi.data, case.pop("kind"))(**case)
    Digits(size=64).load()  # what torch and Pillow allocate once
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that from now on
    before = status("VmRSS")
    data = open_dataset(source, None if share is None else Path(share))
    size = sum(getattr(data, split).images.numel() for split in ("train", "val", "test"))
    print(json.dumps([(status("VmHWM") - before) / size, size, data.checksum]), flush=True)
    del data
"""


def measured(cases: list[dict[str, Any]]) -> list[tuple[float, int, str]]:
    """Peak over bytes of the images, these bytes, and the checksum, of each case."""
    command = [sys.executable, "-c", MEASURE, json.dumps(cases)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def test_the_peak_is_the_images_themselves(tmp_path: Path) -> None:
    sizes, draw, arrays = {"train": 420, "val": 120, "test": 120}, np.random.default_rng(0), dict[str, Any]()
    for split, n in sizes.items():
        arrays[f"{split}_images"] = draw.integers(0, 9, (n, 28, 28, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
        arrays[f"{split}_labels"] = np.arange(n) % 2
        for i, image in enumerate(arrays[f"{split}_images"]):
            path = tmp_path / "own" / split / f"{i % 2}" / f"{i:04}.bmp"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    np.savez(tmp_path / "plain.npz", **arrays)
    np.savez_compressed(tmp_path / "packed.npz", **arrays)
    arrays.clear()
    npz = {"kind": "Npz", "name": "own", "size": 224}
    plain, packed = ({**npz, "path": str(tmp_path / f"{name}.npz")} for name in ("plain", "packed"))
    folder = {"kind": "Folder", "size": 224, "path": str(tmp_path / "own")}
    cases = [plain, packed, folder, {**plain, "fit": "resize", "size": 220}, {**folder, "share": str(tmp_path / "a")}]
    ratios = measured(cases)
    assert all(size > 90e6 for _, size, _ in ratios)
    assert max(ratio for ratio, _, _ in ratios) <= 1.3, ratios
    assert len({checksum for _, _, checksum in ratios}) == 3  # npz and folder differ in the order of images


def test_what_max_per_class_drops_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ccsi.data import Folder, folder

    for i in range(40):
        path = tmp_path / f"{i % 2}" / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(path)
    read, decoded = folder.read_pixels, list[Path]()
    monkeypatch.setattr(folder, "read_pixels", lambda path: decoded.append(path) or read(path))
    data = Folder(path=str(tmp_path), size=4, max_per_class=3).load()
    assert len(data.train) == 6 and len(decoded) == len(set(decoded)) == 6 + 8 + 8
    assert len(data.origin.files["train"]) == 6


def test_more_than_the_machine_has_is_refused(tmp_path: Path) -> None:
    from ccsi.data import Digits
    from ccsi.errors import UserError

    with pytest.raises(
        UserError, match=r"digits: [\d,.]+ GiB are needed in memory, but this machine has .*dataset\.size"
    ):
        Digits(size=1_000_000).load()
