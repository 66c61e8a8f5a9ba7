"""The OOD attack: Algorithm 1 by hand with torch's own Adamax, the ball, early leaving, errors."""

from functools import partial

import numpy as np
import pytest
import torch

from helpers import attacks, models
from helpers.norms import length, project, steepest


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return models.cnn((8, 8), hidden=16).eval().requires_grad_(False)[:-1]


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 6, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def by_hand(f, x_in, x_init, eps, steps, norm, seed):
    """Algorithm 1 for one batch, by torch.optim.Adamax on the perturbation; the last iterate."""
    wanted, rng = f(x_in).detach(), torch.Generator().manual_seed(seed)
    noise = project(eps * (2 * torch.rand(x_init.shape, generator=rng) - 1), eps, norm)
    delta = ((x_init + noise).clamp(0, 1) - x_init).requires_grad_()
    adamax = torch.optim.Adamax([delta], lr=eps / 100)
    for _ in range(steps):
        x = (x_init + delta.detach()).requires_grad_()
        loss = (f(x) - wanted).square().sum()
        delta.grad = steepest(torch.autograd.grad(loss, x)[0], norm)
        adamax.step()
        with torch.no_grad():
            delta.copy_((x_init + project(delta, eps, norm)).clamp(0, 1) - x_init)
    return (x_init + delta).detach()


@pytest.mark.parametrize(("norm", "eps"), [("l2", 4.0), ("linf", 0.1)])
def test_is_algorithm_1_with_adamax(encoder, images, norm, eps):
    seen = {}

    def keep(step, index, x, error):
        seen[step] = x

    x_in, x_init = images
    attacks.ood_attack(
        *(encoder, x_in, x_init), eps=eps, steps=12, norm=norm, callback=keep, generator=torch.Generator().manual_seed(3)
    )
    torch.testing.assert_close(seen[12], by_hand(encoder, x_in, x_init, eps, 12, norm, 3), atol=2e-5, rtol=0)


@pytest.mark.parametrize(("norm", "eps"), [("l2", 3.0), ("linf", 0.05)])
def test_stays_in_ball_and_range_and_comes_near(encoder, images, norm, eps):
    x_in, x_init = images
    x = attacks.ood_attack(encoder, x_in, x_init, eps=eps, steps=40, norm=norm, generator=torch.Generator().manual_seed(0))
    assert length(x - x_init, norm).max() <= eps * (1 + 1e-5)
    assert x.min() >= 0 and x.max() <= 1 and not x.requires_grad
    before, after = (attacks.mape(encoder(v), encoder(x_in)) for v in (x_init, x))
    assert (after < 0.7 * before).all() and after.median() < 0.4 * before.median()


def test_returns_the_best_iterate_of_each_sample(encoder, images):
    values = []

    def keep(step, index, x, error):
        values.append(attacks.squared_distance(encoder(x), encoder(images[0])))

    x = attacks.ood_attack(encoder, *images, eps=2.0, steps=15, lr=0.3, callback=keep)
    torch.testing.assert_close(attacks.squared_distance(encoder(x), encoder(images[0])), torch.stack(values).amin(dim=0))


def test_finished_samples_leave_and_the_others_are_not_disturbed(encoder, images):
    sizes, where = [], []

    def keep(step, index, x, error):
        sizes.append(len(index))
        where.append(index)

    kwargs = {"eps": 4.0, "steps": 40}
    x = attacks.ood_attack(encoder, *images, stop=0.03, callback=keep, generator=torch.Generator().manual_seed(0), **kwargs)
    assert sizes[0] == 6 and sizes[-1] < 6 and sorted(sizes, reverse=True) == sizes
    errors = attacks.mape(encoder(x), encoder(images[0]))
    gone = torch.ones(6, dtype=torch.bool)
    gone[where[-1]] = False
    assert gone.any() and (errors[gone] < 0.03).all()
    if (~gone).any():
        alone = attacks.ood_attack(encoder, *images, generator=torch.Generator().manual_seed(0), **kwargs)
        assert (attacks.mape(encoder(alone), encoder(images[0])) <= errors + 1e-4).all()


