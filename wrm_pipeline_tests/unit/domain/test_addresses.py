"""Which addresses a foreign answer may lead to."""

import ipaddress

import pytest

from wrm_pipeline.domain.addresses import why_not_public

REFUSED = {
    "loopback": ["127.0.0.1", "127.255.255.254", "::1"],
    "unspecified": ["0.0.0.0", "::"],
    "link-local": ["169.254.1.1", "fe80::1"],
    "multicast": ["224.0.0.1", "239.1.2.3", "ff02::1", "ff0e::1"],
    "carrier-grade NAT": ["100.64.0.1", "100.127.255.255"],
    "a cloud's own service": ["169.254.169.254", "168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254"],
    "private or reserved": [
        *["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.0.1", "0.1.2.3", "240.0.0.1", "255.255.255.255"],
        *["198.18.0.1", "192.0.2.1", "203.0.113.9", "fc00::1", "fd12::1", "2001:db8::1", "fec0::1"],
    ],
    "loopback, within IPv6": ["::ffff:127.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "64:ff9b:1::7f00:1", "::7f00:1"],
    "private or reserved, within IPv6": ["::ffff:10.0.0.1", "2002:a00:1::", "64:ff9b::192.168.1.1", "2a00::5efe:a00:1"],
    "a cloud's own service, within IPv6": ["::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe"],
}


@pytest.mark.parametrize(("why", "text"), [(why, text) for why, texts in REFUSED.items() for text in texts])
def test_what_is_not_of_the_public_internet_is_refused(why, text):
    assert why_not_public(ipaddress.ip_address(text)) == why


@pytest.mark.parametrize(
    "text", ["144.82.250.1", "1.1.1.1", "172.32.0.1", "100.63.255.255", "2606:4700::1111", "2002:5200:1::"]
)
def test_what_is_public_is_not(text):
    assert why_not_public(ipaddress.ip_address(text)) == ""


@pytest.mark.parametrize("text", ["64:ff9b::8.8.8.8", "::ffff:8.8.8.8"])
def test_a_public_address_within_another_is_public(text):
    assert why_not_public(ipaddress.ip_address(text)) == ""
