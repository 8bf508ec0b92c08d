"""`chirp`: runs, watches and repairs a cluster on this machine."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import typer

from services.cluster import cli_data, cli_deadletters, cli_doctor, cli_run, cli_show, cli_tools


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A command whose typer app lives in another module, which is imported only when the command is used."""

    name: str
    module: str
    help: str


ELSEWHERE = (
    Elsewhere("seed", "loadtest.seed", "Fill a running cluster with users, follows and tweets."),
    Elsewhere("audit", "loadtest.audit", "Compare home timelines with the truth, entry by entry."),
    Elsewhere("bench", "loadtest.bench", "Measure the cluster against the floors of this machine."),
)
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}

app = typer.Typer(
    name="chirp",
    help="Run a Chirp cluster on this machine, look into it and repair it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def register() -> None:
    """Puts every command into the app, in the order that --help shows."""
    for command in (cli_run.up, cli_run.down, cli_show.status, cli_show.logs):
        app.command()(command)
    for elsewhere in ELSEWHERE:
        _register_elsewhere(elsewhere)
    app.command("test", context_settings=PASS_ON)(cli_tools.run_tests)
    app.command()(cli_tools.lint)
    app.command()(cli_doctor.doctor)
    app.command()(cli_data.reset)
    app.command()(cli_data.migrate)
    app.command()(cli_show.config)
    app.add_typer(cli_deadletters.commands, name="dlq")


def _register_elsewhere(command: Elsewhere) -> None:
    # The help option is left to the other app, which alone knows its options.
    @app.command(command.name, help=command.help, context_settings=PASS_ON, add_help_option=False)
    def run(context: typer.Context) -> None:  # pyright: ignore[reportUnusedFunction]
        importlib.import_module(command.module).app(args=context.args, prog_name=f"chirp {command.name}")


register()


def main() -> None:
    """The entry point of the `chirp` command."""
    app()


if __name__ == "__main__":
    main()
