"""Faults that are planted on the host, one after another, for `wrm doctor --production` to find."""

from __future__ import annotations

from dataclasses import dataclass

PRUNE = "/etc/systemd/system/wrm-prune.service.d"
CERTIFICATE = "/etc/ssl/certs/wrm-self-signed.pem"
LOCK = "/opt/wrm/current/runtime.lock"
DUMPS = "/var/backups/wrm"


@dataclass(frozen=True, slots=True)
class Fault:
    """Shell commands that plant it and take it back, and words of the finding's value and remedy."""

    name: str
    plant: str
    undo: str
    value: str
    remedy: str


def _drop_in(line: str) -> tuple[str, str]:
    plant = f"mkdir -p {PRUNE} && printf '[Service]\\n{line}\\n' >{PRUNE}/planted.conf && systemctl daemon-reload"
    return plant, f"rm -r {PRUNE}; systemctl daemon-reload"


def _small_disk(options: str, fill: str) -> tuple[str, str]:
    return f"mount -t tmpfs -o mode=0700,{options} tmpfs {DUMPS} && ({fill}; true)", f"umount {DUMPS}"


FAULTS = (
    Fault(
        "a secret that all may read",
        "chmod 0644 /etc/wrm/wrm.env",
        "chmod 0640 /etc/wrm/wrm.env",
        "/etc/wrm/wrm.env is 0644",
        "chmod 0640",
    ),
    Fault(
        "a file of root's among the data",
        "touch /var/lib/wrm/data/planted",
        "rm /var/lib/wrm/data/planted",
        "/var/lib/wrm/data/planted",
        "chown -R wrm:",
    ),
    # On loopback: the host under test shares this machine's network.
    Fault(
        "a port of a stranger",
        "systemd-run --unit=planted-port python3 -m http.server --bind 127.0.0.1 --directory /run 18099; sleep 2",
        "systemctl stop planted-port",
        "listens on 127.0.0.1:18099",
        "sport = :18099",
    ),
    Fault(
        "a stopped timer",
        "systemctl stop wrm-prune.timer",
        "systemctl start wrm-prune.timer",
        "wrm-prune.timer is inactive",
        "systemctl enable --now wrm-prune.timer",
    ),
    Fault(
        "a timer that ends with the next reboot",
        "systemctl disable wrm-prune.timer",
        "systemctl enable wrm-prune.timer",
        "wrm-prune.timer is not enabled",
        "systemctl enable wrm-prune.timer",
    ),
    Fault(
        "a unit that is down",
        "systemctl stop dagster-look.socket",
        "systemctl start dagster-look.socket",
        "dagster-look.socket is inactive",
        "systemctl start dagster-look.socket",
    ),
    Fault(
        "a unit that a reboot leaves off",
        "systemctl disable wrm-exporter.service",
        "systemctl enable wrm-exporter.service",
        "wrm-exporter.service is disabled",
        "systemctl enable wrm-exporter.service",
    ),
    Fault(
        "something else that has failed",
        "systemd-run --unit=planted-failure false; sleep 1",
        "systemctl reset-failed planted-failure.service",
        "planted-failure.service has failed",
        "journalctl -u planted-failure.service",
    ),
    Fault("a unit that is opened", *_drop_in("ProtectSystem=no"), "ProtectSystem=no", "systemctl revert wrm-prune"),
    Fault(
        "a unit without a limit", *_drop_in("MemoryMax=infinity"), "MemoryMax=infinity", "systemctl revert wrm-prune"
    ),
    Fault("a full disk", *_small_disk("size=4m", f"head -c 8m /dev/zero >{DUMPS}/x"), f"MiB of {DUMPS}", "Make room"),
    Fault(
        "a disk without inodes",
        *_small_disk(
            "size=4m,nr_inodes=8", f"touch {DUMPS}/1 {DUMPS}/2 {DUMPS}/3 {DUMPS}/4 {DUMPS}/5 {DUMPS}/6 {DUMPS}/7"
        ),
        f"inodes of {DUMPS}",
        "du --inodes",
    ),
    Fault(
        "a certificate near its end",
        f"mv {CERTIFICATE} {CERTIFICATE}.kept && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 "
        f"-nodes -days 5 -subj /CN=planted -keyout /dev/null -out {CERTIFICATE}",
        f"mv {CERTIFICATE}.kept {CERTIFICATE}",
        f"{CERTIFICATE} ends in",
        "certbot renew",
    ),
    Fault(
        "a changed lock",
        f"cp -p {LOCK} /run/lock.kept && echo '# planted' >>{LOCK}",
        f"cp -p /run/lock.kept {LOCK}; rm /run/lock.kept",
        "is not the lock",
        "Ship the release again",
    ),
    Fault(
        "an interrupted installation",
        "mkdir /opt/wrm/releases/8.0.0-planted",
        "rmdir /opt/wrm/releases/8.0.0-planted",
        "no complete release: 8.0.0-planted",
        "rm -r /opt/wrm/releases/8.0.0-planted",
    ),
    Fault(
        "a journal without a limit",
        "mv /etc/systemd/journald.conf.d/wrm.conf /run/journald.conf.kept",
        "mv /run/journald.conf.kept /etc/systemd/journald.conf.d/wrm.conf",
        "does not limit the journal",
        "--tags base",
    ),
)
