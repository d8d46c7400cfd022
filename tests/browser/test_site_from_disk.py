"""The site of the documents, opened from disk: its search works, and it asks nobody for anything."""

import pathlib

import pytest
from site_builder import build_site


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = build_site(tmp_path_factory.mktemp("site"))
    return (pathlib.Path(folder) / "index.html").as_uri()


@pytest.mark.parametrize("dark", [False, True])
def test_search_finds_a_function_and_opens_its_page(home, open_page, dark):
    page = open_page(home, dark=dark)
    assert page.get_attribute("body", "data-md-color-scheme") == ("slate" if dark else "default")
    page.click(".md-search__input")
    page.keyboard.type("range_coverage", delay=10)
    result = page.locator(".md-search-result__list a", has_text="range_coverage").first
    result.wait_for()
    result.click()
    page.wait_for_url("**/api/factor_scores.html*")
    assert page.locator("h2[id='factor_scores.range_coverage']").is_visible()
    assert page.complaints == []
    assert [address for address in page.requests if not address.startswith(("file:", "data:"))] == []
