"""Write the tables of flags in the READMEs of progan_experiments/ and biggan_discovery/, from the commands' parsers.

    python tools/flag_tables.py            write the tables anew
    python tools/flag_tables.py --check    change nothing; exit status 1, naming the README, where one is not up to date

A README has the place for them between two comments, `<!-- flags: train.py visualize.py -->` and `<!-- /flags -->`. The
commands named come in this order, others of the same folder after them.
"""

import argparse
import json
import os
import re
import runpy
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TREES = ("progan_experiments", "biggan_discovery")
REGION = re.compile(r"(<!-- flags: (.*?) -->\n).*?(<!-- /flags -->)", re.DOTALL)


class FlagTablesError(Exception):
    """The tables cannot be made; the message is one line."""


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, and say what is not up to date")
    parser.add_argument("--root", default=ROOT, help="the repository (default: this one)")
    parser.add_argument("--describe", metavar="TREE", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.describe is not None:
        print(json.dumps(describe_tree(arguments.describe)))
        return 0
    stale = []
    try:
        for tree in TREES:
            path = os.path.join(arguments.root, tree, "README.md")
            with open(path, encoding="utf-8") as stream:
                old = stream.read()
            new = with_tables(old, describe_in_process(os.path.join(arguments.root, tree)), path)
            if new == old:
                continue
            stale.append(path)
            if not arguments.check:
                with open(path, "w", encoding="utf-8") as stream:
                    stream.write(new)
                print(f"{os.path.relpath(path)}: written")
    except FlagTablesError as problem:
        sys.stderr.write(f"flag_tables.py: error: {problem}\n")
        return 2
    if arguments.check:
        for path in stale:
            print(f"{os.path.relpath(path)}: its tables of flags are not up to date; run: python tools/flag_tables.py")
    return 1 if arguments.check and stale else 0


# ----------------------------------------------------------------------------------------------------------------------
# What the parsers say


def describe_in_process(tree):
    """Return `describe_tree(tree)` from a process of its own: the trees import frameworks that do not share one."""
    command = [sys.executable, os.path.abspath(__file__), "--describe", tree]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise FlagTablesError(f"{tree}: {done.stderr.strip().splitlines()[-1]} (is this .venv/bin/python?)")
    return json.loads(done.stdout)


def describe_tree(tree):
    """Return {"train.py": [sections]} of the commands in a folder."""
    return {name: describe(os.path.join(tree, name)) for name in sorted(os.listdir(tree)) if name.endswith(".py")}


def describe(path):
    """Return what a command file's parser takes: {"usage", "help", "rows"} of the command, or of each subcommand."""
    from experiment_utils.options import parser_of

    parser, name = parser_of(runpy.run_path(path)["main"]), os.path.basename(path)
    sections = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help for choice in action._choices_actions}
            sections += [section(f"{name} {word}", helps[word], sub) for word, sub in action.choices.items()]
    return sections or [section(name, (parser.description or "").strip().split("\n\n")[0], parser)]


def section(name, help, parser):
    actions = [action for action in parser._actions if action.help is not argparse.SUPPRESS and action.dest != "help"]
    positionals = [positional(action) for action in actions if not action.option_strings]
    return {"usage": " ".join([name, *positionals]), "help": " ".join(help.split()), "rows": [*map(row, actions)]}


def positional(action):
    word = action.metavar or action.dest.upper()
    return {None: word, "?": f"[{word}]", "*": f"[{word} ...]", "+": f"{word} ..."}[action.nargs]


def row(action):
    """Return the cells of a flag or positional argument: name, default and meaning, as Markdown."""
    meaning, default = default_apart(action.help % dict(vars(action), prog=""), action)
    meaning = marked_up(meaning)
    if action.choices is not None:
        meaning += ": " if action.nargs is None else ", any of: "
        meaning += ", ".join(map(code, action.choices))
    name = action.option_strings[-1] if action.option_strings else positional(action)
    if action.option_strings and action.nargs != 0:
        value = action.metavar or {"int": "N", "float": "X"}.get(
            getattr(action.type, "__name__", None), "" if action.choices else "…"
        )
        value = " ".join(value) if isinstance(value, tuple) else value
        name = " ".join(filter(None, [name, value, "..." if action.nargs == "+" else ""]))
    return [code(name), default, meaning]


def default_apart(meaning, action):
    """Return an argument's meaning and its default, which the meaning tells in brackets where it depends on others."""
    if action.nargs == 0:
        return meaning, "off"
    if action.default is None or action.default == []:
        told = re.search(r" \(default: ([^()]*)\)", meaning)
        if told is not None:
            return meaning.replace(told.group(0), ""), marked_up(told.group(1))
        return meaning, "" if action.option_strings or action.nargs in ("?", "*") else "needed"
    words = action.default if isinstance(action.default, list) else [action.default]
    return meaning, code(" ".join(map(number_or_text, words)).replace(ROOT + os.sep, ""))


def number_or_text(value):
    return f"{value:g}" if isinstance(value, float) else str(value)


def code(value):
    """Return a value as code in a cell, which a bar would end; renderers differ in how it is escaped in backticks."""
    text = str(value)
    return "<code>{}</code>".format(text.replace("|", "&#124;")) if "|" in text else f"`{text}`"


def marked_up(text):
    """Return plain text as Markdown for a table's cell, its flags as code."""
    text = re.sub(r"([\\*<|\[\]])", r"\\\1", text)
    return re.sub(r"(?<![\w-])(--\w+)", r"`\1`", text)


# ----------------------------------------------------------------------------------------------------------------------
# The README


def with_tables(text, commands, path):
    """Return a README's text with the tables of `commands` between its comments."""
    found = REGION.search(text)
    if found is None:
        raise FlagTablesError(f"{path}: has no place for tables, <!-- flags: COMMAND.py ... --> to <!-- /flags -->")
    first = found.group(2).split()
    absent = [name for name in first if name not in commands]
    if absent:
        raise FlagTablesError(f"{path}: names {absent[0]} for a table, and there is no such command")
    lines = []
    for name in first + [name for name in sorted(commands) if name not in first]:
        for each in commands[name]:
            lines += [f"### `{each['usage']}`", "", sentence(each["help"]), ""]
            lines += ["| flag | default | meaning |", "|---|---|---|"]
            lines += ["| %s |" % " | ".join(cells) for cells in each["rows"]] + [""]
    return (
        text[: found.start()] + found.group(1) + "\n" + "\n".join(lines) + "\n" + found.group(3) + text[found.end() :]
    )


def sentence(text):
    text = marked_up(text)
    return text[0].upper() + text[1:] + ("" if text.endswith((".", ")")) else ".")


if __name__ == "__main__":
    sys.exit(main())
