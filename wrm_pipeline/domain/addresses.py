"""Which IP addresses a foreign answer may lead this machine to: only those of the public internet."""

import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Counted as shared or public by the registries, but used by clouds internally.
_OF_CLOUDS = frozenset(
    ipaddress.ip_address(text)
    for text in ("168.63.129.16", "169.254.169.254", "169.254.170.2", "100.100.100.200", "192.0.0.192", "fd00:ec2::254")
)
_CARRIER = ipaddress.ip_network("100.64.0.0/10")
# Gateways that carry an IPv4 address in the last 32 bits (RFC 6052, RFC 8215), and the IPv4-compatible form.
_EMBEDDING = tuple(ipaddress.IPv6Network(text) for text in ("64:ff9b::/96", "64:ff9b:1::/48", "::/96"))
_ISATAP = (0x00005EFE, 0x02005EFE)


def why_not_public(address: Address) -> str:
    """Why an address that a foreign answer leads to is not public, in a word or two; empty if it is."""
    if address in _OF_CLOUDS:
        return "a cloud's own service"
    kinds = (
        (address.is_unspecified, "unspecified"),
        (address.is_loopback, "loopback"),
        (address.is_link_local, "link-local"),
        (address.is_multicast, "multicast"),
        (address.version == 4 and address in _CARRIER, "carrier-grade NAT"),
    )
    # Since Python 3.13 a mapped address says of itself what holds of the one within it.
    is_mapped = isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None
    for holds, name in kinds:
        if holds and not is_mapped:
            return name
    inner = _embedded(address) if isinstance(address, ipaddress.IPv6Address) else None
    if inner is not None and (found := why_not_public(inner)):
        return f"{found}, within IPv6"
    site_local = isinstance(address, ipaddress.IPv6Address) and address.is_site_local
    if inner is None and (site_local or not address.is_global):
        return "private or reserved"
    return ""


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address contains or maps to, if any."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    number = int(address)
    if any(address in network for network in _EMBEDDING) or (number >> 32) & 0xFFFFFFFF in _ISATAP:
        return ipaddress.IPv4Address(number & 0xFFFFFFFF)
    return None
