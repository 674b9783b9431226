"""Base rates: frozen, named by what they hold, and nobody's."""

from __future__ import annotations

import msgspec
import pytest

from interest.check.evidence import Evidence
from interest.check.generality import holds_for_many
from interest.facts.base_rates import LEAST, BaseRates, decode, encode, freeze
from interest.facts.counts import Facts
from tests.support.films import facts

DRAMAS = facts(("2", 5), ("3", 5), ("6", 5), ("8", 5), ("7", 3), ("5", 3))
ACTION = facts(*[("9", 4), ("10", 4)] * 3)


@pytest.fixture
def rates() -> BaseRates:
    return freeze([DRAMAS, ACTION] * LEAST)


def test_they_are_read_as_they_were_frozen_and_named_by_what_they_hold(rates: BaseRates) -> None:
    assert decode(encode(rates)) == rates
    assert decode(encode(rates)).version == rates.version
    assert freeze([DRAMAS, ACTION] * LEAST).version == rates.version
    assert freeze([DRAMAS] * LEAST).version != rates.version


def test_no_user_item_title_profile_or_time_is_in_them(rates: BaseRates) -> None:
    text = encode(rates).decode()
    for own in ("Fargo", "student", '"u"', "889000000", "1996"):
        assert own not in text


def test_lift_is_the_share_over_the_usual_share(rates: BaseRates, march: Facts) -> None:
    assert rates.rates["Action"] == 0.5
    comedy, action = march.category("Comedy"), march.category("Action")
    assert comedy is not None
    assert action is not None
    assert rates.lift(comedy, march) > 1 > rates.lift(action, march)


def test_a_frozen_partition_supports_what_the_partition_does(rates: BaseRates) -> None:
    for said in (
        "This user enjoyed dramas.",
        "They rated 6 films of the 1990s.",
        "They rated crime dramas.",
        "They loved westerns.",
    ):
        for frozen, live in zip(rates.strangers()[:2], (DRAMAS, ACTION), strict=True):
            assert holds_for_many([said], [Evidence(frozen)]) == holds_for_many([said], [Evidence(live)]), said
    assert not holds_for_many(["This user enjoyed Fargo."], [Evidence(rates.strangers()[0])])


def test_too_few_users_are_no_base_rate_and_another_form_is_refused(rates: BaseRates) -> None:
    with pytest.raises(ValueError, match=f"base rates take {LEAST}"):
        freeze([DRAMAS] * (LEAST - 1))
    with pytest.raises(msgspec.ValidationError, match="form 9"):
        decode(encode(msgspec.structs.replace(rates, form=9)))
