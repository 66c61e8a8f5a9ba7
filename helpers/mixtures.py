"""Certified certain uncertainty (CCU, Meinke & Hein 2020, Towards neural networks that provably know when they don't know): a
classifier under two mixtures of Gaussians in pixel space, one of the data and one of everything else."""

import math
import warnings

import torch
from torch import nn

from helpers.inputs import check_finite, check_floats, check_images, check_no_bytes, check_number, check_real, check_shape
from helpers.metrics import eval_mode
from helpers.passes import call

Tensor = torch.Tensor
BLOCK = 1 << 24  # values in float64 at once while a mixture is fitted: 128 MiB


class GaussianMixture(nn.Module):
    """Σ_k w_k N(x; μ_k, σ_k² I) over images (N, C, H, W), in pixels of [0, 1].

    Use `GaussianMixture.fit`; the constructor makes room for a fitted state: `centres` (K, C, H, W), `log_widths` (K,), the log
    of σ_k, and `log_weights` (K,), of which a softmax is taken: −inf for a component that no image was left of. They are
    parameters, frozen. Densities are summed in float64: in 3072 dimensions they reach thousands of nats
    raises ValueError for what is no shape, or fewer than one component
    """

    def __init__(self, shape: tuple[int, int, int], components: int):
        super().__init__()
        check_shape("shape", shape)
        if not isinstance(components, int) or components < 1:
            raise ValueError(f"a shape (C, H, W) and at least one component are wanted, not {tuple(shape)} and {components}")
        self.centres = nn.Parameter(torch.zeros(components, *shape), requires_grad=False)
        self.log_widths = nn.Parameter(torch.zeros(components), requires_grad=False)
        self.log_weights = nn.Parameter(torch.zeros(components), requires_grad=False)

    @classmethod
    @torch.no_grad()
    def fit(
        cls, images: Tensor, components: int, *, seed: int, steps: int = 10, shared: bool = False, floor: float = 0.05
    ) -> "GaussianMixture":
        """Maximum likelihood on images (N, C, H, W) by expectation maximisation from K-means, of their type and device.

        seed : of K-means (scikit-learn's MiniBatchKMeans)
        steps : of expectation maximisation; 0 leaves K-means' clusters, of width as of one step
        shared : one width for all components
        floor : the smallest width, in pixels: a component of a single image would become infinitely narrow. Far from all centres
            the mixture with the widest component wins: for CCU's guarantee the outliers' floor is to exceed the data's widest
        raises ValueError for fewer images than components, what is no finite float, or settings out of range
        """
        from sklearn.cluster import MiniBatchKMeans

        check_images("images", images)
        check_finite("images", images)
        check_no_bytes("images", images)
        check_number("steps", steps, whole=True)
        check_number("seed", seed, whole=True)
        check_number("components", components, whole=True)
        check_real("floor", floor)
        if not 1 <= components <= len(images) or steps < 0 or floor is None or not 0 < floor < math.inf:
            wanted = f"components from 1 to the {len(images)} images, steps of at least 0 and a floor above 0"
            raise ValueError(f"{wanted} are wanted, not {components}, {steps} and {floor}")
        rows = images.detach().flatten(1)
        means = MiniBatchKMeans(components, random_state=seed, n_init=1, batch_size=1024)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of fewer clusters than components where images are equal: the floor takes those
            places = torch.from_numpy(means.fit_predict(rows.float().cpu().numpy())).to(images.device).long()
        mixture = cls(tuple(images.shape[1:]), components).to(images.device, torch.float64)
        shares = nn.functional.one_hot(places, components).double()
        for step in range(steps + 1):
            mixture._maximise(rows, shares, shared, floor)
            if step < steps:
                shares = torch.cat([mixture._terms(part).softmax(dim=1) for part in _blocks(rows)])
        return mixture.to(images.dtype)

    def _maximise(self, rows: Tensor, shares: Tensor, shared: bool, floor: float) -> None:
        """The M-step, from responsibilities (N, K). A component that no image is left of stays where it is, at no weight."""
        mass, values = shares.sum(dim=0), rows.shape[1]
        sums, squares = torch.zeros_like(self.centres).flatten(1), torch.zeros_like(mass)
        for part, share in zip(_blocks(rows), shares.split(_height(values)), strict=True):
            sums += share.T @ part
            squares += share.T @ part.square().sum(dim=1)
        some = mass.clamp_min(torch.finfo(mass.dtype).tiny)
        centres = torch.where(mass[:, None] > 0, sums / some[:, None], self.centres.flatten(1))
        spread = (squares - mass * centres.square().sum(dim=1)).clamp_min(0)
        variance = spread.sum() / mass.sum() / values * torch.ones_like(mass) if shared else spread / some / values
        self.centres.copy_(centres.view_as(self.centres))
        self.log_widths.copy_(variance.clamp_min(floor**2).log() / 2)
        self.log_weights.copy_((mass / mass.sum()).log())

    def distances(self, x: Tensor) -> Tensor:
        """Squared Euclidean distances from images (N, C, H, W) to the centres: (N, K) float64. raises ValueError for another"""
        check_images("x", x, shape=tuple(self.centres.shape[1:]), least=0)
        return self._distances(x.flatten(1))

    def _distances(self, rows: Tensor) -> Tensor:
        rows, centres = rows.double(), self.centres.double().flatten(1)
        squares = rows.square().sum(dim=1, keepdim=True) + centres.square().sum(dim=1)
        return (squares - 2 * rows @ centres.T).clamp_min(0)

    def constants(self) -> Tensor:
        """log w_k − D log σ_k − D/2 log 2π of D pixel values: (K,) float64, the log density of each component at its centre."""
        values = self.centres[0].numel()
        return self.log_weights.double().log_softmax(dim=0) - values * (self.log_widths.double() + math.log(2 * math.pi) / 2)

    def exponents(self, squares: Tensor) -> Tensor:
        """−d²/(2σ_k²) of squared distances (N, K)."""
        return -squares / (2 * (2 * self.log_widths.double()).exp())

    def _terms(self, rows: Tensor) -> Tensor:
        return self.constants() + self.exponents(self._distances(rows))

    def log_density(self, x: Tensor) -> Tensor:
        """log p(x) in nats of images (N, C, H, W): (N,) float64, differentiable.

        raises ValueError for another shape, NaN and infinity
        """
        squares = self.distances(x)
        if not x.isfinite().all():
            raise ValueError("x contains NaN or infinity: it has no density")
        return (self.constants() + self.exponents(squares)).logsumexp(dim=1)


