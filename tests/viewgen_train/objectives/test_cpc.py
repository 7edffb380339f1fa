"""CPC v2 against a double loop over its loss, and what its context may see."""

import pytest
import torch

from viewgen.errors import UsageError
from viewgen_train.objectives.cpc import CPC, Context, CPCSettings, cpc
from viewgen_train.objectives.objective import Outputs, Widths
from viewgen_train.resolve import train_settings

N, R, D, F = 2, 4, 3, 5


def vectors(*shape, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=random, dtype=torch.float64)


def loop(predictions, targets, offset):
    """The loss, prediction by prediction, against every patch of the batch."""
    everyone = [targets[n, r, c] for n in range(N) for r in range(R) for c in range(R)]
    losses = []
    for n in range(N):
        for row in range(R - offset):
            for column in range(R):
                exponentials = [torch.exp(0.1 * predictions[n, row, column] @ other) for other in everyone]
                below = torch.exp(0.1 * predictions[n, row, column] @ targets[n, row + offset, column])
                losses.append(-torch.log(below / sum(exponentials)))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("offset", [1, 2, 3])
def test_the_loss_is_its_equation(offset):
    predictions = (5 * vectors(N, R, R, D)).requires_grad_()
    targets = vectors(N, R, R, D, seed=1).requires_grad_()
    loss, expected = cpc(predictions, targets, offset), loop(predictions, targets, offset)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-13)
    ours, theirs = (torch.autograd.grad(value, (predictions, targets)) for value in (loss, expected))
    for gradient, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-10, atol=1e-13)
        assert float(gradient.abs().max()) > 1e-4


def test_the_context_of_a_patch_sees_the_rows_up_to_its_own():
    torch.manual_seed(0)
    context = Context(F, 4, 2).double()
    patches = vectors(1, R, R, F).requires_grad_()
    # one block sees one row more, so that two blocks see two rows above
    (seen,) = torch.autograd.grad(context(patches)[0, 2, 1].sum(), patches)
    rows = seen[0].abs().sum(dim=(1, 2)) > 0
    assert rows.tolist() == [True, True, True, False]


def test_the_loss_of_a_view_is_the_mean_over_its_offsets():
    objective = CPC(CPCSettings(patches=R, first_offset=2, last_offset=3, context_width=4, context_blocks=1))
    torch.manual_seed(0)
    objective.allocate(Widths(features=F, projections=D))
    patches, targets = vectors(1, N, R * R, F).float(), vectors(1, N, R * R, D, seed=1).float()
    out = Outputs(z=targets.mean(dim=2), patches=patches, patch_projections=targets)
    context = objective.context(patches[0].unflatten(1, (R, R)))
    grid = targets[0].unflatten(1, (R, R))
    losses = [loop(predict(context), grid, 2 + i) for i, predict in enumerate(objective.predictors)]
    torch.testing.assert_close(objective.loss(out)["loss"], (losses[0] + losses[1]) / 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"last_offset": 7}, "offsets are 2 to 7 rows of 7"),
        ({"first_offset": 5}, "first_offset ≤ last_offset"),
        ({"batchnorm": "separate"}, "objective 'cpc' has layer normalisation"),
        ({"projector_hidden": 4}, "has a projector without hidden layers"),
        ({"assimilation": "A1"}, "cannot bear A1: it contrasts the patches of one view"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        train_settings("digits", {"assimilation": "none", "objective": "cpc", **settings})
