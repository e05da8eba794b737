"""Every figure against tables computed by hand, brute-force loops, scikit-learn and MedMNIST's own evaluator."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, recall_score, roc_auc_score

from ccsi.evaluation import metrics

R = [[0.9], [0.5, 0.8], [0.6, 0.3, 1.0]]

matrices = st.integers(1, 5).flatmap(
    lambda n: st.tuples(*(st.lists(st.floats(0, 1), min_size=i + 1, max_size=i + 1) for i in range(n)))
)


@pytest.mark.parametrize(
    ("figure", "r", "wanted"),
    [
        (metrics.forgetting, R, ((0.9 - 0.6) + (0.8 - 0.3)) / 2),
        (metrics.forgetting, [[0.4], [0.7, 1.0]], -0.3),  # a task may be better in the end
        (metrics.forgetting, [[0.2], [0.9, 0.5], [0.6, 0.5, 0.1]], ((0.9 - 0.6) + 0) / 2),  # the best is in between
        (metrics.forgetting_nonnegative, R, 0.4),
        (metrics.forgetting_nonnegative, [[0.4], [0.7, 1.0]], 0.0),
        (metrics.backward_transfer, R, ((0.6 - 0.9) + (0.3 - 0.8)) / 2),
        (metrics.backward_transfer, [[0.4], [0.7, 1.0]], 0.3),
        (metrics.forgetting, [[0.4]], 0.0),
        (metrics.forgetting_nonnegative, [[0.4]], 0.0),
        (metrics.backward_transfer, [[0.4]], 0.0),
    ],
)
def test_by_hand(figure, r, wanted):
    assert figure(r) == pytest.approx(wanted)


def test_forward_transfer_by_hand():
    assert metrics.forward_transfer(R, [0.0, 0.9, 0.7]) == pytest.approx(((0.8 - 0.9) + (1.0 - 0.7)) / 2)
    assert metrics.forward_transfer([[0.4]], [0.1]) == 0.0


@given(matrices)
def test_forward_transfer_is_how_much_more_is_learned_at_once(r):
    diagonal = [row[-1] for row in r]
    assert metrics.forward_transfer(r, diagonal) == 0
    shifted = metrics.forward_transfer(r, [value - 0.25 for value in diagonal])
    assert shifted == pytest.approx(0.25 if len(r) > 1 else 0)


def test_recall_per_class_is_scikit_learns():
    rng = np.random.default_rng(0)
    truth, guess = rng.integers(0, 4, 60), rng.integers(0, 4, 60)
    confusion = np.zeros((4, 4), int)
    np.add.at(confusion, (truth, guess), 1)
    assert metrics.recall_per_class(confusion) == pytest.approx(recall_score(truth, guess, average=None).tolist())
    assert metrics.recall_per_class([[3, 1], [0, 4]]) == [0.75, 1.0]
    assert np.isnan(metrics.recall_per_class([[3, 1], [0, 0]])[1])


@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(0, 10**6), st.data())
def test_macro_over_classes_is_scikit_learns_balanced_accuracy(sizes, seed, data):
    n, rng = sum(sizes), np.random.default_rng(seed)
    present = data.draw(
        st.lists(st.integers(0, n - 1), min_size=min(n, 2), unique=True)
    )  # the other classes have no images
    truth = np.concatenate([present, rng.choice(present, 30)])
    guess = rng.choice(present, len(truth))  # scikit-learn warns of guesses that are no class
    confusion = np.zeros((n, n), int)
    np.add.at(confusion, (truth, guess), 1)
    got = metrics.figures([confusion], [n], [0.5])
    assert got["macro_over_classes"] == pytest.approx(balanced_accuracy_score(truth, guess))
    assert got["macro_over_tasks"] == pytest.approx((truth == guess).mean())  # one task


def test_the_two_macros_differ_where_tasks_or_classes_differ_in_size():
    got = metrics.figures([[[10, 0, 0], [0, 30, 0], [5, 0, 5]]], [3], [0.5])
    assert (got["macro_over_tasks"], got["macro_over_classes"]) == (45 / 50, (1 + 1 + 0.5) / 3)
    got = metrics.figures([[[1]], [[10, 0, 0], [0, 30, 0], [5, 0, 5]]], [1, 2], [0.5, 0.5])
    assert got["macro_over_tasks"] == (1 + 35 / 40) / 2 and got["macro_over_classes"] == (1 + 1 + 0.5) / 3
    assert np.isnan(metrics.macro_over_classes([float("nan")]))


@given(matrices)
def test_the_definitions_bound_each_other(r):
    assert metrics.forgetting_nonnegative(r) >= max(0.0, metrics.forgetting(r)) - 1e-12
    assert metrics.forgetting(r) >= -metrics.backward_transfer(r) - 1e-12  # the diagonal is one of the rows
    assert -1 <= metrics.backward_transfer(r) <= 1


@given(matrices)
def test_forgetting_is_the_formula(r):
    last = len(r) - 1
    drops = []
    for j in range(last):
        best = -1.0
        for i in range(last):  # i < T, in rows where task j was known
            if len(r[i]) > j:
                best = max(best, r[i][j])
        drops.append(best - r[last][j])
    assert metrics.forgetting(r) == pytest.approx(sum(drops) / len(drops) if drops else 0)


CONFUSIONS = [
    [[8, 2], [1, 9]],
    [[5, 2, 3], [0, 6, 4], [1, 1, 18]],
]


def test_figures_of_a_run_by_hand():
    got = metrics.figures(CONFUSIONS, [2, 1], [0.9, 0.8])
    assert got["accuracy_matrix"] == [[17 / 20], [11 / 20, 18 / 20]]
    assert got["accuracy_after_task"] == [17 / 20, 29 / 40]
    assert got["micro"] == 29 / 40
    assert got["macro_over_tasks"] == pytest.approx((11 / 20 + 18 / 20) / 2)
    assert got["macro_over_classes"] == pytest.approx((5 / 10 + 6 / 10 + 18 / 20) / 3)
    assert got["average_incremental"] == pytest.approx((17 / 20 + 29 / 40) / 2)
    assert got["forgetting"] == pytest.approx(6 / 20) and got["backward_transfer"] == pytest.approx(-6 / 20)
    assert got["forgetting_nonnegative"] == pytest.approx(6 / 20)
    assert got["auc"] == 0.8 and got["auc_after_task"] == [0.9, 0.8] and got["confusion"] == CONFUSIONS
    assert json.loads(json.dumps(got)) == got
    assert set(metrics.EMPTY) == set(got) and set(metrics.EMPTY.values()) == {None}
    assert list(metrics.SCALARS) == [name for name, value in got.items() if isinstance(value, float)]


@settings(deadline=None)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(0, 10**6))
def test_accuracy_row_and_micro_are_counts_over_images(sizes, seed):
    rng = np.random.default_rng(seed)
    n = sum(sizes)
    truth = np.concatenate([np.arange(n), rng.integers(0, n, 30)])
    guess = rng.integers(0, n, len(truth))
    confusion = [[int(((truth == a) & (guess == b)).sum()) for b in range(n)] for a in range(n)]
    task_of = [task for task, size in enumerate(sizes) for _ in range(size)]
    row = []
    for task in range(len(sizes)):
        of_task = [(t, g) for t, g in zip(truth, guess, strict=True) if task_of[t] == task]
        row.append(sum(t == g for t, g in of_task) / len(of_task))
    assert metrics.accuracy_row(confusion, sizes) == pytest.approx(row)
    assert metrics.accuracy_row(confusion, [*sizes, 2]) == pytest.approx(row)  # a task still to come
    assert metrics.micro(confusion) == pytest.approx((truth == guess).mean())
    assert metrics.mean(row) == pytest.approx(sum(row) / len(row))


@settings(deadline=None)
@given(st.integers(2, 5), st.integers(0, 10**6))
def test_auc_is_scikit_learns_one_against_rest(n, seed):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(n), rng.integers(0, n, 20)])
    scores = rng.dirichlet(np.ones(n), len(labels))
    wanted = roc_auc_score(labels, scores if n > 2 else scores[:, 1], multi_class="ovr")
    assert metrics.auc(labels, scores) == pytest.approx(wanted)


def test_auc_of_classes_without_images():
    scores = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.6, 0.3, 0.1]])
    assert metrics.auc(np.array([0, 1, 0]), scores) == 1.0  # the mean over the two that have images
    assert np.isnan(metrics.auc(np.array([0, 0, 0]), scores))


@pytest.mark.slow  # importing medmnist takes seconds, in a process of its own
def test_auc_and_acc_are_medmnists_own(tmp_path):
    rng = np.random.default_rng(0)
    cases = []
    for n in (2, 3, 8):
        labels = np.concatenate([np.arange(n), rng.integers(0, n, 40)])
        cases.append((labels.tolist(), rng.dirichlet(np.ones(n), len(labels)).tolist()))
    script = (
        "import json, sys, numpy as np; from medmnist.evaluator import getACC, getAUC\n"
        "out = [(getAUC(np.array(y)[:, None], np.array(s), 'multi-class'),"
        " getACC(np.array(y)[:, None], np.array(s), 'multi-class')) for y, s in json.load(sys.stdin)]\n"
        "print(json.dumps(out))"
    )
    home = os.environ | {"HOME": str(tmp_path)}  # importing medmnist makes a folder in the home folder
    done = subprocess.run(
        [sys.executable, "-c", script], input=json.dumps(cases), env=home, capture_output=True, text=True, check=True
    )
    for (labels, scores), (auc, acc) in zip(cases, json.loads(done.stdout.splitlines()[-1]), strict=True):
        assert metrics.auc(np.array(labels), np.array(scores)) == pytest.approx(auc)
        confusion = np.zeros((len(scores[0]),) * 2, int)
        np.add.at(confusion, (labels, np.argmax(scores, 1)), 1)
        assert metrics.micro(confusion) == pytest.approx(acc)
