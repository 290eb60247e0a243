"""Whose names and whose pages a server takes."""

import pytest

from jedlik.frontend.site import Site

OWN = [
    "localhost", "LOCALHOST:8000", "app.localhost", "127.0.0.1", "127.9.9.9:1", "[::1]:8000", "192.168.1.5", "0.0.0.0",
    "[fe80::1]", "x", "gpu-box:8000", "jedlik_1:80", "host.docker.internal:8000",
]  # fmt: skip
FOREIGN = [
    "evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.1.nip.io", "x.",
    "localhost.", "a.local", "internal.evil.example", "xlocalhost.com", "1.2.3", "127.0.0.1.",
]  # fmt: skip


@pytest.mark.parametrize("host", [*OWN, ""])
def test_names_that_no_stranger_can_have_lead_here(host: str) -> None:
    assert Site().answers_to(host)


@pytest.mark.parametrize("host", FOREIGN)
def test_names_that_a_stranger_can_have_lead_here(host: str) -> None:
    assert not Site().answers_to(host)
    assert Site(guarded=False).answers_to(host)
    assert Site(hosts=frozenset({"*"})).answers_to(host)


def test_names_that_are_listed() -> None:
    for guarded in (True, False):
        site = Site(guarded=guarded, hosts=frozenset({"gpu.example"}))
        assert site.answers_to("GPU.example:8000")
        assert site.answers_to("localhost")
        assert not site.answers_to("sub.gpu.example")


LOOPBACK = [
    "http://localhost:3000",
    "https://localhost",
    "http://127.0.0.1:1",
    "http://[::1]:5173",
    "http://a.localhost",
]
PAGES = [
    "http://evil.example", "https://localhost.evil.example", "null", "", "http://127.0.0.1.evil.example", "file://",
    "http://192.168.1.5", "http://localhost@evil.example", "http://localhost:3000/x", "chrome-extension://abc",
]  # fmt: skip


@pytest.mark.parametrize("origin", LOOPBACK)
def test_pages_of_this_machine_are_let_in_unless_that_is_switched_off(origin: str) -> None:
    assert Site().lets_in(origin)
    assert not Site(origins=frozenset()).lets_in(origin)


@pytest.mark.parametrize("origin", PAGES)
def test_other_pages_are_let_in_where_they_are_listed(origin: str) -> None:
    assert not Site().lets_in(origin)
    assert Site(origins=frozenset({"*"})).lets_in(origin)
    assert Site(origins=frozenset({origin})).lets_in(origin.upper())


def test_who_may_change_something() -> None:
    site, here = Site(), "127.0.0.1:8000"
    assert site.may_change("", here, "")  # no browser
    assert site.may_change("http://127.0.0.1:8000", here, "same-origin")
    assert site.may_change("http://localhost:3000", here, "cross-site")
    assert site.may_change("", here, "same-origin")
    assert site.may_change("", here, "none")
    assert not site.may_change("http://evil.example", here, "")
    assert not site.may_change("null", here, "")
    assert not site.may_change("null", "", "")
    assert not site.may_change("", here, "cross-site")
    assert not site.may_change("", here, "same-site")
    assert not Site(origins=frozenset()).may_change("http://localhost:3000", here, "")
    assert Site(keyless=False).may_change("http://evil.example", here, "cross-site")  # a page has no key