def test_one_start_for_all_and_batches_of_any_size(images):
    torch.manual_seed(0)
    encoder = models.cnn((8, 8), hidden=16).double().eval()[:-1]  # float32's rounding grows where a gradient is near 0
    x_in, x_init = images[0].double(), images[1, 0].double()
    whole = attacks.ood_attack(encoder, x_in, x_init, eps=2.0, steps=8, generator=torch.Generator().manual_seed(0))
    named = []
    parts = attacks.ood_attack(
        *(encoder, x_in, x_init),
        eps=2.0,
        steps=8,
        batch_size=2,
        generator=torch.Generator().manual_seed(0),
        callback=lambda step, index, x, error: named.extend(index.tolist()),
    )
    torch.testing.assert_close(whole, parts, atol=1e-5, rtol=0)
    assert sorted(set(named)) == list(range(6))


def test_another_loss_goes_past_the_codes(encoder, images):
    def score(x):
        return encoder(x).sum(dim=1)

    x_in, x_init = images
    matched = attacks.ood_attack(score, x_in, x_init, eps=3.0, steps=30, stop=1e-4)
    past = attacks.ood_attack(score, x_in, x_init, eps=3.0, steps=30, loss=lambda z, z_in: -z)
    assert (score(past) > score(matched)).all()


def test_schedule_scales_the_rate(encoder, images):
    still = attacks.ood_attack(encoder, *images, eps=1.0, steps=3, schedule=lambda share: 0.0, batch_size=6)
    assert length(still - images[1]).max() <= 1.0001 and length(still - images[1]).min() > 0.5
    shares = []
    attacks.ood_attack(encoder, *images, eps=1.0, steps=4, schedule=lambda share: shares.append(share) or 1.0, batch_size=6)
    assert shares == [0, 0.25, 0.5, 0.75]


def test_float64_and_restored_training_mode(images):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(), torch.nn.Linear(3072, 5)).double().train()
    x = attacks.ood_attack(network, *images.double(), eps=1.0, steps=3)
    assert x.dtype == torch.float64 and network.training
    assert all(p.grad is None for p in network.parameters())


def test_dropout_is_off_and_gradients_are_on_whatever_the_caller_does(images):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(), torch.nn.Linear(3072, 5))
    how = {"eps": 1.0, "steps": 4}
    found = []
    for training, grad in ((False, True), (True, True), (False, False)):
        network.train(training)
        with torch.set_grad_enabled(grad):
            found.append(attacks.ood_attack(network, *images, generator=torch.Generator().manual_seed(0), **how))
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])


def test_a_gradient_that_is_not_finite_is_named(images):
    def root(x):  # its value is 0, its slope there infinite
        return (x.flatten(1).mean(dim=1, keepdim=True) * 0).sqrt() + x.flatten(1)[:, :2]

    with pytest.raises(ValueError, match="gradient is not finite"):
        attacks.ood_attack(root, *images, eps=1.0, steps=2)


def test_mape_is_the_papers(images):
    z, z_in = np.array([[1.0, -2.0, 4.0]]), np.array([[2.0, -4.0, 4.0]])
    assert attacks.mape(torch.tensor(z), torch.tensor(z_in)).item() == pytest.approx(np.abs(z - z_in).mean() / 4)
    assert attacks.mape(torch.tensor([3.0]), torch.tensor([2.0])).item() == pytest.approx(0.5)
    assert attacks.mape(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, -4.0]])).item() == pytest.approx(2.5 / 4)
    for a, b in ((torch.zeros(2, 3), torch.zeros(2, 4)), (torch.zeros(0, 3),) * 2, (torch.zeros(2, 3).byte(),) * 2):
        with pytest.raises(ValueError, match="float codes of one shape|must hold 1 samples|must be a float tensor"):
            attacks.mape(a, b)


