"""Input that nothing can be done with is refused on purpose, in words, at every public function."""

import warnings
from collections import Counter

import pytest
import torch
from doors import REFUSED, RIGHT, SILENT, UNCLEAR, cases, doors, images, labels, network, on_purpose, outcome
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers import attacks, detectors, losses, metrics, norms, purifiers

pytestmark = pytest.mark.filterwarnings("ignore")


def table(some) -> tuple[Counter, list[str]]:
    """How many of the cases end how, and those that end wrong."""
    count, wrong = Counter(), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for door, argument, name, change, right in some:
            ended, error = outcome(door, argument, change, right)
            count[ended] += 1
            if ended in (SILENT, UNCLEAR):
                wrong.append(f"{ended}: {door.name}({argument} = {name}) {error}")
    return count, wrong


def test_every_door_opens_to_what_it_is_for():
    for door in doors():
        door.f(**door.arguments())


def test_some_bad_inputs_of_every_argument_are_refused():
    """Of every argument the first of its bad inputs, and every ninth of all."""
    every, seen, some = cases(), set(), []
    for i, case in enumerate(every):
        where = (case[0].name, case[1])
        if where not in seen or i % 9 == 0:
            some.append(case)
        seen.add(where)
    count, wrong = table(some)
    assert not wrong and count[REFUSED] > 400


@pytest.mark.long
def test_the_whole_table_of_bad_inputs(capsys):
    count, wrong = table(cases())
    with capsys.disabled():
        print(f"\nbad inputs: {sum(count.values())}; " + ", ".join(f"{k}: {count[k]}" for k in (REFUSED, RIGHT, SILENT, UNCLEAR)))
    assert not wrong and count[REFUSED] > 2000


# tensors of any type and shape

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.int64, torch.bool, torch.complex64]
SIDES = st.lists(st.sampled_from([0, 1, 2, 3, 6, 8]), min_size=0, max_size=5).map(tuple)


@st.composite
def tensors(draw) -> torch.Tensor:
    """Of any dtype, of zero to five dimensions, with values from far below 0 to far above 1, some of them not finite."""
    shape, dtype = draw(st.one_of(SIDES, st.just((6, 1, 8, 8)), st.just((6, 3)))), draw(st.sampled_from(DTYPES))
    values = torch.rand(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    values = values * draw(st.sampled_from([1.0, 255.0, -1.0, float("nan"), float("inf")]))
    return values.nan_to_num(0, 0, 0).to(dtype) if not (dtype.is_floating_point or dtype.is_complex) else values.to(dtype)


def taken(f, *arguments) -> None:
    """f takes the arguments and returns finite values, or refuses them on purpose."""
    try:
        result = f(*arguments)
    except ValueError as error:
        if not on_purpose(error):
            raise
        return
    result = torch.as_tensor(result)
    assert result.isfinite().all() or not all(a.isfinite().all() for a in arguments if torch.is_tensor(a))


NETWORK = network()
FIXED = {
    "fgsm": lambda x: attacks.fgsm(NETWORK, x, labels(), eps=0.1),
    "pgd": lambda x: attacks.pgd(NETWORK, x, labels(), eps=0.1, steps=1, restarts=1),
    "accuracy": lambda x: metrics.accuracy(NETWORK, x, labels()),
    "labels of an attack": lambda y: attacks.fgsm(NETWORK, images(), y, eps=0.1),
    "labels of an accuracy": lambda y: metrics.accuracy(NETWORK, images(), y),
    "logits": lambda z: losses.log_odds(z, labels()),
    "labels": lambda y: losses.margin(torch.randn(6, 3), y),
    "a model's answer": lambda z: metrics.accuracy(lambda x: z, images(), labels()),
    "a model's logits": lambda z: (
        attacks.fgsm(lambda x: z + x.flatten(1)[:, :1] * 1, images(), labels(), eps=0.1)
        if z.shape == (6, 3) and z.is_floating_point()
        else attacks.fgsm(lambda x: z, images(), labels(), eps=0.1)
    ),
    "length": norms.length,
    "confidence": detectors.MaxSoftmax(NETWORK),
    "jpeg": purifiers.jpeg,
    "noise": purifiers.UniformNoise(0.1),
    "PCA": purifiers.PCA.fit,
    "ood": lambda x: attacks.ood_attack(NETWORK, x, images(1)[0], eps=0.1, steps=1, generator=torch.Generator()),
}


def any_tensor(examples: int):
    return lambda f: settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))(
        given(tensors())(f)
    )


@pytest.mark.parametrize("name", FIXED)
@any_tensor(25)
def test_any_tensor_is_taken_or_refused(name, x):
    taken_by(name, x)


@pytest.mark.long
@pytest.mark.parametrize("name", FIXED)
@any_tensor(400)
def test_very_many_tensors_are_taken_or_refused(name, x):
    taken_by(name, x)


def taken_by(name: str, x: torch.Tensor) -> None:
    f = FIXED[name]
    taken(lambda x: f(x) if not hasattr(r := f(x), "components") else r.components, x) if name == "PCA" else taken(f, x)
