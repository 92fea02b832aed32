"""Who is told apart: against scipy and hand-made numbers, and marks against what is shown."""

import re
from html import unescape

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scipy.special import polygamma
from scipy.stats import ttest_1samp, ttest_ind

from benchmarks.report.numbers import format as show
from benchmarks.report.numbers.comparisons import FEWEST, Difference, compared, judge
from benchmarks.report.numbers.moderation import Prior, prior, trigamma_inverse
from benchmarks.report.table import build
from tests.benchmarks.report.made import make, seeds

# Accuracies on a test set of 10,000 images.
accuracies = st.integers(8000, 9500).map(lambda hits: hits / 100)
suites = st.dictionaries(
    st.sampled_from(["haq", "hawq", "dnas", "edmips", "autoq", "uniform", "random"]),
    st.dictionaries(st.integers(0, 5), accuracies, min_size=1, max_size=6),
    min_size=1,
    max_size=6,
)


def against_zero(*, moderate=False, **values):
    """Comparisons of lists of differences with zeros."""
    sides = {k: (dict(enumerate(v)), dict.fromkeys(range(len(v)), 0.0)) for k, v in values.items()}
    return compared(sides, moderate=moderate)


def test_one_comparison_is_the_t_test():
    values = [0.4, 1.0, 0.9, 0.2]
    (found,) = against_zero(a=values).values()
    oracle = ttest_1samp(values, 0.0)
    assert found.p == pytest.approx(oracle.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(oracle.confidence_interval(0.95)))
    assert (found.mean, found.n, found.level, found.paired) == (0.625, 4, 0.95, True)
    assert found.significant


def test_without_pairs_it_is_welchs():
    ours, theirs = [90.0, 91.0, 90.5], [88.0, 89.5, 85.0, 86.0]
    sides = {"a": (dict(enumerate(ours)), dict(enumerate(theirs, 10)))}
    (found,) = compared(sides, unpaired=True).values()
    oracle = ttest_ind(ours, theirs, equal_var=False)
    assert found.p == pytest.approx(oracle.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(oracle.confidence_interval(0.95)))
    assert (found.n, found.paired) == (3, False)
    assert compared(sides) == {}


def test_holm_steps_down_and_stops():
    # One pair of standard error 1 each: the t of n = 3 is the mean, p = 1 - t / sqrt(t^2 + 2).
    def by_t(t):
        return [t - 3**0.5, t, t + 3**0.5]

    # p = 0.0009, 0.0178, 0.0207 and 0.16, against 0.0125, 0.0167, 0.025 and 0.05.
    ts = {"a": 33.0, "b": 7.4, "c": 6.85, "d": 2.2}
    found = against_zero(**{k: by_t(t) for k, t in ts.items()})
    assert {k: d.p for k, d in found.items()} == pytest.approx(
        {k: 1 - t / (t * t + 2) ** 0.5 for k, t in ts.items()}
    )
    assert [found[k].significant for k in "abcd"] == [True, False, False, False]
    # From the first that is not told apart on, all have its level.
    assert [found[k].level for k in "abcd"] == pytest.approx([1 - 0.05 / 4] + [1 - 0.05 / 3] * 3)
    alone = against_zero(c=by_t(6.85), d=by_t(2.2))
    assert alone["c"].significant, "of two comparisons it is told apart"


def test_too_few_seeds_have_a_mean_and_no_verdict():
    (found,) = against_zero(a=[5.0, 5.1]).values()
    assert found == Difference(5.05, None, None, 2)
    assert not found.significant
    assert judge({"a": {0: 90.0, 1: 90.0}, "b": {0: 1.0, 1: 1.0}, "c": {}}).marked == set()
    kept = against_zero(a=[5.0, 5.1], b=[1.0, 1.1, 1.2])
    assert kept["b"].level == 0.95, "what is not tested is no comparison"


def test_equal_pairs_are_told_apart_if_they_differ():
    found = against_zero(same=[0.0] * 3, other=[0.5] * 3)
    assert (found["same"].low, found["same"].high, found["same"].p) == (0.0, 0.0, 1.0)
    assert (found["other"].low, found["other"].high, found["other"].p) == (0.5, 0.5, 0.0)
    # 90.3 - 90.1 and 80.3 - 80.1 differ in the last bits alone.
    sides = ({0: 90.3, 1: 80.3, 2: 70.3}, {0: 90.1, 1: 80.1, 2: 70.1})
    assert compared({"a": sides})["a"].low == pytest.approx(0.2)


