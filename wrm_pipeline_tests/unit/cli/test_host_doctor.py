"""`wrm doctor --production`: nothing on a good host, and each planted fault with its name, value and remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from wrm_pipeline.cli.host.examine import CHECKS, HostFinding, examine_host
from wrm_pipeline.cli.host.machine import MANIFEST, Entry, ThisMachine
from wrm_pipeline.cli.main import main
from wrm_pipeline_tests.fixtures.healthy_host import NOW, RELEASE, HealthyHost

Plant = Callable[[HealthyHost], object]


def wrong(host: HealthyHost) -> list[HostFinding]:
    return [finding for finding in examine_host(host) if finding.status != "ok"]


def listens(address: str, program: str) -> Plant:
    line = f'LISTEN 0 128 {address} 0.0.0.0:* users:(("{program}",pid=1,fd=3))'
    return lambda host: host.commands.update({"ss -ltnpH": line})


def unit(name: str, **properties: str) -> Plant:
    return lambda host: host.units.update({name: properties})


def entry(path: str, *found: object) -> Plant:
    return lambda host: host.entries.update({path: Entry(*found) if found else None})  # type: ignore[arg-type]


def prints(command: str, text: str) -> Plant:
    return lambda host: host.commands.update({command: text})


def measures(name: str, value: float) -> Plant:
    return lambda host: host.metrics.update({name: value})


def df(free: int, free_inodes: int = 900) -> str:
    return f"Mounted on 1B-blocks Avail Inodes IFree\n/var/lib/wrm 100000000000 {free} 1000 {free_inodes}"


def memory(available: int, swap: int = 2_000_000, swap_free: int = 1_900_000) -> Plant:
    text = f"MemTotal: 4000000 kB\nMemAvailable: {available} kB\nSwapTotal: {swap} kB\nSwapFree: {swap_free} kB\n"
    return lambda host: host.files.update({"/proc/meminfo": text})


OOM = "journalctl --since=-7d"
KILLED = "2026-11-28T10:00:00+0000 vps systemd[1]: dagster-code@blue.service: A process was killed by the OOM killer."
STRANGER = 'UNCONN 0 0 0.0.0.0:161 0.0.0.0:* users:(("snmpd",pid=1,fd=3))'
DROP_IN = "/etc/systemd/system/wrm-backup.service.d/x.conf"
CERTIFICATE_END = "wrm_certificate_end_timestamp_seconds"

# What is planted; the check that finds it, how bad it is, words of the value, and words of the remedy.
FAULTS: list[tuple[str, Plant, str, str, str, str]] = [
    (
        "a unit is not there",
        unit("wrm-restore-test.service", LoadState="not-found", User=""),
        "units",
        "failed",
        "wrm-restore-test.service is not installed (not-found)",
        "Run the playbook",
    ),
    (
        "a unit is down",
        unit("dagster-daemon.service", ActiveState="failed"),
        "units",
        "failed",
        "dagster-daemon.service is failed",
        "journalctl -u dagster-daemon",
    ),
    (
        "a unit is not enabled",
        unit("nginx.service", UnitFileState="disabled"),
        "units",
        "failed",
        "nginx.service is disabled",
        "systemctl enable nginx",
    ),
    (
        "a unit is newer on the disk",
        unit("wrm-exporter.service", NeedDaemonReload="yes"),
        "units",
        "warning",
        "wrm-exporter.service was changed",
        "daemon-reload",
    ),
    (
        "a unit is opened by a drop-in",
        unit("wrm-backup.service", ProtectSystem="no", DropInPaths=DROP_IN),
        "units",
        "failed",
        "ProtectSystem=no (changed by /etc",
        "systemctl revert wrm-backup",
    ),
    (
        "a unit may do as root",
        unit("dagster-code@blue.service", CapabilityBoundingSet="cap_sys_admin", User=""),
        "units",
        "failed",
        "CapabilityBoundingSet=cap_sys_admin, User=root",
        "systemctl revert",
    ),
    (
        "a unit has no limit",
        unit("dagster-webserver.service", MemoryMax="infinity"),
        "units",
        "failed",
        "MemoryMax=infinity",
        "systemctl revert",
    ),
    (
        "a unit leaves core dumps",
        unit("dagster-look.service", LimitCORE="infinity"),
        "units",
        "failed",
        "LimitCORE=infinity",
        "systemctl revert",
    ),
    (
        "something else has failed",
        prints("systemctl list-units", "certbot.service loaded failed failed Certbot"),
        "units",
        "warning",
        "certbot.service has failed",
        "journalctl -u certbot",
    ),
    ("no slot is active", entry("/opt/wrm/active"), "units", "failed", "leads to no slot", "wrm-release restart"),
    (
        "a timer is stopped",
        unit("wrm-prune.timer", ActiveState="inactive"),
        "timers",
        "failed",
        "wrm-prune.timer is inactive",
        "systemctl enable --now wrm-prune.timer",
    ),
    (
        "a timer ends with the next reboot",
        unit("wrm-reports.timer", UnitFileState="disabled"),
        "timers",
        "failed",
        "wrm-reports.timer is not enabled",
        "systemctl enable wrm-reports.timer",
    ),
    (
        "a backup failed",
        unit("wrm-backup.service", Result="exit-code"),
        "timers",
        "failed",
        "wrm-backup.service ended with exit-code",
        "systemctl start wrm-backup",
    ),
    (
        "a port is open",
        listens("0.0.0.0:8080", "python3"),
        "ports",
        "failed",
        "python3 listens on 0.0.0.0:8080 (TCP)",
        "127.0.0.1",
    ),
    (
        "a port is open on all addresses",
        listens("*:6379", "redis-server"),
        "ports",
        "failed",
        "redis-server listens on *:6379",
        "sport = :6379",
    ),
    (
        "PostgreSQL is open on IPv6",
        listens("[2a01::1]:5432", "postgres"),
        "ports",
        "failed",
        "[2a01::1]:5432",
        "127.0.0.1",
    ),
    (
        "a stranger listens on loopback",
        listens("127.0.0.1:4444", "nc"),
        "ports",
        "warning",
        "nc listens on 127.0.0.1:4444",
        "meant to be here",
    ),
    ("UDP is open", prints("ss -lunpH", STRANGER), "ports", "failed", "snmpd listens on 0.0.0.0:161 (UDP)", "Stop it"),
    (
        "the firewall is empty",
        prints("nft list tables", ""),
        "ports",
        "failed",
        "the firewall has no rules",
        "restart nftables",
    ),
    (
        "a secret can be read by all",
        entry("/etc/wrm/credentials/redis_url", "file", 0o644, "root", "root"),
        "files",
        "failed",
        "redis_url is 0644 root:root, and should be 0600 root:root",
        "chmod 0600",
    ),
    (
        "the data folder is another's",
        entry("/var/lib/wrm/data", "folder", 0o755, "root", "root"),
        "files",
        "failed",
        "/var/lib/wrm/data is 0755 root:root",
        "chown wrm:wrm",
    ),
    (
        "settings are gone",
        entry("/etc/wrm/wrm.env"),
        "files",
        "failed",
        "/etc/wrm/wrm.env is missing",
        "Run the playbook",
    ),
    (
        "a credential is nobody's",
        lambda host: host.folders.update({"/etc/wrm/credentials": ["old_key"]}),
        "files",
        "warning",
        "/etc/wrm/credentials/old_key",
        "rm /etc/wrm/credentials/old_key",
    ),
    (
        "root wrote into the data",
        prints("find /var/lib/wrm", "/var/lib/wrm/data/spool/x"),
        "files",
        "failed",
        "1 files below /var/lib/wrm are not wrm's",
        "chown -R wrm:",
    ),
    (
        "the certificate ends",
        lambda host: (
            host.commands.update({"openssl": "notAfter=Dec  8 14:00:00 2026 GMT"}),
            host.metrics.pop(CERTIFICATE_END),
        ),
        "certificate",
        "warning",
        "ends in 9 days",
        "certbot renew --dry-run",
    ),
    (
        "the certificate has ended",
        lambda host: (
            host.commands.update({"openssl": "notAfter=Nov 20 14:00:00 2026 GMT"}),
            host.metrics.pop(CERTIFICATE_END),
        ),
        "certificate",
        "failed",
        "ended 9 days ago",
        "certbot renew --dry-run",
    ),
    (
        "the certificate is gone",
        prints("openssl", "Could not open file"),
        "certificate",
        "failed",
        "is missing, or is not a certificate",
        "web_certificate",
    ),
    (
        "an older certificate is served",
        measures(CERTIFICATE_END, NOW + 86400 * 20),
        "certificate",
        "warning",
        "nginx serves another certificate",
        "systemctl reload nginx",
    ),
    (
        "the backup is old",
        measures("wrm_last_backup_timestamp_seconds", NOW - 30 * 3600),
        "backup",
        "failed",
        "30 hours old",
        "journalctl -u wrm-backup",
    ),
    (
        "there is no backup",
        measures("wrm_last_backup_timestamp_seconds", 0),
        "backup",
        "failed",
        "there is no backup",
        "`wrm-backup`",
    ),
    (
        "a restore was never tried",
        measures("wrm_last_restore_test_timestamp_seconds", 0),
        "backup",
        "warning",
        "last tried never",
        "systemctl start wrm-restore-test",
    ),
    (
        "no backups are wanted",
        lambda host: host.manifest.update(backup=False),
        "backup",
        "warning",
        "backup_key is not set",
        "wrm backup --new-key",
    ),
    (
        "the exporter is away",
        lambda host: host.metrics.clear(),
        "backup",
        "failed",
        "the exporter does not say",
        "systemctl status wrm-exporter",
    ),
    ("the disk is nearly full", prints("df", df(7 * 10**9)), "disk", "warning", "6,676 MiB of /var/lib/wrm", "du -xh"),
    (
        "the disk is full",
        prints("df", df(10**8)),
        "disk",
        "failed",
        "95 MiB of /var/lib/wrm (/",
        "docs/operations.md#disk",
    ),
    ("inodes are gone", prints("df", df(5 * 10**10, 10)), "disk", "failed", "10 inodes of /var/lib/wrm", "du --inodes"),
    ("memory is short", memory(80_000), "memory", "failed", "78 MiB of memory are available, 2.0%", "systemd-cgtop"),
    ("there is no swap", memory(2_000_000, 0, 0), "memory", "failed", "2048 MiB should be", "swapon --all"),
    (
        "swap is used up",
        memory(2_000_000, 2_000_000, 100_000),
        "memory",
        "warning",
        "of swap are free",
        "docs/operations.md#memory",
    ),
    (
        "something was killed",
        prints(OOM, KILLED),
        "memory",
        "warning",
        "killed by the OOM killer",
        "docs/operations.md#memory",
    ),
    (
        "the clock is on its own",
        prints("timedatectl", "no"),
        "time",
        "failed",
        "NTPSynchronized=no",
        "systemd-timesyncd",
    ),
    (
        "the clock is behind",
        measures("wrm_clock_ahead_seconds", -90.0),
        "time",
        "failed",
        "90 s behind",
        "docs/operations.md#clock",
    ),
    (
        "the clock is a little ahead",
        measures("wrm_clock_ahead_seconds", 7.0),
        "time",
        "warning",
        "7 s ahead of",
        "timedatectl",
    ),
    (
        "the journal has no limit",
        lambda host: host.files.update({"/etc/systemd/journald.conf.d/wrm.conf": ""}),
        "journal",
        "failed",
        "does not limit the journal to 500M",
        "--tags base",
    ),
    (
        "the journal is too large",
        prints("journalctl --disk-usage", "Archived and active journals take up 1.9G in the file system."),
        "journal",
        "warning",
        "takes 1.9G, its limit is 500M",
        "--vacuum-size=500M",
    ),
    (
        "no release is current",
        entry("/opt/wrm/current"),
        "versions",
        "failed",
        "leads to no complete release",
        "wrm-release rollback",
    ),
    (
        "the lock was changed",
        prints("sha256sum", "7" * 64),
        "versions",
        "failed",
        "is not the lock that 1.0.0-abc was installed from",
        "Ship the release again",
    ),
    (
        "the code server is another release's",
        entry("/opt/wrm/slots/blue/release", "link", 0o777, "root", "root", NOW, "/opt/wrm/releases/0.9.0-old"),
        "versions",
        "failed",
        "0.9.0-old, the others' is",
        "wrm-release restart",
    ),
    (
        "Python was replaced",
        prints("/usr/bin/python3", "Python 3.13.1"),
        "versions",
        "failed",
        "made with Python 3.11.2, and the system's is 3.13.1",
        "another version",
    ),
    (
        "PostgreSQL is older",
        prints("runuser", "140010"),
        "versions",
        "failed",
        "PostgreSQL is 14, and the playbook set up 15",
        "systemctl status postgresql",
    ),
    (
        "PostgreSQL does not answer",
        prints("runuser", "psql: error"),
        "versions",
        "failed",
        "PostgreSQL is not to be had",
        "systemctl status postgresql",
    ),
    (
        "an installation was interrupted",
        entry("/opt/wrm/releases/0.9.0-old/release.json"),
        "leftovers",
        "warning",
        "no complete release: 0.9.0-old",
        "rm -r /opt/wrm/releases/0.9.0-old",
    ),
    (
        "too many releases",
        lambda host: host.folders.update({"/opt/wrm/incoming": list("abcdef")}),
        "leftovers",
        "warning",
        "holds 6 releases, and 3 are kept",
        "wrm-release list",
    ),
    (
        "too many dumps",
        lambda host: host.folders.update({"/var/backups/wrm": [f"before-{n}.dump" for n in range(9)]}),
        "leftovers",
        "warning",
        "holds 9 dumps",
        "Remove the oldest",
    ),
    (
        "two code servers",
        unit("dagster-code@green.service", ActiveState="active"),
        "leftovers",
        "warning",
        "two code servers are active",
        "systemctl stop --no-block dagster-code@green",
    ),
]


def test_a_good_host_has_no_finding_and_every_check_looks() -> None:
    findings = list(examine_host(HealthyHost()))
    assert [finding.status for finding in findings] == ["ok"] * len(CHECKS)
    assert [finding.name for finding in findings] == [name for name, _, _ in CHECKS]


@pytest.mark.parametrize(
    ("plant", "name", "status", "value", "remedy"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS]
)
def test_each_planted_fault_is_found_alone_and_its_remedy_named(
    plant: Plant, name: str, status: str, value: str, remedy: str
) -> None:
    host = HealthyHost()
    plant(host)
    (found,) = wrong(host)
    assert (found.name, found.status) == (name, status)
    assert value in found.got
    assert remedy in found.todo


def test_every_check_is_shown_to_find_something() -> None:
    assert {fault[2] for fault in FAULTS} == {name for name, _, _ in CHECKS}


def test_only_a_full_disk_and_a_changed_lock_make_a_release_unsafe() -> None:
    unsafe = set()
    for title, plant, *_ in FAULTS:
        host = HealthyHost()
        plant(host)
        unsafe |= {title for finding in wrong(host) if finding.unsafe}
    assert unsafe == {"the disk is full", "the lock was changed"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2}'])
def test_a_host_without_the_playbooks_word_is_one_finding(text: str) -> None:
    host = HealthyHost(files={MANIFEST: text})
    (found,) = examine_host(host)
    assert (found.status, "ansible-playbook site.yml" in found.todo) == ("failed", True)


def test_a_check_that_understands_nothing_says_so_and_the_others_go_on() -> None:
    host = HealthyHost(files={"/proc/meminfo": "nonsense"}, commands={"ss -ltnpH": 'x users:(("a",pid=1,fd=3))'})
    findings = wrong(host)
    assert {(finding.name, finding.status) for finding in findings} == {("memory", "warning"), ("ports", "warning")}


def test_what_is_not_of_this_host_is_not_asked_for() -> None:
    """A container: its machine's clock, firewall and swap."""
    host = HealthyHost(commands={"timedatectl": "no", "nft": ""})
    host.manifest |= {"time_sync": False, "firewall": False, "swap_mb": 0}
    memory(2_000_000, 0, 0)(host)
    assert wrong(host) == []


