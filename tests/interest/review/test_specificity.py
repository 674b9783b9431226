"""The reader finds the user by what a text tells, and by nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from interest.check.evidence import Evidence
from interest.facts.counts import Facts, facts_of
from interest.facts.values import Usual
from interest.review.specificity import Clue, Trial, clues_of, groups_of, identify
from interest.types import Behavior, Item
from interest.write.cascade import plain_summary
from interest.write.prompts import Style

NAMES = ("Drama", "Comedy", "Thriller", "Horror", "War", "Western", "Crime", "Romance")
CATALOGUE = {
    f"{name}{at}": Item(
        item_id=f"{name}{at}", title=f"{name} {at}", categories=(name,), attributes={"director": f"D {name}"}
    )
    for name in NAMES
    for at in range(12)
}


def partition(favourite: int, disliked: int) -> Facts:
    """Eight of everything, more of the favourite: 5 for that, 1 for what is disliked, 3 for the rest."""
    rows = [(f"{name}{at}", 3.0) for name in NAMES for at in range(4)]
    rows += [(f"{NAMES[favourite]}{at}", 5.0) for at in range(4, 12)]
    rows = [(item, 1.0 if item.startswith(NAMES[disliked]) else value) for item, value in rows]
    behaviors = [
        (seq, Behavior(user_id="u", item_id=item, action="rate", at=float(seq), value=value))
        for seq, (item, value) in enumerate(rows)
    ]
    return facts_of(behaviors, CATALOGUE, usual=Usual.of(len(rows), sum(value for _, value in rows), 5.0))


WORLD = [(favourite, (favourite + 1 + step) % len(NAMES)) for favourite in range(len(NAMES)) for step in range(3)]


def trials(say) -> list[Trial]:
    """One user for each pair of favourite and disliked, who are the same in their next partition."""
    found = []
    for number, (favourite, disliked) in enumerate(WORLD):
        facts = partition(favourite, disliked)
        found.append(Trial(f"user-{number}", 0, clues_of(say(favourite, disliked), Evidence(facts)), facts))
    return found


def test_a_text_that_tells_all_finds_its_user_and_one_that_tells_nothing_guesses() -> None:
    told = identify(
        trials(lambda liked, not_liked: f"They love {NAMES[liked]} films but dislike {NAMES[not_liked]} films.")
    )
    assert told is not None
    assert (told.accuracy, told.trials) == (1.0, len(WORLD))
    half = identify(trials(lambda liked, _: f"They love {NAMES[liked]} films."))
    assert half is not None
    assert half.accuracy == pytest.approx(1 / 3, abs=0.1)  # three users have that favourite
    nothing = identify(trials(lambda *_: "They watched films."))
    assert nothing is not None
    assert nothing.accuracy == pytest.approx(nothing.chance) == pytest.approx(1 / len(WORLD))


def test_anothers_text_finds_the_other() -> None:
    shifted = trials(lambda liked, _: f"They love {NAMES[(liked + 1) % 8]} films.")
    found = identify(shifted)
    assert found is not None
    assert found.accuracy == 0.0


def test_titles_tell_nothing_and_words_of_the_catalogue_do() -> None:
    evidence = Evidence(partition(0, 1))
    assert clues_of('They loved "Western 1".', evidence) == ()
    assert clues_of("They watched films by D Western.", evidence) == (
        Clue("D Western", 0, word=True),
        Clue("Western", 0),
    )


def test_a_comparison_with_others_is_a_clue_by_values_and_by_years() -> None:
    """Partitions alike but for the level of values, and how old what was chosen is."""
    own = partition(0, 1)
    levels = {user: (mean, year) for user, mean, year in (("a", 1.0, 1990), ("b", 3.0, 1950), ("c", 5.0, 1970))}
    after = {
        user: replace(own, mean=mean, titles=tuple(replace(title, year=year) for title in own.titles))
        for user, (mean, year) in levels.items()
    }
    for said, found in (
        ("They gave higher ratings than most users.", "c"),
        ("They gave lower ratings than most users.", "a"),
        ("They watched older films than others.", "b"),
        ("They watched newer films than others.", "a"),
    ):
        clues = clues_of(said, Evidence(own))
        named = identify([Trial(user, 0, clues, facts) for user, facts in after.items()])
        assert named is not None
        assert [user for user, hits in named.hits.items() if hits == [1.0]] == [found]
    without = replace(own, valued=0, mean=None)
    unknown = identify(
        [
            Trial(user, 0, clues_of("They gave higher ratings than others.", Evidence(own)), facts)
            for user, facts in {**after, "d": without}.items()
        ]
    )
    assert unknown is not None
    assert [user for user, hits in unknown.hits.items() if hits == [1.0]] == ["c"]


def test_a_statistics_sentence_is_read_as_it_is_meant() -> None:
    facts = partition(2, 5)
    text = plain_summary(facts, Style()).text
    assert "higher than the rest, and" in text
    stances = {clue.name: clue.stance for clue in clues_of(text, Evidence(facts))}
    assert (stances["Thriller"], stances["Western"]) == (1, -1)


def test_what_a_text_says_of_its_scene_alone_tells_nobody_apart() -> None:
    """Two scenes a user, of other tastes: whose partition of a scene comes first is not a hint."""
    found = []
    for number in range(12):
        for scene, liked in (("home", 0), ("shop", 1)):
            facts = replace(partition(liked, 2), names=frozenset({f"scene {scene}"}), scene=scene)
            clues = clues_of(f"In the scene {scene} they love {NAMES[liked]} films.", Evidence(facts))
            assert Clue(f"scene {scene}", 0, word=True) in clues
            found.append(Trial(f"user-{number}", 0, clues, facts, scene))
    assert all(len({trial.scene for trial in group}) == 1 for group in groups_of(found, 100))
    told = identify(found)
    assert told is not None
    assert (told.accuracy, told.trials) == (pytest.approx(told.chance), 24)


def test_users_without_company_are_not_tried() -> None:
    assert identify(trials(lambda *_: "They love dramas.")[:1]) is None
