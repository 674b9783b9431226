"""What BAHE's head is told beside pooled vectors: sizes, liked shares, what was made of behaviours like the item."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fusion.bank.index import with_bank
from fusion.bank.mmap_file import KEY, BankFile
from fusion.encoders.behavior_text import Template
from fusion.encoders.recipe import Recipe
from fusion.encoders.split_llm import recipe_of
from fusion.features.events import LABEL_ROWS
from fusion.features.log import Log
from fusion.features.samples import Samples
from fusion.models.bahe.model import Bahe
from fusion.models.bahe.target_attention import FEEDBACK_WIDTH, LIKED, SHARE, Slow, TargetAttention, sizes_of
from fusion.serving.bahe_cache import _stamp
from fusion.training.train import TrainConfig
from tests.support.bahe_world import alone, config_of, fresh
from tests.support.ctr_world import DAY, RULE, Row, log_of, samples_of, spec_of, train_until
from tests.support.tiny_llm import WIDTH, save_llm

BEFORE, USERS, LEARNT = 8, 240, 160
SILENT = Template(behavior="{title}, {categories}")  # what was done to an item is not in the text
DISLIKED = LIKED - 1


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llm(tmp_path_factory.mktemp("llm") / "tiny")


@pytest.fixture(scope="module")
def recipe(llm: Path) -> Recipe:
    return recipe_of(llm, 2, template=SILENT)


def kinds(recipe: Recipe, texts: list[str]) -> BankFile:
    """Vectors all far the same way, of which two dimensions tell items with even numbers from those with odd ones."""
    vectors = np.random.default_rng(0).normal(30.0, 0.3, (len(texts), WIDTH))
    for vector, text in zip(vectors, texts, strict=True):
        number = re.search(r"\d+", text)
        assert number is not None
        vector[int(number[0]) % 2] += 2.0
    keys = np.array(recipe.keys(texts), KEY)
    order = np.argsort(keys)
    return BankFile(keys[order], vectors.astype(np.float16)[order])


def taste(user: int, item: int) -> bool:
    """Half of the users like even items, the others odd ones."""
    return user % 2 == item % 2


def mood(user: int, _item: int) -> bool:
    """Two thirds of the users like everything, the others nothing."""
    return user % 3 > 0


def world(likes: object, recipe: Recipe) -> tuple[Log, Samples]:
    """Everybody meets as many even items as odd ones, and then one more, which is what is to be scored."""
    rng = np.random.default_rng(1)
    rows: list[Row] = []
    for user in range(USERS):
        even = 2 * rng.integers(0, 4, BEFORE + 1)
        kind = np.append(rng.permutation(np.arange(BEFORE) % 2), rng.integers(2))
        for step, item in enumerate((even + kind).tolist()):
            rows.append((user, item, (user * 10.0 + step) * DAY, 5.0 if likes(user, item) else 1.0))  # type: ignore[operator]
    log = log_of(rows, USERS, 8)
    samples = samples_of(spec_of(log), log, np.arange(log.size))
    samples.dense[:] = 0.0
    samples.profiles[:] = 0  # the world of these tests gives a gender to every second user
    samples = with_bank(samples, recipe, lambda texts: kinds(recipe, texts))
    return log, samples


@pytest.mark.parametrize("likes", [taste, mood])
def test_what_users_made_of_behaviours_decides_and_is_learnt_only_with_it(
    likes: object, llm: Path, recipe: Recipe
) -> None:
    """Texts tell what was met and not how it was liked. Judged by users of whom nothing was learnt."""
    epochs = 25
    for blind in (False, True):
        log, samples = world(likes, recipe)
        labels = RULE.labels(log)
        last = np.arange(BEFORE, log.size, BEFORE + 1)
        if blind:
            samples.events.value[:-1] = samples.events.label[:-1] = 1
        model = fresh(samples.spec, config_of(llm, recipe, history=BEFORE, keys=16))
        config = TrainConfig(epochs=epochs, batch_size=40, lr=5e-3, unknown=0.0, average=0.9, patience=epochs)
        reached = train_until(0.7 if blind else 0.95, model, samples, labels, (last[:LEARNT], last[LEARNT:]), config)
        if not blind:
            assert reached
            epochs = reached  # in as many epochs the blind one learns nothing that helps with others
    assert reached is None


def test_sizes_and_liked_shares_by_hand() -> None:
    liked, disliked, unlabelled = (5 * LABEL_ROWS + label for label in (LIKED, DISLIKED, 1))
    made = torch.tensor([[[0, 0, 0, 0]], [[0, liked, disliked, liked]], [[unlabelled, liked, disliked, disliked]]])
    torch.testing.assert_close(
        sizes_of(made)[:, 0], torch.tensor([[0.0, 0.0], [np.log(4), 2 / 3], [np.log(5), 1 / 4]], dtype=torch.float32)
    )


def test_the_most_alike_weighs_most_and_what_is_unknown_weighs_as_the_mean() -> None:
    torch.manual_seed(0)
    matching = TargetAttention(4, 3, 2).eval()
    with torch.no_grad():
        matching.label.weight.zero_()
        matching.value.weight.copy_(torch.tensor([[0.0] * FEEDBACK_WIDTH, [1.0] * FEEDBACK_WIDTH]))
    vectors, known = torch.randn(5, 4), torch.tensor([True, True, True, True, False])
    with torch.no_grad():
        keys = matching.keys(vectors, known)
        assert keys[4].abs().max() == 0
        torch.testing.assert_close(keys[:4].norm(dim=1), torch.ones(4))
        made = torch.tensor([[[0, LABEL_ROWS + LIKED, DISLIKED, DISLIKED]], [[0, 0, 0, 0]]]).int()
        side = keys[:4].expand(2, 1, 4, 3), made
        offered = torch.cat([vectors[:4], torch.zeros(1, 4)])
        out = matching(*side, offered, torch.zeros(5).long())
        alike = [torch.exp(10 * (keys[1:4] @ keys[item])) for item in range(4)]
        expected = [float(own[0] / own.sum()) for own in alike] + [1 / 3]
        torch.testing.assert_close(out, torch.tensor(expected)[:, None].expand(5, FEEDBACK_WIDTH))
        assert matching(*side, offered, torch.ones(5).long()).abs().max() == 0  # nobody's past


def test_a_slow_layer_begins_as_a_linear_one_and_learns_a_share_as_fast() -> None:
    x, moved = torch.randn(20, 6), []
    for layer in (nn.Linear, Slow):
        torch.manual_seed(0)
        own = layer(6, 1, bias=False)
        before = own(x).detach()
        if moved:
            torch.testing.assert_close(before, moved[0][0])
        optimizer = torch.optim.Adam(own.parameters(), lr=1e-3)
        own(x).square().sum().backward()
        optimizer.step()
        moved.append((before, own(x).detach() - before))
    torch.testing.assert_close(moved[1][1], moved[0][1] * SHARE, rtol=1e-2, atol=1e-6)


def test_a_state_is_of_what_the_user_made_of_behaviours_too(llm: Path, recipe: Recipe) -> None:
    """The same text may stand for a liked behaviour and for a disliked one: the label rule and the template decide."""
    _, samples = world(taste, recipe)
    model = Bahe(samples.spec, config_of(llm, recipe, history=BEFORE))
    batch = model.collator.collate(samples, alone(np.array([BEFORE])))
    changed = batch.feedback.clone()
    changed[0, 0, 2] += 1
    assert _stamp(batch, 0) == _stamp(dataclasses.replace(batch, feedback=batch.feedback.clone()), 0)
    assert _stamp(batch, 0) != _stamp(dataclasses.replace(batch, feedback=changed), 0)
