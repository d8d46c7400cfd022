"""The site that `make docs` builds: whole, readable without a network, and with every public function at the root."""

import ast
import glob
import html.parser
import json
import os
import re
import subprocess
from urllib.parse import unquote, urlsplit

import pytest
from site_builder import ROOT, build_site

LOADED = {
    "script",
    "img",
    "iframe",
    "source",
    "video",
    "audio",
    "embed",
    "object",
    "link",
}  # tags: fetched with the page
NOT_FETCHED = {"canonical", "prev", "next", "alternate"}  # relations of <link>


class Page(html.parser.HTMLParser):
    """What a page links to, loads, and is linked by."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loaded, self.anchors, self.paragraphs, self.within = [], [], set(), [], []
        with open(path, encoding="utf-8") as stream:
            self.feed(stream.read())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.anchors.update(attributes[name] for name in ("id", "name") if attributes.get(name))
        addresses = [attributes[name] for name in ("href", "src", "data", "poster") if attributes.get(name)]
        self.links += addresses
        if tag in LOADED and attributes.get("rel") not in NOT_FETCHED:
            self.loaded += addresses
        if tag == "p":
            self.paragraphs.append("")
            self.within.append("p")
        elif self.within and tag in ("code", "pre"):
            self.within.append(tag)

    def handle_endtag(self, tag):
        if self.within and self.within[-1] == tag:
            self.within.pop()

    def handle_data(self, data):
        if self.within == ["p"]:
            self.paragraphs[-1] += data


def read_site(folder):
    """Return {path below `folder`: Page}."""
    paths = glob.glob(os.path.join(folder, "**", "*.html"), recursive=True)
    return {os.path.relpath(path, folder): Page(path) for path in paths}


def broken_links(folder, pages):
    """Return 'page: link' of every link to a file that is not there, or to an anchor that the page does not have."""
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            base = "" if parts.path.startswith("/") or path == "404.html" else os.path.dirname(path)
            name = os.path.normpath(os.path.join(base, unquote(parts.path.lstrip("/")))) if parts.path else path
            if os.path.isdir(os.path.join(folder, name)):
                name = os.path.normpath(os.path.join(name, "index.html"))
            there = os.path.isfile(os.path.join(folder, name))
            if not there or (parts.fragment and name in pages and unquote(parts.fragment) not in pages[name].anchors):
                broken.append(f"{path}: {link}")
    return broken


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return build_site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def pages(site):
    return read_site(site)


def test_every_document_is_a_page(pages):
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    for document in listed.stdout.split():
        page = re.sub(r"README\.html$", "index.html", document[: -len(".md")] + ".html")
        assert page in pages, f"{document} is not on the site: add it to mkdocs.yml, or link to it"


@pytest.mark.parametrize("path", sorted(glob.glob(os.path.join(ROOT, "*.py"))), ids=os.path.basename)
def test_every_public_function_at_the_root_is_on_its_page(path, pages):
    module = os.path.splitext(os.path.basename(path))[0]
    with open(path, encoding="utf-8") as stream:
        body = ast.parse(stream.read()).body
    names = [node.name for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    public = {f"{module}.{name}" for name in names if not name.startswith("_")}
    assert public
    assert public <= pages[f"api/{module}.html"].anchors


def test_no_link_is_broken(site, pages):
    assert len(pages) > 50
    assert broken_links(site, pages) == []


def test_broken_links_are_found(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.html").write_text('<h1 id="here">B</h1><a href="../a.html#there">A</a><img src="c.png">')
    (tmp_path / "a.html").write_text(
        '<a href="sub/b.html#here">fine</a> <a href="sub/b.html#gone">not</a> <a href="#x">x</a>'
    )
    broken = broken_links(tmp_path, read_site(tmp_path))
    assert sorted(broken) == [
        "a.html: #x",
        "a.html: sub/b.html#gone",
        f"{os.path.join('sub', 'b.html')}: ../a.html#there",
        f"{os.path.join('sub', 'b.html')}: c.png",
    ]


def test_pages_load_nothing_from_elsewhere(site, pages):
    for path, page in pages.items():
        foreign = [address for address in page.loaded if urlsplit(address).netloc or urlsplit(address).scheme == "http"]
        assert foreign == [], path
    for path in glob.glob(os.path.join(site, "**", "*.css"), recursive=True):
        with open(path, encoding="utf-8") as stream:
            assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", stream.read()), path


def test_no_markup_is_left_in_the_text(pages):
    """GitHub and MkDocs disagree about lists without a blank line above them, some fences and links, and formulas."""
    marks = re.compile(r"(^|\n) *(- |\* |1\. |```|#+ |\|)|\]\(|:::|\$[^$\n]+\$")
    for path, page in pages.items():
        for text in page.paragraphs:
            assert not marks.search(text), f"{path}: {text}"


def test_bars_in_the_code_of_tables_have_no_backslash(site):
    with open(os.path.join(site, "benchmarks", "index.html"), encoding="utf-8") as stream:
        page = stream.read()
    assert re.search(r"<td><code>discovery_step\.py \[cpu\|cuda\]</code></td>", page)


def test_docstrings_become_markdown(monkeypatch):
    monkeypatch.syspath_prepend(os.path.join(ROOT, "docs"))
    from plain_docstrings import to_markdown

    text = """Return H_ij * 2 of [N] <things>, as `a_b` does.

What to know
- One: a
  second line.
- Two.

size   float32 [N]: how large
       it is
:param z_0: a
    tensor.
:raises ValueError: always

    G = load("x")

    G(z)
"""
    assert to_markdown(text) == (
        "Return H\\_ij \\* 2 of \\[N\\] &lt;things>, as `a_b` does.\n\nWhat to know\n\n"
        "- One: a second line.\n- Two.\n\n"
        "`size`\n:   float32 \\[N\\]: how large it is\n\n`z_0`\n:   a tensor.\n\n`raises ValueError`\n:   always\n\n"
        '```python\nG = load("x")\n\nG(z)\n```'
    )


def test_a_notebook_becomes_a_page(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(os.path.join(ROOT, "docs"))
    from repository_files import notebook_page

    markdown = {"cell_type": "markdown", "source": ["# Tour\n", "See $v^\\top H v = \\sum_{i \\ne j} H_{ij}^2$."]}
    outputs = [
        {"output_type": "stream", "text": ["1\n", "```\n"]},
        {"output_type": "display_data", "data": {"image/png": "AAAA\n", "text/plain": ["<Figure>"]}},
    ]
    code = {"cell_type": "code", "source": ["print(1)"], "outputs": outputs}
    (tmp_path / "tour.ipynb").write_text(json.dumps({"cells": [markdown, code]}))
    assert notebook_page(str(tmp_path / "tour.ipynb")) == (
        "# Tour\nSee <em>v<sup>T</sup> H v = Σ<sub>i ≠ j</sub> H<sub>ij</sub><sup>2</sup></em>.\n\n"
        "```python\nprint(1)\n```\n\n````text\n1\n```\n````\n\n"
        '<img alt="What the cell above shows" src="data:image/png;base64,AAAA">\n'
    )
