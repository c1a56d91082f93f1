"""Every number of every command has bounds, and refuses text that is another number than it seems."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.core import TyperArgument, TyperOption
from typer.main import get_command
from typer.testing import CliRunner

from orchestrator.cli.lazy import LazyCommand
from orchestrator.cli.main import app
from orchestrator.cli.numbers import number_kind

NO_NUMBERS = [
    "1_0", "+-5", " 5", "5 ", "\u0665", "\uff15", "0x10", "0b1", "true", "", "nan", "inf", "-inf", "Infinity", "1e400",
    "-1e400", "1,000", "5e", "--5", "9" * 5000, "None",
]  # fmt: skip
EXTREMES = ["-0", "0", "-1", "1", str(10**30), str(-(10**30)), str(2**63), "1e308", "99999999", "0.5", "1e-400"]


def parameters(command: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, TyperOption | TyperArgument]]:
    """Yield every option and argument with the words of its command."""
    command = command.load() if isinstance(command, LazyCommand) else command
    for name, inner in getattr(command, "commands", {}).items():
        yield from parameters(inner, (*above, name))
    for parameter in command.params:
        yield f"{' '.join(above)} {parameter.opts[0]}", parameter


NUMBERS = {name: parameter for name, parameter in parameters(get_command(app)) if number_kind(parameter) is not None}


def value_of(parameter: TyperOption | TyperArgument, text: str) -> Any:
    return parameter.process_value(typer.Context(get_command(app)), text)


def test_the_options_are_found():
    assert len(NUMBERS) > 45
    assert {"serve --max-gpus", "token create --days", "scale count", "priority number"} <= NUMBERS.keys()


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number(name):
    parameter = NUMBERS[name]
    assert (parameter._get_number_range_help_str() or "").count("<=") == 2, "it has no bounds"
    for text in NO_NUMBERS:
        with pytest.raises(typer.BadParameter):
            value_of(parameter, text)
            pytest.fail(f"{text!r} is taken for a number")
    for text in EXTREMES:
        try:
            value = value_of(parameter, text)
        except typer.BadParameter as error:
            assert error.format_message().isprintable()
        else:
            assert math.isfinite(value)
            assert abs(value) <= 2**53


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["token", "create", "a", "--days", "99999999"], "'--days': Input should be less than or equal to 36500"),
        (["token", "create", "a", "--days", "1_0"], "'--days': '1_0' is not a number, such as 0.5"),
        (["jobs", "--limit", "5.0"], "'--limit': '5.0' is not a whole number in digits, such as 5"),
        (["scale", "x", "-3"], "'COUNT': Input should be greater than or equal to 0"),
        (["scale", "x", str(10**30)], "'COUNT': '1000000000000000000000000000000' is not a whole number"),
        (["priority", "x", "-500", "--json"], "'PRIORITY': Input should be greater than or equal to -100"),
        (["cluster", "up", "--port", "0x50"], "'--port': '0x50' is not a whole number"),
        (["samples", "x", "--step", "9" * 5000], "'--step': '999"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_one_line_and_exit_code_2(words, line):
    done = CliRunner().invoke(app, words, prog_name="earshot")
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"Invalid value for {line}" in done.stderr
    assert done.stderr.count("\n") == 1
    assert len(done.stderr) < 1040


def test_a_negative_number_may_be_an_argument_and_the_value_of_an_option():
    """The service is away; both command lines are read."""
    for words in (["priority", "x", "-5", "--json"], ["priority", "--json", "x", "-5"], ["priority", "x", "--", "-5"]):
        done = CliRunner().invoke(app, [*words[:1], "--url", "http://127.0.0.1:9", *words[1:]], prog_name="earshot")
        assert (done.exit_code, "no service answers" in done.stderr) == (1, True), done.stderr
    done = CliRunner().invoke(app, ["metrics", "x", "--since-step", "-1", "--url", "http://127.0.0.1:9"])
    assert "no service answers" in done.stderr
