"""Feature spaces: what a page shows of them in three dimensions, and what is true of them in all."""

import numpy as np
import torch

from helpers import metrics, names
from helpers.inputs import check_images, check_module, check_no_bytes, check_number

Tensor = torch.Tensor


def projection(
    network: torch.nn.Sequential, layer: int, inputs: dict[str, Tensor], reference: Tensor, *, shown: int
) -> dict[str, np.ndarray | float]:
    """Features of several kinds of images on the principal components of the clean ones, as `plots.pca3d` takes them.

    layer : the features are the output of `network[:layer]`
    inputs : {kind: images (N, C, H, W)}, one of them "clean"; reference : training images for the nearest neighbours
    shown : how many of each kind to return
    returns "explained" (3,); for each kind its points (shown, 3), prediction and confidence; and for each but clean, under
        `names.AUROC`, how well the distance to the tenth nearest reference tells it from clean in the full space
    """
    from sklearn.decomposition import PCA

    check_module("network", network, torch.nn.Sequential)
    if not isinstance(inputs, dict) or "clean" not in inputs:
        raise ValueError("inputs must be {kind: images}, one of the kinds 'clean'")
    check_number("shown", shown, 1, whole=True)
    for kind, images in {**inputs, "reference": reference}.items():
        check_images(kind, images)
        check_no_bytes(kind, images)
    features = {kind: metrics.predict(network[:layer], images).flatten(1) for kind, images in inputs.items()}
    known = metrics.predict(network[:layer], reference).flatten(1)
    pca = PCA(3, svd_solver="full").fit(features["clean"].cpu())
    result = {"explained": pca.explained_variance_ratio_}
    for kind, images in inputs.items():
        if kind != "clean":
            result[names.AUROC.format(kind=kind)] = metrics.knn_auroc(known, features["clean"], features[kind])
        confidence, read = metrics.predict(network, images[:shown]).softmax(dim=1).max(dim=1)
        result |= {
            kind: pca.transform(features[kind][:shown].cpu()),
            names.PREDICTION.format(kind=kind): read.cpu().numpy(),
            names.CONFIDENCE.format(kind=kind): confidence.cpu().numpy(),
        }
    return result
