"""The page in a browser, on the real service: live figures, trying, models, users, items, dead letters."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from urllib.parse import quote, urlsplit

import httpx
import pytest

from consumers.broker import EmbeddedBroker
from consumers.http.settings import Settings
from consumers.topic import EventTopic
from tests.consumers.http.running import Borrowed, Running
from tests.consumers.web.browser import Browser, Tab
from tests.consumers.web.conftest import SLATE, TOPIC, Look

pytestmark = [pytest.mark.browser, pytest.mark.kafka]

PAGES = ("live", "try", "users", "items", "learner", "models", "dead-letters")
ITEMS = "[...document.querySelectorAll('.slots li')].map((li) => li.dataset.item)"
FOCUS = "document.activeElement"


def test_live_page_shows_what_the_service_says(look: Look, service: Running) -> None:
    tab = look("#/live")
    names = "[...document.querySelectorAll('#reward tbody th')].map((th) => th.innerText.trim())"
    tab.wait(f"['knn', 'gru'].every((name) => {names}.includes(name))")
    assert set(tab.js(names)) <= set(service.engine.live()["policies"])
    tab.wait("document.querySelectorAll('#reward figure path').length >= 2")
    assert tab.js("document.querySelectorAll('#reward figure polygon').length") >= 1  # the band
    tiles = tab.text(".tiles")
    for label in ("Events per second", "Requests per second", "Lag", "Answer, p50", "Fallbacks", "Dead letters"):
        assert label in tiles
    assert re.search(r"Model v\d+", tiles)
    tab.wait("/\\d ms/.test(document.querySelector('.chain').innerText)")
    chain = tab.text(".chain")
    assert re.findall(r"Event|State|Weights|Served", chain) == ["Event", "State", "Weights", "Served"]
    first = tab.js("document.querySelector('#feedback dd').innerText")
    tab.wait(f"document.querySelector('#feedback dd').innerText !== {json.dumps(first)}")  # it goes on


def moved(before: list[str], after: list[str]) -> list[str]:
    """What the badges must say, slot by slot."""
    said = []
    for slot, item in enumerate(after):
        by = before.index(item) - slot if item in before else None
        said.append("new" if by is None else "=" if by == 0 else f"▲{by}" if by > 0 else f"▼{-by}")
    return said


def test_a_click_changes_the_list_and_the_page_says_how(look: Look, http: httpx.Client) -> None:
    tab = look("#/try", reduced_motion="reduce")
    tab.click("button.main ~ button + button")  # a new user
    before = tab.wait(f"{ITEMS}.length === {SLATE} && {ITEMS}")
    user = tab.js("document.querySelector('#who').value")
    assert tab.text("#why-title, .why h2") == "Why this list"
    for step in range(1, 11):
        slot = (step - 1) % SLATE
        item = before[slot]
        tab.click(f"[data-slot='{slot}'] [data-kind=click]")
        tab.wait(f"document.querySelectorAll('.steps li').length === {step + 1}")
        after = tab.js(ITEMS)
        badges = tab.js("[...document.querySelectorAll('.slots .move')].map((m) => m.firstChild.textContent)")
        assert badges == moved(before, after)
        assert tab.text(".outcome").startswith(f"You clicked {item}.")
        gone = tab.js("[...document.querySelectorAll('.gone .tag')].map((t) => t.innerText.split(' · ')[1])")
        assert sorted(gone) == sorted(set(before) - set(after))
        if after != before:
            break
        before = after
    else:
        pytest.fail(f"ten clicks of {user} changed nothing")
    assert "holds the reaction" in tab.text(".causes")
    assert "in the state" in tab.text(".journey")
    assert f"{item} · new" in tab.text(".why")
    state = http.get(f"/v1/users/{user}/state").json()
    assert [one["kind"] for one in state["items"]] == ["click"] * step
    tab.click("[data-slot='1'] [data-kind=skip]")
    tab.wait(f"document.querySelectorAll('.steps li').length === {step + 2}")
    tab.click("[data-slot='1'] [data-kind=purchase]")
    tab.wait(f"document.querySelectorAll('.steps li').length === {step + 3}")
    state = http.get(f"/v1/users/{user}/state").json()
    assert [one["kind"] for one in state["skips"]] == ["skip"]
    assert state["items"][-1]["kind"] == "purchase"


def state_of(http: httpx.Client, version: str) -> str:
    models = http.get("/v1/models").json()["models"]
    return next(str(one["state"]) for one in models if one["version"] == version)


def test_promote_rollback_and_shadow_ask_first_and_then_do(look: Look, service: Running, http: httpx.Client) -> None:
    tab = look("#/models")
    older = tab.wait("document.querySelectorAll('tr[data-state=standby]')[1]?.dataset.version")
    promote = f"[data-do='promote {older}']"
    tab.click(promote)
    tab.wait("document.querySelector('dialog[open]')")
    tab.key("Escape")
    tab.wait("!document.querySelector('dialog[open]')")
    assert tab.js(f"{FOCUS}.dataset.do") == f"promote {older}"
    assert state_of(http, older) == "standby"
    assert not service.engine.live()["model"]["pinned"]
    tab.click(promote)
    tab.click("dialog[open] button[value=yes]")
    tab.wait("document.querySelector('.now').hasAttribute('data-pinned')")
    assert "pinned" in tab.text(".now")
    assert (state_of(http, older), service.engine.live()["model"]["pinned"]) == ("serving", True)
    shadow = tab.wait("document.querySelector('tr[data-state=standby]').dataset.version")
    tab.click(f"[data-do='shadow {shadow}']")
    tab.click("dialog[open] button[value=yes]")
    tab.wait("/Shadow/.test(document.querySelector('.now').innerText)")
    assert state_of(http, shadow) == "shadow"
    tab.wait("/would have earned|too few decisions/.test(document.querySelector('[data-of=value]').innerText)")
    tab.click("[data-do=unshadow]")
    tab.click("dialog[open] button[value=yes]")
    tab.wait("!/Shadow/.test(document.querySelector('.now').innerText)")
    tab.click("[data-do=rollback]")
    tab.click("dialog[open] button[value=yes]")
    tab.wait(f"document.querySelector('tr[data-version=\"{older}\"]')?.dataset.state === 'rolled_back'")
    assert service.engine.live()["model"]["version"] != older
    tab.click("[data-do=follow]")
    tab.click("dialog[open] button[value=yes]")
    tab.wait("!document.querySelector('.now').hasAttribute('data-pinned')")
    assert not service.engine.live()["model"]["pinned"]


def test_keyboard_reaches_everything_and_focus_stays(look: Look) -> None:
    tab = look("#/try")
    tab.key("Tab")
    assert tab.js(f"{FOCUS}.id") == "jump"
    tab.key("Enter")
    assert tab.js(f"{FOCUS}.id") == "main"
    tab.key("Tab")
    assert tab.js(f"{FOCUS}.id") == "who"
    tab.type("keyboard-user")
    tab.key("Enter")
    tab.wait("document.querySelector('[data-slot=\"0\"] button')?.dataset.kind")
    tab.js("document.querySelector('#how-many').focus()")
    for _ in range(20):
        tab.key("Tab")
        if tab.js(f"{FOCUS}.dataset.kind === 'click'"):
            break
    assert tab.js(f"{FOCUS}.getAttribute('aria-label')").startswith("Click ")
    assert tab.js(f"getComputedStyle({FOCUS}).outlineStyle") == "solid"
    tab.key("Enter")
    tab.wait("document.querySelectorAll('.steps li').length === 2")
    assert tab.js(f"{FOCUS}.dataset.kind") == "click"  # on the same slot again, for the next one
    assert tab.js(f"{FOCUS}.closest('li').dataset.slot") == "0"
    assert tab.text("p.sr[role=status]").startswith("clicked ")  # said aloud


@pytest.mark.slow
def test_pages_fit_from_phone_to_desktop_in_light_and_dark(look: Look) -> None:
    colors = {}
    for scheme in ("light", "dark"):
        tab = look("#/live", color_scheme=scheme)
        for page in PAGES:
            tab.js(f"location.hash = '#/{page}'")
            tab.wait(f"document.querySelector('main').dataset.page === '{page}'")
            assert tab.js("document.querySelectorAll('nav [aria-current=page]').length") == 1
            for width in (360, 1600):
                tab.size(width, 800)
                over = tab.js("document.documentElement.scrollWidth - document.documentElement.clientWidth")
                assert over <= 0, f"{page} is {over} px too wide at {width} px"
        colors[scheme] = tab.js("getComputedStyle(document.body).backgroundColor")
        assert contrast(tab) >= 4.5
    assert colors["light"] != colors["dark"]
    tab.click("#theme")
    assert tab.js("getComputedStyle(document.body).backgroundColor") == colors["light"]
    tab.js("history.back()")
    tab.wait("document.querySelector('main').dataset.page === 'models'")


def contrast(tab: Tab) -> float:
    """Of the soft text on the page, as WCAG measures it."""

    def light(color: str) -> float:
        parts = [int(one) / 255 for one in re.findall(r"\d+", color)[:3]]
        parts = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    text, ground = tab.js(
        "[getComputedStyle(document.querySelector('.title p')).color, getComputedStyle(document.body).backgroundColor]"
    )
    a, b = sorted((light(text), light(ground)))
    return (b + 0.05) / (a + 0.05)


def test_names_are_text_whatever_they_hold(look: Look, http: httpx.Client, broker: EmbeddedBroker) -> None:
    odd = "<img src=x onerror=alert(1)>/%2F"
    events = [{"kind": "click", "user": odd, "item": "<b>bold</b>", "id": "odd"}]
    assert http.post("/v1/events", json=events).status_code == 202
    topic = EventTopic(broker.address, TOPIC)
    topic.send(b"u", b'{"user": "u", "kind": "<script>alert(1)</script>"}')
    topic.close()
    tab = look(f"#/users/{quote(odd, safe='')}")
    tab.wait("/<b>bold/.test(document.querySelector('.timeline')?.innerText)")
    assert odd in tab.text(".detail h2")
    tab.js("location.hash = '#/dead-letters'")
    tab.wait("document.querySelector('.letters details summary')?.innerText")
    tab.click(".letters summary")
    assert "<script>" in tab.text(".letters pre")
    assert tab.js("document.querySelectorAll('main img, main script, main b b').length") == 0
    tab.wait("!document.querySelector('#dead-count').hidden")


def test_erase_and_retire_ask_first_and_then_do(look: Look, http: httpx.Client) -> None:
    http.post("/v1/events", json=[{"kind": "click", "user": "who leaves", "item": "i1", "id": "leaves"}])
    tab = look("#/users/who%20leaves")
    tab.click("button.danger")
    assert "cannot be undone" in tab.text("dialog[open]")
    tab.click("dialog[open] button[value=yes]")
    tab.wait("location.hash === '#/users'")
    assert http.get("/v1/users/who%20leaves").status_code == 404
    tab.js("location.hash = '#/items/i1'")
    retire = "tr[data-item=i1] button"
    tab.click(retire)
    tab.click("dialog[open] button[value=yes]")
    tab.wait("/retired/.test(document.querySelector('tr[data-item=i1]').innerText)")
    shown = http.post("/v1/recommend", json={"user": "u1", "k": SLATE}).json()["items"]
    assert "i1" not in [one["item"] for one in shown]
    tab.click(retire)
    tab.wait("/available/.test(document.querySelector('tr[data-item=i1]').innerText)")


@contextmanager
def second(service: Running, settings: Settings) -> Iterator[Running]:
    """Another door to the same engine."""
    with Running(Borrowed(service.engine), settings) as running:
        yield running


@pytest.mark.slow
def test_lost_connection_is_told_and_made_again(browser: Browser, service: Running) -> None:
    with second(service, Settings(port=0, access_log=False)) as door:
        port = urlsplit(door.url).port
        assert port is not None
        tab = browser.open(door.url)
        tab.wait("document.querySelector('#state').dataset.state === 'live'")
        assert not tab.js("document.body.hasAttribute('data-stale')")
    tab.wait("document.querySelector('#state').dataset.state === 'lost'")
    assert "connection lost" in tab.text("#state")
    assert tab.js("document.body.hasAttribute('data-stale')")
    assert float(tab.js("getComputedStyle(document.querySelector('.tiles')).opacity")) < 1  # the figures stay, and fade
    with second(service, Settings(port=port, access_log=False)):
        tab.wait("document.querySelector('#state').dataset.state === 'live'")
        assert not tab.js("document.body.hasAttribute('data-stale')")
        tab.close()


def test_token_is_asked_for_and_kept_for_the_tab(browser: Browser, service: Running) -> None:
    secret = "open sesame, please"
    tokens = {"admin": [sha256(secret.encode()).hexdigest()]}
    with second(service, Settings(port=0, access_log=False, tokens=tokens)) as door:
        tab = browser.open(door.url)
        tab.wait("document.querySelector('dialog[open]')")
        assert "asks for a token" in tab.text("dialog[open]")
        tab.type("wrong")
        tab.key("Enter")
        tab.wait("/does not accept/.test(document.querySelector('dialog[open]')?.innerText)")
        tab.js("document.querySelector('#token-field').select()")
        tab.type(secret)
        tab.key("Enter")
        tab.wait("document.querySelector('#state').dataset.state === 'live'")
        assert secret in tab.js("JSON.stringify(sessionStorage)")
        assert secret not in tab.js("JSON.stringify(localStorage) + document.cookie + location.href")
        tab.close()
