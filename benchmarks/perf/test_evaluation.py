"""Policies per second in real searches, over the plain way (`benchmarks.perf.plain`).

Every search runs on a trained ResNet-8 with 2,000 search-validation images and 256 for BatchNorm.
In turns with it, the plain way scores every tenth of its policies on the images that the search had
run, in a process of its own; the scores must be the same to the last bit. Both are timed in seconds
of one CPU, which other processes disturb less than the clock. The ratio is that of the mean times;
``range`` holds the least and the largest of ten policies each.
"""

import copy
import time

import pytest
import torch
from torch.nn import functional

from benchmarks.models.build import ModelConfig, create
from benchmarks.perf.plain import Plain
from benchmarks.perf.ratios import spread
from frameworks import (
    BudgetSpec,
    Data,
    Problem,
    Recipe,
    Space,
    TensorSplit,
    describe,
    fit,
    registry,
    schemes,
    targets,
    torch_rng,
)

SHAPE, CLASSES, BITS, EVERY = (1, 28, 28), 10, (2, 3, 4, 5, 6, 8), 10
BATCH = 125  # as evaluations run


def images(name, count):
    """Ten blurred patterns, dimmed, under noise."""
    patterns = torch.randn(CLASSES, 1, 7, 7, generator=torch_rng(0, "patterns"))
    patterns = functional.interpolate(patterns, scale_factor=4, mode="bilinear")
    generator = torch_rng(0, name)
    y = torch.randint(CLASSES, (count,), generator=generator)
    strength = 0.2 + 0.4 * torch.rand(count, 1, 1, 1, generator=generator)
    return TensorSplit(strength * patterns[y] + torch.randn(count, *SHAPE, generator=generator), y)


@pytest.fixture(scope="module")
def trained():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    network = create(ModelConfig(name="resnet8"), CLASSES, SHAPE)
    recipe = Recipe(epochs=3, batch=64, lr=0.05)
    yield fit(network, images("train", 4000), recipe, torch_rng(0, "training")).eval()
    torch.set_num_threads(threads)


@pytest.fixture
def problem(trained):
    layers = describe(trained, SHAPE)
    ends = dict.fromkeys((layers[0].name, layers[-1].name), (8, 8))
    space, target = Space.build(layers, BITS, BITS, pinned=ends), targets.get("bops")()
    train = images("train", 4000)
    data = Data(train, images("valid", 2000), train.images(256))
    budget = BudgetSpec(like=3).resolve(target, space)
    return Problem(trained, space, target, budget, schemes.get("mse")(), data)


class Watched:
    """An evaluator whose times are noted, and whose policies the plain way scores in turns."""

    def __init__(self, problem, plain):
        self.meter, self.plain, self.evaluator = problem.meter, plain, problem.evaluator()
        self.ours, self.blocks, self.plains = 0.0, [0.0], []
        self.asked = self.depth = 0
        self.last = None
        for name in ("contend", "apply", "measure"):
            setattr(self.evaluator, name, self._timed(getattr(self.evaluator, name), name))

    def _timed(self, method, name):
        def run(*args):
            outer = not self.depth
            if outer and name != "measure":
                self.check()
                self.asked += 1
                self.last = (args[0], [], self.meter.policies)
            self.depth += 1
            start = time.process_time()
            found = method(*args)
            seconds = time.process_time() - start
            self.depth -= 1
            if outer:
                self.ours += seconds
                self.blocks[-1] += seconds
                split = args[0] if name == "measure" else self.evaluator.split
                if name != "apply":
                    self.last[1].append((split, found))
            return found

        return run

    def check(self):
        """Let the plain way score the last policy, if it is its turn."""
        if self.last is None or self.last[2] == self.meter.policies:
            return
        if self.meter.policies % EVERY == 0:
            policy, scored, _ = self.last
            scores, seconds = self.plain(policy, [split for split, _ in scored])
            ours = [found for _, found in scored]
            assert all(a is None or a == b for a, b in zip(ours, scores, strict=True))
            self.plains.append(seconds)
            self.blocks.append(0.0)


