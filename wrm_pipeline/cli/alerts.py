"""`wrm alerts`: test the channels for alerts."""

from typing import TYPE_CHECKING

import click

from wrm_pipeline.cli.command import Group, json_option, pass_settings
from wrm_pipeline.cli.output import print_json

if TYPE_CHECKING:
    from wrm_pipeline.settings import Settings


@click.group(cls=Group, examples=[("wrm alerts test", "a message to each channel that is configured")])
def alerts() -> None:
    """Test the channels for alerts."""


@alerts.command(
    examples=[
        ("wrm alerts test", "exit status 1 if a channel rejected it, or there is none"),
        ("wrm alerts test --json", "the same for a program"),
    ]
)
@json_option
@pass_settings
def test(settings: "Settings", as_json: bool) -> int:
    """Send a test message to each channel, and report the result."""
    import socket
    import time

    from wrm_pipeline.clients.errors import ExternalError
    from wrm_pipeline.domain.incidents import WEBHOOK
    from wrm_pipeline.resources.alerts import AlertsResource
    from wrm_pipeline.resources.vault import secrets_of

    resource, secrets = AlertsResource.of(settings), secrets_of(settings)
    text = f"🔵 *Test message* of wrm_pipeline on {socket.gethostname()}\nWho reads this will hear of failures, too."
    results = []
    for channel, post in resource.channels().items():
        started, problem = time.monotonic(), ""
        try:
            if channel == WEBHOOK and secrets.webhook_url() is None:
                continue  # Vault might have one, but does not
            post(text)
        except ExternalError as error:
            problem = str(error)
        results.append({"channel": channel, "problem": problem, "seconds": round(time.monotonic() - started, 1)})
    if as_json:
        print_json(results)
    elif not results:
        print("There is nobody to tell: set WRM_ALERT_WEBHOOK_URL, or WRM_MAIL_TO and WRM_SMTP_URL.")
    else:
        for one in results:
            print(f"{one['channel']:<8} {one['problem'] or 'delivered'} ({one['seconds']} s)")
    return 0 if results and not any(one["problem"] for one in results) else 1
