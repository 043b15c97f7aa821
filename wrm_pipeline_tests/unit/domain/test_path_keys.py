"""Which parts of a URL's path count as keys: those that look random, and no words."""

from __future__ import annotations

import base64
import random
import string
import uuid
from collections.abc import Callable

import pytest

from wrm_pipeline.domain.masking import redact, remember_credentials, without_echo
from wrm_pipeline.domain.path_keys import keys_in_path, without_keys

ALPHANUMERIC = string.ascii_letters + string.digits


def letters_of(alphabet: str, length: int) -> Callable[[random.Random], str]:
    return lambda dice: "".join(dice.choices(alphabet, k=length))


MADE_BY_MACHINES: dict[str, Callable[[random.Random], str]] = {
    "token_hex(16)": lambda dice: dice.randbytes(16).hex(),
    "token_hex(20) in capitals": lambda dice: dice.randbytes(20).hex().upper(),
    "UUID": lambda dice: str(uuid.UUID(bytes=dice.randbytes(16), version=4)),
    "token_urlsafe(24)": lambda dice: base64.urlsafe_b64encode(dice.randbytes(24)).decode(),
    "token_urlsafe(32)": lambda dice: base64.urlsafe_b64encode(dice.randbytes(32)).decode().rstrip("="),
    "letters and digits, 24": letters_of(ALPHANUMERIC, 24),
    "letters and digits, 40": letters_of(ALPHANUMERIC, 40),
    "small letters and digits, 32": letters_of(string.ascii_lowercase + string.digits, 32),
    "digits, 24": letters_of(string.digits, 24),
}


@pytest.mark.parametrize("kind", MADE_BY_MACHINES)
def test_keys_that_machines_make_are_found(kind):
    dice = random.Random(kind)
    made = [MADE_BY_MACHINES[kind](dice) for _ in range(1000)]
    assert sum(1 for key in made if keys_in_path(f"/api/{key}/stations.json")) >= 999
    assert keys_in_path(f"/api/v2/{made[0]}/stations") == [made[0].rstrip("=")]


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/bikesapi/load.php",
        "/maps/gbfs/v2/nextbike_wr/pl/station_information.json",
        "/maps/nextbike-live.xml",
        "/feeds/wrm_stations_2025-08-21_10-05-02.txt",
        "/gbfs-2.3/system_information/getStationInformationAndStatus",
        "/dane/rozmieszczenie-stacji-wroclawskiego-roweru-miejskiego-2025",
        "/api/v1/organisations/20250821100502/exports",
        "/WROCLAWSKIROWERMIEJSKI/STACJE",
        "/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/bbbb",
        "/%C5%BC%C3%B3%C5%82%C4%87/%20%20%20%20%20%20%20%20",
    ],
)
def test_words_and_dates_are_not(path):
    assert keys_in_path(path) == []
    assert without_keys(path) == path


KEY = "9f86d081884c7d659a2feaa0c55ad015"
TOKEN = "Zk7-Qp2xLm9_vT4bR8cW1nYs"
URL = f"https://feeds.example.org/api/{KEY}/v2/{TOKEN.replace('-', '%2D')}.json;v=1/stations"


def test_a_key_in_the_path_is_masked_and_the_rest_is_shown():
    assert keys_in_path("/api/x;key=" + KEY) == [KEY]
    remember_credentials(URL)
    assert redact(f"feed get {URL}: HTTP 500") == (
        "feed get https://feeds.example.org/api/***/v2/***.json;v=1/stations: HTTP 500"
    )
    assert redact(f"not found: {KEY[:12]}, {TOKEN[-9:]}") == "not found: ***, ***"
    assert without_keys(f"/api/{KEY}/v2/{TOKEN}.json") == "/api/***/v2/***.json"


@pytest.mark.parametrize("spell", [str, lambda text: text.encode().hex(), lambda text: text.replace("-", "\\u002d")])
def test_a_body_that_quotes_a_key_of_the_path_is_kept_without_it(spell):
    body = f"<html>No such page: /api/{spell(KEY)}/v2/{spell(TOKEN)}</html>".encode()
    assert without_echo(body, URL) == b"<html>No such page: /api/***/v2/***</html>"