def compare(benchmark, problem, name, note="", **options):
    plain = Plain(problem)
    plain(problem.space.lowest(), [problem.valid])
    watched = Watched(problem, plain)
    search = registry.get(name)(**options).search
    start = time.process_time()
    benchmark.pedantic(search, args=(problem,), rounds=1)
    total = time.process_time() - start
    plain.close()
    policies, each = problem.meter.policies, sum(watched.plains) / len(watched.plains)
    ratios = [p * EVERY / o for p, o in zip(watched.plains, watched.blocks, strict=False)]
    resumer = watched.evaluator.resumer
    benchmark.extra_info |= {
        "ratio": round(each * policies / watched.ours, 2),
        "range": [round(min(ratios), 2), round(max(ratios), 2)],
        "title": f"policies a second in {name} over the plain way",
        "goal": "10 (larger is better)",
        "rounds": len(watched.plains),
        "with_repeats": round(each * watched.asked / watched.ours, 2),
        "whole_search": round(each * policies / total, 2),
        "policies": policies,
        "asked": watched.asked,
        "plain_seconds": round(each, 3),
        "layers_run": round(resumer.layers_run / resumer.layers_asked, 3),
        "kept_mb": round(resumer.store.peak / 2**20),
        "peak_mb": round(problem.meter.read().peak_memory / 2**20),
        "note": f"ResNet-8, 2,000 images, {policies} policies; all scores are equal" + note,
    }
    print(f"\n{benchmark.name}: {benchmark.extra_info}")


def test_float_convolutions_alone_over_the_plain_way(benchmark, problem):
    """What no saving around the convolutions can go below, as long as they are made in float."""
    network, calls = copy.deepcopy(problem.network), []
    for layer in problem.layers:
        module = network.get_submodule(layer.name)
        module.register_forward_pre_hook(lambda m, x: calls.append((m, m.forward, x[0])))
    with torch.no_grad():
        batches = [x for x, _ in problem.valid.batches(BATCH)]
        for x in (*batches, problem.images):
            network(x)
    plain, rng, plains, ratios = Plain(problem), problem.rng("policies"), [], []
    plain(problem.space.lowest(), [problem.valid])

    def other_first():
        plains.append(plain(problem.space.sample(rng), [problem.valid])[1])

    @torch.no_grad()
    def convolutions():
        start = time.process_time()
        for _, forward, x in calls:
            forward(x)
        ratios.append((time.process_time() - start) / plains[-1])

    benchmark.pedantic(convolutions, setup=other_first, rounds=15, warmup_rounds=0)
    plain.close()
    benchmark.extra_info |= {
        **spread(ratios),
        "title": "the convolutions of one float pass alone over the plain way to score a policy",
        "note": "ResNet-8, 2,256 images; one over this bounds every ratio below whose search "
        "changes all layers",
    }


SEARCHES = {
    "haq": {"episodes": 60, "warmup": 10, "noise_decay": 0.93},
    "mohaq": {"population": 20, "offspring": 10, "evaluations": 80},
    "greedy": {"evaluations": 80},
}


def searched(problem, name, resumes):
    """CPU seconds of a search, its policy, and the share of layers that its passes ran."""
    task = problem.at(seed=0)
    evaluator = task.evaluator()
    if not resumes:
        evaluator.resumer = type(evaluator.resumer)(evaluator.qmodel, 0)
    start = time.process_time()
    found = registry.get(name)(**SEARCHES[name]).search(task).policy
    seconds, run = time.process_time() - start, evaluator.resumer
    return seconds, found, run.layers_run / run.layers_asked if resumes else 1.0


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_with_resumed_passes_over_one_without(benchmark, request, problem, name):
    """What `frameworks.core.evaluation.resume` and the recording that it goes by are worth."""
    whole, resumed = [], []
    rounds = request.config.getoption("--perf-rounds") or 3
    benchmark.pedantic(
        lambda: resumed.append(searched(problem, name, True)),
        setup=lambda: whole.append(searched(problem, name, False)),
        rounds=rounds,
        warmup_rounds=0,
    )
    assert {policy for _, policy, _ in whole} == {policy for _, policy, _ in resumed}
    ratios = [a / b for (a, _, _), (b, _, _) in zip(resumed, whole, strict=True)]
    benchmark.extra_info |= {
        **spread(ratios),
        "title": f"a search of {name} with resumed passes over one without",
        "note": f"ResNet-8, 2,000 images; {100 * (1 - resumed[0][2]):.0f} % of the layers are "
        "passed by; the same policy",
    }


def test_haq_speedup(benchmark, problem):
    compare(benchmark, problem, "haq", **SEARCHES["haq"])


def test_mohaq_speedup(benchmark, problem):
    note = "; both run the later subsets of images only where the first keeps to the error limit"
    compare(benchmark, problem, "mohaq", note, **SEARCHES["mohaq"])


def test_greedy_speedup(benchmark, problem):
    compare(benchmark, problem, "greedy", **SEARCHES["greedy"])


def test_random_speedup(benchmark, problem):
    note = "; policies that cannot win any more are left"
    compare(benchmark, problem, "random", note, evaluations=60)
