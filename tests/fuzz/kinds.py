"""The kinds of input: each makes, from a random generator, the files and arguments of a command."""

import contextlib
import copy
import functools
import itertools
import json
import os
import pickle
import random
import shutil
import warnings
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import nasty
import numpy as np
import yaml

from ccsi import config

TINY = [
    "device=cpu", "dataset=npz", "dataset.size=8", "scenario.classes_per_task=2", "training.epochs=1",
    "training.batch_size=8", "tracking.console.quiet=true", "report=false",
]  # fmt: skip
FEW = {
    "synthesis.iterations": 3, "synthesis.per_class": 2, "synthesis.group_size": 4, "synthesis.warmup": 1,
    "generation.steps": 3, "generation.batch_size": 4, "generation.latent": 4, "generation.width": 4,
    "budget.per_class": 2, "balanced_epochs": 1, "refine_epochs": 1, "expansion": 16, "held_out": 0.4,
}  # fmt: skip
LEARNERS = ["ccsi", "icarl", "ewc", "acil", "abd", "bic", "pass", "si", "r_dfcil", "fetril", "deep_inversion", "eeil"]
"""One of each base, and those that keep something of their own."""


def images(n: int = 12, classes: int = 4) -> dict[str, Any]:
    """The arrays of a tiny data set in MedMNIST's layout."""
    draws = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = draws.integers(0, 256, (n, 8, 8), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(n) % classes
    return arrays


@functools.cache
def tiny_config(learner: str) -> dict[str, Any]:
    """The configuration of a run that takes a moment, on `data.npz`."""
    tree = config.load([f"learner={learner}", *TINY, "dataset.path=data.npz"])
    there = config.flat(tree["learner"])
    return config.apply(tree, {f"learner.{key}": value for key, value in FEW.items() if key in there})


def on_data(learner: str, folder: Path) -> dict[str, Any]:
    """`tiny_config` with the data set in a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "data.npz", **images())
    return config.apply(tiny_config(learner), {"dataset.path": str(folder / "data.npz")})


class Configs:
    """`ccsi run` with a mutated configuration, as a file or typed."""

    learners = LEARNERS

    @classmethod
    def prepare(cls, folder: Path) -> None:
        for learner in cls.learners:
            tree = on_data(learner, folder)
            (folder / f"{learner}.yaml").write_text(config.to_yaml(tree))

    def __init__(self, folder: Path) -> None:
        self.trees = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(folder.glob("*.yaml"))}
        self.folder = folder

    def case(self, draw: random.Random, folder: Path) -> list[str]:
        learner = draw.choice(sorted(self.trees))
        tree, file, how = self.trees[learner], folder / "case.yaml", draw.random()
        if how < 0.1:
            typed = [draw.choice(nasty.TYPED) for _ in range(draw.choice([1, 1, 2]))]
            return ["run", *TINY, f"dataset.path={self.folder / 'data.npz'}", *typed]
        if how < 0.3:
            shutil.copyfile(self.folder / f"{learner}.yaml", file)
            return ["run", "case.yaml", *(self.typed(draw, tree) for _ in range(draw.choice([1, 1, 2])))]
        if how < 0.42:
            file.write_bytes(nasty.damage(draw, (self.folder / f"{learner}.yaml").read_bytes()))
        else:
            file.write_text(as_yaml(nasty.mutate(draw, tree)), errors="surrogatepass")
        return ["run", "case.yaml"]

    @staticmethod
    def typed(draw: random.Random, tree: Any) -> str:
        if draw.random() < 0.3:
            return draw.choice(nasty.TYPED)
        key, value = draw.choice(list(config.tree.nodes(tree)))[0], nasty.any_value(draw)
        return f"{key}={value if isinstance(value, str) else json.dumps(value)}"


def as_yaml(tree: Any) -> str:
    try:
        return yaml.safe_dump(tree, allow_unicode=True, sort_keys=False)
    except (yaml.YAMLError, UnicodeError, ValueError):
        return repr(tree)


class Sweeps:
    """`ccsi sweep --dry-run`, with mutated entries, and `resume=` with a mutated sweep.yaml."""

    SPACE: ClassVar = {
        "learner.w_idc": {"choice": [0.0, 1.0]},
        "training.lr": {"loguniform": [0.001, 0.1]},
        "training.momentum": {"uniform": [0.1, 0.9]},
        "training.epochs": {"randint": [1, 3]},
        "learner.w_margin": {"grid": [0.5, 1.0]},
    }
    EACH: ClassVar = {"learner": {"each": {"ccsi": {"learner.w_idc": {"choice": [0.0, 1.0]}}, "finetune": None}}}
    TYPED: ClassVar = [
        "sweep=nothing", "sweep.search=optuna", "sweep.search=grid", "sweep.scheduler=asha", "sweep.top_k=0",
        "sweep.num_samples=10000000", "sweep.seeds.tuning=[]", "sweep.seeds.tuning=[1,1]", "sweep.seeds.tuning=[0]",
        "sweep.seeds=[1]", "sweep.seeds=null", "sweep.budget=null", "sweep.budget.hours=-1", "sweep.space=null",
        "sweep.space=[]", "sweep.space={}", "sweep.space=1", "~sweep", "~sweep.space", "~sweep.seeds",
        "sweep.name=../x", "sweep.name=a/b", "sweep.dir=''", "sweep.metric=nothing", "sweep.minimize=seconds",
        "sweep.warm_start=[nothing]", "sweep.warm_start=nothing", "sweep.storage=nothing", "sweep.storage=x://y",
        "sweep.storage=s3://", "ray=null", "ray.address=nothing", "ray.num_cpus=0", "resources=nothing",
        "resources.cpu=0", "resources.gpu=-1", "resources.workers=0", "resources.workers=1000000",
        "resources.gpu=auto", "resume=nothing", "resume=", "resume=/", "resume=null", "resume=\0", "resume=x://y",
        "sweep.space.x={choice:[1]}", "sweep.space.={choice:[1]}", "sweep.space.seed={choice:[1]}",
        "sweep.space.learner={choice:[ccsi,nothing]}", "sweep.space.learner=ccsi",
        "sweep.space.learner.each.ccsi=null", "~sweep.space.learner.each", "~sweep.space.nothing",
        "sweep.space.training={choice:[default,nothing]}", "sweep.space.training={choice:[{lr:1}]}",
        "sweep.space.training.lr={loguniform:[0,1]}", "sweep.space.training.lr={uniform:[1,0]}",
        "sweep.space.training.lr={grid:[]}", "sweep.space.training.lr={}",
        "sweep.space.training.lr={choice:[0.1],grid:[1]}", "sweep.space.a.b.c={choice:[1]}",
        "sweep.space.dataset={choice:[digits,npz]}", "sweep.space.tracking={choice:[1]}",
    ]  # fmt: skip

    @classmethod
    def prepare(cls, folder: Path) -> None:
        from ccsi.sweep.compose import compose
        from ccsi.sweep.resume import with_folder

        folder.mkdir(parents=True)
        for name, space in (("plain", cls.SPACE), ("each", cls.EACH)):
            text = yaml.safe_dump(space, default_flow_style=True, width=10**6).strip()
            definition = compose([f"sweep.space={text}", "sweep.num_samples=4", "sweep.top_k=1", "dataset.size=8"])
            (folder / f"{name}.yaml").write_text(with_folder(definition, folder / name).dump())

    def __init__(self, folder: Path) -> None:
        from ccsi import config

        self.trees = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(folder.glob("*.yaml"))}
        self.composed: dict[str, Any] = {}
        load = config.compose.load

        def load_once(overrides: Any, name: str = "config") -> Any:
            key = repr((list(overrides), name))
            if key not in self.composed:
                self.composed[key] = load(overrides, name)
            return copy.deepcopy(self.composed[key])

        config.load = load_once  # type: ignore[assignment]

    def case(self, draw: random.Random, folder: Path) -> list[str]:
        option, how = draw.choice(["--dry-run", "--show"]), draw.random()
        if how < 0.25:
            return ["sweep", option, "dataset.size=8", *(draw.choice(self.TYPED) for _ in range(draw.choice([1, 2])))]
        if how < 0.5:
            key = draw.choice([*self.SPACE, "learner", "model", "training", "", "x", "learner.synthesis.w_tv", "${x}"])
            value = nasty.mutate(draw, draw.choice([*self.SPACE.values(), *self.EACH.values()]), self.value, 1)
            text = yaml.safe_dump(value, default_flow_style=True, width=10**6).strip().removesuffix("\n...")
            return ["sweep", option, "dataset.size=8", f"sweep.space.{key}={text}"]
        tree = self.trees[draw.choice(sorted(self.trees))]
        (folder / "s").mkdir()
        file = folder / "s" / "sweep.yaml"
        if how < 0.6:
            file.write_bytes(nasty.damage(draw, as_yaml(tree).encode()))
        elif how < 0.8:
            part = draw.choice(["sweep", "resources", "ray"])
            file.write_text(as_yaml(tree | {part: nasty.mutate(draw, tree[part], self.value)}), errors="surrogatepass")
        else:
            file.write_text(as_yaml(nasty.mutate(draw, tree, self.value)), errors="surrogatepass")
        return ["sweep", option, "resume=s"]

    @staticmethod
    def value(draw: random.Random) -> Any:
        kind = draw.choice(["choice", "grid", "uniform", "loguniform", "randint", "each"])
        if draw.random() < 0.5:
            return nasty.any_value(draw)
        values = [nasty.any_value(draw) for _ in range(draw.choice([0, 1, 2, 2, 3]))]
        return {kind: dict.fromkeys(map(str, values), nasty.any_value(draw)) if kind == "each" else values}


class NpzFiles:
    """`ccsi run dataset=npz` with a file that is not quite one."""

    @classmethod
    def prepare(cls, folder: Path) -> None:
        Configs.prepare.__func__(type("One", (Configs,), {"learners": ["finetune"]}), folder)  # type: ignore[attr-defined]

    def __init__(self, folder: Path) -> None:
        self.config = folder / "finetune.yaml"

    def case(self, draw: random.Random, folder: Path) -> list[str]:
        path, arrays, how = folder / "case.npz", images(), draw.random()
        if how < 0.55:
            for _ in range(draw.choice([1, 1, 2])):
                key = draw.choice(sorted(arrays))
                arrays[key] = self.array(draw, arrays[key])
                if arrays[key] is None:
                    del arrays[key]
            np.savez(path, **arrays)
        elif how < 0.75:
            np.savez(path, **arrays)
            path.write_bytes(nasty.damage(draw, path.read_bytes()))
        else:
            self.archive(draw, path, arrays)
        if draw.random() < 0.05:
            path.unlink()
            special(draw, path)
        return ["run", str(self.config), f"dataset.path={path}"]

    @staticmethod
    def array(draw: random.Random, a: Any) -> Any:
        """Something else in place of an array; None: it is absent."""
        choices: list[Any] = [
            lambda: None, lambda: a.astype(draw.choice(["f2", "f4", "f8", "c8", "i1", "i4", "u8", "?", "U3", "S1",
            "M8[s]"])), lambda: a[:0], lambda: a[..., None], lambda: a[None], lambda: a.reshape(-1), lambda: a[:1],
            lambda: a[0], lambda: np.array(draw.choice([5, -1, 2**62, np.nan, "text"])),
            lambda: a * 0 + draw.choice([1, 200, 255]), lambda: np.full(a.shape, np.nan), lambda: a.astype(object),
            lambda: np.zeros((12, 0, 8), np.uint8), lambda: np.zeros((12, 8, 8, 3), np.uint8),
            lambda: np.zeros((12, 8, 8, 4), np.uint8), lambda: a.astype(">i2"),
            lambda: np.zeros((12, 3000, 1), np.uint8), lambda: np.zeros(12, [("a", "u1"), ("b", "f4")]),
            lambda: a[::-1], lambda: np.zeros((0, 8, 8), np.uint8), lambda: np.full(12, 2**62),
            lambda: np.full(12, -(2**63)), lambda: np.full(12, 2**64 - 1, np.uint64), lambda: np.asfortranarray(a),
            lambda: np.zeros((1,) * 32, np.uint8),
        ]  # fmt: skip
        return draw.choice(choices)()

    @staticmethod
    def archive(draw: random.Random, path: Path, arrays: dict[str, Any]) -> None:
        """A zip file with something wrong about one member."""
        key, how = draw.choice(sorted(arrays)), draw.randrange(10)
        method = draw.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
        with zipfile.ZipFile(path, "w", method) as file:
            for name, a in arrays.items():
                shape, header = a.shape, {"descr": a.dtype.str, "fortran_order": False}
                if name == key and how in (0, 1):
                    shape = draw.choice([(2**46, 8, 8), (2**62,) * 3, (-1, 8), (12, 8, 9), (0,), (2**31, 2**31, 2**2)])
                with file.open(f"{name}.npy" if (name, how) != (key, 2) else name, "w") as member:
                    if name == key and how == 3:
                        member.write(draw.choice([b"", b"text", b"\x93NUMPY", b"\x93NUMPY\x09\x00", pickle.dumps([1])]))
                    elif name == key and how == 4:
                        text = draw.choice(
                            [b"{'descr': ", b"{}", b"[1]", b"(" * 300, b"{'descr': 'O'}", b"__import__('os')"]
                        )
                        member.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"\n")
                    else:
                        np.lib.format.write_array_header_1_0(member, {**header, "shape": shape})
                        member.write(a.tobytes())
            if how == 5:
                file.writestr(f"{key}.npy", b"twice")
        data = bytearray(path.read_bytes())
        if how in (6, 7):  # of a member: its compression method, or its encrypted flag
            for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
                at = data.find(mark)
                data[at + flags + 2 * (how == 6)] = draw.choice([1, 9, 14, 20, 93, 99])
        path.write_bytes(bytes(data))


class ImageFolders:
    """`ccsi run dataset=folder` with odd trees and odd pictures."""

    NUMBERS: ClassVar = ["0", "1", "0.5", "0.99", "-1", "null", "3", "1e-9"]
    FOLDERS: ClassVar = [
        ".",
        "''",
        "./",
        "..",
        "/",
        "a",
        "a/b",
        "train",
        "val",
        "test",
        "train/a",
        "nothing",
        "~",
        "null",
    ]
    VALUES: ClassVar = {
        **dict.fromkeys(("val_share", "test_share", "split_seed", "channels", "max_per_class"), NUMBERS),
        **dict.fromkeys(("train", "val", "test"), FOLDERS),
        "groups": ["groups.csv", "groups.csv", "groups.csv", "images", "nothing.csv", "''", "."],
        "range": ["[0,4095]", "[0,1]", "[1,0]", "[0]", "[]", "0", "[-1e300,1e300]", "[0,0]", "null"],
        "nested": ["true", "false", "null", "1"],
    }

    @classmethod
    def prepare(cls, folder: Path) -> None:
        folder.mkdir(parents=True)
        tree = config.load([*(one.replace("=npz", "=folder") for one in TINY), "learner=finetune", "dataset.path=x"])
        (folder / "finetune.yaml").write_text(config.to_yaml(tree))

    def __init__(self, folder: Path) -> None:
        self.config = folder / "finetune.yaml"

    def case(self, draw: random.Random, folder: Path) -> list[str]:
        from PIL import Image

        root, a = folder / "images", np.arange(64, dtype=np.uint8).reshape(8, 8)
        splits = draw.choice([[""], [""], ["train", "val", "test"]])
        for split in splits:
            for name in ("a", "b", "c", "d"):
                (root / split / name).mkdir(parents=True, exist_ok=True)
                for number in range(5 if split == "" else 2):
                    Image.fromarray(np.roll(a, number)).save(root / split / name / f"{number}.png")
        for _ in range(draw.choice([1, 1, 2, 3])):
            files = sorted(path for path in root.rglob("*"))
            if files:
                with contextlib.suppress(OSError, ValueError):  # an earlier change is in the way
                    self.change(draw, draw.choice(files), a)
        if draw.random() < 0.2:
            self.groups(draw, root, folder / "groups.csv")
        keys = draw.sample(sorted(self.VALUES), draw.choice([1, 1, 2, 3]))
        values = [f"dataset.{key}={draw.choice(self.VALUES[key])}" for key in keys]
        return ["run", str(self.config), f"dataset.path={root}", *(values if draw.random() < 0.3 else [])]

    @staticmethod
    def groups(draw: random.Random, root: Path, table: Path) -> None:
        """Write a table of groups that is not quite one."""
        head, sign = (
            draw.choice(["file,group", "File;GROUP", "file\tgroup", "group,file", "x,y", ""]),
            draw.choice(",;\t"),
        )
        lines = [f"{file.relative_to(root)}{sign}{draw.randrange(9)}" for file in sorted(root.rglob("*.png"))]
        draw.shuffle(lines)
        data = "\n".join([head, *lines[draw.choice([0, 0, 1]) :], *draw.choice([[], [""], [",,"], [sign]])])
        data = data.replace("/", draw.choice(["/", "/", "\\", "//"]))
        content = data.encode(errors="surrogateescape")
        table.write_bytes(nasty.damage(draw, content) if draw.random() < 0.3 else content)

    @staticmethod
    def change(draw: random.Random, path: Path, a: Any) -> None:
        """Something else in place of a file or folder, or beside it."""
        from PIL import Image

        if path.is_dir() or draw.random() < 0.2:
            beside = path.with_name(draw.choice(["$5_$10", "e", ".hidden", "caf\udce9", "a b", "x\ny", "1" * 200, "é"]))
            how = draw.randrange(6)
            if how == 5 and path.is_dir():  # as a patient's
                (path / "p").mkdir(exist_ok=True)
                for file in path.glob("*.*"):
                    file.rename(path / "p" / file.name)
            elif how == 0:
                shutil.rmtree(path, ignore_errors=True)
            elif how == 1:
                beside.mkdir(exist_ok=True)
            elif how == 2 and path.is_dir():
                shutil.copytree(path, beside, dirs_exist_ok=True, symlinks=True)
            elif how == 3:
                beside.symlink_to(draw.choice([path, path.parent, Path("nothing"), beside]))
            elif path.exists():
                path.rename(beside) if not beside.exists() else None
            return
        suffix = draw.choice(
            [".png", ".jpg", ".tif", ".gif", ".bmp", ".ppm", ".webp", ".eps", ".dcm", "", ".txt", ".PNG"]
        )
        other, how = path.with_suffix(suffix), draw.randrange(10)
        data = path.read_bytes() if path.is_file() else b""
        if how == 0:
            special(draw, path.with_name(f"special{suffix}"))
        elif how == 1:
            other.write_bytes(nasty.damage(draw, data))
        elif how == 2:
            mode = draw.choice(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F"])
            image = Image.fromarray(a) if mode == "I;16" else Image.fromarray(a).convert(mode)
            saved = Image.fromarray(a.astype(np.uint16) * 900) if mode == "I;16" else image
            saved.save(path.with_suffix(".tif"))
        elif how == 3:
            Image.new(draw.choice(["L", "RGB"]), draw.choice([(1, 1), (1, 3000), (3000, 1), (700, 700)])).save(path)
        elif how == 4:
            other.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(x) print\n")
        elif how == 5:
            os.rename(path, path.with_name("caf\udce9.png")) if path.is_file() else None
        elif how == 6:
            path.unlink(missing_ok=True)
            path.mkdir()
        elif how == 7:
            frames = [Image.fromarray(np.roll(a, k)) for k in range(3)]
            frames[0].save(path.with_suffix(".gif"), save_all=True, append_images=frames[1:])
        elif how == 8:
            dicom_file(draw, path.with_suffix(".dcm"), a)
        else:
            path.unlink(missing_ok=True)


def dicom_file(draw: random.Random, path: Path, a: Any) -> None:
    """A valid DICOM file, and some that are nearly so."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless, SecondaryCaptureImageStorage

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    file = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    file.SOPClassUID, file.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3"
    deep = draw.random() < 0.5
    pixels = a.astype("<u2") * 60 if deep else a
    file.Rows, file.Columns = pixels.shape
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, draw.choice(["MONOCHROME1", "MONOCHROME2"])
    file.BitsAllocated, file.BitsStored, file.HighBit = (16, 12, 11) if deep else (8, 8, 7)
    file.PixelRepresentation, file.PixelData = 0, pixels.tobytes()
    changes: list[dict[str, Any]] = [
        {}, {}, {}, {"WindowCenter": 100, "WindowWidth": 50}, {"RescaleSlope": 2, "RescaleIntercept": -1024},
        {"WindowCenter": 1, "WindowWidth": 0}, {"RescaleSlope": 0}, {"NumberOfFrames": 3}, {"Rows": 9}, {"Rows": 0},
        {"SamplesPerPixel": 3}, {"PhotometricInterpretation": "nothing"}, {"BitsStored": 99}, {"PixelData": b"ab"},
        {"PhotometricInterpretation": "PALETTE COLOR"}, {"PixelRepresentation": 1}, {"PixelData": bytes(4096)},
        {"NumberOfFrames": "x"}, {"VOILUTSequence": []},
    ]  # fmt: skip
    with warnings.catch_warnings(), contextlib.suppress(Exception):  # what pydicom does not write
        warnings.simplefilter("ignore")
        for key, value in draw.choice(changes).items():
            setattr(file, key, value)
        if draw.random() < 0.1:
            meta.TransferSyntaxUID = JPEGLSLossless
        file.save_as(path, enforce_file_format=False)


def special(draw: random.Random, path: Path) -> None:
    """What is no regular file: a FIFO, a folder, a link to a device, to itself or to nothing."""
    how = draw.randrange(6)
    if path.exists() or path.is_symlink():
        return
    if how == 0:
        os.mkfifo(path)
    elif how == 1:
        path.mkdir()
    else:
        path.symlink_to({2: "/dev/zero", 3: path, 4: "nothing", 5: "/dev/tty"}[how])


class RunFolders:
    """`ccsi run` of a run that was interrupted, or is finished, with something changed in its folder."""

    @classmethod
    def prepare(cls, folder: Path) -> None:
        for learner in LEARNERS:
            tree = on_data(learner, folder) | {"checkpoint_every": 0.0, "run_dir": str(folder / "running")}
            written = itertools.count()

            def keep(learner: str = learner, written: Any = written) -> None:
                shutil.copytree(folder / "running", folder / f"{learner}-{next(written)}")

            config.build(tree)(on_checkpoint=keep)
            (folder / "running").rename(folder / f"{learner}-finished")

    def __init__(self, folder: Path) -> None:
        self.bases = sorted(path for path in folder.iterdir() if path.is_dir())

    def case(self, draw: random.Random, folder: Path) -> list[str]:
        base = draw.choice(self.bases)
        shutil.copytree(base, folder / "run")
        tree = yaml.safe_load((base / "config.yaml").read_text()) | {"run_dir": str(folder / "run")}
        (folder / "case.yaml").write_text(as_yaml(tree))
        (folder / "run" / "config.yaml").write_text(as_yaml(tree))
        for _ in range(draw.choice([1, 1, 1, 2])):
            self.change(draw, folder / "run")
        return ["run", draw.choice(["case.yaml", "case.yaml", "run/config.yaml"]), *self.more(draw)]

    @staticmethod
    def more(draw: random.Random) -> list[str]:
        return (
            [draw.choice(["report=true", "checkpoint_every=0.0", "evaluate_test=false"])] if draw.random() < 0.1 else []
        )

    def change(self, draw: random.Random, run: Path) -> None:
        files = sorted(path for path in run.rglob("*") if path.is_file() and not path.is_symlink())
        path = run / "checkpoint.pt"
        if draw.random() < 0.6 and path.is_file():
            return self.change_checkpoint(draw, path)
        path = draw.choice(files)
        how = draw.random()
        if how < 0.2:
            path.unlink()
            special(draw, path)
        elif how < 0.6 and path.suffix in (".json", ".jsonl", ".yaml"):
            self.change_text(draw, path)
        elif how < 0.9:
            path.write_bytes(nasty.damage(draw, path.read_bytes()))
        else:
            special(
                draw, run / draw.choice(["result.json", ".lock", "plots", "impressions", "x", ".checkpoint.pt.part"])
            )
        return None

    @staticmethod
    def change_text(draw: random.Random, path: Path) -> None:
        try:
            if path.suffix == ".yaml":
                text = as_yaml(nasty.mutate(draw, yaml.safe_load(path.read_text())))
            elif path.suffix == ".json":
                text = json.dumps(nasty.mutate(draw, json.loads(path.read_text())), skipkeys=True)
            else:
                lines = path.read_text().splitlines()
                at = draw.randrange(len(lines))
                lines[at] = draw.choice(["", "null", "[]", "{}", "{", lines[at] * 2, json.dumps(lines)])
                text = "\n".join(lines[: draw.choice([len(lines), at, at + 1])]) + draw.choice(["", "\n", "\n\n"])
        except (ValueError, IndexError, TypeError, yaml.YAMLError):
            text = ""
        path.write_text(text, errors="surrogatepass")

    @staticmethod
    def change_checkpoint(draw: random.Random, path: Path) -> None:
        """A checkpoint with a right checksum and something else in it."""
        import torch

        from ccsi.errors import UserError
        from ccsi.experiment.checkpoint import Checkpoints

        def value(draw: random.Random) -> Any:
            tensors = [torch.zeros(()), torch.zeros(3), torch.zeros(2, 2), torch.full((4,), torch.nan), torch.empty(0)]
            tensors += [
                torch.ones(3, dtype=torch.uint8),
                torch.ones(2, dtype=torch.int64),
                torch.ones(1, dtype=torch.bool),
            ]
            plain = [
                None,
                -1,
                0,
                1,
                5,
                10**6,
                2**70,
                1.5,
                float("nan"),
                "",
                "text",
                b"x",
                True,
                [],
                {},
                [1],
                {"a": 1},
                (),
            ]
            return draw.choice([*tensors, *plain])

        try:
            state = Checkpoints(path.parent, 0).load()
        except UserError:
            return
        if draw.random() < 0.05:
            Checkpoints(path.parent, 0).save(value(draw))
            return
        assert state is not None
        if (
            found := tensors_in(state)
        ) and draw.random() < 0.4:  # a tensor of another shape or type, or with other values
            *parents, key = draw.choice(found)
            t = at(state, (*parents, key))
            changed = [
                t[None],
                t.reshape(-1)[:1],
                t.double(),
                t.to(torch.int64),
                t.to(torch.uint8),
                t * 0,
                t.new_empty(0),
            ]
            changed += [
                torch.cat([t.reshape(1, -1)] * 2),
                t + 300,
                t * float("nan") if t.is_floating_point() else t - 5,
            ]
            parent = at(state, parents)
            if isinstance(parent, dict | list):
                parent[key] = draw.choice(changed)
        elif isinstance(state, dict):  # an earlier change may have put anything in its place
            top = draw.choice([state, state, *(part for part in state.values() if isinstance(part, dict))])
            changed_top = nasty.mutate(draw, top, value, 1)
            state = changed_top if top is state else {k: changed_top if v is top else v for k, v in state.items()}
        Checkpoints(path.parent, 0).save(state)


def tensors_in(tree: Any) -> list[tuple[Any, ...]]:
    """The paths of the tensors in a tree."""
    return [path for path in nasty.places(tree) if hasattr(at(tree, path), "dtype")]


def at(tree: Any, path: Any) -> Any:
    for key in path:
        tree = tree[key]
    return tree


KINDS = {
    "config": (Configs, 0.35),
    "sweep": (Sweeps, 0.15),
    "npz": (NpzFiles, 0.15),
    "images": (ImageFolders, 0.15),
    "run": (RunFolders, 0.2),
}
"""Each kind, and its share of the cases; see `model_folders` for another."""
