"""How a command of `wrm` is declared: examples in its help, the settings, one flag for writing, one for JSON.

Modules of commands import only click and this module at the top, and everything else inside functions: `wrm --help` and
shell completion must not wait for Dagster, Arrow or pydantic.
"""

import functools
import os
import sys
from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import click

if TYPE_CHECKING:
    import dagster as dg
    from click.shell_completion import CompletionItem

    from wrm_pipeline.settings import Settings

Parameters = ParamSpec("Parameters")
AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])

NOTHING_CHANGED = "Nothing was changed. Add --apply to do it."


class CommandError(click.ClickException):
    """The command cannot be carried out as given; the message says why. Exit status 2.

    `click.ClickException` itself is for valid commands that failed: exit status 1.
    """

    exit_code = 2


class _WithExamples(click.Command):
    """A command whose help ends with examples: lines to type, and what they do."""

    def __init__(self, *arguments: Any, examples: Sequence[tuple[str, str]] = (), **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        if not self.examples:
            return
        with formatter.section("Examples"):
            width = max(len(line) for line, _ in self.examples)
            for line, what in self.examples:
                # Not wrapped, so that lines can be copied.
                formatter.write(f"{'':{formatter.current_indent}}{line:{width}}  # {what}\n")


class Command(_WithExamples):
    """A command of `wrm`."""


class Group(_WithExamples, click.Group):
    """A group of commands; its commands and subgroups are of these two classes, too."""

    command_class = Command
    group_class = type


class Entrance:
    """What `wrm` passes to its commands as click's context object."""

    @functools.cached_property
    def settings(self) -> "Settings":
        """The settings, read once when a command begins; help and completion do not need them.

        Raises:
            SettingsError: they are not valid.
        """
        from wrm_pipeline import logs
        from wrm_pipeline.settings import load_settings

        logs.guard_process()
        settings = load_settings()
        # Without it structlog prints to stdout, which is for the command's output. Warnings go to stderr, as usual in
        # Python.
        logs.configure(settings.data_dir / "logs", as_json=settings.env == "production")
        return settings


def pass_settings(command: Callable[Concatenate["Settings", Parameters], int]) -> Callable[Parameters, int]:
    """Pass the settings to a command as its first argument, and translate its errors to exit statuses.

    Invalid settings are exit status 2, failing outside systems are 1, each with a message.
    """

    @functools.wraps(command)
    def run(*arguments: Parameters.args, **options: Parameters.kwargs) -> int:
        from wrm_pipeline.clients.errors import ExternalError
        from wrm_pipeline.settings import SettingsError

        entrance = click.get_current_context().find_object(Entrance)
        if entrance is None:
            raise AssertionError("a command of wrm runs below its main group")
        try:
            status = command(entrance.settings, *arguments, **options)
            sys.stdout.flush()
        except SettingsError as error:
            raise CommandError(str(error)) from error
        except ExternalError as error:
            raise click.ClickException(str(error)) from error
        except BrokenPipeError:
            # In `wrm dlq list | head` the reader ends first.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        return status

    return run


class _Day(click.ParamType[date]):
    name = "YYYY-MM-DD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        if isinstance(value, date):
            return value
        try:
            return date.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a date like 2025-08-21.", param, ctx)


class _LazyChoice(click.ParamType[str]):
    """click.Choice of names from a module that is slow to import."""

    name = "choice"

    def __init__(self, names: Callable[[], Sequence[str]]) -> None:
        self._names = names

    @functools.cached_property
    def _choice(self) -> "click.Choice[str]":
        return click.Choice(self._names())

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self._choice.convert(value, param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        return self._choice.get_metavar(param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> "list[CompletionItem]":
        return self._choice.shell_complete(ctx, param, incomplete)


DAY = _Day()


def typed_time(text: str, option: str = "") -> tuple[datetime, str]:
    """A time that was typed as the value of an `option` or as an argument, as an aware one, and the assumptions made.

    Raises:
        CommandError: it is not an ISO 8601 time.
    """
    from wrm_pipeline.flows.trace import parse_time

    try:
        return parse_time(text)
    except (ValueError, OverflowError):
        raise CommandError(
            f"{option} {text!r}".strip()
            + " is not an ISO 8601 time; give one like 2025-08-21T15:04 (the city's time) or 2025-08-21T13:04Z"
        ) from None


def lazy_choice(names: Callable[[], Sequence[str]]) -> click.ParamType[str]:
    """The type of an option that is one of `names`, which is called when the option is used or explained."""
    return _LazyChoice(names)


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")


def apply_option(*old: str) -> Callable[[AnyFunction], AnyFunction]:
    """`--apply`, the flag for writing: without it a command only prints what it would do.

    Args:
        old: Spellings of `--apply` in earlier versions; they are not in the help.
    """

    def decorate(function: AnyFunction) -> AnyFunction:
        for spelling in old:
            function = click.option(spelling, "apply", is_flag=True, hidden=True)(function)
        return click.option("--apply", is_flag=True, help="Do it; otherwise only print what would be done.")(function)

    return decorate


def dry_run_option(function: AnyFunction) -> AnyFunction:
    """`--apply/--dry-run` of a command whose name says that it writes, and that has always done so."""
    return click.option(
        "--apply/--dry-run", "apply", default=True, help="Do it (the default), or only print what would be done."
    )(function)


def dagster_instance() -> "dg.DagsterInstance | None":
    """Dagster's instance in DAGSTER_HOME; None if that is not set, so that none is created in an arbitrary folder."""
    import dagster as dg

    return dg.DagsterInstance.get() if os.environ.get("DAGSTER_HOME") else None
