"""The ``viewgen`` command.

Each command lives in a module of its own, imported when the command runs, so that ``viewgen --help`` stays
quick; the heavy imports stand inside the command functions for the same reason.
"""

import importlib
import json
import os
import signal
import sys
import traceback
from typing import Any

import click

from viewgen.errors import ViewgenError, nearest_name
from viewgen.messages import shown
from viewgen.redaction import redacted_values, remember_url
from viewgen.terminal import boundary, json_text, unescaped

__all__ = ["main", "print_json"]

# name: (module, one line for the list of commands)
# variable by which a shell's completion calls the program, of click
COMPLETION = "_VIEWGEN_COMPLETE"
COMMANDS = {
    "cache": ("viewgen.cli.cache", "Generate views of a data set and store them: the main job."),
    "calibrate": ("viewgen.cli.calibrate", "Measure ε₁, the mean anchor-to-expert-view distance."),
    "datasets": ("viewgen.cli.datasets", "List the data sets and whether they are present."),
    "doctor": ("viewgen.cli.doctor", "Check the environment."),
    "eval": ("viewgen.cli.eval", "Linear probe and nearest neighbours of a trained encoder."),
    "experiment": ("viewgen.cli.experiment", "Run a grid of trainings with several seeds: a table."),
    "export": ("viewgen.cli.export", "Write the encoder of a training with a model card."),
    "inspect": ("viewgen.cli.inspect", "Look at a cache in a browser: a gallery on the Ray dashboard."),
    "list": ("viewgen.cli.list", "List view sources, data sets …, and the settings of each."),
    "measure": ("viewgen.cli.measure", "Measure an encoder, a generator, or the views of a cache."),
    "mi": ("viewgen.cli.mi", "Estimate the mutual information of views."),
    "models": ("viewgen.cli.models", "List, import and evaluate the networks that are at hand."),
    "prepare": ("viewgen.cli.prepare", "Train all networks of a data set by one plan, and cache views."),
    "pretrain": ("viewgen.cli.pretrain", "Train the generator, inverter and encoder that a cache needs."),
    "pull": ("viewgen.cli.pull", "Copy a cache or weights from a bucket or a hub."),
    "push": ("viewgen.cli.push", "Copy a cache or weights to a bucket or a hub, with a card."),
    "show": ("viewgen.cli.show", "Show a cache: contents, provenance, statistics."),
    "train": ("viewgen.cli.train", "Train an encoder on expert and generated views."),
    "verify": ("viewgen.cli.verify", "Check every shard of a cache against its commit record."),
}


class LazyGroup(click.Group):
    """A group that imports a command's module on the command's first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            raise click.UsageError(f"no command {cmd_name!r}{nearest_name(cmd_name, COMMANDS)}", ctx)
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(
    cls=LazyGroup,
    # click drops control sequences from what is no terminal; here they are shown, escaped
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "color": True},
)
@click.version_option(package_name="viewgen")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Generate views for contrastive learning offline, and store them as a Zarr cache.

    \b
    Example:
      viewgen cache --dataset digits --method wsearch
    """
    ctx.obj = {"debug": debug}


def print_json(document: dict[str, Any]) -> None:
    """Print exactly one JSON object on standard output."""
    text = json.dumps(redacted_values(document), ensure_ascii=False, allow_nan=False)
    unescaped(sys.stdout).write(json_text(text) + "\n")
    sys.stdout.flush()


def _complain(message: str) -> None:
    """Print a message on standard error; click would drop, not show, control sequences."""
    print(message, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; deliberate errors become one message and their exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    for word in (*words, *map(os.environ.get, ("VIEWGEN_CACHE", "RAY_ADDRESS"))):
        if word and "://" in word:
            remember_url(word)
    if COMPLETION in os.environ:  # a shell asks what may follow, and gets bytes
        cli.main(prog_name="viewgen")
    with boundary():
        _run(words, debug)


def _run(words: list[str], debug: bool) -> None:
    received = []

    def end(number: int, _: object) -> None:
        received.append(number)
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)
    try:
        _dispatch(words, debug)
    except SystemExit:
        # what the handler interrupts may raise an exit of its own, with another code: so does Ray
        if received:
            sys.exit(128 + received[0])
        raise


def _dispatch(words: list[str], debug: bool) -> None:
    try:
        with shown():
            sys.exit(cli.main(args=words, prog_name="viewgen", standalone_mode=False) or 0)
    except click.exceptions.Abort:
        _complain("interrupted")
        sys.exit(128 + signal.SIGINT)
    except KeyboardInterrupt:
        _complain("interrupted; run the same command again to go on from here")
        sys.exit(128 + signal.SIGINT)
    except click.ClickException as error:
        _complain(_usage(error))
        sys.exit(error.exit_code)
    except ViewgenError as error:
        if debug:
            traceback.print_exc()
        _complain(f"error: {error}")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if debug:
            traceback.print_exc()
        _complain(f"unexpected {type(error).__name__}: {error}")
        _complain("run again with --debug for the traceback")
        sys.exit(1)


def _usage(error: click.ClickException) -> str:
    """Return the message of an error of click's, with the usage of the command."""
    lines = [f"Error: {error.format_message()}"]
    if isinstance(error, click.UsageError) and (context := error.ctx) is not None:
        lines.insert(0, f"{context.get_usage()}\nTry 'viewgen --help' for help.\n")
        if context.command.get_help_option(context) is not None:
            lines[0] = f"{context.get_usage()}\nTry '{context.command_path} --help' for help.\n"
    return "\n".join(lines)
