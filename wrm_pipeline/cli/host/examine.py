"""All checks of the host, one after the other."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from wrm_pipeline.cli.host import limits, places, services
from wrm_pipeline.cli.host.machine import MANIFEST, Machine, ThisMachine, Wanted, wanted_of
from wrm_pipeline.cli.host.problems import Problem

Check = Callable[[Machine, Wanted], list[Problem]]

CHECKS: tuple[tuple[str, str, Check], ...] = (
    ("units", "compare the units with what the playbook started and how it shut them in", services.units),
    ("timers", "look at the timers and at how their last runs ended", services.timers),
    ("ports", "look at what listens, and where", services.ports),
    ("versions", "compare release, lock, Python, PostgreSQL and Redis", services.versions),
    ("leftovers", "look for old releases, dumps and interrupted installations", services.leftovers),
    ("files", "compare owners and modes of secrets, settings and data", places.files),
    ("certificate", "look at the certificate's end, and at what is served", places.certificate),
    ("backup", "look at the age of the newest backup, and when one was tried", places.backup),
    ("disk", "look at free bytes and inodes", limits.disk),
    ("memory", "look at memory, swap, and what was killed for want of it", limits.memory),
    ("time", "look at the synchronisation of the clock", limits.clock),
    ("journal", "compare the journal with its limit", limits.journal),
)


@dataclass(frozen=True, slots=True)
class HostFinding:
    """A check and its worst problem's status; `unsafe`: a release must not be tried on such a host."""

    name: str
    status: str
    tried: str
    got: str
    todo: str = ""
    unsafe: bool = False


def examine_host(machine: Machine | None = None) -> Iterator[HostFinding]:
    """A finding for each problem, and one for each check without any."""
    machine = machine or ThisMachine()
    wanted = wanted_of(machine)
    if wanted is None:
        yield HostFinding(
            "host",
            "failed",
            f"read {MANIFEST}",
            "it is missing or damaged, so it is unknown what this host should be like",
            "Run the playbook (ansible-playbook site.yml), which writes it; in local mode there is none: `wrm doctor`",
        )
        return
    for name, tried, check in CHECKS:
        try:
            problems = check(machine, wanted)
        except (KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
            got = f"this could not be checked: {type(error).__name__}: {error}"
            yield HostFinding(name, "warning", tried, got, "Report it; until then look by hand (docs/operations.md)")
            continue
        if not problems:
            yield HostFinding(name, "ok", tried, "nothing is wrong")
        for found in problems:
            status = "failed" if found.is_error else "warning"
            yield HostFinding(name, status, tried, found.got, found.todo, found.unsafe)