def test_the_best_is_of_those_with_enough_seeds():
    values = {
        "lucky": {0: 99.0},
        "good": {0: 91.0, 1: 92.0, 2: 93.0},
        "near": {0: 91.1, 1: 91.7, 2: 92.9},
        "behind": {0: 81.0, 1: 82.1, 2: 83.0},
    }
    found = judge(values)
    assert (found.best, found.marked) == ("good", {"good", "near"})
    assert (found.unjudged, found.behind.keys()) == (("lucky",), {"near", "behind"})
    other = {seed + 10: value for seed, value in values["near"].items()}
    assert "near" in judge({**values, "near": other}).marked, "other seeds: not paired"
    assert judge({k: values[k] for k in ("lucky", "good")}).best is None


@given(suites)
def test_marks_are_those_of_the_intervals(values):
    found = judge(values)
    judged = {name for name, of in values.items() if len(of) >= FEWEST}
    if len(judged) < 2:
        assert (found.best, found.marked, found.behind) == (None, frozenset(), {})
        return
    means = {name: sum(of.values()) / len(of) for name, of in values.items()}
    assert means[found.best] == pytest.approx(max(means[name] for name in judged))
    assert found.behind.keys() | {found.best} == judged
    for name, behind in found.behind.items():
        assert behind.low <= behind.mean <= behind.high
        assert (name in found.marked) == (behind.low <= 0 <= behind.high)
    told = [d.p for d in found.behind.values() if d.significant]
    others = [d.p for d in found.behind.values() if not d.significant]
    assert max(told, default=0) <= min(others, default=1)
    # Holm tells apart no less than Bonferroni and no more than tests without a correction.
    assert all(d.significant for d in found.behind.values() if d.p < 0.05 / len(found.behind))
    assert all(p <= 0.05 for p in told)


def test_variances_of_a_family_help_each_other():
    rng = np.random.default_rng(0)
    alike = {f"m{i}": list(rng.normal(0, 1, 3)) for i in range(40)}
    apart = {**alike, "far": [-3.5, -4.4, -4.1], "zero": [-4.0] * 3}
    found, alone = against_zero(moderate=True, **apart), against_zero(**apart)
    assert found["far"].significant
    assert not alone["far"].significant, "two degrees of freedom are not enough"
    assert found["far"].mean == alone["far"].mean == pytest.approx(-4.0)
    # No variance is taken for nothing because three values happen to agree.
    assert found["zero"].low < -4.0 < found["zero"].high
    assert sum(d.significant for name, d in found.items() if name in alike) == 0


def test_a_family_without_differences_is_tested_at_its_level():
    """The chance of any false star is about 5 %: in 400 families of 12 with three seeds, 20."""
    rng = np.random.default_rng(1)
    wrong = [
        any(
            d.significant
            for d in against_zero(
                moderate=True, **{f"m{i}": list(rng.normal(0, s, 3)) for i, s in enumerate(sd)}
            ).values()
        )
        for sd in (0.3 * 2 ** rng.normal(0, 0.5, 12) for _ in range(400))
    ]
    assert 4 <= sum(wrong) <= 36  # four standard deviations


def test_few_comparisons_and_equal_ones_have_their_own_variances():
    three = {"a": [1.0, 1.1, 1.3], "b": [0.0, 2.0, 5.0], "c": [0.1, 0.2, 0.4]}
    assert against_zero(moderate=True, **three) == against_zero(**three)
    equal = {k: [0.5] * 3 for k in "abcde"}
    assert against_zero(moderate=True, **equal) == against_zero(**equal)


@given(st.floats(1e-9, 1e9))
def test_the_inverse_of_trigamma(x):
    assert trigamma_inverse(float(polygamma(1, x))) == pytest.approx(x, rel=1e-6)


def test_the_kind_of_variances_is_found():
    """Draws of scaled inverse chi squared variances, and of their estimates."""
    rng = np.random.default_rng(2)
    sigma = 8 * 0.25 / rng.chisquare(8, 20_000)
    found = prior(list(sigma * rng.chisquare(2, 20_000) / 2), [2.0] * 20_000)
    assert found.freedom == pytest.approx(8, rel=0.15)
    assert found.variance == pytest.approx(0.25, rel=0.05)
    same = prior(list(0.25 * rng.chisquare(2, 2000) / 2), [2.0] * 2000)
    assert same.variance == pytest.approx(0.25, rel=0.1)
    assert same.freedom > 30
    mixed, freedom = found.moderated(1.0, 2.0)
    assert mixed == pytest.approx((4 * found.variance + 2) / 6), "four are lent at most"
    assert freedom == 6
    assert Prior(1.0, 0.5).moderated(2.0, 3.0) == (6.5 / 4, 4.0)


GAIN = r"([+-]?[\d.]+) ± ([\d.]+)(\*?)"


