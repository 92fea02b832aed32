import json

import pytest

from frameworks.core.card import CATEGORIES, NEEDS, Card


def card(**fields):
    facts = dict(
        title="HAQ", year=2019, category="reinforcement", quantizer="mse", granularity="layer",
        searches=("weight", "act"), needs=frozenset({"train", "calibration"}),
    )  # fmt: skip
    return Card(**{**facts, **fields})


def test_json_is_plain_sorted_data():
    plain = card(
        deviations=("one", "two"), arxiv="1811.08886", quantization=("codebook",)
    ).to_json()
    assert json.loads(json.dumps(plain)) == plain
    assert plain == {
        "title": "HAQ",
        "year": 2019,
        "category": "reinforcement",
        "quantizer": "mse",
        "granularity": "layer",
        "searches": ["weight", "act"],
        "needs": ["calibration", "train"],
        "arxiv": "1811.08886",
        "venue": "",
        "hardware_aware": False,
        "quantization": ["codebook"],
        "deviations": ["one", "two"],
    }


@pytest.mark.parametrize("category", CATEGORIES)
def test_categories(category):
    assert card(category=category).category == category


def test_unknown_category_and_needs_list_the_choices():
    with pytest.raises(ValueError, match=r"category 'genetic' is none of \['gradient'"):
        card(category="genetic")
    with pytest.raises(ValueError, match=r"needs \['labels', 'test'\] are none of \['calibration'"):
        card(needs=frozenset({"test", "labels", "train"}))


def test_an_unknown_technique_lists_the_choices():
    with pytest.raises(ValueError, match=r"quantization \['magic'\] are none of \['deterministic"):
        card(quantization=("bit planes", "magic"))


def test_a_search_can_never_ask_for_the_test_split():
    assert "test" not in NEEDS
    assert card(needs=frozenset(NEEDS)).needs == set(NEEDS)
