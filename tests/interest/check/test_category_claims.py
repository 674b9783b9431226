"""The claim check is not fooled: what small models were seen to write, held against a partition that says otherwise."""

from __future__ import annotations

import pytest

from interest.check.category_claims import claims_in, holds_of
from interest.check.evidence import Evidence

BAD = [
    # seen from SmolLM2-135M on real partitions
    ("This user liked The Shining, which was released in 1985.", "1985"),
    ("They like comedies, which they enjoy watching on Netflix.", "Netflix"),
    ("This user enjoyed dramas on SmolLAM's platform.", "SmolLAM's"),
    ("This user enjoyed Hollow Reed, a drama with Nicolas Cage.", "Cage"),
    ('They also enjoyed the movie "The Day the Earth Stood Still".', "Earth"),
    ("This user enjoyed the romantic comedy Fargo.", "romantic Fargo"),
    ("This user enjoyed Fargo as a romance.", "romance Fargo"),
    ("This user enjoyed Babe, which was praised for its strong performances.", "praised"),
    ("This user enjoyed dramas with a strong female lead.", "female"),
    ("This user rated dramas with a score of 4.9 on average.", "4.9"),
    ("They rated them as high as 10.", "10"),
    ("They have watched comedies for the past few years.", "years"),
    ("The genre of Babe is a favourite.", "genre Babe"),
    # categories
    ("This user loves westerns.", "westerns"),
    ("This user likes anime and animated films.", "animated"),
    ("This user loves thrillers.", "thrillers"),  # watched, but valued low
    ("This user enjoyed action films.", "action"),  # none was valued above this user's usual
    ("This user dislikes comedies.", "comedies"),
    ("This user is mostly into romance.", "romance"),
    ("Their favourite genre is horror.", "horror"),
    ("They enjoyed romantic comedies.", "romantic comedies"),  # no title is both
    ("They gave the highest ratings to dramas.", "dramas"),  # the commonest; comedies were given higher ones
    ("This user liked dramas and comedies best.", "dramas"),
    ("They rated dramas most highly.", "dramas"),
    ("They rated more comedies than dramas.", "comedies than dramas"),
    ("They prefer dramas over comedies.", "dramas over comedies"),
    ("They rated 9 dramas.", "9 dramas"),
    ("They rated 40 films.", "40"),
    ("They rated 3 comedies and dramas.", "3 comedies and dramas"),  # that is, 3 of each; there are 6 dramas
    ("They rated 6 drama films, thrillers and comedies.", "6 drama films, thrillers and comedies"),
    ("They rated six dramas and comedies.", "six dramas and comedies"),
    ("They rated 3 comedy dramas.", "3 comedy dramas"),  # one is both
    ("80% of them are dramas.", "80"),
    ("They have a preference for war films.", "war"),  # 2 of 11, not valued more than others
    # years, decades, months
    ("They watched dramas from the 1950s.", "1950s"),
    ("They like eighties dramas.", "eighties"),
    ("In 2015 they watched dramas.", "2015"),
    ("In October they watched dramas.", "October"),
    # the profile
    ("He likes dramas.", "He"),
    ("This 31-year-old likes dramas.", "31"),
    ("As a teacher, this user likes dramas.", "teacher"),
    # titles against their feeling
    ("This user loved Speed.", "Speed"),
    ("This user did not like Babe.", "Babe"),
]

GOOD = [
    "This user enjoyed dramas and comedies.",
    "This user liked Babe and The Shining, which was released in 1980.",
    "They rated thrillers lower than the rest.",
    "This user does not like thrillers.",
    "They rated more dramas than comedies.",
    "They prefer comedies over dramas.",
    "They rated 6 dramas and three comedies.",
    "They rated 6 dramas and 3 comedies, thrillers less often.",
    "They rated 4 thrillers and 2 action films.",
    "They rated 1 comedy drama.",
    "55% of them are dramas.",
    "Many of the films are from the 1990s.",
    "She likes dramas.",
    "They gave the highest ratings to comedies.",
    "Dramas were among the best.",
    "This 24-year-old student likes dramas.",
    "This user enjoyed the comedy Duck Soup.",
    "This user enjoyed comedy dramas.",
    "Their favourite genre is comedy.",
    "This user liked E.T. the Extra-Terrestrial.",
    "In March 1998 they watched dramas.",
    "This user rated 11 films.",
]


@pytest.mark.parametrize(("sentence", "what"), BAD)
def test_an_invented_claim_is_unsupported(sentence: str, what: str, evidence: Evidence) -> None:
    assert what in [claim.text for claim in claims_in(sentence, evidence) if not claim.supported]


@pytest.mark.parametrize("sentence", GOOD)
def test_a_true_sentence_is_supported(sentence: str, evidence: Evidence) -> None:
    found = claims_in(sentence, evidence)
    assert found
    assert [claim for claim in found if not claim.supported] == []


@pytest.mark.parametrize(
    "sentence",
    [
        "This user now chooses more dramas and fewer thrillers.",
        "This user moved from action films to dramas.",
        "They turned from thrillers and action to comedies.",
        "Comedies increased.",
        "This user now chooses dramas over action films.",
    ],
)
def test_a_true_change_is_supported(sentence: str, shift_evidence: Evidence) -> None:
    found = claims_in(sentence, shift_evidence)
    assert found
    assert [claim for claim in found if not claim.supported] == []


@pytest.mark.parametrize(
    ("sentence", "what"),
    [
        ("This user now chooses more thrillers.", "thrillers"),
        ("This user now chooses more dramas and fewer comedies.", "comedies"),
        ("This user moved from comedies to dramas.", "comedies"),
        ("This user moved from thrillers to westerns.", "westerns"),
        ("They still choose as many action films.", "action"),
        ("More dramas over the past few years.", "years"),
    ],
)
def test_an_invented_change_is_unsupported(sentence: str, what: str, shift_evidence: Evidence) -> None:
    assert what in [claim.text for claim in claims_in(sentence, shift_evidence) if not claim.supported]


def test_supported_claims_name_the_behaviours_behind_them(evidence: Evidence) -> None:
    title = next(claim for claim in claims_in("They liked Babe.", evidence) if claim.kind == "title")
    comedy = next(claim for claim in claims_in("They liked comedies.", evidence) if claim.kind == "category")
    assert title.seqs == (52,)
    assert set(comedy.seqs) == {52, 53, 60}


def test_whether_a_sentence_holds_is_known_without_the_behaviours_behind_it(evidence: Evidence) -> None:
    for sentence in (*GOOD, *(sentence for sentence, _ in BAD)):
        claims = claims_in(sentence, evidence)
        assert holds_of(sentence, evidence, ()) == all(claim.supported for claim in claims)
        kinds = {claim.kind for claim in claims if not claim.supported}
        assert holds_of(sentence, evidence, kinds)
