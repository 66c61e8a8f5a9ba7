"""Features on principal components."""

import numpy as np
import pytest
import torch
from torch import nn

from helpers.geometry import projection


@pytest.fixture
def case():
    rng = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    clean, reference = torch.rand(60, 1, 4, 4, generator=rng), torch.rand(80, 1, 4, 4, generator=rng)
    return network, {"clean": clean, "same": clean, "far": clean + 30}, reference


def test_the_components_are_those_of_the_clean_features(case):
    network, inputs, reference = case
    found = projection(network, 3, inputs, reference, shown=20)
    features = network[:3](inputs["clean"]).detach().numpy()
    centred = features - features.mean(axis=0)
    variance = np.linalg.svd(centred, compute_uv=False) ** 2
    np.testing.assert_allclose(found["explained"], variance[:3] / variance.sum(), rtol=1e-4)
    shown = found["clean"]
    assert shown.shape == (20, 3) and found["same"].tolist() == shown.tolist()
    assert np.abs(found["far"]).max() > 10 * np.abs(shown).max()


def test_predictions_and_their_confidence_are_the_networks(case):
    network, inputs, reference = case
    found = projection(network, 3, inputs, reference, shown=20)
    for kind, images in inputs.items():
        p = network(images[:20]).softmax(dim=1).detach().numpy()
        np.testing.assert_array_equal(found[f"{kind}_prediction"], p.argmax(axis=1))
        np.testing.assert_allclose(found[f"{kind}_confidence"], p.max(axis=1), rtol=1e-5)


def test_only_what_lies_elsewhere_is_told_from_the_clean_ones(case):
    found = projection(case[0], 3, case[1], case[2], shown=5)
    assert found["AUROC same"] == pytest.approx(0.5) and found["AUROC far"] == 1.0 and "AUROC clean" not in found


def test_features_of_a_convolution_are_flattened():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    x = torch.rand(30, 1, 4, 4)
    assert projection(network, 1, {"clean": x}, x, shown=4)["clean"].shape == (4, 3)
