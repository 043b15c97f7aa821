"""Units, timers, ports, versions, leftovers."""

import ipaddress
import json
import re

from wrm_pipeline.cli.host.machine import Machine, Wanted, properties
from wrm_pipeline.cli.host.problems import Problem

RELEASES, INCOMING, SLOTS = "/opt/wrm/releases", "/opt/wrm/incoming", "/opt/wrm/slots"

# How each unit of the pipeline has to be shut in.
HARDENING = {
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "NoNewPrivileges": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "RestrictSUIDSGID": "yes",
    "CapabilityBoundingSet": "",
    "LimitCORE": "0",
}

# They listen wherever they need to: names, addresses and the time of a machine.
_SYSTEM_UDP = {"systemd-resolve", "systemd-network", "systemd-timesyn", "chronyd", "dhclient", "dhcpcd"}
_LISTENER = re.compile(r'users:\(\("([^"]+)",pid=(\d+)')
# A run that reads the bucket with DuckDB listens on loopback as long as it lasts (clients/endpoint_proxy.py).
_OF_RUNS = re.compile(r"/(dagster-[\w-]+(@\w+)?|wrm-[\w-]+)\.service")


def units(machine: Machine, wanted: Wanted) -> list[Problem]:
    """Each runs, comes back after a reboot, has its limits, and is shut in; and nothing else has failed."""
    found = []
    slot = _slot(machine)
    if slot is None:
        found.append(Problem("/opt/wrm/active leads to no slot", "`wrm-release list`, then `wrm-release restart`"))
    code = [f"dagster-code@{slot}.service"] if slot else []
    for unit in [*code, *wanted["units"]]:
        state = properties(machine, unit, "LoadState", "ActiveState", "UnitFileState", "NeedDaemonReload")
        if state["ActiveState"] != "active":
            got = f"{unit} is {state['ActiveState'] or 'unknown'} ({state['LoadState']})"
            todo = f"`journalctl -u {unit} -n 50`, then `systemctl reset-failed {unit}; systemctl start {unit}`"
            found.append(Problem(got, todo))
        if state["UnitFileState"] not in {"enabled", "enabled-runtime", "static", "indirect"}:
            got = f"{unit} is {state['UnitFileState'] or 'not installed'}, so a reboot leaves it off"
            found.append(Problem(got, f"`systemctl enable {unit}`"))
        if state["NeedDaemonReload"] == "yes":
            got = f"{unit} was changed on the disk, and systemd has not read it"
            found.append(Problem(got, "`systemctl daemon-reload`, then `wrm-release refresh`", is_error=False))
    for unit in [*code, *wanted["hardened"]]:
        found += _shut_in(machine, unit, wanted["account"])
    ours = {*code, *wanted["units"]}
    failed = machine.run("systemctl", "list-units", "--failed", "--plain", "--no-legend", "--full").splitlines()
    for line in failed:
        unit = line.split()[0]
        if unit not in ours:
            todo = f"`journalctl -u {unit} -n 30`; when it is settled, `systemctl reset-failed {unit}`"
            found.append(Problem(f"{unit} has failed", todo, is_error=False))
    return found


def _shut_in(machine: Machine, unit: str, account: str) -> list[Problem]:
    state = properties(machine, unit, *HARDENING, "LoadState", "User", "MemoryMax", "TasksMax", "DropInPaths")
    if state["LoadState"] != "loaded":
        got = f"{unit} is not installed ({state['LoadState'] or 'unknown'})"
        return [Problem(got, "Run the playbook with --tags dagster,backup")]
    weak = [f"{name}={_short(state[name])}" for name, value in HARDENING.items() if state[name] != value]
    if state["User"] != account:
        weak.append(f"User={state['User'] or 'root'}")
    weak += [f"{name}=infinity" for name in ("MemoryMax", "TasksMax") if state[name] in {"infinity", ""}]
    if not weak:
        return []
    changed = f" (changed by {state['DropInPaths']})" if state["DropInPaths"] else ""
    todo = f"`systemctl revert {unit}` removes what was added by hand; then run the playbook with --tags dagster,backup"
    return [Problem(f"{unit} is not shut in as it should be: {', '.join(weak)}{changed}", todo)]


