"""Detectors that read a network's logits, and what all detectors share (`Detector`)."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn.functional import logsigmoid

from helpers.inputs import check_choice, check_floats, check_logit_shape, check_module, check_no_bytes, check_number
from helpers.losses import log_odds
from helpers.metrics import eval_mode
from helpers.norms import length
from helpers.passes import call, with_gradients

Tensor = torch.Tensor
JEM_SCORES = ("log p", "max softmax", "gradient norm")


class Detector(nn.Module):
    """What `helpers.detectors` says of all of them; a detector fills in `_score` and `_encode`."""

    def forward(self, x: Tensor) -> Tensor:
        return self.score(x)

    @with_gradients
    def score(self, x: Tensor) -> Tensor:
        """How much x (N, ...) looks like the network's data: (N,), higher is more in-distribution."""
        with eval_mode(self):
            return _told(self._score(_checked(x, self)), x)

    @with_gradients
    def encode(self, x: Tensor) -> Tensor:
        """The vector of each sample that an attack has to match: (N, d)."""
        with eval_mode(self):
            return _told(self._encode(_checked(x, self)), x)

    @with_gradients
    def aim(self, x: Tensor) -> Tensor:
        """What to climb for a higher score: (N,), the score itself unless a detector says otherwise. A score that saturates has
        no gradient far from the data: an attack that climbs it stands still there, and the detector only looks strong."""
        with eval_mode(self):
            return _told(self._aim(_checked(x, self)), x)

    def _score(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _encode(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _aim(self, x: Tensor) -> Tensor:
        return self._score(x)


def _checked(x: Tensor, detector: nn.Module) -> Tensor:
    check_floats("x", x, dims=2)
    # Of parameters alone: what is fitted in float64 to a network in float32 lies in buffers, and follows x by itself. Of several
    # precisions, as CCU's mixtures may have another than its classifier, any will do
    own = {p.dtype for p in detector.parameters() if p.is_floating_point()}
    if own and x.dtype not in own:
        weights = " and ".join(sorted(map(str, own)))
        raise ValueError(f"x is {x.dtype}, the detector's weights are {weights}: convert one, by x.float() or network.double()")
    return x


def _told(found: Tensor, x: Tensor) -> Tensor:
    """What a detector says of x, after a look at both: one transfer to the host."""
    ends = x.detach().aminmax()
    low, high, unknown = torch.stack([*ends, found.detach().isnan().any().to(x.dtype)]).tolist()
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("x contains NaN or infinity: no score can be given")
    if unknown:
        raise ValueError("the network gives NaN for finite x: no score can be given")
    check_no_bytes("x", x.detach(), high)
    return found


def logits_of(network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """network(x); raises ValueError unless that is (N, K) with two classes or more."""
    logits = call(network, x)
    check_logit_shape(logits, len(x))
    return logits


def log_max_softmax(logits: Tensor) -> Tensor:
    """log of the largest softmax probability, (N,). From the log odds: 1 − 1e-30 is told from 1 − 1e-20 also in float32, where
    a softmax and a log softmax both round to the same value from 1 − 1e-8 on."""
    return logsigmoid(_odds(logits))


def past_confidence(logits: Tensor) -> Tensor:
    """`log_max_softmax`, and something that goes on rising where that has rounded to 0: (N,), for an attack to climb."""
    odds = _odds(logits)
    return going_on(logsigmoid(odds), odds)


def _odds(logits: Tensor) -> Tensor:
    return log_odds(logits, logits.argmax(dim=1))


def going_on(score: Tensor, odds: Tensor) -> Tensor:
    """A score that is log p for log odds, and so saturates, with a slope past the last odds at which its own is exact: (N,).

    The slope is what the score's is there: small enough to change no score before, large enough for the precision.
    """
    last = -0.75 * math.log(torch.finfo(odds.dtype).tiny)  # 65.5 in float32; the score itself rounds to 0 at 104
    return score + (odds - last).relu() * math.exp(-last)


class MaxSoftmax(Detector):
    """score = log of the largest softmax probability (the baseline of Hendrycks & Gimpel 2017; Liang et al. 2020, G).

    The logarithm keeps the order, so every AUROC is that of the probability itself. encode = logits, or features(x), flattened.

    features : for a network of which the attack matches the vector that goes into its classifier, e.g. `network[:-1]`
    """

    def __init__(self, network: nn.Module, *, features: nn.Module | None = None):
        super().__init__()
        check_module("network", network)
        self.network, self.features = network, features

    def _score(self, x: Tensor) -> Tensor:
        return log_max_softmax(logits_of(self.network, x))

    def _aim(self, x: Tensor) -> Tensor:
        return past_confidence(logits_of(self.network, x))

    def _encode(self, x: Tensor) -> Tensor:
        return logits_of(self.network, x) if self.features is None else self.features(x).flatten(1)


class ODIN(Detector):
    """score = log of the largest softmax probability S(x̃; T) of the logits / T, at an image x̃ that was moved a little to raise
    it: x̃ = x − magnitude · sign(−∇ log S_ŷ(x; T)) with ŷ the predicted class (Liang, Li & Srikant 2018, equations 1 and 2).

    encode = logits at x̃, not yet divided by T (Liang et al. 2020, C.2). At T = 1 and magnitude 0 this is `MaxSoftmax`.

    temperature : T, at least 1e-3; ODIN's authors try 1 to 1000
    magnitude : in units of pixels in [0, 1], 0 to 0.004 in the paper; 0 leaves the image as it is. The authors' code divides the
        sign by the standard deviation that pixels were normalised with, which is this very unit
    As in their code x̃ is not clamped to [0, 1]. There, a gradient of exactly 0 counts as positive; here it moves nothing.
    The sign is a constant to the gradient of score and encode. raises ValueError for another temperature or magnitude
    """

    def __init__(self, network: nn.Module, temperature: float = 1000.0, magnitude: float = 0.0014):
        super().__init__()
        check_number("temperature", temperature, 1e-3)
        check_number("magnitude", magnitude, 0)
        check_module("network", network)
        self.network, self.temperature, self.magnitude = network, temperature, magnitude

    @with_gradients
    def preprocess(self, x: Tensor) -> Tensor:
        """x̃ of images x, like x; its gradient with respect to x is the identity."""
        if not self.magnitude:
            return x
        with torch.enable_grad(), eval_mode(self):
            leaf = x.detach().requires_grad_()
            logits = logits_of(self.network, leaf) / self.temperature
            # log S is an increasing function of the log odds: the same sign, also where S rounds to 1 and has no gradient left
            [g] = torch.autograd.grad(log_odds(logits, logits.argmax(dim=1)).sum(), leaf)
        return x + self.magnitude * g.sign()

    def _score(self, x: Tensor) -> Tensor:
        return log_max_softmax(self._encode(x) / self.temperature)

    def _aim(self, x: Tensor) -> Tensor:
        return past_confidence(self._encode(x) / self.temperature)

    def _encode(self, x: Tensor) -> Tensor:
        return logits_of(self.network, self.preprocess(x))


class OutlierExposure(Detector):
    """score = logsumexp of the logits − their mean: minus the OOD score of the authors' code (Hendrycks et al. 2019), which is a
    cross-entropy of the uniform distribution, up to its sign (Liang et al. 2020, E.1). encode = logits.

    network : trained with outliers or not; the score does not ask
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        check_module("network", network)
        self.network = network

    def _score(self, x: Tensor) -> Tensor:
        logits = self._encode(x)
        return logits.logsumexp(dim=1) - logits.mean(dim=1)

    def _encode(self, x: Tensor) -> Tensor:
        return logits_of(self.network, x)


class Ensemble(Detector):
    """score = −entropy of the mean of the networks' softmaxes, in nats (Lakshminarayanan et al. 2017; Liang et al. 2020, F).

    encode = the logits of all networks side by side (N, M · K). raises ValueError for no network, or different numbers of classes
    """

    def __init__(self, networks: Sequence[nn.Module]):
        super().__init__()
        if isinstance(networks, nn.Module) or not len(networks):
            raise ValueError("an ensemble needs a list of one network or more")
        for network in networks:
            check_module("networks", network)
        self.networks = nn.ModuleList(networks)

    def _logits(self, x: Tensor) -> list[Tensor]:
        logits = [logits_of(network, x) for network in self.networks]
        if len({z.shape for z in logits}) > 1:
            raise ValueError(f"the networks of an ensemble must have the same classes, not {[z.shape[1] for z in logits]}")
        return logits

    def _score(self, x: Tensor) -> Tensor:
        return self._minus_entropy(self._log_p(x))

    def _aim(self, x: Tensor) -> Tensor:
        log_p = self._log_p(x)
        return going_on(self._minus_entropy(log_p), _odds(log_p))

    def _log_p(self, x: Tensor) -> Tensor:
        return torch.stack([z.log_softmax(dim=1) for z in self._logits(x)]).logsumexp(dim=0) - math.log(len(self.networks))

    @staticmethod
    def _minus_entropy(log_p: Tensor) -> Tensor:
        # The largest probability as one minus the rest: so near 1 its own logarithm would be rounding
        log_p = log_p.scatter(1, log_p.argmax(dim=1, keepdim=True), -math.inf)
        p = log_p.exp()
        rest = p.sum(dim=1)
        return (p * log_p.masked_fill(log_p == -math.inf, 0)).sum(dim=1) + (1 - rest) * (-rest).log1p()

    def _encode(self, x: Tensor) -> Tensor:
        return torch.cat(self._logits(x), dim=1)


class JEM(Detector):
    """A classifier read as an energy-based model, log p(x) = logsumexp of the logits + constant (Grathwohl et al. 2020; Liang et
    al. 2020, J). encode = logits; the gradient norm is no function of them.

    score : "log p" up to that constant, "max softmax" as its logarithm, or "gradient norm": −‖∂ log p(x) / ∂x‖₂, which costs a
        backward pass, and whose own gradient a second one. raises ValueError for another
    """

    def __init__(self, network: nn.Module, score: str = "log p"):
        super().__init__()
        check_choice("score", score, JEM_SCORES)
        check_module("network", network)
        self.network, self.kind = network, score

    def _score(self, x: Tensor) -> Tensor:
        if self.kind == "log p":
            return self._encode(x).logsumexp(dim=1)
        if self.kind == "max softmax":
            return log_max_softmax(self._encode(x))
        wanted = x.requires_grad and torch.is_grad_enabled()
        with torch.enable_grad():
            x = x if wanted else x.detach().requires_grad_()
            [g] = torch.autograd.grad(self._encode(x).logsumexp(dim=1).sum(), x, create_graph=wanted)
        return -length(g)

    def _aim(self, x: Tensor) -> Tensor:
        return past_confidence(self._encode(x)) if self.kind == "max softmax" else self._score(x)

    def _encode(self, x: Tensor) -> Tensor:
        return logits_of(self.network, x)
