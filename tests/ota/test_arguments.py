"""Options that verbs share are declared once, and checked like any other."""

from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from ota.arguments import with_options


@dataclass(frozen=True)
class Shared:
    size: Annotated[int, typer.Option(min=1, help="How large.")]
    loud: Annotated[bool, typer.Option("--loud")] = False


app = typer.Typer()
seen = []


@app.command()
@with_options(Shared)
def verb(*, name: str = typer.Argument(), shared: Shared, last: float = 1.0) -> None:
    """Do it."""
    seen.append((name, shared, last))


def test_a_verb_gets_its_shared_options_as_one_object() -> None:
    run = CliRunner().invoke
    assert run(app, ["x", "--size", "3", "--loud", "--last", "2"]).exit_code == 0
    assert run(app, ["y", "--size", "1"]).exit_code == 0
    assert seen == [("x", Shared(3, True), 2.0), ("y", Shared(1, False), 1.0)]


def test_they_are_checked_and_explained() -> None:
    run = CliRunner().invoke
    assert run(app, ["x"]).exit_code == 2 and run(app, ["x", "--size", "0"]).exit_code == 2
    help_text = run(app, ["--help"]).output
    assert "How large." in help_text and "Do it." in help_text and "shared" not in help_text
