import itertools

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from frameworks.core.quantizers.kmeans import (
    HaqKMeans,
    KMeansWeight,
    _Line,
    cluster_means,
    kmeans,
    plus_plus,
)


def values(n=2000, seed=0):
    return np.random.default_rng(seed).normal(size=n)


def rng(seed=0):
    return np.random.default_rng(seed)


def error(data, centroids):
    return float((np.abs(data[:, None] - centroids).min(1) ** 2).sum())


def test_by_hand():
    data = np.array([0.0, 0.2, 1.0, 1.2, 5.0, 5.4])
    centroids = kmeans(data, 3, rng())
    np.testing.assert_allclose(centroids, [0.1, 1.1, 5.2])


def test_interval_sums():
    data = values(300) + 7
    line = _Line(data)
    centroids = np.array([6.0, 6.9, 8.5])
    nearest = np.abs(data[:, None] - centroids).argmin(1)
    expected = [((data[nearest == k] - c) ** 2).sum() for k, c in enumerate(centroids)]
    np.testing.assert_allclose(line.errors(centroids), expected)
    means = [data[nearest == k].mean() for k in range(3)]
    np.testing.assert_allclose(line.means(centroids), means)


def test_an_empty_cluster_keeps_its_centroid():
    assert _Line(np.array([0.0, 1.0])).means(np.array([0.5, 90.0])).tolist() == [0.5, 90.0]


def test_start_takes_different_values_of_the_data():
    data = values(500)
    start = plus_plus(_Line(data), 64, rng())
    assert len(np.unique(start)) == 64
    assert np.isin(start, data).all()


def test_start_prefers_far_values():
    # 1,000 values at 0 and one at 100: the second centroid must be the far one.
    data = np.append(np.zeros(1000), 100.0)
    for seed in range(5):
        assert 100.0 in plus_plus(_Line(data), 2, rng(seed))


@pytest.mark.parametrize("k", [2, 4, 16, 64])
def test_as_good_as_scikit_learn(k):
    data = values()
    theirs = min(KMeans(k, n_init=1, random_state=s).fit(data[:, None]).inertia_ for s in range(3))
    mine = min(error(data, kmeans(data, k, rng(s))) for s in range(3))
    assert mine <= 1.1 * theirs


def test_error_never_rises_with_iterations():
    data = values()
    errors = [error(data, kmeans(data, 16, rng(), iterations=i)) for i in range(12)]
    assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(errors))


def test_error_falls_with_bits_and_codebooks_fit():
    weight = torch.from_numpy(values(36_864)).float().view(64, 64, 3, 3)
    errors = []
    for bits in range(1, 9):
        quantizer = HaqKMeans().weight(weight, bits)
        codes = quantizer.codes(weight)
        assert codes.codebook.shape == (2**bits,)
        assert codes.code.unique().numel() == 2**bits
        errors.append(float((codes.dequantize() - weight).square().sum()))
    assert all(b < 0.5 * a for a, b in itertools.pairwise(errors))


def test_fewer_values_than_levels():
    weight = torch.tensor([[0.5, -1.0, 0.5, 2.0]])
    quantizer = HaqKMeans().weight(weight, 8)
    assert torch.equal(quantizer(weight), weight)
    assert quantizer.codes(weight).codebook.tolist() == [-1, 0.5, 2]


def test_equal_weights_give_equal_codebooks():
    weight = torch.from_numpy(values(500)).float().view(5, 100)
    np.random.seed(1)  # noqa: NPY002
    first = HaqKMeans().weight(weight, 4).codes(weight)
    np.random.seed(2)  # noqa: NPY002
    second = HaqKMeans().weight(weight, 4).codes(weight)
    assert torch.equal(first.codebook, second.codebook)
    assert torch.equal(first.code, second.code)


def test_each_weight_goes_to_its_nearest_centroid():
    weight = torch.from_numpy(values(500)).float().view(5, 100)
    codes = HaqKMeans().weight(weight, 3).codes(weight)
    nearest = (weight[..., None] - codes.codebook).abs().argmin(-1)
    assert float((nearest == codes.code).double().mean()) > 0.98  # not converged to the last value


def test_cluster_means_by_hand():
    weight = torch.tensor([[1.0, 2.0], [4.0, 6.0]])
    labels = torch.tensor([[0, 0], [1, 3]])
    assert cluster_means(weight, labels, 4).tolist() == [1.5, 4, 0, 6]


def test_labels_stay_and_means_move():
    labels = torch.tensor([0, 0, 1])
    quantizer = KMeansWeight(labels, 2)
    assert quantizer(torch.tensor([9.0, -1.0, 0.0])).tolist() == [4, 4, 0]
    weight = torch.tensor([1.0, 3.0, 5.0])
    quantizer.replace(weight)
    assert weight.tolist() == [2, 2, 5]


def test_forward_equals_replacing_after_each_step():
    torch.manual_seed(0)
    labels, x, y = torch.randint(0, 4, (3, 8)), torch.randn(20, 8), torch.randn(20, 3)
    start = torch.randn(3, 8)
    quantizer = KMeansWeight(labels, 4)
    quantizer.replace(start)
    finals = []
    for replacing in (True, False):
        weight = start.clone().requires_grad_()
        optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, weight_decay=0.01)
        for _ in range(10):
            optimizer.zero_grad()
            used = weight if replacing else quantizer(weight)
            (x @ used.T - y).square().mean().backward()
            optimizer.step()
            if replacing:
                quantizer.replace(weight.data)
        finals.append(quantizer(weight.detach()))
    torch.testing.assert_close(finals[0], finals[1])
