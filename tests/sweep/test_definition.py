from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import ccsi.config
from ccsi.errors import UserError
from ccsi.sweep.compose import compose, define, make_sections
from ccsi.sweep.resume import read_definition, resumed, with_folder
from ccsi.sweep.search_space import parse


def space(text: str) -> str:
    return f"sweep.space={{{text}}}"


def each(candidates: str, *beside: str) -> str:
    return space(", ".join([f"learner: {{each: {candidates}}}", *beside]))


def test_the_shipped_sweep_is_valid_and_its_runs_are() -> None:
    definition = compose([])
    settings = definition.listed_configs()
    assert len(settings) >= 6
    assert len(definition.sweep.seeds.reporting) >= 3
    for phase in (1, 2):
        config = definition.run_config(settings[0], phase, 7, Path("/nowhere/p1-c00-s7"))
        ccsi.config.check(config)
        assert config["evaluate_test"] is (phase == 2)
        assert config["seed"] == 7


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sweep.num_samples=0", "sweep.num_samples=0: expected a whole number >= 1"),
        ("sweep.num_samples=2.5", "sweep.num_samples=2.5"),
        ("sweep.top_k=-1", "sweep.top_k=-1"),
        ("sweep.budget.hours=0", "sweep.budget.hours=0: expected a number > 0"),
        ("sweep.budget.trials=1.5", "sweep.budget.trials=1.5: expected a whole number >= 1"),
        ("sweep.budget=3", "sweep.budget: expected sweep.budget.hours=… or sweep.budget.trials=…"),
        ("sweep.patience=0", "sweep.patience=0: expected a whole number >= 1"),
        ("sweep.minimize=bytes", "sweep.minimize=bytes: expected"),
        ("sweep.warm_start=old", "sweep.warm_start=old: expected"),
        ("sweep.scheduler=pbt", "sweep.scheduler=pbt: expected one of none, asha, median"),
        ("sweep.search=bayes", "sweep.search=bayes: expected one of random, grid, optuna"),
        (
            "sweep.metric=test_macro_over_tasks",
            "sweep.metric=test_macro_over_tasks: expected one of val_average_incremental",
        ),
        ("sweep.numsamples=3", "sweep.numsamples is not a setting; did you mean sweep.num_samples"),
        ("sweep.seeds.tuning=[0,1]", "sweep.seeds.tuning and sweep.seeds.reporting share 0, 1"),
        ("sweep.seeds.tuning=[]", "sweep.seeds.tuning=[]: expected at least one seed"),
        ("sweep.seeds.reporting=[3,3]", "sweep.seeds.reporting=[3, 3]"),
        ("ray.autoscale=true", "ray.autoscale=true: expected ray.address"),
        ("sweep.seeds.tuning=[a]", "sweep.seeds.tuning=['a']"),
        ("resources.cpu=0", "resources.cpu=0: expected a number > 0"),
        ("resources.gpu=-1", "resources.gpu=-1"),
        ("device=cuda", "resources.gpu is 0"),
        (space("learner.w_ids: {choice: [0.0]}"), "learner.w_ids is not a setting; did you mean learner.w_idc"),
        (space("learner.w_idc: {choice: [0.0, -1.0]}"), "learner.w_idc=-1.0: expected a number >= 0"),
        (space("learner.w_idc: {uniform: [-1, 1]}"), "learner.w_idc=-1.0"),
        (space("training.epochs: {uniform: [1, 4]}"), "training.epochs=1.0: expected a whole number"),
        (space("learner: {grid: [ccsi, cssi]}"), "learner=cssi names no file"),
        (space("resources: {grid: [default, gpu]}"), "sweep.space.resources: resources cannot be swept"),
        (space("resources.gpu: {choice: [0, 1]}"), "sweep.space.resources.gpu: resources.gpu cannot be swept"),
        ("ray=auto", "ray=auto: expected ray.<key>=…"),
        ("~sweep", "sweep.seeds: expected sweep.seeds.tuning=[…]"),
        ("sweep=null", "sweep=null: expected"),
        ("sweep.seeds=5", "sweep.seeds: expected sweep.seeds.tuning=[…]"),
        (space("device: {choice: [cpu, cuda]}"), "device cannot be swept, the sweep sets it itself; see resources.gpu"),
        (space("sweep.seed: {choice: [0, 1]}"), "sweep.space.sweep.seed: sweep.seed cannot be swept"),
        ("training.epocs=3", "training.epocs"),
        (each("{}"), "sweep.space.learner.each={}: expected candidates, each with its own space or null"),
        (each("{ccsi: {learner.w_ids: {choice: [0]}}}"), "learner.w_ids is not a setting"),
        (each("{ccsi: {learner.w_idc: {choice: [-1]}}}"), "learner.w_idc=-1: expected a number >= 0"),
        (
            each("{ccsi: {learner.w_idc: [1]}}"),
            "sweep.space.learner.each.ccsi.learner.w_idc=[1]: expected exactly one of",
        ),
        (each("{ccsi: 3}"), "expected candidates, each with its own space or null"),
        (each("{ccsi: {model: {choice: [resnet18]}}}"), "each.ccsi.model: expected a value, not a config group"),
        (each("{ccsi: {x: {each: {a: {}}}}}"), "expected no other `each` around or beside it"),
        (each("{ccsi: {}}", "model: {each: {resnet18: {}}}"), "expected no other `each` around or beside it"),
        (each("{cssi: {}}"), "learner=cssi names no file"),
        (space("training.lr: {each: {0.1: {}}}"), "training.lr.each: expected a config group, such as learner"),
    ],
)
def test_bad_input_is_told_in_one_sentence_with_its_full_key(override: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        compose([override, *(["sweep.top_k=1"] if "each:" in override else [])])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "sweep.scheduler=asha",
            "sweep.scheduler=asha: sweep.space.learner.each compares on an equal budget; expected none",
        ),
        ("sweep.patience=3", "sweep.patience=3: sweep.space.learner.each compares on an equal budget; expected null"),
        ("sweep.minimize=seconds", "sweep.minimize=seconds"),
        ("sweep.budget.hours=1", "sweep.budget.hours=1"),
        ("sweep.budget.trials=1", "sweep.budget.trials=1"),
        ("sweep.warm_start=[old]", "expected []"),
        ("sweep.search=optuna", "sweep.space.learner is each, which sweep.search=optuna cannot cross"),
        ("sweep.search=grid", "expected random"),
        ("sweep.top_k=2", "sweep.top_k=2: sweep.space.learner.each compares on an equal budget; expected 1"),
        ("resources.gpu=auto", "resources.gpu=auto: sweep.space.learner.each has trials of several sizes"),
        ("sweep.space.training.lr={grid: [0.1]}", "training.lr is a grid, as long as it is; expected choice"),
        ("sweep.space.learner.w_idc={choice: [1.0]}", "learner.w_idc is swept for all; expected it once"),
        ("sweep.space.learner.each.lwf={learner.x: {choice: [1]}}", "learner.x is not a setting"),
        ("~sweep.space.learner.each.jointt", "there is no jointt to be taken out; expected one of ccsi, finetune."),
        ("~sweep.space.each.learner.joint", "there is no each.learner.joint to be taken out"),
        ("sweep.space.model.each.lwf=null", "sweep.space.model compares nothing"),
        ("learner.penalty=4", "(With any of learner=ccsi, learner=finetune.)"),
    ],
)
def test_a_comparison_is_on_an_equal_budget(override: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        compose([each("{ccsi: {learner.w_idc: {choice: [0.0, 1.0]}}, finetune: null}"), "sweep.top_k=1", override])
    assert said in str(caught.value)


def test_a_key_that_some_of_the_compared_have_holds_for_these(capsys: pytest.CaptureFixture[str]) -> None:
    typed = ["sweep.top_k=1", "learner.synthesis.iterations=4", "learner.name=x", "training.epochs=2"]
    definition = compose([each("{er: null, ccsi: null, finetune: null, ci: null}"), *typed])
    learners = {key: base["learner"] for key, base in definition.bases.items()}
    iterations = {key: learner.get("synthesis", {}).get("iterations") for key, learner in learners.items()}
    assert iterations == {"learner=er": None, "learner=ccsi": 4, "learner=finetune": None, "learner=ci": 4}
    assert {learner["name"] for learner in learners.values()} == {"x"}
    assert {base["training"]["epochs"] for base in definition.bases.values()} == {2}
    said = "holds for learner=ccsi, learner=ci only: learner=er, learner=finetune have no such key.\n"
    assert capsys.readouterr() == ("", f"learner.synthesis.iterations=4 {said}")
    swept = compose([space("learner: {choice: [er, ewc]}"), "learner.penalty=7"])  # not a key of the default learner
    assert [base["learner"].get("penalty") for base in swept.bases.values()] == [None, 7]
    with pytest.raises(UserError, match=r"learner\.synthesis\.iterations=0: expected a whole number >= 1"):
        compose([each("{er: null, ccsi: null}"), "sweep.top_k=1", "learner.synthesis.iterations=0"])


def test_learners_are_compared_by_their_names_alone() -> None:
    sweep = compose(["sweep.learners=[er,acil,ccsi]"]).sweep
    rivals = ccsi.config.load(["sweep=rivals"], name="sweep")["sweep"]
    assert list(sweep.space["learner"]["each"]) == sweep.learners == ["er", "acil", "ccsi"]
    assert sweep.space["learner"]["each"].items() <= rivals["space"]["learner"]["each"].items()
    assert {key: value for key, value in sweep.space.items() if value} == {"learner": sweep.space["learner"]}
    for key in ("metric", "num_samples", "top_k"):
        assert getattr(sweep, key) == rivals[key]
    assert sweep.seeds.reporting == rivals["seeds"]["reporting"]


def test_learners_by_name_and_a_space_for_all_of_them() -> None:
    definition = compose(["sweep.learners=[er,joint]", space("training.lr: {choice: [0.1, 0.2]}")])
    listed = sorted((values["learner"], values["training.lr"]) for values in definition.listed_configs())
    assert listed == [("er", 0.1), ("er", 0.2), ("joint", 0.1), ("joint", 0.2)]


@pytest.mark.parametrize("learners", ["[er,cssi]", "[er,er]", "[]", "er", "[1]"])
def test_learners_that_are_none(learners: str) -> None:
    with pytest.raises(UserError, match=r"^sweep\.learners=.*expected") as caught:
        compose([f"sweep.learners={learners}"])
    assert "\n" not in str(caught.value)


def test_a_sweep_of_inferred_data_is_resumed_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    definition = kept(tmp_path, ["dataset.path=images", "sweep.name=007"])
    assert capsys.readouterr().err == "dataset=folder, because dataset.path is a folder.\n"
    assert definition.bases[""]["dataset"]["_target_"] == "ccsi.data.Folder" and definition.name == "007"
    (tmp_path / "images").rmdir()
    assert resumed(tmp_path, ["ray.num_cpus=1"]).bases == definition.bases and capsys.readouterr().err == ""
    (tmp_path / "a.npz").touch()
    own = kept(tmp_path, ["experiment=own", "dataset.path=a.npz"])  # an experiment that leaves the data set open
    assert {base["dataset"]["_target_"] for base in own.bases.values()} == {"ccsi.data.Npz"}
    swept = compose([space("dataset: {choice: [folder, npz]}"), "dataset.path=nowhere"])
    assert {base["dataset"]["path"] for base in swept.bases.values()} == {"nowhere"}


def test_each_candidate_is_swept_in_its_own_space_and_what_all_have() -> None:
    own = "{ccsi: {learner.w_idc: {choice: [0.0, 1.0]}}, finetune: null}"
    definition = compose([each(own, "training.lr: {choice: [0.1, 0.2]}"), "sweep.num_samples=9", "sweep.top_k=1"])
    listed = definition.listed_configs()
    wanted = [{"learner": "ccsi", "training.lr": lr, "learner.w_idc": w} for lr in (0.1, 0.2) for w in (0.0, 1.0)]
    wanted += [{"learner": "finetune", "training.lr": lr} for lr in (0.1, 0.2)]
    assert sorted(map(str, map(sorted, map(dict.items, listed)))) == sorted(
        map(str, map(sorted, map(dict.items, wanted)))
    )
    assert [values["learner"] for values in listed] == ["ccsi"] * 4 + ["finetune"] * 2
    config = definition.run_config(listed[1], 2, 0, Path("/nowhere/p2-c01-s0"))
    assert config["learner"]["w_idc"] == listed[1]["learner.w_idc"]
    assert config["training"]["lr"] == listed[1]["training.lr"]
    assert definition.run_config(listed[4], 2, 0, Path("/nowhere/p2-c04-s0"))["learner"]["name"] == "finetune"


RIVALS = [name for name in ccsi.config.choices("experiment") if name.startswith("rivals/")]


@pytest.mark.parametrize("experiment", RIVALS)
def test_an_experiment_may_say_what_a_sweep_of_it_is(experiment: str) -> None:
    """Its space takes the default's keys out (null) and compares every learner, on the same number of settings."""
    path = ["dataset.path=somewhere"] if "pbcblood" in experiment else []
    tree = ccsi.config.load([f"experiment={experiment}", *path], name="sweep")
    (dimension,) = parse(tree["sweep"]["space"])
    assert (dimension.key, dimension.kind) == ("learner", "each")
    assert sorted(dimension.values) == list(ccsi.config.choices("learner"))
    assert "sweep" not in ccsi.config.load([f"experiment={experiment}", *path])


def test_every_learner_has_the_same_number_of_tries() -> None:
    definition = compose(["experiment=rivals/digits"])
    learners = list(ccsi.config.choices("learner"))
    assert Counter(values["learner"] for values in definition.listed_configs()) == dict.fromkeys(learners, 6)
    quick = ["experiment=rivals/pbcblood_quick", "dataset.path=somewhere"]
    tree = ccsi.config.load(quick, name="sweep")
    changes = {"sweep": tree["sweep"], "resources": tree["resources"], "ray": tree["ray"]}
    untuned = define(changes, {key: dict(base) for key, base in definition.bases.items()}, quick, check=False)
    assert untuned.listed_configs() == [{"learner": learner} for learner in untuned.space[0].values]


@pytest.mark.parametrize("experiment", RIVALS)
def test_a_comparisons_recipes_are_those_of_the_experiment_it_builds_on(experiment: str) -> None:
    text = (ccsi.config.config_dir() / f"experiment/{experiment}.yaml").read_text()
    base = next(line.partition("/experiment/")[2] for line in text.splitlines() if "- /experiment/" in line)
    there, here = (ccsi.config.config_dir() / "recipe" / name for name in (base, experiment))
    assert {path.name: path.read_text() for path in here.iterdir()} == {p.name: p.read_text() for p in there.iterdir()}
    for learner in ("ccsi", "acil"):
        one, other = (ccsi.config.load([f"experiment={name}", f"learner={learner}"]) for name in (base, experiment))
        assert base.startswith("quick") or other["training"]["select"] == "last"  # as SI must
        for config in (one, other):  # what a comparison sets itself
            config["threads"], config["dataset"]["max_per_class"], config["training"]["select"] = 1, None, "last"
        assert one == other


def test_an_entry_of_the_space_can_be_typed() -> None:
    definition = compose(
        ["sweep.space.learner.w_idc=null", "sweep.space.training.lr={choice: [0.1]}", "~sweep.space.learner.w_margin"]
    )
    assert [d.key for d in definition.space][-1] == "training.lr" and len(definition.space) == 4
    rivals = ["experiment=rivals/digits", "sweep.space.learner={each: {icarl: null, ccsi: null}}"]
    assert [values["learner"] for values in compose(rivals).listed_configs()] == ["icarl", "ccsi"]
    fewer = [
        "~sweep.space.learner.each.ccsi",
        "sweep.space.learner.each.lwf={learner.temperature: {choice: [1.0, 2.0]}}",
    ]
    listed = compose([*rivals, *fewer]).listed_configs()
    assert sorted((values["learner"], values.get("learner.temperature")) for values in listed) == [
        ("icarl", None), ("lwf", 1.0), ("lwf", 2.0)
    ]  # fmt: skip


def test_a_typed_space_replaces_the_shipped_one() -> None:
    definition = compose([space("learner.w_idc: {choice: [0.0, 1.0]}, training.lr: {loguniform: [0.01, 0.1]}")])
    assert [d.key for d in definition.space] == ["learner.w_idc", "training.lr"]
    values = {"learner.w_idc": 0.0, "training.lr": 0.05}
    config = definition.config(values)
    assert (config["learner"]["w_idc"], config["training"]["lr"]) == (0.0, 0.05)
    assert definition.bases[""]["training"]["lr"] != 0.05


def test_candidates_that_are_objects_are_not_made(tmp_path: Path) -> None:
    kinds = [{"_target_": "ccsi.learners.ExemplarBudget", one: 20} for one in ("total", "per_class")]
    typed = "learner.budget: {choice: [" + ", ".join(str(kind) for kind in kinds).replace("'", "") + "]}"
    definition = kept(tmp_path, ["learner=icarl", space(typed)])
    budgets = [values["learner.budget"] for values in definition.listed_configs()]
    assert sorted(budgets, key=str) == sorted(kinds, key=str)
    assert resumed(tmp_path, ["ray.num_cpus=1"]).sweep.space == definition.sweep.space
    for entry in ({"choice": ["${name}", "a"]}, {"choice": ["???", "a"]}):
        sections = definition.sections
        sections["sweep"]["space"]["name"] = entry
        assert make_sections(sections)[0].space["name"] == entry


def test_a_config_group_is_swept_with_all_it_brings() -> None:
    definition = compose(
        [space("learner: {grid: [ccsi, ci, finetune]}, training.epochs: {grid: [1, 2]}"), "sweep.search=grid"]
    )
    settings = definition.listed_configs()
    assert len(settings) == 6
    for values in settings:
        config = definition.config(values)
        alone = ccsi.config.load([f"learner={values['learner']}", f"training.epochs={values['training.epochs']}"])
        assert config == alone


def test_a_swept_learner_keeps_what_its_experiment_makes_of_it() -> None:
    experiment = "experiment=quick/digits"
    definition = compose([experiment, space("learner: {grid: [ccsi, joint]}")])
    for values in definition.listed_configs():
        alone = ccsi.config.load([experiment, f"learner={values['learner']}"])
        assert definition.config(values) == alone


def test_threads_follow_the_trials_cpus() -> None:
    folder = Path("/nowhere/x")
    assert compose(["threads=2"]).cpus() == 2
    assert compose(["threads=2", "resources.cpu=3"]).run_config({}, 1, 0, folder)["threads"] == 3
    assert compose(["resources.cpu=0.5"]).run_config({}, 1, 0, folder)["threads"] == 1
    assert compose(["resources.gpu=0.25"]).run_config({}, 1, 0, folder)["device"] == "cuda"
    assert compose([]).run_config({}, 1, 0, folder)["device"] == "cpu"


def kept(tmp_path: Path, overrides: list[str]) -> Any:
    definition = with_folder(compose(overrides), tmp_path)
    (tmp_path / "sweep.yaml").write_text(definition.dump())
    return definition


def test_what_is_kept_is_read_back_the_same(tmp_path: Path) -> None:
    typed = ["training.lr=1e-5", space("learner: {grid: [ccsi, finetune]}, training.epochs: {choice: [1, 3]}")]
    definition = kept(tmp_path, typed)
    again = read_definition(tmp_path)
    assert again == definition
    assert again.listed_configs() == definition.listed_configs()


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("sweep.num_samples=5", "sweep.num_samples was 6"),
        ("sweep.seeds.tuning=[9]", "sweep.seeds.tuning"),
        ("training.lr=0.3", "training.lr was 0.02"),
        ("learner=finetune", "learner."),
        (space("training.epochs: {choice: [1]}"), "sweep.space.training.epochs.choice"),
        ("resources.cpu=2", "resources.cpu"),
    ],
)
def test_a_resumed_sweep_refuses_a_changed_definition(tmp_path: Path, override: str, key: str) -> None:
    kept(tmp_path, ["training.lr=0.02", "sweep.num_samples=6", space("training.epochs: {choice: [1, 2]}")])
    with pytest.raises(UserError) as caught:
        resumed(tmp_path, [override])
    assert key in str(caught.value)


def test_a_resumed_sweep_may_change_where_it_runs_and_how_far(tmp_path: Path) -> None:
    definition = kept(tmp_path, ["training.lr=0.02", "sweep.dir=elsewhere"])
    assert resumed(tmp_path, []) == definition
    far = ["sweep.budget.trials=3", "sweep.budget.hours=0.5"]
    again = resumed(tmp_path, [*far, "ray.num_cpus=1", "sweep.max_concurrent=1", "sweep.dir=elsewhere"])
    assert (again.sweep.budget.trials, again.sweep.budget.hours) == (3, 0.5)
    assert (again.ray.num_cpus, again.sweep.max_concurrent) == (1, 1)
    assert again.bases == definition.bases


def test_a_folder_that_holds_no_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no sweep\.yaml"):
        read_definition(tmp_path)
    (tmp_path / "sweep.yaml").write_text("schema: [")
    with pytest.raises(UserError, match="cannot be read"):
        read_definition(tmp_path)
    whole = compose([]).dump()
    for end in (whole.index("bases:") + 6, whole.index("bases:") + 200):
        (tmp_path / "sweep.yaml").write_text(whole[:end])
        with pytest.raises(UserError, match=r"cannot be read|expected"):
            read_definition(tmp_path)
