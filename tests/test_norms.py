"""Norms against their definitions, brute force and numpy, over every norm, far-away scales included."""

import numpy as np
import pytest
import torch

from helpers.inputs import NORMS, check_norm
from helpers.norms import dual, expand, length, project, random_in_ball, steepest, unit_l2

BALLS = ("l2", "linf")  # of the norms that can be projected to
ORDER = {"l2": 2, "linf": np.inf, "l1": 1}
SCALES = [1e-37, 1e-30, 1e-3, 1.0, 1e30, 1e36]  # the squares of most leave float32
SHAPE = (1, 6, 6)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=seeded(seed), dtype=dtype)


def inner(g, u):
    return (g * u).flatten(1).sum(dim=1)


# length and its dual


@pytest.mark.parametrize("shape", [(5, 7), (5, *SHAPE), (5, 1)])
@pytest.mark.parametrize("norm", NORMS)
def test_the_length_is_that_of_numpy(norm, shape):
    v = normal(*shape)
    expected = [np.linalg.norm(one.numpy().ravel(), ORDER[norm]) for one in v]
    assert length(v, norm).shape == (5,)
    np.testing.assert_allclose(length(v, norm), expected, rtol=1e-12)


def test_a_length_is_in_l2_unless_another_norm_is_named():
    v = torch.tensor([[3.0, -4.0]])
    assert length(v).item() == 5
    assert (length(v, "linf").item(), length(v, "l1").item()) == (4, 7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("norm", NORMS)
def test_a_length_neither_overflows_nor_underflows(norm, scale, dtype):
    v = normal(5, *SHAPE, dtype=dtype)
    torch.testing.assert_close(length(v * scale, norm) / scale, length(v, norm), rtol=1e-5, atol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_the_length_of_zero_is_zero_beside_other_samples(norm):
    assert length(torch.tensor([[0.0, 0.0], [0.0, -2.0]]), norm).tolist() == [0, 2]


def test_l2_is_its_own_dual_and_the_others_are_each_others():
    assert {norm: dual(norm) for norm in NORMS} == {"l2": "l2", "linf": "l1", "l1": "linf"}


@pytest.mark.parametrize("norm", NORMS)
def test_no_direction_beats_the_dual_norm_and_the_best_of_many_comes_near(norm):
    """In three dimensions 200,000 directions come within a percent of the best one."""
    g, u = normal(4, 3, seed=1), normal(200_000, 3, seed=2)
    if norm == "linf":
        u = u.sign() * normal(200_000, 3, seed=3).abs().clamp_max(1)
    u = u / expand(length(u, norm), u)
    found = (g @ u.T).amax(dim=1)
    assert (found <= length(g, dual(norm)) * (1 + 1e-12)).all()
    assert (found > 0.99 * length(g, dual(norm))).all()


# the steepest direction


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("norm", NORMS)
def test_the_steepest_direction_has_length_1_and_attains_the_dual_norm(norm, scale, dtype):
    g = normal(5, *SHAPE, dtype=dtype)
    u = steepest(g * scale, norm)
    assert (u.shape, u.dtype) == (g.shape, dtype)
    torch.testing.assert_close(length(u, norm), torch.ones(5, dtype=dtype), rtol=1e-5, atol=0)
    torch.testing.assert_close(inner(g, u), length(g, dual(norm)), rtol=1e-5, atol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_no_direction_of_length_1_is_steeper(norm):
    g = normal(6, 4, seed=4)
    steep = inner(g, steepest(g, norm))
    for seed in range(200):
        u = normal(6, 4, seed=seed) ** 3  # also near the axes
        assert (inner(g, u / expand(length(u, norm), u)) <= steep + 1e-12).all()


def test_the_steepest_directions_of_a_gradient_written_out():
    g = torch.tensor([[[[3.0, -4.0]]], [[[0.0, 2.0]]]])
    torch.testing.assert_close(steepest(g), torch.tensor([[[[0.6, -0.8]]], [[[0.0, 1.0]]]]))
    assert torch.equal(steepest(g, "linf"), torch.tensor([[[[1.0, -1.0]]], [[[0.0, 1.0]]]]))
    assert torch.equal(steepest(g, "l1"), torch.tensor([[[[0.0, -1.0]]], [[[0.0, 1.0]]]]))


@pytest.mark.parametrize("norm", NORMS)
def test_the_steepest_direction_of_zero_is_zero_beside_other_samples(norm):
    u = steepest(torch.stack([torch.zeros(3), torch.tensor([0.0, 0.0, 5.0])]), norm)
    assert u.tolist() == [[0, 0, 0], [0, 0, 1]]


def test_of_equal_entries_l1_moves_the_first_alone():
    g = torch.tensor([[1.0, -2.0, 2.0, -2.0], [-3.0, 3.0, 3.0, 3.0]])
    assert steepest(g, "l1").tolist() == [[0, -1, 0, 0], [-1, 0, 0, 0]]


@pytest.mark.parametrize("norm", NORMS)
def test_a_steepest_direction_belongs_to_its_sample_alone(norm):
    g = normal(9, *SHAPE) * expand(torch.tensor([1e-8, 1.0, 1e8], dtype=torch.float64).repeat(3), normal(9, *SHAPE))
    alone = torch.cat([steepest(one[None], norm) for one in g])
    torch.testing.assert_close(steepest(g, norm), alone, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", SCALES)
def test_unit_l2_keeps_the_direction_at_any_scale(scale, dtype):
    v = normal(5, *SHAPE, dtype=dtype)
    torch.testing.assert_close(unit_l2(v * scale), v / expand(length(v), v), rtol=1e-4, atol=1e-6)


def test_unit_l2_of_zero_is_zero_beside_other_samples():
    v = torch.stack([torch.zeros(3), torch.tensor([0, 3.0, 4.0])])
    assert unit_l2(v).tolist() == [[0, 0, 0], [0, pytest.approx(0.6), pytest.approx(0.8)]]


# the ball


def test_projection_moves_only_what_is_outside():
    v = torch.tensor([[0.3, 0.4], [3.0, 4.0], [0.0, 0.0], [0.1, -2.0]])
    for norm in BALLS:
        assert torch.equal(project(v, 1.0, norm)[[0, 2]], v[[0, 2]])
        assert (project(v, 0.0, norm) == 0).all()
    torch.testing.assert_close(project(v, 1.0)[1], torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(project(v, 1.0, "linf")[[1, 3]], torch.tensor([[1.0, 1.0], [0.1, -1.0]]))


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("norm", BALLS)
def test_no_point_of_the_ball_is_nearer_than_the_projection(norm, scale):
    v, eps = scale * normal(6, 3, seed=5), 0.7
    nearest = project(v, eps, norm)
    assert (length(nearest, norm) <= eps * (1 + 1e-12)).all()
    torch.testing.assert_close(project(nearest, eps, norm), nearest)
    for seed in range(200):
        u = normal(6, 3, seed=seed)
        inside = u * expand(eps * torch.rand(6, generator=seeded(seed), dtype=u.dtype) / length(u, norm), u)
        assert (length(v - nearest) <= length(v - inside) + 1e-12).all()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("norm", BALLS)
def test_projection_works_at_any_scale(norm, scale):
    v = normal(5, *SHAPE, dtype=torch.float32) * scale
    inside = length(v, norm) <= 1
    projected = project(v, 1.0, norm)
    assert torch.equal(projected[inside], v[inside])
    torch.testing.assert_close(length(projected[~inside], norm), torch.ones((~inside).sum()), rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", BALLS)
def test_random_points_lie_in_the_ball_and_fill_it(norm, dtype):
    like = torch.zeros(4000, 1, 1, 3, dtype=dtype)
    points = random_in_ball(like, 2.0, norm, seeded())
    size = length(points, norm)
    assert (points.shape, points.dtype) == (like.shape, dtype)
    assert size.max() <= 2 * (1 + 1e-5) and size.max() > 1.9
    assert size.min() < (0.1 if norm == "l2" else 0.3)
    flat = points.flatten(1)
    assert flat.mean(dim=0).abs().max() < 0.08, "one side is preferred"
    assert (flat > 0).double().mean(dim=0).sub(0.5).abs().max() < 0.04
    if norm == "l2":  # the radius is uniform in [0, 2], the direction independent of it
        torch.testing.assert_close(size.double().quantile(torch.tensor([0.25, 0.5, 0.75]).double()),
                                   torch.tensor([0.5, 1.0, 1.5]).double(), rtol=0, atol=0.08)  # fmt: skip
        u = unit_l2(flat)
        torch.testing.assert_close(u.T @ u / 4000, torch.eye(3, dtype=dtype) / 3, rtol=0, atol=0.03)
    else:  # every pixel is uniform in [-2, 2], independent of the others
        torch.testing.assert_close(flat.T @ flat / 4000, torch.eye(3, dtype=dtype) * 4 / 3, rtol=0, atol=0.08)
        assert flat.max() > 1.98 and flat.min() < -1.98


@pytest.mark.parametrize("norm", BALLS)
def test_random_points_depend_on_the_generator_and_on_nothing_else_that_is_random(norm):
    like, state = torch.zeros(3, 4), torch.get_rng_state()
    first = random_in_ball(like, 1.0, norm, seeded(1))
    assert torch.equal(random_in_ball(like, 1.0, norm, seeded(1)), first)
    assert not torch.equal(random_in_ball(like, 1.0, norm, seeded(2)), first)
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    assert len(first.unique(dim=0)) == 3, "samples get the same point"
    assert (random_in_ball(like, 0.0, norm, seeded()) == 0).all()


# names of norms


def test_a_value_per_sample_multiplies_its_sample():
    v = torch.ones(2, 1, 2, 2)
    assert (expand(torch.tensor([1.0, 3.0]), v) * v).flatten(1).tolist() == [[1] * 4, [3] * 4]
    assert expand(torch.tensor([1.0, 3.0]), torch.ones(2, 5)).shape == (2, 1)


@pytest.mark.parametrize("bad", ["L2", "l3", "", None, 2, "inf"])
@pytest.mark.parametrize("f", [length, steepest, lambda v, norm: dual(norm), lambda v, norm: project(v, 1.0, norm),
                               lambda v, norm: random_in_ball(v, 1.0, norm), lambda v, norm: check_norm(norm)])  # fmt: skip
def test_a_norm_of_another_name_is_refused(f, bad):
    with pytest.raises(ValueError, match=f"norm must be one of l2, linf.*, not {bad!r}"):
        f(torch.ones(2, 3), bad)


@pytest.mark.parametrize("f", [project, random_in_ball])
def test_the_l1_ball_is_not_among_those_projected_to(f):
    with pytest.raises(ValueError, match="norm must be one of l2, linf, not 'l1'"):
        f(torch.ones(2, 3), 1.0, "l1")
