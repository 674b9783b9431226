"""What may be kept of a reply: whole, supported sentences about the user, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interest.check.category_claims import claims_in
from interest.check.evidence import Evidence
from interest.check.sentences import check
from tests.support.films import facts


def test_a_true_text_is_kept_as_it_is(evidence: Evidence) -> None:
    text = "This user enjoyed dramas and comedies, with a preference for comedies."
    verdict = check(text, evidence)
    assert (verdict.text, verdict.trimmed, verdict.faults) == (text, False, ())
    assert all(claim.supported for claim in verdict.claims)


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        # a false sentence goes, the true one stays
        (
            "This user enjoyed dramas and comedies. They also loved westerns.",
            "This user enjoyed dramas and comedies.",
        ),
        # a false tail goes, its head stays
        (
            "This user enjoyed dramas and comedies, which they enjoy watching on Netflix.",
            "This user enjoyed dramas and comedies.",
        ),
        (
            'This user enjoyed comedies and dramas, but particularly loved "Babe" which was praised for its plot.',
            'This user enjoyed comedies and dramas, but particularly loved "Babe".',
        ),
        # a tail that says nothing goes
        (
            "This user enjoyed dramas and comedies, and enjoyed a variety of genres.",
            "This user enjoyed dramas and comedies.",
        ),
        (
            "This user enjoyed comedies and dramas, including action films, and enjoyed a variety of genres.",
            "This user enjoyed comedies and dramas.",  # no action film was valued above the usual
        ),
        # cut by the token limit
        ("This user enjoyed dramas and comedies. They also found that", "This user enjoyed dramas and comedies."),
        # the same again
        (
            "This user enjoyed dramas and comedies. This user enjoyed dramas and comedies.",
            "This user enjoyed dramas and comedies.",
        ),
    ],
)
def test_what_fails_is_cut(written: str, kept: str, evidence: Evidence) -> None:
    verdict = check(written, evidence)
    assert (verdict.text, verdict.trimmed) == (kept, True)
    assert verdict.faults
    assert all(claim.supported for claim in verdict.kept)


@pytest.mark.parametrize(
    "written",
    [
        "",
        "This user",
        "This user enjoyed",
        "Babe, Fargo, Taxi Driver, Duck Soup.",
        "This user enjoyed Babe and Duck Soup.",
        'This user enjoyed the movie "Babe", a comedy drama.',  # one title's categories say nothing of the user's taste
        "As an AI language model, I enjoy dramas and comedies.",
        "You enjoy dramas and comedies.",
        "Here is a summary: dramas and comedies are liked.",
        "Cet utilisateur aime les drames et les comédies de cette période.",
        "drama comedy drama comedy drama comedy",
        "This user enjoyed a wide range of films.",
        "This user enjoyed the genre of drama, particularly in the realm of dramas.",
        "This user enjoyed dramas, comedies and dramas.",
        "This user enjoyed a dramas and a comedies.",
        "This user liked most was dramas and comedies.",
        "They rated the highest were comedies and dramas.",
        "This user enjoyed dramas and comedies",  # no end
        "This user enjoyed a wide range of films, including a comedy, a drama, and a thriller.",
        "This user enjoyed a few dramas and a few comedies.",  # most of what they rated
        'This user enjoyed dramas, comedies, and horror which they rated as "Babe", a drama.',
        "This user enjoyed dramas and comedies higher ratings than other films.",
        "- dramas\n- comedies",
    ],
)
def test_nothing_is_kept_of_what_is_no_text_about_the_user(written: str, evidence: Evidence) -> None:
    verdict = check(written, evidence)
    assert verdict.text == ""
    assert verdict.faults


@pytest.mark.parametrize(
    ("kept", "names"),
    [
        ("They enjoyed dramas and comedies.", "This user enjoyed dramas and comedies."),
        ("They also gave high ratings to comedies and dramas.", "This user gave high ratings to comedies and dramas."),
        ("They have rated dramas and comedies often.", "This user has rated dramas and comedies often."),
        ("They are fond of dramas and comedies.", "This user is fond of dramas and comedies."),
        ("They were mostly drawn to dramas and comedies.", "This user was mostly drawn to dramas and comedies."),
        ("They do not like thrillers but enjoyed dramas.", "This user does not like thrillers but enjoyed dramas."),
        # a verb that would have to change and is not known to, or a second one
        ("They like dramas and comedies.", "They like dramas and comedies."),
        ("They rated dramas and are fond of comedies.", "They rated dramas and are fond of comedies."),
    ],
)
def test_a_text_whose_first_sentence_was_cut_says_who(kept: str, names: str, evidence: Evidence) -> None:
    verdict = check(f"This user loved westerns. {kept} They rated thrillers lower than the rest.", evidence)
    assert verdict.trimmed
    assert verdict.text.startswith(names)
    assert [claim for claim in verdict.kept if not claim.supported] == []
    assert claims_in(verdict.text.split(". ")[0] + ".", evidence) == claims_in(kept, evidence)
    assert check(verdict.text, evidence).text == verdict.text


def test_what_somebody_liked_most_was_something(evidence: Evidence) -> None:
    text = "What this user liked most was comedies, and they enjoyed dramas."
    assert check(text, evidence).text == text


def test_they_are_who_was_named_before(evidence: Evidence) -> None:
    text = "This user rated 6 dramas. They enjoyed dramas and comedies."
    assert check(text, evidence).text == text


def test_a_copied_prompt_is_not_kept(evidence: Evidence) -> None:
    told = "The user rated eleven films, many of them dramas and comedies and also several thrillers of the period."
    assert check(told, evidence, f"What does the user like?\n\n{told}").text == ""
    assert "copies the prompt" in check(told, evidence, told).faults


def test_a_full_stop_inside_a_title_ends_no_sentence(evidence: Evidence) -> None:
    text = "This user enjoyed dramas like E.T. the Extra-Terrestrial and also comedies."
    assert check(text, evidence).text == text


def test_a_title_is_written_as_the_catalogue_writes_it(evidence: Evidence) -> None:
    verdict = check("This user enjoyed dramas and comedies, and was fond of one fine day.", evidence)
    assert verdict.text == "This user enjoyed dramas and comedies, and was fond of One Fine Day."


def test_a_shift_that_tells_no_change_is_not_kept(shift_evidence: Evidence) -> None:
    assert check("This user now chooses more dramas and fewer thrillers.", shift_evidence, min_claims=1).text
    assert check("This user enjoyed dramas and comedies.", shift_evidence, min_claims=1).text == ""


WORDS = (
    *("this", "They", "user", "enjoyed", "likes", "dramas", "comedies", "westerns", "Babe", "Speed", "Netflix"),
    *("1985", "the", "a", "and", "with", "of", "more", "than", ".", ","),
)


@given(st.lists(st.sampled_from(WORDS), max_size=25).map(" ".join))
def test_whatever_is_kept_is_supported_and_ends(written: str) -> None:
    evidence = Evidence(facts(("2", 3), ("3", 2), ("5", 5), ("4", 5), ("6", 4), ("8", 4), ("9", 2), ("4", 5)))
    verdict = check(written, evidence)
    assert all(claim.supported for claim in verdict.kept)
    assert verdict.text == "" or verdict.text[-1] in ".!?\"”’'"
    assert check(verdict.text, evidence).text == verdict.text
