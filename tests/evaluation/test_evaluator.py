"""The evaluator against a loop over single images."""

from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from ccsi.data import Labelled
from ccsi.errors import UserError
from ccsi.evaluation import Evaluator, metrics
from ccsi.evaluation.evaluator import log_odds

PLAN = [[2, 0], [3, 1, 4]]


class ByBrightness:
    """Scores from the pixels alone; keeps every batch it was handed."""

    def __init__(self) -> None:
        self.n_seen, self.kept = 2, []

    def scores(self, images):
        self.kept.append(images)
        assert images.dtype == torch.float32 and images.min() >= 0 and images.max() <= 1
        centre = torch.linspace(0.1, 0.9, self.n_seen)
        return -((images.mean((1, 2, 3))[:, None] - centre) ** 2) * 40


@pytest.fixture
def split() -> Labelled:
    g = torch.Generator().manual_seed(0)
    labels = torch.cat([torch.arange(5), torch.randint(5, (60,), generator=g)])
    images = torch.randint(0, 256, (65, 1, 4, 4), generator=g) * (labels[:, None, None, None] + 1) // 5
    return Labelled(images.to(torch.uint8), labels)


def test_counts_and_auc_equal_a_loop_over_images(split):
    evaluator, learner = Evaluator(split, PLAN, torch.device("cpu"), batch=7), ByBrightness()
    for n_seen in (2, 5):
        learner.n_seen = n_seen
        order = [c for classes in PLAN for c in classes][:n_seen]
        counts = [[0] * n_seen for _ in order]
        truth, chances = [], []
        for image, label in zip(split.images, split.labels.tolist(), strict=True):
            if label in order:
                scores = learner.scores(image[None] / 255)[0].double().numpy()
                counts[order.index(label)][int(scores.argmax())] += 1
                truth.append(order.index(label))
                chances.append(np.exp(scores) / np.exp(scores).sum())
        evaluator(learner)
        assert evaluator.confusions[-1] == counts
        per_class = [roc_auc_score(np.array(truth) == c, np.array(chances)[:, c]) for c in range(n_seen)]
        assert evaluator.aucs[-1] == pytest.approx(np.mean(per_class))
    figures = evaluator.figures()
    assert [len(row) for row in figures["accuracy_matrix"]] == [1, 2]
    assert sum(map(sum, figures["confusion"][1])) == 65


def test_what_a_learner_keeps_of_the_images_is_wiped(split):
    evaluator, learner = Evaluator(split, PLAN, torch.device("cpu"), batch=16), ByBrightness()
    before = split.images.clone()
    evaluator(learner)
    assert learner.kept and all((images == 0).all() for images in learner.kept)
    assert torch.equal(split.images, before)


def test_continuing_from_a_saved_state(split):
    whole, learner = Evaluator(split, PLAN, torch.device("cpu")), ByBrightness()
    whole(learner)
    rest = Evaluator(split, PLAN, torch.device("cpu"))
    rest.load_state_dict(whole.state_dict())
    learner.n_seen = 5
    whole(learner), rest(learner)
    assert whole.figures() == rest.figures()


def test_the_images_are_not_copied(split):
    assert Evaluator(split, PLAN, torch.device("cpu")).images.images is split.images


def test_auc_ranks_by_probabilities_that_are_0_or_1_as_floats():
    """Against the softmax in 400 decimals."""
    g = torch.Generator().manual_seed(0)
    scores = torch.randn(40, 4, generator=g, dtype=torch.float64) * 300
    labels = torch.arange(40) % 4
    assert (scores.softmax(1) == 0).any()
    with localcontext() as context:
        context.prec, chances = 400, []
        for row in scores.tolist():
            powers = [Decimal(value).exp() for value in row]
            chances.append([power / sum(powers) for power in powers])
    ranks = [[sorted(row[c] for row in chances).index(value[c]) for c in range(4)] for value in chances]
    assert metrics.auc(labels.numpy(), log_odds(scores).numpy()) == metrics.auc(labels.numpy(), np.array(ranks, float))
    torch.testing.assert_close(log_odds(scores / 300), (scores / 300).softmax(1).logit())


def test_a_learner_that_diverged_is_reported(split):
    class Diverged(ByBrightness):
        name = "lwf"

        def scores(self, images):
            return super().scores(images) / 0

    with pytest.raises(
        UserError, match=r"learner=lwf gives scores that are no numbers after task 1: its training diverged"
    ):
        Evaluator(split, PLAN, torch.device("cpu"))(Diverged())
