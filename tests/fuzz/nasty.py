"""Values and texts that a user, a broken editor or another program may leave where something else was expected."""

import copy
import random
from collections.abc import Iterator
from typing import Any

LONG = "x" * 10_000
NAMES = ["_target_", "_partial_", "_convert_", "_args_", "_recursive_"]
"""Keys by which Hydra makes objects, also as values."""
VALUES: list[Any] = [
    *NAMES, None, "", " ", [], {}, [[]], [None], [{}], {"a": {"b": {"c": [1]}}}, -1, 0, 1, 2, 3, 7, 0.5, -0.0, 1e-320,
    1e308, -1e308, float("nan"), float("inf"), -float("inf"), 2**31, 2**32, 2**62, 2**63, -(2**63) - 1, 2**64, 10**30,
    10**400, 1e10, 0.999999, 0.9999999999999999, 100_000, 10**9, True, False, LONG, "a\nb", "nul\0nul", "\x1b[31m",
    "\ud800", "é☃𝄞", "${", "${}", "${missing}", "${name}", "${.x}", "${oc.env:HOME_OF_NOBODY}", "${a:b}", "$", "???",
    "null", "nan", "1", "1e5", "2024-01-01", "~", "..", "/", "a/b", "a\\b", "=", "a=b", ",", "[", "'", '"', "%s",
    "{}", {"_target_": "ccsi.nothing"}, {"_target_": None}, {"_target_": 5}, {"_target_": ""},
    {"_target_": "nothing"}, {"_target_": "no.such.module"}, {"_target_": []}, {"_target_": {}}, {"_target_": ".."},
    {"_partial_": 3}, {"_args_": [1]}, {"_convert_": "all"}, {1: 2}, {None: 1}, {True: 1}, {"": 1}, {"a.b": 1}, [1,
    "a", None, {}],
    [0.5, 0.5], [1, 1], [2, 2], [10**30], [-1, -1], [1e308], ["natural"], [{"_target_": "x"}], list(range(2000)),
]  # fmt: skip
TYPED = [
    "hydra=1", "hydra.x=1", "hydra.run.dir=x", "hydra.mode=MULTIRUN", "~learner", "~training", "~training.lr", "~x",
    "+x=1", "++x=1", "+training.x=1", "++training.lr=1", "+learner=ccsi", "learner=nothing", "learner=",
    "learner=null", "learner@x=ccsi", "learner@training=ewc", "learner=[ccsi,ewc]", "nothing=ccsi",
    "training=nothing", "model=../x", "learner=/etc/passwd", "experiment=nothing", "experiment=quick/nothing",
    "experiment=null", "recipe=x", "=", "==1", "a", "training.lr", "training.lr=", "training.lr=1,2",
    "training.lr=[1,2", "training.lr={a:1", "training.lr='1", "training.lr=${", "training.lr=${x}",
    "training.lr=${training.lr}", "name=${name}", "name=${oc.env:NOTHING_HERE}", "name=${now:%s}", "name=${x:y}",
    "training..lr=1", ".=1", "training.=1", ".training=1", "training/lr=1", "~", "+", "++", "+=1", "training={lr:1}",
    "training={}", "training=1", "dataset={}", "dataset=[]", "name=\0", "name=a\nb", "training.lr=1e999",
    "training.lr=nan", "training.epochs=1_0", "training.epochs=0x10", "training.epochs=010", "seed=-0", "seed=1e3",
    "seed=99999999999999999999999", "seed='5'", "defaults=[]", "package=x", "_target_=x", "+_target_=x",
    "_partial_=false", "~_target_", "config=1", "+config={a:1}", "+on_task_end=1", "+watch=1", "sweep.x=1",
    "sweep={a:1}", "tracking=null", "tracking.console=null", "tracking.wandb=null", "model=null",
    "scenario.classes_per_task={first:1}", "scenario.classes_per_task={first:0,increment:0}", "é=1", "name=é",
    "\ud800=1", "threads=100000", "run_dir=''", "run_dir=/dev/null/x", "device=mps", "device=cuda", "choice(1,2)",
    "seed=choice(1,2)", "seed=range(1,5)", "seed=glob(*)", "seed=sort(3,1)", "seed=cast(x)", "seed=int('x')",
    "seed=str(5)", "seed=float(x)", "tracking=[]", "a.yaml", "a.yaml b.yaml", "../x.yaml", ".yaml", "--", "-x",
    "--show=1", "",
]  # fmt: skip


def any_value(draw: random.Random) -> Any:
    value = copy.deepcopy(draw.choice(VALUES))
    if draw.random() < 0.1:
        value = {draw.choice(["a", "_target_", "lr", "_partial_"]): value}
    return [value] if draw.random() < 0.05 else value


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every node below a tree of dicts and lists."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def mutate(draw: random.Random, tree: Any, value: Any = any_value, times: int | None = None) -> Any:
    """A copy of a tree with one or two of its nodes removed, replaced, renamed or joined by others."""
    tree = copy.deepcopy(tree)
    for _ in range(times or draw.choice([1, 1, 2])):
        found = list(places(tree))
        if not found:
            return value(draw)
        *path, key = draw.choice(found)
        parent = tree
        for step in path:
            parent = parent[step]
        if not isinstance(parent, dict | list):
            continue
        how = draw.random()
        if how < 0.7:
            parent[key] = value(draw)
        elif how < 0.85 or not isinstance(parent, dict):
            del parent[key]
        elif how < 0.93:
            parent[draw.choice([*NAMES, "x", "", "a.b", f"{key}_", "é"])] = value(draw)
        else:
            parent[draw.choice([f"{key}x", str(key).upper(), "_target_"])] = parent.pop(key)
    return tree


def damage(draw: random.Random, data: bytes) -> bytes:
    """A file's bytes, cut, changed, doubled, or replaced."""
    at, length = draw.randrange(len(data) + 1), draw.choice([1, 1, 4, 64])
    how = draw.randrange(7)
    if how == 0:
        return data[:at]
    if how == 1:
        return data[:at] + draw.randbytes(length) + data[at + length :]
    if how == 2:
        return (
            data[:at]
            + draw.choice([b"\0", b"\xff\xfe", b"\n", b"{", b"\t", b"'", b"&a [*a]", b"!!python/name:os "])
            + data[at:]
        )
    if how == 3:
        return data[:at] + data[at + length :]
    if how == 4:
        return data + data
    if how == 5:
        lines = data.splitlines(keepends=True)
        draw.shuffle(lines)
        return b"".join(lines)
    return draw.choice(
        [b"", b"\0", b"\xef\xbb\xbf" + data, b"null", b"[]", b"{}", b"1", b"\xff" * 50, b"[" * 5000, LAUGHS]
    )


LAUGHS = b"a: &a [x,x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n" % (98 + i, 98 + i, *[97 + i] * 10) for i in range(8)
)
"""A yaml file of aliases that stand for 10⁹ texts."""
