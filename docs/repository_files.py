"""MkDocs hook: the repository's own documents as pages, without copies of them in docs/.

Documents that the navigation names are taken from the repository, and whatever they link to comes along: pictures and
other documents as they are, source files and notebooks as pages that show them, folders by their README or a list.
Pages api/MODULE.md are made of the module's docstrings.
"""

import base64
import json
import os
import posixpath
import re
from urllib.parse import unquote, urlsplit

from markdown.extensions import Extension
from markdown.treeprocessors import Treeprocessor
from markdown.util import AtomicString
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LANGUAGES = {
    ".py": "python",
    ".sh": "bash",
    ".yml": "yaml",
    ".toml": "toml",
    ".txt": "text",
    ".cff": "yaml",
    "": "text",
}
FENCED = re.compile(r"^( *)(```|~~~).*?^\1\2\s*$", re.DOTALL | re.MULTILINE)
FORMULA = re.compile(r"\$([^$\n]+)\$")
SYMBOLS = {
    "top": "T",
    "sum": "Σ",
    "ne": "≠",
    "neq": "≠",
    "pm": "±",
    "cdot": "·",
    "times": "×",
    "approx": "≈",
    "sqrt": "√",
}
SYMBOLS.update(zip(["epsilon", "varepsilon", "lambda", "sigma", "Sigma", "alpha", "beta", "pi"], "εελσΣαβπ"))
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")


# ----------------------------------------------------------------------------------------------------------------------
# Hooks


def on_config(config):
    config.markdown_extensions.append(AS_ON_GITHUB)
    return config


def on_files(files, config):
    """Add what the navigation names, and all that it links to, directly or over other documents."""
    waiting = list(nav_paths(config.nav))
    while waiting:
        file = repository_file(waiting.pop(), config)
        if file is None or file.src_uri in files.src_uris:  # None: MkDocs names the page that has the broken link
            continue
        files.append(file)
        if file.src_uri.endswith(".md"):
            waiting += [target(link, file.src_uri)[0] for link in links(file.content_string)]
    return files


def on_page_markdown(markdown, page, config, files):
    AS_ON_GITHUB.page = page.file.src_uri
    if page.parent is None:
        page.meta.setdefault("hide", ["navigation"])  # alone below its tab
    return markdown


# ----------------------------------------------------------------------------------------------------------------------
# Which files


def nav_paths(nav):
    """Yield all paths in a navigation."""
    for entry in nav if isinstance(nav, list) else nav.values():
        if isinstance(entry, str):
            yield entry
        else:
            yield from nav_paths(entry)


def links(text):
    """Return the addresses that a Markdown document links to, code apart."""
    return [first or second for first, second in LINK.findall(FENCED.sub("", text))]


def target(link, page):
    """Return (repository path, fragment) of a link on `page`; (None, ...) where it leads elsewhere."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc or not parts.path:
        return None, parts.fragment
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(parts.path))), parts.fragment


def page_of(path):
    """Return the path, in the site's sources, of the page that shows a file or folder; `path` where it is no page."""
    full = os.path.join(ROOT, path)
    if os.path.isdir(full):
        return posixpath.normpath(posixpath.join(path, "README.md"))
    extension = posixpath.splitext(path)[1]
    if os.path.isfile(full) and (extension in LANGUAGES or extension == ".ipynb"):
        return path + ".md"
    return path


def repository_file(path, config):
    """Return the MkDocs file of a path in the repository, or of the page that shows it (None: there is none)."""
    if path is None or path.startswith(".."):
        return None
    if path.startswith("api/"):
        return File.generated(config, path, content=api_page(path[len("api/") : -len(".md")]))
    if path.endswith(".md") and os.path.isfile(os.path.join(ROOT, path[: -len(".md")])):
        path = path[: -len(".md")]
    full, page = os.path.join(ROOT, path), page_of(path)
    if os.path.isfile(os.path.join(ROOT, page)):
        return File.generated(config, page, abs_src_path=os.path.join(ROOT, page))
    if not os.path.exists(full):
        return None
    make = folder_page if os.path.isdir(full) else notebook_page if path.endswith(".ipynb") else source_page
    return File.generated(config, page, content=make(path))


