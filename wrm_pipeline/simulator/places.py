"""Places of the simulated stations: landmarks by name, and districts whose streets make up the other names.

Coordinates are WGS84 degrees, right to about 200 m; names are real streets and places, combined
freely.
"""

from typing import Literal, NamedTuple, cast
from zoneinfo import ZoneInfo

Profile = Literal["centre", "office", "university", "rail", "estate", "leisure", "suburb"]


class Landmark(NamedTuple):
    """A station with its own name.

    Attributes:
        name: As in the feed, stray spaces and quotes included.
        lat: Degrees north.
        lon: Degrees east.
        profile: Who comes here, and therefore when.
        docks: Docks on the pavement; 0 where the operator reports none.
        pull: Attraction relative to another station of this profile and size.
    """

    name: str
    lat: float
    lon: float
    profile: Profile
    docks: int
    pull: float = 1.0


class Home(NamedTuple):
    """Where the city is.

    Attributes:
        name: The city's.
        zone: Its time zone, by which people live.
        lat: Degrees north of the market square.
        lon: Degrees east of it.
    """

    name: str = "Wrocław"
    zone: ZoneInfo = ZoneInfo("Europe/Warsaw")
    lat: float = 51.1099
    lon: float = 17.0334


WROCLAW = Home()


class District(NamedTuple):
    """A part of the city whose stations are named after two of its streets.

    Attributes:
        lat: Degrees north of its middle.
        lon: Degrees east of its middle.
        spread_deg: Standard deviation of its stations' latitudes, degrees (0.005 is about 550 m).
        profile: Of most of its stations.
        share: Stations here relative to the other districts.
        streets: At least four.
    """

    lat: float
    lon: float
    spread_deg: float
    profile: Profile
    share: int
    streets: list[str]


