"use strict";
// The report's texts in Polish, by their English text. Counted texts: one|few|many.
const words = {
  "{city} bikes": "Rowery: {city}", "Pages": "Strony", "Skip to the content": "Przejdź do treści", "Colours": "Kolory",
  "Auto": "Auto", "Light": "Jasne", "Dark": "Ciemne",
  "City now": "Miasto teraz", "A day": "Dzień", "Stations": "Stacje", "Data quality": "Jakość danych", "Catalog": "Katalog", "Lineage": "Pochodzenie",
  "Report built": "Raport zbudowano", "Times are those of": "Godziny według strefy", "Every number comes from a table of the analytics database; the line below each figure names it.":
    "Każda liczba pochodzi z tabeli bazy analitycznej; wymienia ją wiersz pod każdym wykresem.",
  "Source": "Źródło", "The query": "Zapytanie", "missing": "brak", "refreshed {time}": "odświeżono {time}",
  "No data yet: {tables} is not in the database. Run wrm_analytics_job in Dagster, which makes it and this page.":
    "Jeszcze brak danych: w bazie nie ma {tables}. Uruchom w Dagsterze wrm_analytics_job, który tworzy dane i tę stronę.",
  "No data yet: {tables} holds no rows for this.": "Jeszcze brak danych: {tables} nie zawiera odpowiednich wierszy.",

  "As of": "Stan na", "Bikes at stations": "Rowery na stacjach", "Free-standing": "Poza stacjami",
  "Outside the service area, not drawn": "Poza obszarem systemu, nie na mapie", "Find a station": "Znajdź stację", "15003 …": "15003 …",
  "Show": "Pokaż", "Density": "Gęstość", "Free-standing bikes": "Rowery poza stacjami", "Station names": "Nazwy stacji",
  "Grid, service area": "Siatka, obszar systemu", "Street map": "Mapa ulic", "Bikes per km²": "Rowery na km²", "Squares of": "Kwadraty o boku",
  "mean of the day": "średnia z dnia", "mean of {n} snapshot|mean of {n} snapshots": "średnia z {n} migawki|średnia z {n} migawek|średnia z {n} migawek",
  "Square size": "Bok kwadratu", "follows the zoom": "zależnie od skali", "Bikes per dock": "Rowery na miejsce postojowe",
  "none": "brak", "below ⅓": "poniżej ⅓", "⅓ to ⅔": "od ⅓ do ⅔", "⅔ to 1": "od ⅔ do 1", "above docks": "ponad liczbę miejsc",
  "docks unknown": "liczba miejsc nieznana", "The larger the circle, the more bikes.": "Im większe koło, tym więcej rowerów.",
  "Drawn with Leaflet 1.9.4.": "Narysowano w Leaflet 1.9.4.", "Whole city": "Całe miasto",
  "Map of bikes; arrow keys move it, plus and minus zoom": "Mapa rowerów; strzałki ją przesuwają, plus i minus zmieniają skalę",
  "No connection, so no street map.": "Bez połączenia z siecią nie ma mapy ulic.", "The street map cannot be reached.": "Mapa ulic jest nieosiągalna.",
  "{n} square of the newest day held a bike.|{n} squares of the newest day held a bike.":
    "W najnowszym dniu rower stał w {n} kwadracie.|W najnowszym dniu rowery stały w {n} kwadratach.|W najnowszym dniu rowery stały w {n} kwadratach.",
  "Shown: {name}": "Pokazano: {name}", "{n} stations, the first 8:": "{n} stacji, pierwsze 8:", "{n} station|{n} stations": "{n} stacja|{n} stacje|{n} stacji",
  "The week of this station": "Tydzień tej stacji", "Bikes, mean": "Rowery, średnio", "Bikes, most at once": "Rowery, najwięcej naraz", "Bikes": "Rowery",
  "of them e-bikes": "w tym elektryczne", "Free docks": "Wolne miejsca", "Docks": "Miejsca", "unknown": "nieznane", "Station": "Stacja",
  "Unclassified record": "Rekord nieokreślony", "Battery": "Bateria", "Standing here, hours": "Stoi tu, godzin", "Zoom in": "Przybliż", "Zoom out": "Oddal",

  "{n} more station lies outside the service area; Stations lists it, too.|{n} more stations lie outside the service area; Stations lists them, too.":
    "Poza obszarem systemu leży jeszcze {n} stacja; strona Stacje także ją wymienia.|Poza obszarem systemu leżą jeszcze {n} stacje; strona Stacje także je wymienia.|Poza obszarem systemu leży jeszcze {n} stacji; strona Stacje także je wymienia.",
  "{n} of them lies outside the service area, so that City now counts one station less.|{n} of them lie outside the service area, so that City now counts as many less.":
    "{n} z nich leży poza obszarem systemu, dlatego Miasto teraz liczy o jedną mniej.|{n} z nich leżą poza obszarem systemu, dlatego Miasto teraz liczy o tyle mniej.|{n} z nich leży poza obszarem systemu, dlatego Miasto teraz liczy o tyle mniej.",

  "The day on the map": "Dzień na mapie",
  "Every station, every five minutes: the colour is its fill, the larger the circle, the more bikes. Stations outside the service area are counted, not drawn.":
    "Każda stacja co pięć minut: kolor to zapełnienie, im większe koło, tym więcej rowerów. Stacje poza obszarem systemu są liczone, ale nie rysowane.",
  "A bike in every dock": "Rower na każdym miejscu", "Time of the day": "Pora dnia", "▶ Play": "▶ Odtwórz", "❚❚ Pause": "❚❚ Wstrzymaj",
  "Map of the stations at the chosen time; arrow keys move it, plus and minus zoom": "Mapa stacji o wybranej porze; strzałki ją przesuwają, plus i minus zmieniają skalę",
  "{n} bike|{n} bikes": "{n} rower|{n} rowery|{n} rowerów",
  "There is no replay of {day}: the newest days have one, from {first} to {last}.": "Dla tego dnia ({day}) nie ma odtworzenia; mają je najnowsze dni, od {first} do {last}.",
  "The file of this day cannot be loaded: data/{file}.": "Nie można wczytać pliku tego dnia: data/{file}.",

  "Day": "Dzień", "← Day before": "← Dzień wcześniej", "Day after →": "Dzień później →", "Hour": "Godzina",
  "Bikes out by hour": "Rowery w ruchu według godzin",
  "On the way, or taken away: the most bikes parked in an hour of this day, less those parked in this hour. An estimate.":
    "W drodze albo zabrane: największa liczba rowerów zaparkowanych w którejś godzinie tego dnia minus zaparkowane w tej godzinie. Szacunek.",
  "Departures from stations by hour": "Odjazdy ze stacji według godzin",
  "From differences between snapshots: a departure and an arrival between two snapshots hide each other, so these are the fewest.":
    "Z różnic między migawkami: odjazd i przyjazd między dwiema migawkami znoszą się, więc jest to najmniejsza możliwa liczba.",
  "Empty stations": "Puste stacje", "Full stations": "Pełne stacje", "Day by day": "Dzień po dniu",
  "usual, {weekday}": "zwykle, {weekday}", "bikes out": "rowery w ruchu", "departures": "odjazdy", "empty": "puste", "full": "pełne",
  "bikes at stations, mean": "rowery na stacjach, średnio", "fewest": "najmniej", "most": "najwięcej",
  "{day}: most bikes out in the hour from {hour}, {n}.": "{day}: najwięcej rowerów w ruchu w godzinie od {hour}: {n}.",
  "There is no earlier {weekday} in the data to compare with.": "W danych nie ma wcześniejszego takiego dnia tygodnia ({weekday}) do porównania.",
  "Usual for that hour: {n}.": "Zwykle o tej godzinie: {n}.", "Most empty stations from {hour}: {n}.": "Najwięcej pustych stacji od {hour}: {n}.",
  "The same numbers are in the table below.": "Te same liczby są w tabeli poniżej.", "As a table": "Jako tabela",

  "formerly {names}": "dawniej {names}",
  "All stations of the newest snapshot. Choose a name to see its week.": "Wszystkie stacje z najnowszej migawki. Wybierz nazwę, aby zobaczyć tydzień stacji.",
  "all stations": "wszystkie stacje", "empty now": "teraz puste", "full now": "teraz pełne", "more bikes than docks": "więcej rowerów niż miejsc",
  "no docks": "bez miejsc postojowych", "old report": "stary odczyt", "outside the area": "poza obszarem", "soon empty": "wkrótce puste", "soon full": "wkrótce pełne",
  "Number": "Numer", "Fill": "Zapełnienie", "Mean, 7 days": "Średnio, 7 dni", "Empty, 7 days": "Pusta, 7 dni", "Full, 7 days": "Pełna, 7 dni",
  "Empty at": "Pusta o", "Full at": "Pełna o", "Flags": "Flagi", "Filter": "Filtruj", "Save as CSV": "Zapisz CSV", "Save as JSON": "Zapisz JSON",
  "{n} row|{n} rows": "{n} wiersz|{n} wiersze|{n} wierszy", "{n} of {all} rows": "{n} z {all} wierszy", "yes": "tak", "no": "nie",
  "← All stations": "← Wszystkie stacje", "as of {time}": "stan na {time}", "on the map": "na mapie",
  "There is no station {id} in the newest snapshot.": "W najnowszej migawce nie ma stacji {id}.", "Departures a day": "Odjazdy na dobę", "Arrivals a day": "Przyjazdy na dobę",
  "It is expected to be empty at {time}.": "Prawdopodobnie będzie pusta o {time}.", "It is expected to be full at {time}.": "Prawdopodobnie będzie pełna o {time}.",
  "Its week, mean bikes by hour": "Tydzień stacji, średnia liczba rowerów według godzin", "Week as a heat map": "Tydzień jako mapa ciepła",
  "Mean bikes by day and hour": "Średnia liczba rowerów według dni i godzin", "no data": "brak danych",
  "{day}, {hour}: {bikes} bikes on average, empty {empty}, full {full} of the hour": "{day}, {hour}: średnio {bikes} rowerów, pusta przez {empty}, pełna przez {full} godziny",
  "Anomalies of the last seven days": "Anomalie z ostatnich siedmiu dni", "None.": "Brak.",

  "Where the lines went": "Co się stało z wierszami", "Lines in = rows published + dead letters + duplicates + remarks. Nothing is dropped in silence.":
    "Wiersze wejściowe = opublikowane + odrzucone + powtórzone + uwagi. Nic nie ginie po cichu.",
  "Its next six hours": "Najbliższe sześć godzin", "Forecast made at {time}. 80 % of the counts should lie in the band.":
    "Prognoza z godziny {time}. W przedziale powinno leżeć 80 % liczb.",
  "Bikes expected": "Spodziewane rowery", "Band": "Przedział", "Chance of no bike": "Szansa braku rowerów", "Chance of no free dock": "Szansa braku wolnych stojaków",
  "Feeds": "Źródła", "Whose snapshots were believed and published. Where a feed does not tell the truth, the next one takes over.":
    "Czyim migawkom uwierzono i czyje opublikowano. Gdy jedno źródło nie mówi prawdy, zastępuje je następne.",
  "{begin} to {end}: {n} snapshot is from {feed} instead of {usual}.|{begin} to {end}: {n} snapshots are from {feed} instead of {usual}.":
    "Od {begin} do {end}: {n} migawka pochodzi ze źródła {feed} zamiast {usual}.|Od {begin} do {end}: {n} migawki pochodzą ze źródła {feed} zamiast {usual}.|Od {begin} do {end}: {n} migawek pochodzi ze źródła {feed} zamiast {usual}.",
  "Feed": "Źródło", "Believed": "Wiarygodne", "Published": "Opublikowane", "From hour": "Od godziny", "To hour": "Do godziny", "What was seen": "Co zauważono",
  "Forecast": "Prognoza", "The forecasts of the last seven days against what came true, beside the forecast that nothing changes. 80 % of the counts should lie in the band.":
    "Prognozy z ostatnich siedmiu dni i to, co się sprawdziło, obok prognozy, że nic się nie zmieni. W przedziale powinno leżeć 80 % liczb.",
  "No day is scored yet.": "Nie oceniono jeszcze żadnego dnia.", "Minutes ahead": "Minuty naprzód", "Mean error, bikes": "Średni błąd, rowery",
  "If nothing changes": "Gdyby nic się nie zmieniło", "Brier, no bike": "Brier, brak rowerów",
  "Brier if nothing changes": "Brier, gdyby nic się nie zmieniło", "In the band": "W przedziale",
  "Rules fired": "Reguły, które zadziałały", "A flag keeps the row, a dead letter takes it out.": "Flaga pozostawia wiersz, odrzucenie go usuwa.",
  "Hours in which a station was far from its usual self. Often a true event, sometimes a broken radio. A score above 1 is an anomaly, 2 is twice as far as that.":
    "Godziny, w których stacja zachowywała się inaczej niż zwykle. Często prawdziwe zdarzenie, czasem awaria łączności. Wynik powyżej 1 to anomalia, 2 to dwa razy dalej od zwykłego.",
  "Profile of the newest day": "Profil najnowszego dnia", "Drift is the population stability index against the 28 days before: below 0.1 is as usual, above 0.25 is another distribution.":
    "Dryf to wskaźnik stabilności populacji (PSI) względem 28 poprzednich dni: poniżej 0,1 jest jak zwykle, powyżej 0,25 rozkład jest inny.",
  "Freshness": "Świeżość", "When each table and asset was last made, the oldest first.": "Kiedy ostatnio powstała każda tabela i zasób, od najstarszych.",
  "Newest day": "Najnowszy dzień", "{n} snapshot, the last {time}|{n} snapshots, the last {time}": "{n} migawka, ostatnia {time}|{n} migawki, ostatnia {time}|{n} migawek, ostatnia {time}",
  "Lines accounted for": "Rozliczone wiersze", "all": "wszystkie", "not all": "nie wszystkie", "{n} line in|{n} lines in": "{n} wiersz wejściowy|{n} wiersze wejściowe|{n} wierszy wejściowych",
  "Dead letters": "Odrzucone", "{share} of the lines; an entry of the queue holds several": "{share} wierszy; jeden wpis kolejki obejmuje ich kilka", "Rules that fired": "Reguły, które zadziałały", "on the newest day": "w najnowszym dniu",
  "Anomalies": "Anomalie", "in seven days": "w siedem dni", "Snapshots by day": "Migawki według dni", "snapshots": "migawki", "Dead letters by day": "Odrzucone według dni",
  "dead letters": "odrzucone", "Snapshots": "Migawki", "Lines in": "Wiersze wejściowe", "Rows published": "Opublikowane", "Duplicates": "Powtórzone", "Remarks": "Uwagi",
  "Adds up": "Zgadza się", "First snapshot": "Pierwsza migawka", "Last snapshot": "Ostatnia migawka", "Rule": "Reguła", "Severity": "Waga", "Share of rows": "Udział wierszy",
  "28 days": "28 dni", "By day": "Według dni", "Reason": "Powód", "flag": "flaga", "dead_letter": "odrzucenie", "Score": "Wynik", "Method": "Metoda", "Column": "Kolumna", "Rows": "Wiersze",
  "Nulls": "Puste", "Distinct": "Różne", "Minimum": "Najmniej", "Maximum": "Najwięcej", "Mean": "Średnia", "Drift": "Dryf", "Name": "Nazwa", "Kind": "Rodzaj",
  "Refreshed": "Odświeżono", "Made by": "Tworzy",

  "Rides": "Przejazdy", "Plan": "Plan", "How good are we": "Jak dobrzy jesteśmy",
  "Departures by hour": "Odjazdy według godzin",
  "What counts show is the least: a departure and an arrival within a minute hide each other. The estimate adds what is hidden; in nine cases of ten the truth lies between the dashed lines. Where bikes are known, it is a count and has no range.":
    "Z liczb rowerów widać najmniej: odjazd i przyjazd w tej samej minucie znoszą się. Szacunek dodaje to, czego nie widać; w dziewięciu przypadkach na dziesięć prawda leży między liniami przerywanymi. Gdzie rowery są znane, jest to liczba dokładna, bez przedziału.",
  "Departures are all rentals that begin at a station, those that fail included; rides, moves by van, minutes and kilometres are known where the operator's feed names each bike.":
    "Odjazdy to wszystkie wypożyczenia ze stacji, także nieudane; przejazdy, przewozy, minuty i kilometry są znane, gdy źródło operatora podaje numery rowerów.",
  "From where to where": "Skąd dokąd",
  "Rides between stations in the last seven days: the wider the line, the more rides. Of a chosen station, arrivals have another colour than departures.":
    "Przejazdy między stacjami z ostatnich siedmiu dni: im grubsza linia, tym więcej przejazdów. Dla wybranej stacji przyjazdy mają inny kolor niż odjazdy.",
  "Bikes that stand longest": "Rowery, które stoją najdłużej", "departures, estimate": "odjazdy, szacunek", "departures, known": "odjazdy, znane",
  "{day}: departures are unknown: the snapshots are too far apart.": "{day}: odjazdy nieznane: migawki są zbyt rzadkie.",
  "{day}: {n} departures from stations, all of known bikes.": "{day}: odjazdy ze stacji: {n}, wszystkie znanych rowerów.",
  "at least": "co najmniej", "at most": "co najwyżej",
  "seen in the counts": "widoczne w liczbach", "{day}: {n} departures from stations, between {low} and {high}.": "{day}: odjazdy ze stacji: {n}, od {low} do {high}.",
  "bikes known": "rowery znane", "from counts": "z liczb", "Departures": "Odjazdy", "Rides per bike": "Przejazdy na rower", "How": "Jak", "Round trips": "Pętle",
  "Moved by van": "Przewiezione", "Minutes, median": "Minuty, mediana", "Straight km, median": "Km w linii prostej, mediana", "outside stations": "poza stacjami",
  "Which bike is where is not known: only the operator's feed says it (operator in WRM_FEEDS). Departures above are estimated from counts.":
    "Nie wiadomo, który rower gdzie stoi: mówi to tylko źródło operatora (operator w WRM_FEEDS). Odjazdy powyżej są szacowane z liczb.",
  "the whole city": "całe miasto", "Rides of": "Przejazdy:", "Map of rides between stations; arrow keys move it, plus and minus zoom": "Mapa przejazdów między stacjami; strzałki ją przesuwają, plus i minus zmieniają skalę",
  "{n} ride|{n} rides": "{n} przejazd|{n} przejazdy|{n} przejazdów",
  "The {shown} busiest of {n} connections, {first} to {last}.": "Najczęstsze połączenia: {shown} z {n}, od {first} do {last}.",
  "{shown} connections that are among the city's {n} busiest, {first} to {last}.": "Połączenia, które są wśród {n} najczęstszych w mieście: {shown}, od {first} do {last}.",
  "Rides between stations": "Przejazdy między stacjami", "From": "Z", "To": "Do", "Bike": "Rower", "free-standing": "poza stacją", "Hours": "Godziny", "Since": "Od", "Battery, %": "Bateria, %",
  "Free-standing bikes are in every feed; these stand since the time given, or longer if that is the beginning of the day.":
    "Rowery poza stacjami są w każdym źródle; te stoją od podanego czasu albo dłużej, jeżeli jest to początek dnia.",

  "Where a van is needed": "Gdzie potrzebny jest samochód",
  "From the forecast of the next six hours: stations that will probably have no bike or no free dock, how many bikes make up for it, and by when.":
    "Z prognozy na najbliższe sześć godzin: stacje, na których prawdopodobnie zabraknie rowerów lub miejsc, ile rowerów temu zaradzi i do kiedy.",
  "No station needs a van in the next six hours.": "W ciągu najbliższych sześciu godzin żadna stacja nie potrzebuje samochodu.",
  "Map of the stations that need a van; arrow keys move it, plus and minus zoom": "Mapa stacji, które potrzebują samochodu; strzałki ją przesuwają, plus i minus zmieniają skalę",
  "bring bikes": "przywieźć rowery", "take bikes away": "zabrać rowery", "What to do": "Co zrobić", "Bikes to move": "Rowery do przewiezienia", "Needed by": "Do kiedy", "Chance of it": "Prawdopodobieństwo", "Bikes now": "Rowery teraz", "Was right so far": "Dotąd trafnie",
  "Lost demand": "Utracony popyt",
  "Departures that would have been made in the last seven days while a station was empty, from its usual traffic at that hour. In nine cases of ten the truth lies between the dashed lines.":
    "Odjazdy, które odbyłyby się w ostatnich siedmiu dniach, gdy stacja była pusta, według jej zwykłego ruchu o tej godzinie. W dziewięciu przypadkach na dziesięć prawda leży między liniami przerywanymi.",
  "{first} to {last}: about {n} departures were lost, between {low} and {high}.": "Od {first} do {last}: utracone odjazdy: około {n}, od {low} do {high}.",
  "Lost departures by hour": "Utracone odjazdy według godzin", "lost departures": "utracone odjazdy", "Lost departures by station": "Utracone odjazdy według stacji", "Lost departures": "Utracone odjazdy",
  "Hours empty": "Godziny bez rowerów", "Days with an empty hour": "Dni z pustą godziną", "Longest empty or full": "Najdłużej puste lub pełne", "Hours of a day, mean of the last four weeks.": "Godziny na dobę, średnio z ostatnich czterech tygodni.",
  "Empty, h a working day": "Pusta, h w dzień roboczy", "Full, h a working day": "Pełna, h w dzień roboczy", "Empty, h a weekend day": "Pusta, h w dzień weekendu", "Full, h a weekend day": "Pełna, h w dzień weekendu", "Days": "Dni",
  "Gains and losses by hour": "Przybytki i ubytki według godzin",
  "Arrivals less departures in that hour, mean of the last four weeks: the larger the circle, the greater the difference.": "Przyjazdy minus odjazdy w tej godzinie, średnio z ostatnich czterech tygodni: im większe koło, tym większa różnica.",
  "Saturday, Sunday": "sobota, niedziela", "Monday to Friday": "od poniedziałku do piątku", "loses bikes": "traci rowery", "gains bikes": "zyskuje rowery",
  "Map of stations that gain and lose bikes; arrow keys move it, plus and minus zoom": "Mapa stacji, które zyskują i tracą rowery; strzałki ją przesuwają, plus i minus zmieniają skalę",
  "Gains and losses by station": "Przybytki i ubytki według stacji", "Gain in the hour": "Przybytek w godzinie", "Arrivals": "Przyjazdy",

  "Forecast an hour ahead, day by day": "Prognoza na godzinę naprzód, dzień po dniu", "Forecast, an hour ahead": "Prognoza na godzinę naprzód", "{n} bikes off": "o {n} roweru", "{share} of the error if nothing changes": "{share} błędu przy założeniu, że nic się nie zmieni",
  "80 % are meant": "powinno być 80 %", "Departures of a day": "Odjazdy w ciągu dnia", "off the ledger, {day}": "różnicy względem rejestru, {day}", "Rides found": "Znalezione przejazdy", "of the ledger, {day}": "rejestru, {day}", "of all snapshots, {day}": "wszystkich migawek, {day}",
  "Departures against the city's ledger": "Odjazdy a rejestr miasta", "Our departures beside the rentals in the city's own record of that day that began at a station, failed ones included. Where bikes are known, those that are back before the next answer are not seen: about one in twenty, at an answer a minute.": "Nasze odjazdy obok wypożyczeń z rejestru miasta z tego dnia, które zaczęły się na stacji, także nieudanych. Gdzie znamy rowery, nie widać wypożyczeń, po których rower wrócił przed następną odpowiedzią: około jednego na dwadzieścia przy odpowiedzi co minutę.",
  "Rides against the city's ledger": "Przejazdy a rejestr miasta", "Ride by ride: found with the same bike, stations and times; missed; or invented, which no ride of the ledger explains.":
    "Przejazd po przejeździe: znaleziony z tym samym rowerem, stacjami i czasem; przeoczony; albo zmyślony, którego nie wyjaśnia żaden przejazd z rejestru.",
  "No day's ledger has arrived yet.": "Nie ma jeszcze rejestru żadnego dnia.", "In the ledger": "W rejestrze", "Off by": "Różnica", "Found": "Znalezione", "Missed": "Przeoczone", "Invented": "Zmyślone", "Found, share": "Znalezione, udział", "Invented, share": "Zmyślone, udział",
  "Failed rentals": "Nieudane wypożyczenia", "Unknown stations": "Nieznane stacje", "Feeds and forecasts are on the page": "Źródła i prognozy są na stronie",
  "Was in the band, 7 days": "Było w przedziale, 7 dni", "Was off by, bikes": "Różnica, rowery", "How often the band was right is not known yet: no day is scored.": "Nie wiadomo jeszcze, jak często przedział był trafny: nie oceniono żadnego dnia.",

  "Every asset, table, view and column: what it means, its unit, and where it comes from.": "Każdy zasób, tabela, widok i kolumna: co oznacza, w jakiej jednostce i skąd pochodzi.",
  "Find a table or column": "Znajdź tabelę lub kolumnę", "Descriptions are in English.": "Opisy są po angielsku.",
  "table": "tabela", "view": "widok", "asset": "zasób", "Layer": "Warstwa", "Owner": "Właściciel", "Made from": "Z czego", "Place": "Miejsce", "Columns": "Kolumny", "Type": "Typ",
  "Unit": "Jednostka", "Meaning": "Znaczenie", "Samples": "Przykłady", "whole table": "cała tabela", "newest day": "najnowszy dzień",
  "raw": "surowe", "processed": "przetworzone", "enhanced": "wzbogacone", "analytics": "analizy", "quality": "jakość", "report": "raport", "dlq": "odrzucone",
  "{n} entry, {columns} columns|{n} entries, {columns} columns": "{n} pozycja, kolumn: {columns}|{n} pozycje, kolumn: {columns}|{n} pozycji, kolumn: {columns}",

  "What is made from what. Choose an asset to see its inputs and outputs; arrows point from a source to what is made of it.":
    "Co z czego powstaje. Wybierz zasób, aby zobaczyć jego wejścia i wyjścia; strzałki prowadzą od źródła do tego, co z niego powstaje.",
  "The same as a table": "To samo jako tabela", "Graph of the assets; the table below says the same": "Graf zasobów; tabela poniżej mówi to samo",
  "Asset": "Zasób", "Steps from the raw data": "Kroki od danych surowych", "Feeds into": "Zasila", "Tables and views": "Tabele i widoki", "In the catalog": "W katalogu",
};