# ----------------------------------------------------------------------------------------------------------------------
# Pages that are made


def api_page(module):
    return f"# `{module}`\n\n::: {module}\n"


def source_page(path):
    """A source file as a page; the search leaves it out, since its docstrings are in the API."""
    with open(os.path.join(ROOT, path), encoding="utf-8") as stream:
        text = stream.read()
    language = LANGUAGES[posixpath.splitext(path)[1]]
    return f"---\nsearch:\n  exclude: true\nhide: [toc]\n---\n# `{path}`\n\n{fence(text, language)}\n"


def folder_page(path):
    """The files of a folder, a link to each that is a document."""
    names = sorted(name for name in os.listdir(os.path.join(ROOT, path)) if not name.startswith((".", "__")))
    lines = [f"- [{name}]({name})" if name.endswith(".md") else f"- {name}" for name in names]
    return f"# `{path}`\n\n" + "\n".join(lines) + "\n"


def notebook_page(path):
    """A notebook as Markdown: its text, its code, and what the cells printed and drew."""
    with open(os.path.join(ROOT, path), encoding="utf-8") as stream:
        notebook = json.load(stream)
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(FORMULA.sub(formula, source))
        elif cell["cell_type"] == "code" and source.strip():
            parts.append(fence(source, "python"))
            parts += filter(None, map(shown_output, cell["outputs"]))
    return "\n\n".join(parts) + "\n"


def formula(match):
    """A short formula of a notebook as HTML: the site has no MathJax, which a server would have to bring."""
    unknown = set(re.findall(r"\\([A-Za-z]+)", match.group(1))) - set(SYMBOLS)
    if unknown:
        raise PluginError(f"{match.group(0)}: no sign for \\{unknown.pop()} in docs/repository_files.py")
    text = re.sub(r"\\([A-Za-z]+)", lambda name: SYMBOLS[name.group(1)], match.group(1))
    for mark, tag in ("_", "sub"), ("^", "sup"):
        text = re.sub(re.escape(mark) + r"(?:{([^}]*)}|(.))", rf"<{tag}>\1\2</{tag}>", text)
    return f"<em>{text}</em>"


def shown_output(output):
    """A cell's output as Markdown: its picture, else its text."""
    data = output.get("data", {})
    for kind in ("image/png", "image/gif", "image/jpeg"):
        if kind in data:
            picture = base64.b64encode(base64.b64decode("".join(data[kind]))).decode()
            return f'<img alt="What the cell above shows" src="data:{kind};base64,{picture}">'
    text = "".join(output.get("text", data.get("text/plain", "")))
    return fence(text, "text") if text.strip() else ""


def fence(text, language):
    """A block of code, whatever is in it."""
    marks = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{marks}{language}\n{text.rstrip()}\n{marks}"


# ----------------------------------------------------------------------------------------------------------------------
# What GitHub does with Markdown, and MkDocs would not


class AsOnGitHub(Extension):
    """Links to source files and folders lead to pages that show them; bars in the code of tables lose a backslash."""

    page = None  # the source of the page that is being made

    def extendMarkdown(self, md):
        md.treeprocessors.register(_AsOnGitHub(md, self), "as_on_github", 5)  # before MkDocs checks the links


class _AsOnGitHub(Treeprocessor):
    def __init__(self, md, extension):
        super().__init__(md)
        self.extension = extension

    def run(self, root):
        for element in root.iter("a"):
            element.set("href", self.link(element.get("href", "")))
        for code in root.iterfind(".//td//code"):
            code.text = AtomicString((code.text or "").replace(r"\|", "|"))

    def link(self, address):
        path, fragment = target(address, self.extension.page)
        page = path and page_of(path)
        if page == path:
            return address
        fragment = "#" + fragment if fragment and page.endswith("README.md") else ""  # a source page has no others
        return posixpath.relpath(page, posixpath.dirname(self.extension.page)) + fragment


AS_ON_GITHUB = AsOnGitHub()