# The first ones contain everything that a parser must handle (commas, quotes, stray and no-break spaces, 0 docks,
# remote places), so that even a city of twelve stations has each of them.
LANDMARKS = (
    Landmark("Rynek, pierzeja wschodnia", 51.10990, 17.03340, "centre", 16, 1.3),
    Landmark('Kino "Nowe Horyzonty"', 51.11035, 17.02700, "centre", 12),
    Landmark("Wisznia Mała, Urząd Gminy", 51.24800, 17.02800, "suburb", 10),
    Landmark("Czernica, plac Gminny", 51.04720, 17.18200, "suburb", 10),
    Landmark("Trzebnica - dworzec kolejowy", 51.30900, 17.06300, "suburb", 6),  # north of the default service area
    Landmark("Sky Tower / Gwiaździsta", 51.09430, 17.01950, "office", 16, 2.2),
    Landmark("Port Lotniczy, terminal", 51.10920, 16.88100, "office", 0, 4.0),
    Landmark("Stadion Olimpijski ", 51.11950, 17.09750, "leisure", 10),
    Landmark(" Wyspa Słodowa", 51.11590, 17.03770, "leisure", 10, 1.4),
    Landmark("Hala Targowa\u00a0", 51.11260, 17.03970, "centre", 10),
    Landmark("Dworzec Główny, wyjście północne", 51.09920, 17.03700, "rail", 24, 1.5),
    Landmark("Politechnika, gmach główny", 51.10730, 17.06190, "university", 28, 0.9),
    Landmark("Teatr Muzyczny „Capitol”", 51.10090, 17.02910, "centre", 12),
    Landmark("Plac Solny / Ofiar Oświęcimskich", 51.10890, 17.02870, "centre", 12),
    Landmark("Nowy Targ  (parking)", 51.11160, 17.03740, "centre", 16),
    Landmark("Narodowe Forum Muzyki", 51.10640, 17.02720, "centre", 14),
    Landmark("Galeria Dominikańska / Oławska", 51.10850, 17.04060, "centre", 16),
    Landmark("Pasaż Grunwaldzki", 51.11240, 17.05920, "centre", 16, 1.3),
    Landmark("Sucha / Dworzec Autobusowy", 51.09680, 17.03480, "rail", 16),
    Landmark("Dworzec Świebodzki", 51.10830, 17.01990, "centre", 10),
    Landmark("Dworzec Nadodrze", 51.12610, 17.03050, "rail", 10),
    Landmark("Wrocław Muchobór, stacja kolejowa", 51.10290, 16.97200, "rail", 10),
    Landmark("Wrocław Brochów, stacja kolejowa", 51.06360, 17.07560, "rail", 6),
    Landmark("Ostrów Tumski, katedra", 51.11420, 17.04650, "leisure", 10),
    Landmark("Kampus UWr / Maksa Borna", 51.11350, 17.06870, "university", 16),
    Landmark("Biblioteka Uniwersytecka", 51.11120, 17.05330, "university", 14),
    Landmark("T-16 i T-22 (akademiki)", 51.11600, 17.06330, "university", 16),
    Landmark("Uniwersytet Ekonomiczny, brama", 51.09060, 17.02790, "university", 10),
    Landmark("Uniwersytet Przyrodniczy / Norwida", 51.11130, 17.06150, "university", 10),
    Landmark("AWF / Witelona", 51.11010, 17.07960, "university", 10),
    Landmark("Business Garden / Legnicka", 51.11910, 16.99580, "office", 16, 1.5),
    Landmark("West Gate / Lotnicza", 51.12670, 16.97950, "office", 10),
    Landmark("Centrum Południe", 51.09290, 17.01800, "office", 14),
    Landmark("Green Day / Szczytnicka", 51.11300, 17.05140, "office", 10),
    Landmark("Infinity / Legnicka", 51.11190, 17.01990, "office", 10),
    Landmark("Carbon Tower / Fabryczna", 51.11060, 16.99000, "office", 10),
    Landmark("Strzegomska (Nokia)", 51.11230, 16.98600, "office", 12),
    Landmark("Ogród Japoński", 51.10960, 17.07990, "leisure", 10, 1.3),
    Landmark("Pergola / Fontanna", 51.10830, 17.07730, "leisure", 12, 1.3),
    Landmark("Bulwar Dunikowskiego", 51.11220, 17.04460, "leisure", 14),
    Landmark("Park Południowy, staw", 51.07640, 17.01150, "leisure", 10),
    Landmark("Park Grabiszyński", 51.09080, 16.97640, "leisure", 8),
    Landmark("Morskie Oko (kąpielisko)", 51.11890, 17.09200, "leisure", 8),
    Landmark("Tarczyński Arena", 51.14120, 16.94390, "leisure", 16),
    Landmark("Las Osobowicki", 51.15650, 16.97600, "leisure", 0),
    Landmark("Pracze Odrzańskie / Brodzka", 51.17450, 16.91500, "suburb", 0),
    Landmark("Jagodno, ul. Kajdasza", 51.05020, 17.06200, "estate", 0),
    Landmark("Księże Wielkie (przystanek kolejowy)", 51.07150, 17.10350, "suburb", 0),
    Landmark("Bielany Wrocławskie P&R", 51.04200, 16.97000, "suburb", 16),
    Landmark("Kiełczów - Rzeczna", 51.14450, 17.17600, "suburb", 6),
    Landmark("Siechnice Rynek", 51.03600, 17.14700, "suburb", 8),
    Landmark("Iwiny / Brochowska", 51.04400, 17.07900, "suburb", 6),
    Landmark("Kobierzyce, Pałac", 50.97050, 16.92850, "suburb", 6),  # south of the default service area
)

