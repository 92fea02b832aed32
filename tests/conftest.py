import pytest
import torch
from hypothesis import settings

from frameworks.testing import toy

torch.set_num_threads(1)
# A busy machine is no fault of the code under test.
settings.register_profile("juxtabit", deadline=None)
settings.load_profile("juxtabit")


@pytest.hookimpl(wrapper=True)  # before pytest-xdist, which reads the groups, first of all others
def pytest_collection_modifyitems(items):
    """What shares something that takes its time goes to one worker, which makes it once.

    That are the contracts of a framework, which look at one search, and files of tests with a
    fixture for all of them.
    """
    for item in items:
        params = getattr(getattr(item, "callspec", None), "params", {})
        if item.path.name == "test_contracts.py" and "framework" in params:
            item.add_marker(pytest.mark.xdist_group(f"contracts of {params['framework']}"))
        elif any(
            made[-1].scope == "module" for made in item._fixtureinfo.name2fixturedefs.values()
        ):
            item.add_marker(pytest.mark.xdist_group(item.path.as_posix()))
    return (yield)


@pytest.fixture
def make_problem():
    """Factory: a problem on a tiny trained net in milliseconds; see `toy.make_problem`.

    make_problem("size", like=2.5, seed=1, kind=toy.ToyViT, needs=("valid", "calibration"), ...)
    """
    return toy.make_problem


@pytest.fixture
def measured_table(tmp_path):
    """Factory: the data of a table as ``juxtabit lut`` writes it, for any layers.

    measured_table(layers, {32: 2.0, 8: 1.0}, device="cpu") gives layer i the costs times i + 1, at
    equal weight and activation bits; ``save(data)`` writes it and returns the path.
    """
    import json
    from types import SimpleNamespace

    from frameworks import shape_of

    def make(layers, costs, device="cpu"):
        return {
            **{"schema": 1, "kind": "measured", "device": device},
            **{"metric": "latency", "unit": "ms", "model": "toy", "dataset": "toy"},
            "layers": [{"layer": x.name, **shape_of(x)} for x in layers],
            "rows": [
                {"layer": x.name, "w_bits": b, "a_bits": b, "cost": cost * (i + 1)}
                for i, x in enumerate(layers)
                for b, cost in costs.items()
            ],
        }

    def save(data, name="measured.json"):
        (tmp_path / name).write_text(json.dumps(data))
        return str(tmp_path / name)

    return SimpleNamespace(make=make, save=save)


@pytest.fixture(scope="session")
def tiny_net():
    """The trained convolutional net of `make_problem`; shared, never change it."""
    return toy.network(toy.ToyConvNet)


@pytest.fixture(scope="session")
def tiny_vit():
    """The trained attention net of `make_problem`; it has no BatchNorm."""
    return toy.network(toy.ToyViT)


@pytest.fixture(scope="session")
def tiny_train():
    return toy.split("train", 256)


@pytest.fixture(scope="session")
def tiny_valid():
    return toy.split("valid", 128)


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory):
    """A cache of its own for the whole test session, as ``$JUXTABIT_CACHE``."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("JUXTABIT_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def digits(cache_folder):
    """Digits with a trained ResNet-8 (some seconds, once): ``config, splits, checkpoint``."""
    from types import SimpleNamespace

    from benchmarks.data.load import DatasetConfig, load
    from benchmarks.models.build import ModelConfig
    from benchmarks.models.pretrain import pretrained

    recipe = dict(epochs=8, lr=0.1, batch=64, weight_decay=5e-4)
    config = DatasetConfig(name="digits", pretrain=recipe)
    splits = load(config)
    checkpoint = pretrained(ModelConfig(), config, splits)
    return SimpleNamespace(config=config, splits=splits, checkpoint=checkpoint)


@pytest.fixture
def digits_problem(digits):
    """Factory of problems on real data: ``digits_problem(like=3, target="bops", **fields)``."""
    from frameworks import BudgetSpec, Data, Problem, Space, describe, schemes, targets, torch_rng

    def make(target="bops", like=3, bits=(2, 3, 4, 5, 6, 8), **fields):
        splits = digits.splits
        layers = describe(digits.checkpoint.model, splits.input_shape)
        priced = targets.get(target)()
        acts = bits if priced.prices_activations else (8,)
        pinned = {layers[0].name: (8, 8), layers[-1].name: (8, 8)}
        space = Space.build(layers, bits, acts, pinned=pinned)
        images = splits.train.subset(256, torch_rng(0, "data")).images()
        return Problem(
            network=digits.checkpoint.model,
            space=space,
            target=priced,
            budget=BudgetSpec(like=like).resolve(priced, space),
            scheme=schemes.get("mse")(),
            data=Data(splits.train, splits.valid, images),
            **fields,
        )

    return make