def check(text):
    """A difference as it is shown agrees with its star; returns whether it has one."""
    mean, half, star = re.fullmatch(GAIN, text).groups()
    assert (abs(float(mean)) > float(half)) == bool(star), text
    return bool(star)


@given(st.lists(accuracies, min_size=3, max_size=6), st.lists(accuracies, min_size=3, max_size=6))
def test_numbers_shown_agree_with_the_star(ours, theirs):
    sides = (dict(enumerate(ours)), dict(enumerate(theirs)))
    (found,) = compared({"a": sides}).values()
    assert check(show.difference(found)) == found.significant


@pytest.mark.parametrize(
    ("mean", "half", "text"),
    [
        (0.5, 0.25, "+0.50 ± 0.25*"), (-0.324, 0.316, "-0.324 ± 0.316*"), (0.0, 0.0, "0.00 ± 0.00"),
        (0.0049, 0.0051, "0.00 ± 0.01"), (0.125, 0.125, "+0.12 ± 0.12"),
        (-0.12512, 0.12508, "-0.12512 ± 0.12508*"),
    ],
)  # fmt: skip
def test_as_many_places_as_it_takes(mean, half, text):
    assert show.difference(Difference(mean, mean - half, mean + half, 3, 0.01, 0.95)) == text


def cells(page):
    """Rows of all tables of a page or a Markdown text, as lists of plain texts."""
    if page.startswith("<!DOCTYPE"):
        lines = re.findall(r"<tr[^>]*>(.*?)</tr>", page)
        found = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", line) for line in lines]
        return [[unescape(re.sub(r"<[^>]*>", "", cell)) for cell in line] for line in found]
    lines = [line for line in page.splitlines() if line.startswith("|")]
    return [
        [re.sub(r"\\|\*\*", "", cell).strip() for cell in line.strip("|").split("|")]
        for line in lines
    ]


@settings(max_examples=15, deadline=None, phases=(Phase.explicit, Phase.generate))
@given(suites)
def test_all_forms_agree(values):
    records = [
        make(name, seed=seed, accuracy=accuracy)
        for name, of in values.items()
        for seed, accuracy in of.items()
    ]
    table = build(records)
    (group,) = table.groups
    marked = {row.label for row in group.rows if row.best}
    assert marked == set(group.verdict.marked)
    forms = [table.text(), table.markdown(), table.html(), table.summary()]
    for text in forms:
        assert {name for name in values if re.search(rf"\b{name}•", text)} == (
            marked if text is not forms[3] else set()
        )
        assert ("nothing can be told apart" in " ".join(text.split())) == (
            len(values) > 1 and not marked
        )
    assert {n for n in values if rf"{n}\textbullet{{}}" in table.latex()} == marked
    summary = {line[0].removesuffix(" (b)"): line[1] for line in cells(forms[3])[2:]}
    assert {name for name, text in summary.items() if text.endswith("•")} == marked
    (picture,) = (text for name, text in table.files().items() if name.startswith("pareto"))
    assert picture.count('class="ring"') == len(marked)
    for form in forms[1:3]:
        _check_intervals(form, marked)


def _check_intervals(page, marked):
    """Of each row the mark and the interval beside it."""
    heading = []
    for line in cells(page):
        heading = line if "framework" in line else heading
        if "vs best" not in heading or line is heading or len(line) != len(heading):
            continue
        row = dict(zip(heading, line, strict=True))
        if row["framework"].startswith(":"):
            continue
        name = re.match(r"\w+", row["framework"]).group()
        if "±" in row["vs best"]:
            assert check(row["vs best"]) != (name in marked)
        for column in ("vs uniform", "vs random"):
            if "±" in row.get(column, ""):
                check(row[column])


def test_over_all_groups_the_groups_are_the_pairs():
    records = []
    for like, level in ((2.5, 80.0), (3.0, 85.0), (4.0, 90.0)):
        records += seeds("uniform", [level] * 3, like=like)
        records += seeds("haq", [level + 2 + like / 10] * 3, like=like)
        records += seeds("hawq", [level + (2.0 if like == 3 else 2.4)] * 3, like=like)
    records += seeds("dnas", [95.0] * 3, like=4.0)
    (overall,) = build(records).standings
    best = {s.label: s.best for s in overall.standings}
    assert best == {"haq": True, "hawq": True, "uniform": False, "dnas": None}
    found = {s.label: s.behind for s in overall.standings}
    assert found["uniform"].mean == pytest.approx(-(2 + 9.5 / 30))
    leads = {s.label: (s.leads, s.judged) for s in overall.standings}
    assert leads == {"haq": (1, 3), "hawq": (1, 3), "uniform": (0, 3), "dnas": (1, 1)}