def _short(value: str) -> str:
    words = value.split()
    return value if len(words) < 3 else f"{words[0]} and {len(words) - 1} more"


def _slot(machine: Machine) -> str | None:
    link = machine.entry("/opt/wrm/active")
    name = link.target.rpartition("/")[2] if link else ""
    return name if name in {"blue", "green"} else None


def timers(machine: Machine, wanted: Wanted) -> list[Problem]:
    """Each waits for its time, also after a reboot, and what it started last ended well."""
    found = []
    for timer in wanted["timers"]:
        state = properties(machine, timer, "ActiveState", "UnitFileState")
        if state["ActiveState"] != "active":
            got = f"{timer} is {state['ActiveState'] or 'unknown'}"
            found.append(Problem(got, f"`systemctl enable --now {timer}`"))
        elif state["UnitFileState"] != "enabled":
            found.append(Problem(f"{timer} is not enabled, so a reboot stops it", f"`systemctl enable {timer}`"))
        service = timer.replace(".timer", ".service")
        result = properties(machine, service, "Result")["Result"]
        if result not in {"success", ""}:
            todo = f"`journalctl -u {service} -n 30`, then `systemctl start {service}`"
            found.append(Problem(f"{service} ended with {result}", todo))
    return found


def ports(machine: Machine, wanted: Wanted) -> list[Problem]:
    """Only ssh and the web are open; everything else listens on loopback, and is known."""
    found = []
    open_ports, local_ports = set(wanted["open_ports"]), set(wanted["local_ports"])
    for protocol, option in (("TCP", "-ltnpH"), ("UDP", "-lunpH")):
        for line in machine.run("ss", option).splitlines():
            words, owner = line.split(), _LISTENER.search(line)
            if owner is None:  # of another container or the kernel
                continue
            address, _, text = words[3].rpartition(":")
            port, program = int(text), owner[1]
            is_local = _is_loopback(address)
            if protocol == "UDP" and (is_local or program in _SYSTEM_UDP):
                continue
            if not is_local and not (protocol == "TCP" and port in open_ports):
                got = f"{program} listens on {words[3]} ({protocol}), so it can be reached from outside"
                todo = f"Stop it (`ss -lnp 'sport = :{port}'` has its process), or let it listen on 127.0.0.1"
                found.append(Problem(got, todo))
            elif (
                is_local
                and port not in open_ports | local_ports
                and program not in _SYSTEM_UDP
                and not _OF_RUNS.search(machine.read(f"/proc/{owner[2]}/cgroup"))
            ):
                got = f"{program} listens on {words[3]}, which nothing of the playbook does"
                found.append(Problem(got, f"`ss -ltnp 'sport = :{port}'`: is it meant to be here?", is_error=False))
    if wanted["firewall"] and "table" not in machine.run("nft", "list", "tables"):
        found.append(
            Problem("the firewall has no rules", "`systemctl restart nftables`; `nft list ruleset` shows them")
        )
    return found


def _is_loopback(address: str) -> bool:
    text = address.strip("[]").partition("%")[0]
    if text == "*":
        return False
    return ipaddress.ip_address(text.removeprefix("::ffff:")).is_loopback


