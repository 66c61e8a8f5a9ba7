"""Seconds of our attacks beside the passes that they need and beside other libraries: `make bench`.

One network, one batch, one run. The contestants of a comparison take turns, so that whatever else the machine does slows all
of them alike; medians count. Beside each time stands the accuracy that an attack leaves, scored by us at another batch size;
beside a universal perturbation's, the share of images whose class it changes, of those it was made from and of others; beside
an attack on codes, how far they are from those that they were to match.
"""

import argparse
import logging
import statistics
import time
import warnings

import numpy as np
import torch
from torch import nn

from helpers.attacks import (
    Threat,
    adv_alpha,
    adv_loss,
    apgd,
    deepfool,
    fooling_rate,
    mape,
    ood_attack,
    pgd,
    universal,
    universal_gradient,
    worst_case,
)
from helpers.data import load
from helpers.metrics import accuracy, eval_mode, in_batches
from helpers.models import lenet, load_pretrained, mlp
from helpers.norms import length
from helpers.torchvision_import import torchvision
from helpers.training import fit

PRICED = ("huang2015/lwa", "huang2015/lenet-lwa", "abbasi2018/naive-cnn")  # an MLP, a LeNet, a CNN
SLOW = 3.0  # seconds; a contestant that takes longer runs once
WORST = (  # networks of the zoo, their undefended twins, data, norm, eps
    ("picot2019/hr-mnist", "picot2019/ce-mnist", "mnist", "linf", 0.1),
    ("huang2015/lwa", "huang2015/normal", "mnist", "l2", 1.5),
    ("huang2015/lenet-lwa", "huang2015/lenet-normal", "mnist", "l2", 1.5),
    ("abbasi2018/naive-cnn", "abbasi2018/ga-cnn", "mnist", "linf", 0.1),
    ("liang2017/adversarial-training-cifar10-small", "liang2017/control-cifar10-small", "cifar10", "linf", 3 / 255),
)


def timed(contestants, repeats, device):
    """{name: f} -> {name: (median seconds, result)}; one untimed turn, then `repeats` of all contestants in turn."""
    seconds, results = {name: [] for name in contestants}, {}
    for turn in range(repeats + 1):
        for name, f in contestants.items():
            if seconds[name] and max(seconds[name]) > SLOW:
                continue
            start = time.perf_counter()
            results[name] = f()
            if device.type == "cuda":
                torch.cuda.synchronize()
            spent = time.perf_counter() - start
            if turn or spent > SLOW:
                seconds[name].append(spent)
    return {name: (statistics.median(seconds[name]), results[name]) for name in contestants}


def compare(title, contestants, repeats, model, x, y, norm="l2"):
    """A table, one row per contestant, ratios to the first."""
    print(f"\n{title}\n{'':34}{'ms':>9}{'ratio':>8}{'accuracy left':>15}{'median ' + norm:>12}")
    outcome = timed(contestants, repeats, x.device)
    first = next(iter(outcome.values()))[0]
    for name, (seconds, x_adv) in outcome.items():
        row = f"{name:34}{1000 * seconds:9.1f}{seconds / first:8.2f}"
        if x_adv is not None and x_adv.shape == x.shape:
            x_adv = torch.as_tensor(x_adv, device=x.device)
            row += f"{100 * accuracy(model, x_adv, y, batch_size=37):14.1f}%{length(x_adv - x, norm).median().item():12.3f}"
        print(row, flush=True)


def compare_universal(title, contestants, repeats, model, x, held):
    """As `compare`, for contestants that return a universal perturbation (C, H, W) made from x."""
    print(f"\n{title}\n{'':34}{'ms':>9}{'ratio':>8}{'fooled':>9}{'held out':>10}{'largest':>9}")
    outcome = timed(contestants, repeats, x.device)
    first = next(iter(outcome.values()))[0]
    for name, (seconds, v) in outcome.items():
        rates = "".join(f"{100 * fooling_rate(model, images, v):{n}.1f}%" for images, n in ((x, 8), (held, 9)))
        print(f"{name:34}{1000 * seconds:9.1f}{seconds / first:8.2f}{rates}{v.abs().max().item():9.3f}", flush=True)


def compare_codes(title, contestants, repeats, f, x_in, x_init):
    """As `compare`, for contestants that return images with the codes f(x_in), near x_init."""
    print(f"\n{title}\n{'':34}{'ms':>9}{'ratio':>8}{'median MAPE':>13}{'largest':>9}")
    outcome = timed(contestants, repeats, x_in.device)
    first = next(iter(outcome.values()))[0]
    with torch.no_grad():
        for name, (seconds, x) in outcome.items():
            apart = f"{100 * mape(f(x), f(x_in)).median().item():12.2f}%{(x - x_init).abs().max().item():9.3f}"
            print(f"{name:34}{1000 * seconds:9.1f}{seconds / first:8.2f}{apart}", flush=True)


