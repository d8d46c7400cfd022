"""Options: one declaration gives the command line, the checks and the JSON."""

import argparse
import dataclasses
import json

import pytest

from experiment_utils import options
from experiment_utils.errors import OptionError
from experiment_utils.options import (
    at_least,
    integer_list,
    interval,
    not_negative,
    option,
    positive,
    power_of_two,
    random_seed,
)


@dataclasses.dataclass
class Example:
    """What a command might take."""

    name: str = option(None, "a name", str)
    size: int = option(8, "a size", check=power_of_two)
    rate: float = option(0.5, "a rate", check=positive)
    layers: list = option([1, 2], "some layers", check=at_least(1), nargs="+")
    kind: str = option("a", "a kind", choices=("a", "b"))
    loop: bool = option(False, "a switch")
    frames: list = option(None, "ranges", integer_list)


def parse(*argv):
    return options.parse(Example, "An example.", argv=list(argv))


def test_defaults():
    assert parse() == Example(None, 8, 0.5, [1, 2], "a", False, None)


def test_a_default_list_is_not_shared():
    parse().layers.append(3)
    assert parse().layers == [1, 2]


def test_values_take_the_type_of_their_default():
    chosen = parse("--name", "x", "--size", "16", "--rate", "1e-3", "--layers", "3", "5", "--kind", "b", "--loop")
    assert chosen == Example("x", 16, 0.001, [3, 5], "b", True, None)
    assert parse("--frames", "0-3,7").frames == [0, 1, 2, 3, 7]


@pytest.mark.parametrize(
    "argv, said",
    [
        (["--size", "12"], "--size 12: must be a power of two, at least 4"),
        (["--rate", "0"], "--rate 0.0: must be greater than 0"),
        (["--rate", "nan"], "--rate nan: must be greater than 0"),
        (["--layers", "3", "0"], "--layers 3 0: must be at least 1"),
        (["--kind", "c"], "--kind"),
        (["--size", "x"], "--size"),
        (["--siz", "8"], "--siz"),  # no abbreviations: what works today must not become ambiguous tomorrow
        (["--unknown"], "--unknown"),
        (["--frames", "3-"], "'3-' is not a list such as 0-3,7"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_flag_and_the_value(argv, said):
    with pytest.raises(OptionError) as caught:
        parse(*argv)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_given_flags_are_those_on_the_command_line_even_at_their_default():
    assert options.given_flags(Example, []) == set()
    assert options.given_flags(Example, ["--size", "8", "--loop"]) == {"size", "loop"}


def test_json_round_trip():
    chosen = parse("--name", "ε", "--layers", "4", "--loop")
    values = json.loads(json.dumps(options.to_json(chosen)))
    assert options.from_json(Example, values, "options.json") == chosen


def test_json_of_a_newer_version_is_refused_with_the_file_named():
    with pytest.raises(OptionError, match=r"run/options.json: unknown option colour"):
        options.from_json(Example, {"colour": 3, "size": 8}, "run/options.json")


def test_help_shows_each_default_once_and_the_examples_as_written(capsys):
    with pytest.raises(SystemExit) as stopped:
        options.parse(Example, "An example.", "\n  first\n    indented\n", ["--help"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    assert "a size (default: 8)" in text and "a name\n" in text and "\n  first\n    indented\n" in text


@pytest.mark.parametrize(
    "check, good, bad",
    [
        (positive, [1e-9, 3], [0, -1, float("nan"), float("inf")]),
        (not_negative, [0, 2.5], [-1e-9, float("nan"), float("inf")]),
        (random_seed, [0, 2**32 - 1], [-1, 2**32]),
        (power_of_two, [4, 1024], [0, 1, 2, 3, 12, -4]),
        (at_least(2), [2, 7], [1]),
    ],
)
def test_checks(check, good, bad):
    for value in good:
        check(value)
    for value in bad:
        with pytest.raises(ValueError):
            check(value)


@pytest.mark.parametrize(
    "text, expected", [("3", [3]), ("0-2", [0, 1, 2]), ("5, 1-1", [5, 1]), ("10-12,0", [10, 11, 12, 0])]
)
def test_integer_list(text, expected):
    assert integer_list(text) == expected


@pytest.mark.parametrize("text", ["", "a", "-1", "1-", "1,,2", "3-1"])
def test_integer_list_refuses(text):
    with pytest.raises(argparse.ArgumentTypeError):
        integer_list(text)


@dataclasses.dataclass
class Pair:
    within: list = option(None, "from where to where", float, nargs=2, check=interval)


def test_a_pair_is_checked_as_a_whole():
    assert options.parse(Pair, "", argv=[]).within is None
    assert options.parse(Pair, "", argv=["--within", "-5", "4095"]).within == [-5, 4095]
    for bad in (["1", "1"], ["4095", "0"], ["0", "nan"], ["0", "inf"]):
        with pytest.raises(OptionError, match=r"^--within \S+ \S+: must be two finite numbers, the smaller one first$"):
            options.parse(Pair, "", argv=["--within", *bad])


@pytest.mark.parametrize("values", [(1, 2, 3), (1,), "ab", 7, None, (None, 1)])
def test_no_interval(values):
    with pytest.raises(ValueError, match="must be two finite numbers"):
        interval(values)


def test_the_parser_of_a_command_is_had_without_running_it():
    def main(argv=None):
        chosen = options.parse(Example, "An example.", argv=argv)
        raise AssertionError("it ran with %s" % chosen)

    parser = options.parser_of(main)
    assert parser.description == "An example."
    assert parser.get_default("size") == 8


def test_help_is_still_help(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse("--help")
    assert stopped.value.code == 0
    assert "An example." in capsys.readouterr().out


def test_a_main_without_a_parser_is_named():
    with pytest.raises(ValueError, match="lambda"):
        options.parser_of(lambda argv: None)
