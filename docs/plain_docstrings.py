"""Griffe extension: this project's docstrings, which are plain text, as Markdown.

    indented lines       a block of code
    name  meaning        an entry of a definition list, as are `:param name: meaning` and `:raises Error: when`
    - item               an item of a list

and everything else paragraphs, in which only `code` is marked up. Docstrings in Google's style (Args:, Returns:,
Raises:) are left to Griffe from their first section on.
"""

import itertools
import re

import griffe

FIELD = re.compile(r"^:(param|raises|returns?)\s*([^:]*):\s*(.*)$")
ENTRY = re.compile(r"^( *)(\S+(?: \S+)*?)( {2,})(\S.*)$")
BULLET = re.compile(r"^ {0,2}- (.*)$")
SPECIAL = re.compile(r"([\\*_\[\]])")


class PlainDocstrings(griffe.Extension):
    """Rewrite every docstring before mkdocstrings renders it."""

    def on_module(self, *, mod, **kwargs):
        rewrite(mod)

    def on_object(self, *, obj, **kwargs):
        if not obj.is_module:  # of the modules, Griffe reports only submodules here
            rewrite(obj)


def rewrite(obj):
    if obj.docstring is not None:
        text, *sections = re.split(r"(?=^(?:Args|Returns|Raises):$)", obj.docstring.value, maxsplit=1, flags=re.M)
        obj.docstring.value = "\n\n".join([to_markdown(text), *sections])


def to_markdown(text):
    """Return a docstring, whose indentation was removed, as Markdown."""
    parts = []
    for block in re.split(r"\n(?:[ \t]*\n)+", text.strip("\n")):
        for part in block_parts(block.split("\n")):
            if part[0] == "code" and parts and parts[-1][0] == "code":
                parts[-1][1].extend(["", *part[1]])
            else:
                parts.append(part)
    return "\n\n".join(RENDER[kind](content) for kind, content in parts)


def is_table(lines):
    """Whether indented lines are entries of a list, rather than code."""
    first = ENTRY.match(lines[0])
    if first is None:
        return False
    column = first.start(4)
    for line in lines:
        entry = ENTRY.match(line)
        if not ((entry and entry.start(4) == column) or len(line) - len(line.lstrip()) == column):
            return False
    return not any(re.search(r"[=#(]", line[: column + 1]) for line in lines)


def block_parts(lines):
    """Return [(kind, content)] of the lines between two blank ones."""
    parts, column = [], None  # column: where a line must begin to belong to the entry or item above it
    for line, indent, table in indented(lines):
        field, entry, bullet = FIELD.match(line), ENTRY.match(line), BULLET.match(line)
        kind = parts[-1][0] if parts else None
        if kind in ("entries", "bullets") and indent >= column > 0:
            parts[-1][1][-1][-1] += " " + line.strip()
        elif field:
            name = field.group(2) or field.group(1)
            append(parts, "entries", [("raises " if field.group(1) == "raises" else "") + name, field.group(3)])
            column = 1
        elif bullet:
            append(parts, "bullets", [bullet.group(1)])
            column = indent + 2
        elif entry and (indent < 4 or table):
            append(parts, "entries", [entry.group(2), entry.group(4)])
            column = entry.start(4)
        elif indent >= 4:
            append(parts, "code", line)
        else:
            append(parts, "prose", line.strip())
    return parts


def indented(lines):
    """Yield (line, its indentation, whether it is in a table among lines that are indented as far as code is)."""
    for deep, run in itertools.groupby(lines, lambda line: line.startswith("    ")):
        run = list(run)
        table = deep and is_table(run)
        for line in run:
            yield line, len(line) - len(line.lstrip()), table


def append(parts, kind, content):
    if not parts or parts[-1][0] != kind:
        parts.append((kind, []))
    parts[-1][1].append(content)


# ----------------------------------------------------------------------------------------------------------------------
# Markdown


def escaped(text):
    """Return text whose characters mean themselves, but for `code`."""
    pieces = re.split(r"(`[^`]+`)", text)
    plain = [SPECIAL.sub(r"\\\1", piece).replace("<", "&lt;") for piece in pieces[::2]]
    return "".join(piece for pair in zip(plain, [*pieces[1::2], ""]) for piece in pair)


def code(lines):
    shift = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    body = [line[shift:] for line in lines]
    python = any(re.match(r"(from|import) |.*\w\(.*\)", line) for line in body) and not set("²ᵀ·~") & set("".join(body))
    return "\n".join(["```python" if python else "```text", *body, "```"])


def entries(pairs):
    return "\n\n".join(f"`{name.strip('`')}`\n:   {escaped(meaning)}" for name, meaning in pairs)


RENDER = {
    "code": code,
    "entries": entries,
    "bullets": lambda items: "\n".join("- " + escaped(item) for (item,) in items),
    "prose": lambda lines: escaped(" ".join(lines)),
}
