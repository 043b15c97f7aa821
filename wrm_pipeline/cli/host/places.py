"""Files and their owners, the certificate, the backups."""

from datetime import UTC, datetime

from wrm_pipeline.cli.host.machine import Machine, Wanted, metrics
from wrm_pipeline.cli.host.problems import Problem

# As the alerts CertificateEnds, BackupMissing and RestoreUntried.
CERTIFICATE_WARNING_S, CERTIFICATE_ERROR_S = 14 * 86400, 2 * 86400
BACKUP_S = 26 * 3600
RESTORE_TEST_S = 28 * 86400

_MOST_NAMED = 5


def files(machine: Machine, wanted: Wanted) -> list[Problem]:
    """Owner and mode of everything that is secret or that the pipeline writes, and files of others among its data."""
    found = []
    for path, (mode, owner, group, needed) in sorted(wanted["files"].items()):
        entry = machine.entry(path)
        if entry is None:
            if needed:
                found.append(Problem(f"{path} is missing", "Run the playbook; restore data from a backup first"))
            continue
        if (f"{entry.mode:04o}", entry.owner, entry.group) != (mode, owner, group):
            got = f"{path} is {entry}, and should be {mode} {owner}:{group}"
            found.append(Problem(got, f"`chown {owner}:{group} {path} && chmod {mode} {path}`, or run the playbook"))
    folder = "/etc/wrm/credentials"
    for name in machine.names(folder):
        path = f"{folder}/{name}"
        if path in wanted["files"]:
            continue
        todo = f"Put it into dagster_credentials and run the playbook, or `rm {path}`; its secret may have been read"
        found.append(Problem(f"{path} ({machine.entry(path)}) is none of the playbook's", todo, is_error=False))
    account, data = wanted["account"], wanted["data_dir"]
    command = ("find", data, "-xdev", "!", "-user", account, "!", "-type", "l", "-print")
    strange = machine.run(*command).splitlines()
    if strange:
        got = f"{len(strange)} files below {data} are not {account}'s: {', '.join(strange[:_MOST_NAMED])}"
        found.append(Problem(got, f"`chown -R {account}: {strange[0]}` and so on; runs cannot replace them"))
    return found


def certificate(machine: Machine, wanted: Wanted) -> list[Problem]:
    """When it ends, and whether the web server serves what is on the disk."""
    path = wanted["certificate"]
    shown = machine.run("openssl", "x509", "-noout", "-enddate", "-in", path)
    if "notAfter=" not in shown:
        got = f"{path} is missing, or is not a certificate: {shown[:200]}"
        return [Problem(got, "Correct web_certificate, or let the playbook make one (--tags web)")]
    text = shown.partition("notAfter=")[2].splitlines()[0].removesuffix(" GMT")
    ends = datetime.strptime(text, "%b %d %H:%M:%S %Y").replace(tzinfo=UTC).timestamp()
    left = ends - machine.now()
    found = []
    if left < CERTIFICATE_WARNING_S:
        word = f"ends in {left / 86400:.0f} days" if left > 0 else f"ended {-left / 86400:.0f} days ago"
        todo = "`certbot renew --dry-run` says why it is not renewed; docs/operations.md#certificate"
        found.append(Problem(f"{path} {word}", todo, is_error=left < CERTIFICATE_ERROR_S))
    served = metrics(machine, wanted["exporter_port"]).get("wrm_certificate_end_timestamp_seconds")
    if served is not None and abs(served - ends) > 1:
        got = f"nginx serves another certificate, which ends {datetime.fromtimestamp(served, UTC):%Y-%m-%d}"
        found.append(Problem(got, "`systemctl reload nginx`", is_error=False))
    return found


def backup(machine: Machine, wanted: Wanted) -> list[Problem]:
    """The exporter looks into the store, so this needs no credentials."""
    if not wanted["backup"]:
        todo = "`wrm backup --new-key` makes a backup_key for the secrets file; keep a copy; run the playbook"
        return [Problem("no backups are taken: backup_key is not set", todo, is_error=False)]
    found = metrics(machine, wanted["exporter_port"])
    newest = found.get("wrm_last_backup_timestamp_seconds")
    if newest is None:
        todo = "`systemctl status wrm-exporter`; `wrm-backup list` looks itself"
        return [Problem("the exporter does not say when the newest backup was taken", todo)]
    problems = []
    age = machine.now() - newest
    if not newest:
        problems.append(Problem("there is no backup", "`wrm-backup` takes one now"))
    elif age > BACKUP_S:
        got = f"the newest backup is {age / 3600:.0f} hours old"
        problems.append(Problem(got, "`journalctl -u wrm-backup -n 30`, then `systemctl start wrm-backup`"))
    tried = found.get("wrm_last_restore_test_timestamp_seconds", 0.0)
    if newest and machine.now() - tried > RESTORE_TEST_S:
        when = f"{(machine.now() - tried) / 86400:.0f} days ago" if tried else "never"
        todo = "`systemctl start wrm-restore-test`; docs/operations.md#restore-untried"
        problems.append(Problem(f"it was last tried {when} whether a backup can be restored", todo, is_error=False))
    return problems
