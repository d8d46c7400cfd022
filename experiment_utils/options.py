"""Options as dataclasses: one declaration gives the defaults, the command line, the validation and the JSON."""

import argparse
import dataclasses
import math
import re

from experiment_utils.errors import OptionError


def option(default, help, type=None, nargs=None, choices=None, check=None, metavar=None):
    """Declare a dataclass field that is also the flag --NAME.

    type    turns one command-line word into a value (default: the type of `default`); bool makes a switch
    check   called with the value, of a list with each one, unless nargs says how many there are; raises ValueError
            with what is wrong
    """
    keywords = {"help": help, "type": type, "nargs": nargs, "choices": choices, "metavar": metavar}
    metadata = {"argument": keywords, "check": check}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


_SHOW_PARSER = ["--help"]  # the list itself, not its like, is how parser_of() asks


class _Shown(Exception):  # noqa: N818 - it is no error
    pass


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise OptionError("%s (see --help)" % message)

    def parse_args(self, args=None, namespace=None):
        if args is _SHOW_PARSER:
            raise _Shown(self)
        return super().parse_args(args, namespace)


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of worked examples, and shows each default once."""

    def _get_help_string(self, action):
        if action.default is None or action.default is False or action.default in ([], argparse.SUPPRESS):
            return action.help
        if isinstance(action.default, list):
            return f"{action.help} (default: {_words(action.default)})"
        return super()._get_help_string(action)


def make_parser(description, examples=None):
    """Return an argument parser whose mistakes are one line (OptionError), with `examples` at the end of --help."""
    epilog = None if examples is None else "examples:\n" + examples.strip("\n")
    return _Parser(description=description, epilog=epilog, formatter_class=_HelpFormatter, allow_abbrev=False)


def add_flags(parser, options_class, defaults=True):
    """Add a flag for every field of `options_class`. Without `defaults`, a flag that is not given stays absent."""
    for field in dataclasses.fields(options_class):
        keywords = {name: value for name, value in field.metadata["argument"].items() if value is not None}
        default = _default(field)
        if keywords.get("type") is bool or isinstance(default, bool):
            keywords = {"help": keywords["help"], "action": "store_true"}
        elif "type" not in keywords and default is not None:
            example = default[0] if isinstance(default, list) else default
            keywords["type"] = type(example)
        parser.add_argument("--" + field.name, default=default if defaults else argparse.SUPPRESS, **keywords)


def from_namespace(options_class, namespace):
    """Return a validated `options_class` from the parsed flags."""
    names = [field.name for field in dataclasses.fields(options_class)]
    return validate(options_class(**{name: getattr(namespace, name) for name in names}))


def parse(options_class, description, examples=None, argv=None):
    """Parse a command line (default: sys.argv) into a validated `options_class`. Raises OptionError."""
    parser = make_parser(description, examples)
    add_flags(parser, options_class)
    return from_namespace(options_class, parser.parse_args(argv))


def parser_of(main):
    """Return the parser that a command's `main(argv)` makes. The command gets no further than to parse with it."""
    try:
        main(_SHOW_PARSER)
    except _Shown as shown:
        return shown.args[0]
    raise ValueError("%s.%s parses no command line" % (main.__module__, main.__name__))


def given_flags(options_class, argv=None):
    """Return the names of the flags that a command line sets itself, rather than leaving them at their defaults."""
    parser = make_parser(None)
    add_flags(parser, options_class, defaults=False)
    return set(vars(parser.parse_args(argv)))


def validate(options):
    """Return `options` after every field's check; raise OptionError naming the flag and the value."""
    for field in dataclasses.fields(options):
        check, value = field.metadata["check"], getattr(options, field.name)
        if check is None or value is None:
            continue
        together = isinstance(field.metadata["argument"]["nargs"], int) or not isinstance(value, list)
        try:
            for item in [value] if together else value:
                check(item)
        except ValueError as problem:
            raise OptionError("--%s %s: %s" % (field.name, _words(value), problem)) from None
    return options


def to_json(options):
    """Return the options as a JSON value: {name: value}."""
    return dataclasses.asdict(options)


def from_json(options_class, values, where):
    """Return `options_class` from what `to_json` gave. Unknown names, of a newer version, raise OptionError."""
    names = {field.name for field in dataclasses.fields(options_class)}
    unknown = sorted(set(values) - names)
    if unknown:
        raise OptionError("%s: unknown option %s; it was written by another version" % (where, ", ".join(unknown)))
    return options_class(**values)


def _default(field):
    return field.default if field.default is not dataclasses.MISSING else field.default_factory()


def _words(value):
    return " ".join(str(item) for item in value) if isinstance(value, list) else str(value)


# ----------------------------------------------------------------------------------------------------------------------
# Checks and types used by several commands


def positive(value):
    if not value > 0:
        raise ValueError("must be greater than 0")
    finite(value)


def not_negative(value):
    if not value >= 0:
        raise ValueError("must not be negative")
    finite(value)


def finite(value):
    if not math.isfinite(value):
        raise ValueError("must be a finite number")


def random_seed(value):
    if not 0 <= value < 2**32:
        raise ValueError("must be between 0 and 4294967295")


def power_of_two(value):
    if value < 4 or value & (value - 1):
        raise ValueError("must be a power of two, at least 4")


def at_least(minimum):
    def check(value):
        if value < minimum:
            raise ValueError("must be at least %s" % minimum)

    return check


def interval(values):
    try:
        low, high = map(float, values)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError("must be two finite numbers, the smaller one first")


def integer_list(text):
    """Turn '0-3,7' into [0, 1, 2, 3, 7]."""
    numbers = []
    for part in text.split(","):
        match = re.match(r"^(\d+)(?:-(\d+))?$", part.strip())
        if match is None:
            raise argparse.ArgumentTypeError("%r is not a list such as 0-3,7" % text)
        first = int(match.group(1))
        last = int(match.group(2) or first)
        if last < first:
            raise argparse.ArgumentTypeError("%r counts down; give the smaller number first" % part.strip())
        numbers.extend(range(first, last + 1))
    return numbers
