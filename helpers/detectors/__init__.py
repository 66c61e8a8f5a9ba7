"""Detectors of out-of-distribution inputs, those that Liang et al. 2020 attack and simple ones on pixels.

Shared by all of them:

detector(x), detector.score(x) : (N,), higher is more in-distribution; differentiable with respect to x, unless said otherwise
detector.encode(x) : (N, d), the vector f(x) that the attack of Liang et al. 2020 (algorithm 1) makes equal to that of an
    in-distribution image; the score is a function of it, unless said otherwise
detector.aim(x) : (N,), what an attack climbs that goes past the score: the score itself, or where that saturates something that
    rises with it and has a gradient
x : (N, ...) finite floats, for images (N, C, H, W) in [0, 1]; results follow its device and dtype

A detector is an nn.Module; its network is a part of it (`.to`, `.double`) and works in evaluation mode whatever its flag, so that
no score depends on the rest of the batch but for rounding. Every network returns logits (N, K); whatever needs layers takes an
nn.Sequential. No parameter receives a gradient from a detector's own preprocessing. ValueError is raised for x that is empty,
not finite, no float or of another precision than the weights, and for logits of another shape.
"""

from helpers.detectors.features import Mahalanobis
from helpers.detectors.gram import Gram
from helpers.detectors.likelihood import Certain, Likelihood, LikelihoodComplexity, png_bits
from helpers.detectors.outputs import JEM, ODIN, Detector, Ensemble, MaxSoftmax, OutlierExposure
from helpers.detectors.pixels import NearestNeighbour, Reconstruction, TotalVariation

__all__ = [
    "JEM",
    "ODIN",
    "Certain",
    "Detector",
    "Ensemble",
    "Gram",
    "Likelihood",
    "LikelihoodComplexity",
    "Mahalanobis",
    "MaxSoftmax",
    "NearestNeighbour",
    "OutlierExposure",
    "Reconstruction",
    "TotalVariation",
    "png_bits",
]
