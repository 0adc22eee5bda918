"""The command ``iceprod``: which commands there are, and how the process ends."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Final

import click

from iceprod._version import __version__
from iceprod.cli import exits
from iceprod.errors import IceProdError

_COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "serve": ("serve", "Run a site's server."),
    "restart": ("restart", "Replace the processes of a running server without failing a request."),
    "demo": ("demo", "Start a site, run an example on it, and show what comes out."),
    "login": ("login", "Keep a site's address and a token for later commands."),
    "dataset": ("dataset", "Submit datasets, follow and steer them."),
    "job": ("job", "List and steer jobs."),
    "task": ("task", "List and steer tasks, read their logs, ask why they wait."),
    "config": ("config", "Check, convert and evaluate dataset configurations; an example of settings."),
    "pilot": ("pilot", "List and end pilots, make credentials for them."),
    "file": ("file", "Look for files, fetch, send, copy and delete them."),
    "temp": ("temp", "Look after the temp areas of jobs, datasets and the site."),
    "usage": ("usage", "Tell how many bytes were moved, and for whom."),
    "quota": ("quota", "Show and set how much may be kept."),
    "credential": ("credential", "Keep what the site needs to fetch files for you elsewhere."),
    "user": ("user", "Manage the people of a site."),
    "token": ("token", "Manage your API tokens."),
    "certificate": ("certificate", "Say for whom client certificates speak."),
    "audit": ("audit", "Read the audit trail: what was done, and what was refused."),
    "site": ("site", "Share work with other sites: invite, join, look after them."),
    "ca": ("ca", "Issue and revoke certificates of the site's own."),
    "nginx": ("nginx", "Set up and run nginx in front of a server."),
    "doctor": ("doctor", "Check that a site can work, and say what to do if not."),
    "store": ("store", "Copy, check, back up and migrate a site's database."),
    "backup": ("backup", "Copy a site's database to a file."),
    "restore": ("backup", "Put a backup in the place of a site's database."),
    "follow": ("standby", "Keep a standby copy of a site current."),
    "promote": ("standby", "Make a standby copy the site."),
    "completion": ("completion", "Print the shell completion for bash, zsh or fish."),
}
"""Name → (module in this room, one line of help).  The module is imported when it is used."""


class _LazyGroup(click.Group):
    """A group that imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"iceprod.cli.{_COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest a near name for a wrong one."""
        import difflib  # noqa: PLC0415 - only for a mistake

        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], _COMMANDS, n=1)
            if near:
                ctx.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; end as a shell expects when whoever read the output has gone."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # Python would complain at its last flush.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing any."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="iceprod")
def iceprod() -> None:
    """Run large scientific productions: datasets become tasks, pilots run them.

    Commands that speak to a site find it by --url, ICEPROD_URL or "iceprod login", and
    identify you by a token from --token-file, ICEPROD_TOKEN_FILE, ICEPROD_TOKEN or
    "iceprod login", or else by the client certificate or grid proxy in ICEPROD_CERT_FILE.
    ICEPROD_CA_FILE holds the authorities that vouch for the site.  Results go to stdout, messages to stderr.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 denied, 5 unavailable,
    78 wrong settings.
    """


def main(args: list[str] | None = None) -> None:
    """Run the command line and end the process with its exit code."""
    try:
        code = iceprod.main(args=args, prog_name="iceprod", standalone_mode=False)
    except IceProdError as exc:
        code = exits.told(exc)
    except click.ClickException as exc:
        exc.show()
        code = exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        code = 130
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
