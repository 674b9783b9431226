"""The page in a real browser: find a user, evidence lit by a sentence, live behaviours and texts, hostile titles."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support.page_site import FILMS, HOSTILE, PER_PARTITION, Site, chromium, site

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium here: apt-get install chromium")
WITHIN_MS = 60_000  # a shared core may be busy


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("page")) as found:
        found.rate("hannah", list(FILMS))
        found.say("hannah", "This user mostly rated westerns. They also rated Alien. The weather was fine.")
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def tab(browser: Browser, shown: Site) -> Iterator[Page]:
    """A tab of somebody who is logged in. A request to another host and an error of a script fail the test."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, base_url=shown.page)
    page = context.new_page()
    page.set_default_timeout(WITHIN_MS)
    expect.set_options(timeout=WITHIN_MS)  # its own default is 5 seconds, whatever the page's is
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: troubles.append(request.url) if _outside(request.url, shown) else None)
    log_in(page, shown.key)
    yield page
    context.close()
    assert troubles == []


def _outside(url: str, shown: Site) -> bool:
    own = shown.page.removeprefix("http://")
    return not url.startswith((f"http://{own}", f"ws://{own}", "data:", "blob:"))


def log_in(page: Page, key: str, path: str = "/") -> None:
    page.goto(path)
    page.get_by_label("Access key").fill(key)
    page.get_by_role("button", name="Log in").click()


def open_user(tab: Page, user_id: str) -> None:
    tab.goto(f"/?user={user_id}")
    expect(tab.get_by_role("status")).to_have_text("live", timeout=WITHIN_MS)
    expect(tab.locator(".ranked")).to_be_visible(timeout=WITHIN_MS)  # the last to come: nothing moves after it


def lit(tab: Page) -> set[str]:
    """The titles that stand out: those with the colour of what is lit."""
    return set(
        tab.locator(".card .did").evaluate_all(
            "chips => chips.filter(one => getComputedStyle(one).getPropertyValue('--lit') == '1')"
            ".map(one => one.querySelector('.name').textContent)"
        )
    )


def test_a_key_opens_the_page_and_its_cookie_is_kept_from_scripts(browser: Browser, shown: Site) -> None:
    context = browser.new_context(base_url=shown.page)
    page = context.new_page()
    log_in(page, "not a key", "/?user=hannah")
    expect(page.get_by_role("alert")).to_contain_text("does not know this key")
    page.get_by_label("Access key").fill(shown.key)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="User hannah")).to_be_visible(timeout=WITHIN_MS)
    cookie = next(one for one in context.cookies() if one["name"] == "interestream_session")
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Lax"
    assert shown.key not in str(context.cookies())
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Access key")).to_be_visible()
    page.goto("/?user=hannah")
    expect(page.get_by_label("Access key")).to_be_visible()
    context.close()


def test_a_user_is_found_by_the_beginning_of_an_id(tab: Page) -> None:
    tab.get_by_label("The beginning of a user id").fill("han")
    tab.get_by_role("link", name=re.compile("hannah.*8 behaviours")).last.click()
    expect(tab.get_by_role("heading", name="User hannah")).to_be_visible()
    tab.get_by_label("User id", exact=True).fill("nobody at all")
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("alert")).to_contain_text("There is no user 'nobody at all'")


def test_a_sentence_lights_its_own_behaviours_by_pointer_and_by_keyboard(tab: Page) -> None:
    open_user(tab, "hannah")
    westerns, alien, weather = tab.locator('.card[data-index="0"] .said').all()
    assert lit(tab) == set()
    westerns.hover()
    assert lit(tab) == {"Maverick", "Young Guns", "Tombstone"}
    alien.hover()
    assert lit(tab) == {"Alien"}
    weather.hover()
    assert lit(tab) == set()
    tab.mouse.move(0, 0)
    westerns.focus()
    assert lit(tab) == {"Maverick", "Young Guns", "Tombstone"}
    tab.keyboard.press("Tab")
    assert lit(tab) == {"Alien"}
    assert "Supported by 1 behaviours: Alien" in str(alien.get_attribute("aria-description"))


def test_behaviours_partitions_and_texts_appear_by_themselves_and_scores_move(tab: Page, shown: Site) -> None:
    shown.rate("ida", ["m1"])
    open_user(tab, "ida")
    ranked = tab.locator(".ranked li")
    expect(ranked).to_have_count(10, timeout=WITHIN_MS)
    before = ranked.locator(".score").all_text_contents()
    expect(tab.locator(".open .did")).to_have_count(1)
    shown.rate("ida", ["m2"], after=100.0, value=1.0)
    expect(tab.locator('.open .did[data-seq="1"]')).to_contain_text("Young Guns", timeout=WITHIN_MS)
    expect(tab.locator(".move").first).to_be_visible(timeout=WITHIN_MS)
    assert ranked.locator(".score").all_text_contents() != before
    shown.rate("ida", [f"m{n}" for n in range(3, 9)], after=200.0)
    card = tab.locator('.card[data-index="0"]')
    expect(card.locator(".did")).to_have_count(PER_PARTITION, timeout=WITHIN_MS)
    expect(tab.locator(".open .did")).to_have_count(0)
    expect(card.locator(".summary")).to_contain_text("This user rated 8 films", timeout=WITHIN_MS)
    expect(card.locator(".badge").first).to_have_text("statistics")
    tab.goto("/stream")
    expect(tab.locator("#content")).to_contain_text(
        "Texts are written beside the service by statistics", timeout=WITHIN_MS
    )


@pytest.mark.parametrize("width", [1440, 390])
def test_hostile_titles_are_text_and_keep_the_layout(tab: Page, shown: Site, width: int) -> None:
    user = f"hostile <b>{width}"
    shown.rate(user, [*HOSTILE, "m1", "m2", "m3", "m4", "m5", *HOSTILE])
    shown.say(user, "<img src=x onerror=\"document.title='pwned'\"> \u202e likes it.")
    tab.set_viewport_size({"width": width, "height": 900})
    tab.goto(f"/?user=hostile%20%3Cb%3E{width}")
    expect(tab.get_by_role("heading", name=user)).to_be_visible()
    expect(tab.locator(".ranked")).to_be_visible()
    names = tab.locator(".open .did .name").all_text_contents()
    assert [name for name in names if name == HOSTILE["evil1"]]
    assert "pwned" not in tab.title()
    assert tab.locator(".page script, .page img").count() == 0
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.locator(".open .did").evaluate_all("all => Math.max(...all.map(one => one.offsetHeight))") < 40


def test_light_dark_and_phone(tab: Page, tmp_path: Path) -> None:
    """The page follows the browser's colours until it is told otherwise, and nothing is wider than a phone."""
    ground = "getComputedStyle(document.body).backgroundColor"
    tab.emulate_media(color_scheme="dark")
    open_user(tab, "hannah")
    dark = tab.evaluate(ground)
    tab.emulate_media(color_scheme="light")
    open_user(tab, "hannah")
    assert tab.evaluate(ground) != dark
    tab.get_by_role("link", name="Colours: auto").click()
    expect(tab.get_by_role("link", name="Colours: dark")).to_be_visible()
    assert tab.evaluate(ground) == dark
    tab.set_viewport_size({"width": 390, "height": 844})
    tab.screenshot(path=tmp_path / "phone.png", full_page=True)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