def test_no_command_changes_anything() -> None:
    host = HealthyHost()
    list(examine_host(host))
    programs = {" ".join(line.split()[:2]) for line in host.asked if line.startswith("systemctl")}
    assert programs == {"systemctl show", "systemctl list-units"}
    assert {line.split()[0].rpartition("/")[2] for line in host.asked} == {
        "systemctl", "ss", "nft", "find", "openssl", "curl", "df", "journalctl", "timedatectl", "sha256sum", "python",
        "python3", "runuser", "redis-server",
    }  # fmt: skip


def test_this_machine_answers_in_the_same_form(tmp_path: Path) -> None:
    here = ThisMachine()
    file = tmp_path / "secret"
    file.write_text("text")
    file.chmod(0o640)
    (tmp_path / "link").symlink_to("secret")
    found, link = here.entry(str(file)), here.entry(str(tmp_path / "link"))
    assert found is not None
    assert (found.kind, found.mode, found.target) == ("file", 0o640, "")
    assert link is not None
    assert (link.kind, link.target) == ("link", "secret")
    assert here.entry(str(tmp_path / "none")) is None
    assert (here.read(str(file)), here.read(str(tmp_path))) == ("text", "")
    assert (here.names(str(tmp_path)), here.names(str(file))) == (["link", "secret"], [])
    assert here.run("echo", "a", "$HOME") == "a $HOME"
    assert here.run("no-such-program") == ""


def test_it_is_for_root_and_needs_no_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WRM_ENV", "nonsense")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert main(["doctor", "--production"]) == 1
    assert "Only root" in capsys.readouterr().err
    monkeypatch.setattr("os.geteuid", lambda: 0)
    host = HealthyHost()
    monkeypatch.setattr("wrm_pipeline.cli.host.examine.ThisMachine", lambda: host)
    assert main(["doctor", "--production"]) == 0
    assert "nothing is wrong" in capsys.readouterr().out
    unit("nginx.service", ActiveState="failed")(host)
    assert main(["doctor", "--production", "--json"]) == 1
    found = [finding for finding in json.loads(capsys.readouterr().out) if finding["status"] == "failed"]
    assert [finding["name"] for finding in found] == ["units"]
    assert RELEASE.startswith("/opt/wrm/releases/")
