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

  "All stations of the newest snapshot. Choose a name to see its week.": "Wszystkie stacje z najnowszej migawki. Wybierz nazwę, aby zobaczyć tydzień stacji.",
  "all stations": "wszystkie stacje", "empty now": "teraz puste", "full now": "teraz pełne", "more bikes than docks": "więcej rowerów niż miejsc",
  "no docks": "bez miejsc postojowych", "old report": "stary odczyt", "outside the area": "poza obszarem", "soon empty": "wkrótce puste", "soon full": "wkrótce pełne",
  "Number": "Numer", "Fill": "Zapełnienie", "Mean, 7 days": "Średnio, 7 dni", "Empty, 7 days": "Pusta, 7 dni", "Full, 7 days": "Pełna, 7 dni",
  "Empty at": "Pusta o", "Full at": "Pełna o", "Flags": "Flagi", "Filter": "Filtruj", "Save as CSV": "Zapisz CSV", "Save as JSON": "Zapisz JSON",
  "{n} row|{n} rows": "{n} wiersz|{n} wiersze|{n} wierszy", "{n} of {all} rows": "{n} z {all} wierszy", "yes": "tak", "no": "nie",
  "← All stations": "← Wszystkie stacje", "as of {time}": "stan na {time}", "on the map": "na mapie",
  "There is no station {id} in the newest snapshot.": "W najnowszej migawce nie ma stacji {id}.", "Departures a day": "Odjazdy na dobę", "Arrivals a day": "Przyjazdy na dobę",
  "By its usual profile it runs empty at {time}.": "Według zwykłego przebiegu będzie pusta o {time}.", "By its usual profile it is full at {time}.": "Według zwykłego przebiegu będzie pełna o {time}.",
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

  "Every asset, table, view and column: what it means, its unit, and where it comes from.": "Każdy zasób, tabela, widok i kolumna: co oznacza, w jakiej jednostce i skąd pochodzi.",
  "Find a table or column": "Znajdź tabelę lub kolumnę", "Descriptions are in English.": "Opisy są po angielsku.",
  "table": "tabela", "view": "widok", "asset": "zasób", "Layer": "Warstwa", "Owner": "Właściciel", "Made from": "Z czego", "Place": "Miejsce", "Columns": "Kolumny", "Type": "Typ",
  "Unit": "Jednostka", "Meaning": "Znaczenie", "Samples": "Przykłady", "whole table": "cała tabela", "newest day": "najnowszy dzień",
  "raw": "surowe", "processed": "przetworzone", "enhanced": "wzbogacone", "analytics": "analizy", "quality": "jakość", "report": "raport", "dlq": "odrzucone",
  "{n} entry, {columns} columns|{n} entries, {columns} columns": "{n} pozycja, kolumn: {columns}|{n} pozycje, kolumn: {columns}|{n} pozycji, kolumn: {columns}",

  "What is made from what. Choose an asset to see its inputs and outputs; arrows point from a source to what is made of it.":
    "Co z czego powstaje. Wybierz zasób, aby zobaczyć jego wejścia i wyjścia; strzałki prowadzą od źródła do tego, co z niego powstaje.",
  "The same as a table": "To samo jako tabela", "Graph of the assets; the table below says the same": "Graf zasobów; tabela poniżej mówi to samo",
  "Asset": "Zasób", "Steps from the raw data": "Kroki od danych surowych", "Feeds": "Zasila", "Tables and views": "Tabele i widoki", "In the catalog": "W katalogu",
};
