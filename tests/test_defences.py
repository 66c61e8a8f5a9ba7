"""What withstands a list of attacks."""

import pytest
import torch

from helpers import defences


def stands(x, y):
    return x.flatten() < 10 * (y + 1)


def add(amount, seen):
    def attack(x, y):
        seen.append(x.flatten().tolist())
        return x + amount

    return attack


def test_a_sample_has_to_withstand_every_attack_and_meets_the_next_only_while_it_does():
    x, y = torch.tensor([[1.0], [6.0], [9.0], [12.0]]), torch.tensor([0, 0, 0, 1])
    seen = []
    alive = defences.withstanding([add(2, seen), add(5, seen)], stands, torch.tensor([True] * 4), x, y)
    assert alive.tolist() == [True, False, False, True]
    assert seen == [[1, 6, 9, 12], [1, 6, 12]]


def test_what_was_lost_before_stays_lost_and_the_argument_is_left_alone():
    before = torch.tensor([False, True])
    after = defences.withstanding([add(-5, [])], stands, before, torch.tensor([[1.0], [2.0]]), torch.tensor([0, 0]))
    assert after.tolist() == [False, True] and before.tolist() == [False, True]


def test_no_attack_is_made_where_nothing_is_left():
    seen = []
    alive = defences.withstanding(
        [add(100, seen), add(1, seen)], stands, torch.tensor([True]), torch.ones(1, 1), torch.tensor([0])
    )
    assert alive.tolist() == [False] and len(seen) == 1


def test_further_values_per_sample_follow_their_samples():
    def attack(x, y, amount):
        return x + amount[:, None]

    amounts = torch.tensor([50.0, 0.0])
    alive = defences.withstanding(
        [attack] * 2, stands, torch.tensor([True, True]), torch.ones(2, 1), torch.tensor([0, 0]), amounts
    )
    assert alive.tolist() == [False, True]


@pytest.mark.parametrize("alive", [torch.tensor([1, 1]), torch.tensor([True])])
def test_what_does_not_fit_together_is_refused(alive):
    with pytest.raises(ValueError, match="alive must be bool"):
        defences.withstanding([], stands, alive, torch.ones(2, 1), torch.tensor([0, 0]))