def test_eight_bit_rounds_to_what_a_png_holds(images):
    saved = (images[0].numpy() * 255).round().astype(np.uint8)
    np.testing.assert_allclose(attacks.eight_bit(images[0]).numpy(), saved / np.float32(255), atol=1e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": -1.0}, "eps"),
        ({"lr": float("nan")}, "lr finite"),
        ({"steps": 0}, "steps"),
        ({"norm": "l1"}, "norm"),
        ({"stop": -0.1}, "stop"),
        ({"x_init": torch.zeros(4, 3, 32, 32)}, "as many as"),
        ({"x_in": torch.full((6, 3, 32, 32), torch.nan)}, "NaN"),
        ({"x_init": torch.full((3, 32, 32), 2.0)}, "image values"),
        ({"encoder": lambda x: x.flatten(1) * torch.inf}, "not finite"),
        ({"encoder": lambda x: x.mean()}, "one code of floats for each"),
        ({"encoder": lambda x: x.flatten(1).argmax(dim=1)}, "one code of floats for each"),
        ({"encoder": lambda x: x.flatten(1).detach()}, "no gradient with respect to x"),
        ({"loss": lambda z, z_in: (z - z_in).sum()}, "one value for each"),
        ({"schedule": lambda share: float("nan")}, "factor must be finite"),
        ({"steps": 2.5}, "whole number"),
        ({"x_init": torch.rand(3, 32, 32).double()}, "as many as"),
    ],
)
def test_errors_say_what_is_wrong(encoder, images, change, message):
    given = {"encoder": encoder, "x_in": images[0], "x_init": images[1], "eps": 1.0} | change
    with pytest.raises(ValueError, match=message):
        partial(attacks.ood_attack, given.pop("encoder"), given.pop("x_in"), given.pop("x_init"))(**given)


@pytest.mark.parametrize(("norm", "eps"), [("l2", 2.0), ("linf", 0.1)])
def test_the_way_begins_where_it_is_told_as_near_as_the_ball_allows(encoder, images, norm, eps):
    seen = {}

    def keep(step, index, x, error):
        seen.setdefault(step, []).append(x)

    x_in, x_init = images
    first = 1 - x_init
    x = attacks.ood_attack(encoder, x_in, x_init, eps=eps, steps=3, norm=norm, first=first, batch_size=4, callback=keep)
    begin = (x_init + project(first - x_init, eps, norm)).clamp(0, 1)
    torch.testing.assert_close(torch.cat(seen[0]), begin)
    assert length(x - x_init, norm).max() <= eps * (1 + 1e-5)
    again = attacks.ood_attack(encoder, x_in, x_init, eps=eps, steps=3, norm=norm, first=first)
    torch.testing.assert_close(again, x)  # nothing is drawn


@pytest.mark.parametrize("first", [torch.rand(6, 3, 32, 16), torch.rand(6, 3, 32, 32).double(), torch.rand(5, 3, 32, 32)])
def test_a_beginning_of_another_shape_or_type_is_refused(encoder, images, first):
    with pytest.raises(ValueError, match="first must be as x_in"):
        attacks.ood_attack(encoder, *images, eps=1.0, steps=1, first=first)
    with pytest.raises(ValueError, match="^first: "):
        attacks.ood_attack(encoder, *images, eps=1.0, steps=1, first=images[0] + 2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_refused(encoder, images, bad):
    def loss(z, z_in):
        return attacks.squared_distance(z, z_in) + bad

    with pytest.raises(ValueError, match="the loss is not finite"):
        attacks.ood_attack(encoder, *images, eps=1.0, steps=2, loss=loss)


@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 32, 32), (3, 16, 16), (32, 32)])
def test_an_initial_image_of_another_size_is_not_stretched(encoder, images, shape):
    with pytest.raises(ValueError, match="x_init"):
        attacks.ood_attack(encoder, images[0], torch.rand(shape), eps=1.0, steps=1)


def test_a_samples_way_is_the_same_when_others_have_left(images):
    torch.manual_seed(0)
    encoder = models.cnn((8, 8), hidden=16).double().eval().requires_grad_(False)[:-1]
    ways = {None: {}, 0.03: {}}
    for stop, way in ways.items():

        def keep(step, index, x, error, way=way):
            way.update({(step, i): v.clone() for i, v in zip(index.tolist(), x, strict=True)})

        generator = torch.Generator().manual_seed(0)
        attacks.ood_attack(encoder, *images.double(), eps=4.0, steps=40, stop=stop, callback=keep, generator=generator)
    assert len(ways[0.03]) < len(ways[None])
    for key, image in ways[0.03].items():
        torch.testing.assert_close(image, ways[None][key])