def _height(values: int) -> int:
    return max(1, BLOCK // values)


def _blocks(rows: Tensor):
    for part in rows.split(_height(rows.shape[1])):
        yield part.double()


class Whitening(nn.Module):
    """C^(−1/2) (x − mean) of images x (N, ...), C the covariance of training images: the metric of Meinke & Hein 2020's mixtures,
    in which noise is far from natural images, as these hardly vary from pixel to pixel. Use `Whitening.fit`; the constructor,
    of the shape of one image, makes room for a fitted state and is the identity. raises ValueError for images of another shape
    """

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.shape = tuple(shape)
        values = math.prod(self.shape)
        self.register_buffer("mean", torch.zeros(values))
        self.register_buffer("matrix", torch.eye(values))

    @classmethod
    @torch.no_grad()
    def fit(cls, images: Tensor, *, floor: float = 1e-6) -> "Whitening":
        """Of images (N, ...), at least two. floor : share of the largest variance below which one counts as that share, as theirs

        raises ValueError for fewer images, what is no finite float, images that are all equal, or a floor outside (0, 1]
        """
        check_floats("images", images, dims=2)
        check_no_bytes("images", images)
        if len(images) < 2 or not images.isfinite().all() or not 0 < floor <= 1:
            raise ValueError(f"at least two finite float images and a floor in (0, 1] are wanted, not {len(images)} and {floor}")
        rows = images.flatten(1).double()
        mean = rows.mean(dim=0)
        variance, axes = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
        if not variance[-1] > 0:
            raise ValueError("the images are all equal: they have no covariance")
        whitening = cls(tuple(images.shape[1:])).to(images)
        whitening.mean.copy_(mean)
        whitening.matrix.copy_((axes / variance.clamp_min(floor * variance[-1]).sqrt()) @ axes.T)
        return whitening

    def forward(self, x: Tensor) -> Tensor:
        check_floats("x", x, dims=2, shape=self.shape, least=0)
        return ((x.flatten(1) - self.mean) @ self.matrix).view_as(x)

    def stretch(self) -> float:
        """The most by which it lengthens a difference of two images: the largest eigenvalue of its matrix."""
        return torch.linalg.eigvalsh(self.matrix.double())[-1].item()


class CCU(nn.Module):
    """p(y|x) = (p(y|x, in) p(x|in) + λ p(x|out) / K) / (p(x|in) + λ p(x|out)) (Meinke & Hein 2020, §3): images -> log p(y|x)
    (N, K), the classifier's where the data are likelier, uniform where the rest is. Far from both it is uniform only if every
    component of `outside` is wider than all of `inside` (their corollary 3.1): see shared and floor of `GaussianMixture.fit`.

    To train with helpers.outliers.with_outliers(outliers, weight=λ), whose cross-entropies take log p(y|x) as they take logits:
    −log p(y|x) at images − λ · mean over k of log p(k|z) at outliers. The mixtures stay as they were fitted; Meinke & Hein add
    log p(x) and train them on, from one width for all, at a rate of 1e-5

    classifier : images -> logits (N, K); inside, outside : mixtures fitted to training images and to outliers
    odds : λ = p(out) / p(in); 1 in the paper
    metric : applied to images before the mixtures, which were fitted to what it gives; None: pixels as they are. `Whitening` as
        in the paper
    raises ValueError for mixtures of different shapes, or odds that are not finite and above 0
    """

    def __init__(
        self,
        classifier: nn.Module,
        inside: GaussianMixture,
        outside: GaussianMixture,
        *,
        odds: float = 1.0,
        metric: nn.Module | None = None,
    ):
        super().__init__()
        if inside.centres.shape[1:] != outside.centres.shape[1:]:
            shapes = [tuple(m.centres.shape[1:]) for m in (inside, outside)]
            raise ValueError(f"both mixtures must be of images of one shape, not {shapes[0]} and {shapes[1]}")
        if not 0 < odds < math.inf:
            raise ValueError(f"odds must be finite and above 0, not {odds}")
        self.classifier, self.inside, self.outside, self.odds = classifier, inside, outside, odds
        self.metric = metric or nn.Identity()

    def encode(self, x: Tensor) -> Tensor:
        """The classifier's logits of images (N, C, H, W), without the mixtures: (N, K)."""
        return self.classifier(x)

    def density(self, x: Tensor) -> Tensor:
        """log p(x|in) in nats: (N,) float64."""
        return self.inside.log_density(self.metric(x))

    def log_ratio(self, x: Tensor) -> Tensor:
        """log p(x|in) − log p(x|out) in nats: (N,) float64."""
        x = self.metric(x)
        return self.inside.log_density(x) - self.outside.log_density(x)

    def forward(self, x: Tensor) -> Tensor:
        own = self.classifier(x).log_softmax(dim=1)
        ratio = (self.log_ratio(x) - math.log(self.odds))[:, None]
        mixed = torch.logaddexp(own.double() + ratio, ratio.new_tensor(-math.log(own.shape[1])))
        return (mixed - torch.logaddexp(ratio, torch.zeros_like(ratio))).to(own.dtype)

    def score(self, x: Tensor) -> Tensor:
        """max over y of log p(y|x), how sure it is: (N,), from −log K to 0."""
        return self(x).amax(dim=1)

    @torch.no_grad()
    def certified_bound(self, x: Tensor, radius: float | Tensor) -> Tensor:
        """What max over y of p(y|x') cannot exceed for x' within a Euclidean distance `radius` of images x (N, C, H, W): (N,)
        float64, in [1/K, 1] (Meinke & Hein 2020, theorem 3.1). Of the classifier it knows the number of classes alone; in the
        metric of the mixtures, where their theorem holds, the ball is as large as the metric can stretch it.

        (1 + K b) / (K (1 + b)) grows with b = p(x'|in) / (λ p(x'|out)); in the ball no Gaussian of the first is nearer than
        max(d(x, μ) − radius, 0), none of the second farther than d(x, ν) + radius
        radius : in pixels, a number or (N,), at least 0. raises ValueError for another, or images that are not finite
        """
        check_images("x", x)
        radius = torch.as_tensor(radius, dtype=torch.float64, device=x.device)
        if radius.shape not in ((), (len(x),)) or not (radius >= 0).all() or not radius.isfinite().all():
            raise ValueError(f"radius must be a finite number of at least 0, or one for each of the {len(x)} images")
        if not x.isfinite().all():
            raise ValueError("the images contain NaN or infinity: nothing is certified of them")
        with eval_mode(self.classifier):
            classes = call(self.classifier, x[:1]).shape[1]
        if not isinstance(self.metric, nn.Identity):
            radius = radius * self.metric.stretch()
        radius = radius.expand(len(x))[:, None]
        x = self.metric(x)
        near = (self.inside.distances(x).sqrt() - radius).clamp_min(0).square()
        far = (self.outside.distances(x).sqrt() + radius).square()
        most = (self.inside.constants() + self.inside.exponents(near)).logsumexp(dim=1)
        least = (self.outside.constants() + self.outside.exponents(far)).logsumexp(dim=1)
        ratio = most - least - math.log(self.odds)
        return ratio.sigmoid() + (-ratio).sigmoid() / classes