def plain_adamax(f, x_in, x_init, lr, steps):
    """The passes of a feature-matching attack and torch's Adamax, kept in [0, 1] and nowhere else."""
    wanted, x = f(x_in).detach(), x_init.clone().requires_grad_()
    adamax = torch.optim.Adamax([x], lr=lr)
    for _ in range(steps):
        x.grad = torch.autograd.grad((f(x) - wanted).square().sum(), x)[0]
        adamax.step()
        with torch.no_grad():
            x.clamp_(0, 1)
    return x.detach()


def bare(model, x, y, backward):
    """A forward pass and `backward` of the logits' derivatives with respect to x, nothing else."""
    with eval_mode(model):
        x = x.detach().requires_grad_()
        logits = model(x)
        if backward == 1:
            torch.autograd.grad(nn.functional.cross_entropy(logits, y, reduction="sum"), x)
        else:
            for k in range(backward):
                torch.autograd.grad(logits[:, k].sum(), x, retain_graph=k < backward - 1)


def worst_cases(network, twin, x, y, norm, eps):
    """Ours at several budgets, PGD with steps of one length, and AutoAttack (Croce & Hein 2020) as torchattacks has it."""
    import torchattacks as ta

    def ours(budget):
        def run():
            generator = torch.Generator(x.device).manual_seed(0)
            return worst_case(network, x, y, Threat(eps, norm), twin=twin, budget=budget, generator=generator).images

        return run

    def steps(step, n):
        return lambda: pgd(network, x, y, eps=eps, norm=norm, steps=n, restarts=1, step=step)

    classes = network(x[:1]).shape[1]
    auto = ta.AutoAttack(network, norm={"l2": "L2", "linf": "Linf"}[norm], eps=eps, n_classes=classes, seed=0)
    return {
        "PGD, 40 steps of one length": steps("constant", 40),
        "PGD, 10 falling steps": steps("cosine", 10),
        "PGD, 40 falling steps": steps("cosine", 40),
        **{f"worst case, {budget} passes": ours(budget) for budget in (100, 200, 400, 800)},
        "AutoAttack": lambda: auto(x, y),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--images", type=int, default=256, help="in the batch that is attacked, at most 500")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", default="", help="comparisons whose title contains this")
    arguments = parser.parse_args()
    device, repeats = torch.device(arguments.device), arguments.repeats
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torchvision()
    import foolbox as fb
    import torchattacks as ta
    from art.attacks import evasion
    from art.estimators.classification import PyTorchClassifier

    torch.manual_seed(0)
    model = lenet()
    train, test = load("digits", "train"), load("digits", "test")
    fit(model, train, lambda m, x, y: nn.functional.cross_entropy(m(x), y), epochs=6, lr=0.1, seed=0)
    model = model.to(device).eval()
    x, y = test.images[: arguments.images].to(device), test.labels[: arguments.images].to(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(
        f"LeNet, {len(x)} digits, {100 * accuracy(model, x, y):.1f} % right; {name}; torch {torch.__version__}; {repeats} repeats"
    )

    host = x.cpu().numpy(), torch.nn.functional.one_hot(y, 10).cpu().numpy()
    classifier = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), input_shape=x.shape[1:], nb_classes=10, clip_values=(0, 1),
        device_type="gpu" if device.type == "cuda" else "cpu",
    )  # fmt: skip

    def foolbox(attack, eps=None):
        return lambda: attack(fb.PyTorchModel(model, bounds=(0, 1), device=device), x, y, epsilons=eps)[1]

    def art(attack):
        return lambda: torch.from_numpy(attack.generate(*host)).to(device)

    def libraries(ours, theirs, **options):
        return {
            "ours": ours,
            "foolbox": foolbox(theirs[0], **options),
            "torchattacks": lambda: theirs[1](x, y),
            "ART": art(theirs[2]),
        }

    size = len(x)
    comparisons = {
        "Adv_Loss and the passes that it needs": {
            "one forward, one backward": lambda: bare(model, x, y, 1),
            "adv_loss": lambda: adv_loss(model, x, y, eps=1.5),
            "adv_loss, L∞": lambda: adv_loss(model, x, y, eps=0.1, norm="linf"),
        },
        "Adv_Alpha and the passes that it needs": {
            "one forward, ten backward": lambda: bare(model, x, y, 10),
            "adv_alpha": lambda: adv_alpha(model, x, y, eps=1.5),
        },
        "DeepFool, at most 50 steps": libraries(
            lambda: deepfool(model, x, y, steps=50),
            (fb.attacks.L2DeepFoolAttack(steps=50), ta.DeepFool(model, steps=50),
             evasion.DeepFool(classifier, max_iter=50, epsilon=0.02, batch_size=size, verbose=False)),
        ),
    }  # fmt: skip
    for eps in (0.5, 1.5):
        step = 2.5 * eps / 40
        comparisons[f"PGD, L2, eps {eps}, 40 steps from the image"] = libraries(
            lambda eps=eps: pgd(model, x, y, eps=eps, steps=40, restarts=1, step="constant"),
            (fb.attacks.L2PGD(abs_stepsize=step, steps=40, random_start=False),
             ta.PGDL2(model, eps=eps, alpha=step, steps=40, random_start=False),
             evasion.ProjectedGradientDescentPyTorch(classifier, norm=2, eps=eps, eps_step=step, max_iter=40, batch_size=size,
                                                     verbose=False)),
            eps=eps,
        )  # fmt: skip
    for title, contestants in comparisons.items():
        if arguments.only in title:
            compare(title, contestants, repeats, model, x, y)

    made_from, eps = train.images[:500].to(device), 0.2
    title = f"Universal perturbation, L∞ {eps}, {len(made_from)} digits, one pass, DeepFool of 10 steps"

    def arts():
        attack = evasion.UniversalPerturbation(
            classifier, attacker="deepfool", attacker_params={"max_iter": 10, "epsilon": 0.02, "verbose": False},
            delta=1e-6, max_iter=1, eps=eps, norm=np.inf, verbose=False,
        )  # fmt: skip
        attack.generate(made_from.cpu().numpy())
        return torch.from_numpy(attack.noise).to(device).view(made_from[0].shape)

    def made(make, **options):
        return lambda: make(model, made_from, eps=eps, generator=torch.Generator(device).manual_seed(0), **options)

    if arguments.only in title:
        universals = {
            "universal": made(universal, passes=1, fooling=1.0),
            "universal, one image at a time": made(universal, passes=1, fooling=1.0, batch_size=1),
            "universal_gradient, five passes": made(universal_gradient),
            "ART": arts,
        }
        compare_universal(title, universals, repeats, model, made_from, x)

    eps, steps, letters = 0.5, 100, load("letters", "test").images[:size].to(device)
    title = f"OOD attack, L∞ {eps}, {steps} steps: {len(letters)} letters, the 100 features of digits"
    if arguments.only in title:
        f, x_in = model[:-1], x[: len(letters)]
        how = {"eps": eps, "steps": steps, "norm": "linf", "generator": torch.Generator(device).manual_seed(0)}
        theirs = evasion.FeatureAdversariesPyTorch(
            classifier, delta=eps, layer=len(f) - 1, optimizer=torch.optim.Adamax, optimizer_kwargs={"lr": eps / 100},
            max_iter=steps, batch_size=size, random_start=True, verbose=False,
        )  # fmt: skip
        codes = {
            "plain Adamax": lambda: plain_adamax(f, x_in, letters, eps / 100, steps),
            "ood_attack": lambda: ood_attack(f, x_in, letters, **how),
            "ART": lambda: torch.from_numpy(theirs.generate(letters.cpu().numpy(), x_in.cpu().numpy())).to(device),
        }
        compare_codes(title, codes, repeats, f, x_in, letters)

    for name in PRICED:
        title = f"PGD, L2, 20 steps, and the passes that it needs, {name}"
        if arguments.only in title:
            network = load_pretrained(name).to(device)
            digits, classes = load("digits", "test", device=device)[: arguments.images].xy
            priced = {
                "20 forward and backward passes": lambda n=network, x=digits, y=classes: [bare(n, x, y, 1) for _ in range(20)],
                "pgd": lambda n=network, x=digits, y=classes: pgd(n, x, y, eps=1.5, steps=20, restarts=1, stop=False),
                "apgd": lambda n=network, x=digits, y=classes: apgd(n, x, y, eps=1.5, steps=20, stop=False),
            }
            outcome = timed(priced, repeats, device)
            first = next(iter(outcome.values()))[0]
            print(f"\n{title}")
            for contestant, (seconds, _) in outcome.items():
                print(f"{contestant:34}{1000 * seconds:9.1f}{seconds / first:8.2f}", flush=True)

    for name, twin, data, norm, eps in WORST:
        title = f"Worst case, {name}, {norm}, eps {eps:.3g}"
        if arguments.only in title:
            network, other = (load_pretrained(n).to(device) for n in (name, twin))
            images, classes = load(data, "test", device=device)[: arguments.images].xy
            compare(title, worst_cases(network, other, images, classes, norm, eps), repeats, network, images, classes, norm)

    many, labels = (torch.cat([getattr(test, k), getattr(train, k)])[:1000].to(device) for k in ("images", "labels"))
    for name, network in {"LeNet": model, "MLP 784-1000-1000-10": mlp(784, (1000, 1000), 10).to(device)}.items():
        title = f"1000 images in batches of, adv_loss, {name}"
        if arguments.only in title:
            sizes = {
                str(n): lambda n=n, network=network: in_batches(
                    lambda a, b: adv_loss(network, a, b, eps=1.5), many, labels, batch_size=n
                )
                for n in (32, 64, 128, 250, 500, 1000)
            }
            compare(title, sizes, repeats, network, x, y)


if __name__ == "__main__":
    main()
