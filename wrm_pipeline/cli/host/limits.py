"""Disk, memory, clock, journal."""

import re

from wrm_pipeline.cli.host.machine import Machine, Wanted, metrics
from wrm_pipeline.cli.host.problems import Problem

# Shares that are free. The alerts DiskFilling, DiskAlmostFull and InodesAlmostGone have the same.
DISK_WARNING, DISK_ERROR = 0.10, 0.05
# A release needs room for its dump and, if libraries changed, 1.5 GB of them.
RELEASE_BYTES = 2 * 2**30

MEMORY_WARNING, MEMORY_ERROR = 0.10, 0.03
SWAP_WARNING = 0.25

CLOCK_WARNING_S, CLOCK_ERROR_S = 5.0, 60.0

_UNITS = {"B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def disk(machine: Machine, wanted: Wanted) -> list[Problem]:
    """Each file system once, whatever the number of folders on it."""
    found = []
    # One call for each folder: df prints nothing at all if one of several is missing.
    outputs: dict[str, tuple[str, int, int, str, str]] = {}
    for folder in wanted["disks"]:
        shown = machine.run("df", "-B1", "--output=target,size,avail,itotal,iavail", folder).splitlines()
        if len(shown) == 2 and shown[0].startswith("Mounted on"):
            words = shown[1].split()
            outputs[words[0]] = folder, int(words[1]), int(words[2]), words[3], words[4]
    for target, (folder, size, free, inodes, free_inodes) in outputs.items():
        share = free / size if size else 1.0
        where = f"{target} ({folder})"
        if share < DISK_WARNING:
            found.append(
                Problem(
                    f"{free / 2**20:,.0f} MiB of {where} are free, {share:.1%}",
                    f"Make room: `du -xh --max-depth=2 {target} | sort -h | tail`, then docs/operations.md#disk",
                    is_error=share < DISK_ERROR,
                    unsafe=free < RELEASE_BYTES and share < DISK_ERROR,
                )
            )
        if inodes.isdigit() and int(inodes) and int(free_inodes) / int(inodes) < DISK_WARNING:
            left = int(free_inodes) / int(inodes)
            found.append(
                Problem(
                    f"{int(free_inodes):,} inodes of {where} are free, {left:.1%}",
                    f"Remove many small files: `du --inodes -xd2 {target} | sort -n | tail`",
                    is_error=left < DISK_ERROR,
                )
            )
    return found


def memory(machine: Machine, wanted: Wanted) -> list[Problem]:
    """What is left, the swap that should be there, and what was killed in the last week."""
    found = []
    lines = (line.split() for line in machine.read("/proc/meminfo").splitlines())
    kib = {words[0].rstrip(":"): int(words[1]) for words in lines}
    share = kib["MemAvailable"] / kib["MemTotal"]
    if share < MEMORY_WARNING:
        got = f"{kib['MemAvailable'] / 1024:,.0f} MiB of memory are available, {share:.1%}"
        todo = "`systemd-cgtop -m` shows who has it; docs/operations.md#memory"
        found.append(Problem(got, todo, is_error=share < MEMORY_ERROR))
    if wanted["swap_mb"]:
        if not kib["SwapTotal"]:
            got = f"no swap is in use, and {wanted['swap_mb']} MiB should be"
            found.append(Problem(got, "`swapon --all`; if that fails, run the playbook with --tags base"))
        elif kib["SwapFree"] / kib["SwapTotal"] < SWAP_WARNING:
            got = f"{kib['SwapFree'] / 1024:,.0f} MiB of {kib['SwapTotal'] / 1024:,.0f} MiB of swap are free"
            found.append(Problem(got, "Memory is short for long: docs/operations.md#memory", is_error=False))
    pattern = "killed by the OOM killer|Out of memory: Killed|Memory cgroup out of memory"
    words = ("journalctl", "--since=-7d", "-o", "short-iso", "--no-pager", "-q", "-n", "3", "-g", pattern)
    if killed := machine.run(*words).splitlines():
        got = f"something was killed for want of memory in the last 7 days, last: {killed[-1][:200]}"
        found.append(Problem(got, "Raise its unit's limit or the memory: docs/operations.md#memory", is_error=False))
    return found


def clock(machine: Machine, wanted: Wanted) -> list[Problem]:
    """Whether it is synchronised, and how far it is from the feed's server."""
    found = []
    if wanted["time_sync"] and machine.run("timedatectl", "show", "-P", "NTPSynchronized") != "yes":
        todo = "`systemctl restart systemd-timesyncd`, `timedatectl timesync-status`; let UDP port 123 out"
        found.append(Problem("the clock is not synchronised (NTPSynchronized=no)", todo))
    ahead = metrics(machine, wanted["exporter_port"]).get("wrm_clock_ahead_seconds")
    if ahead is not None and abs(ahead) > CLOCK_WARNING_S:
        got = f"the clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} that of the feed's server"
        todo = "`timedatectl`; correct it, then docs/operations.md#clock"
        found.append(Problem(got, todo, is_error=abs(ahead) > CLOCK_ERROR_S))
    return found


def journal(machine: Machine, wanted: Wanted) -> list[Problem]:
    """Its limit is set, and kept."""
    limit = wanted["journal_max"]
    settings = machine.read("/etc/systemd/journald.conf.d/wrm.conf")
    if f"SystemMaxUse={limit}" not in settings.splitlines():
        got = f"/etc/systemd/journald.conf.d/wrm.conf does not limit the journal to {limit}"
        return [Problem(got, "Run the playbook with --tags base; without it the journal takes a tenth of the disk")]
    shown = re.search(r"take up ([\d.]+)([BKMGT])", machine.run("journalctl", "--disk-usage"))
    if shown is None:
        return []
    # What is being written is not counted in the limit.
    if float(shown[1]) * _UNITS[shown[2]] > 1.25 * _bytes(limit):
        got = f"the journal takes {shown[1]}{shown[2]}, its limit is {limit}"
        todo = "`systemctl restart systemd-journald`, `journalctl --vacuum-size=" + limit + "`"
        return [Problem(got, todo, is_error=False)]
    return []


def _bytes(text: str) -> float:
    return float(text.rstrip("BKMGT")) * _UNITS[text[-1] if text[-1] in _UNITS else "B"]