_DISTRICT_TABLE = """\
51.1085 17.0330 0.0030 centre 8
  Świdnicka, Oławska, Ruska, Kuźnicza, Szewska, Grodzka, Krupnicza, Podwale, Wita Stwosza
51.1000 17.0440 0.0030 centre 6
  Traugutta, Pułaskiego, Małachowskiego, Kościuszki, Komuny Paryskiej, Dąbrowskiego, Worcella
51.1225 17.0400 0.0035 centre 8
  Jedności Narodowej, Słowiańska, Rydygiera, Łokietka, Pomorska, Chrobrego, Trzebnicka, Paulińska
51.1110 17.0590 0.0035 university 7
  Grunwaldzka, Szczytnicka, Reja, Curie-Skłodowskiej, Wybrzeże Wyspiańskiego, Bujwida, Piwna
51.1185 17.0560 0.0030 estate 6
  Sienkiewicza, Prusa, Górnickiego, Barlickiego, Ukryta, Benedyktyńska, Orzeszkowej
51.1130 16.9990 0.0045 office 10
  Legnicka, Robotnicza, Długa, Braniborska, Śrubowa, Góralska, Zachodnia, Inowrocławska
51.0975 17.0075 0.0040 estate 9
  Grabiszyńska, Żelazna, Oporowska, Gajowicka, Lwowska, Szczęśliwa, Krucza, Stalowa
51.0865 17.0120 0.0050 estate 10
  Hallera, Sztabowa, Racławicka, Powstańców Śląskich, Jastrzębia, Wiśniowa, Orla
51.0850 17.0420 0.0060 estate 12
  Borowska, Bardzka, Hubska, Gliniana, Kamienna, Łódzka, Świeradowska, Orzechowa, Armii Krajowej
51.0720 16.9960 0.0070 estate 10
  Krzycka, Przyjaźni, Wałbrzyska, Skarbowców, Zwycięska, Jutrzenki, Karkonoska, Wietrzna
51.0630 17.0350 0.0065 estate 9
  Ołtaszyńska, Grota-Roweckiego, Parafialna, Kutrzeby, Agrestowa, Pawia, Motylkowa, Przystankowa
51.0690 17.0750 0.0080 estate 9
  Krakowska, Opolska, Mościckiego, Gazowa, Tarnogajska, Karwińska, Topolowa, Katowicka
51.1050 17.1000 0.0060 estate 10
  Olszewskiego, Mickiewicza, Dembowskiego, Partyzantów, Monte Cassino, Chopina, Spółdzielcza
51.1130 17.1250 0.0050 suburb 5
  Swojczycka, Miłoszycka, Marca Polo, Magellana, Strachocińska, Wilczycka
51.1340 17.0650 0.0060 estate 9
  Kromera, Kasprowicza, Berenta, Koszarowa, Toruńska, Brücknera, Krzywoustego, Czajkowskiego
51.1470 17.1180 0.0070 estate 10
  Kiełczowska, Litewska, Gorlicka, Poleska, Żmudzka, Bierutowska, Zielna, Sobieskiego
51.1420 17.0300 0.0070 estate 10
  Obornicka, Bezpieczna, Bałtycka, Żmigrodzka, Kamieńskiego, Broniewskiego, Łużycka, Kępińska
51.1760 17.0050 0.0060 suburb 6
  Waniliowa, Pęgowska, Tymiankowa, Pełczyńska, Księgarska, Zajączkowska
51.1280 16.9830 0.0050 estate 10
  Popowicka, Lotnicza, Białowieska, Wejherowska, Jelenia, Niedźwiedzia, Milenijna, Bobrza
51.1360 16.9680 0.0050 estate 9
  Pilczycka, Kozanowska, Gwarecka, Dokerska, Modra, Celtycka, Ignuta, Górnicza
51.1190 16.9560 0.0070 estate 12
  Bystrzycka, Rogowska, Strzegomska, Hynka, Drzewieckiego, Bajana, Nowodworska, Szybowcowa
51.0960 16.9560 0.0060 office 7
  Klecińska, Tyrmanda, Mińska, Graniczna, Avicenny, Solskiego, Jordanowska, Krzemieniecka
51.1520 16.9150 0.0080 estate 8
  Maślicka, Królewiecka, Stabłowicka, Kosmonautów, Północna, Brodnicka, Jeleniogórska
51.1430 16.8700 0.0060 suburb 6
  Średzka, Skoczylasa, Trzmielowicka, Rubczaka, Dolnobrzeska, Jerzmanowska
51.0370 17.0200 0.0080 suburb 5
  Wysoka Chabrowa, Radomierzyce Główna, Ślęza Przystankowa, Wojszyce Działkowa, Iwiny Polna
"""


def _district(numbers: str, streets: str) -> District:
    """Reads one pair of lines of the table, whose columns are the attributes of `District` in order."""
    lat, lon, spread_deg, profile, share = numbers.split()
    return District(
        float(lat),
        float(lon),
        float(spread_deg),
        cast("Profile", profile),
        int(share),
        streets.strip().split(", "),
    )


_lines = _DISTRICT_TABLE.splitlines()
DISTRICTS = tuple(_district(*pair) for pair in zip(_lines[::2], _lines[1::2], strict=True))

# The operator's depot: about 260 km away and yet in the feed.
DEPOT_LAT, DEPOT_LON = 52.2732, 21.0268