def versions(machine: Machine, wanted: Wanted) -> list[Problem]:
    """What runs is the current release, from its own lock, on the programs that the playbook installed."""
    found = []
    link = machine.entry("/opt/wrm/current")
    version = link.target.rpartition("/")[2] if link else ""
    folder = f"{RELEASES}/{version}"
    if not version or machine.entry(f"{folder}/release.json") is None:
        return [
            Problem("/opt/wrm/current leads to no complete release", "`wrm-release list`, then `wrm-release rollback`")
        ]
    facts = json.loads(machine.read(f"{folder}/release.json"))
    lock = machine.run("sha256sum", f"{folder}/runtime.lock").partition(" ")[0]
    if lock != facts.get("lock"):
        got = f"{folder}/runtime.lock is not the lock that {version} was installed from ({lock[:12]}…)"
        found.append(Problem(got, "Ship the release again under another version", unsafe=True))
    slot = _slot(machine)
    beside = machine.entry(f"{SLOTS}/{slot}/release")
    if slot and (beside is None or beside.target != folder):
        got = f"the code server's release is {beside.target if beside else 'none'}, the others' is {folder}"
        found.append(Problem(got, "`wrm-release restart`"))
    python = machine.run(f"{folder}/venv/bin/python", "-V").removeprefix("Python ")
    system = machine.run("/usr/bin/python3", "-V").removeprefix("Python ")
    if python.split(".")[:2] != system.split(".")[:2]:
        got = f"{version} was made with Python {python or '(none)'}, and the system's is {system}"
        found.append(Problem(got, "Ship a release under another version: its environment is made anew"))
    for name, want, shown in (
        ("PostgreSQL", wanted["postgresql"], _postgresql(machine, wanted)),
        ("Redis", wanted["redis"], _number(machine.run("redis-server", "--version"), r"v=(\d+)")),
    ):
        if shown is None or int(shown) < want:
            got = f"{name} is {shown or 'not to be had'}, and the playbook set up {want}"
            found.append(
                Problem(got, f"See `systemctl status {'postgresql' if name == 'PostgreSQL' else 'redis-server'}`")
            )
    return found


def _postgresql(machine: Machine, wanted: Wanted) -> str | None:
    psql = ("psql", "-p", str(wanted["postgresql_port"]), "-Atc", "SHOW server_version_num")
    return _number(machine.run("runuser", "-u", "postgres", "--", *psql), r"^(\d+)\d{4}$")


def _number(text: str, pattern: str) -> str | None:
    match = re.search(pattern, text)
    return match[1] if match else None


def leftovers(machine: Machine, wanted: Wanted) -> list[Problem]:
    """What a release or an interrupted one left behind, beyond what is kept."""
    found = []
    kept = wanted["keep"]
    for folder in (RELEASES, INCOMING):
        names = [name for name in machine.names(folder) if not name.startswith(".")]
        incomplete = [n for n in names if folder == RELEASES and machine.entry(f"{folder}/{n}/release.json") is None]
        if incomplete:
            got = f"{folder} holds what is no complete release: {', '.join(incomplete)}"
            todo = f"If no `wrm-release install` is at work: `rm -r {folder}/{incomplete[0]}`"
            found.append(Problem(got, todo, is_error=False))
        # One more for as long as its code server waits for its runs.
        if len(names) - len(incomplete) > kept + 1:
            got = f"{folder} holds {len(names) - len(incomplete)} releases, and {kept} are kept"
            todo = "The next release removes the oldest; `wrm-release list` says which run"
            found.append(Problem(got, todo, is_error=False))
    dumps = [name for name in machine.names("/var/backups/wrm") if name.startswith("before-")]
    if len(dumps) > kept:
        got = f"/var/backups/wrm holds {len(dumps)} dumps, and {kept} are kept"
        found.append(Problem(got, "Remove the oldest: `ls -t /var/backups/wrm`", is_error=False))
    states = {slot: properties(machine, f"dagster-code@{slot}.service", "ActiveState") for slot in ("blue", "green")}
    if all(state["ActiveState"] == "active" for state in states.values()):
        got = "two code servers are active, dagster-code@blue and @green"
        todo = f"`systemctl stop --no-block dagster-code@{'green' if _slot(machine) == 'blue' else 'blue'}`"
        found.append(Problem(got, todo, is_error=False))
    return found
