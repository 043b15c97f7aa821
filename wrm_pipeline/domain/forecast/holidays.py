"""Public holidays: days without commuters, which the forecast treats as it treats weekends."""

from collections.abc import Callable
from datetime import date


def holidays_of(country: str) -> Callable[[date], bool]:
    """Whether a date is a public holiday of a country, by its ISO 3166-1 code; of none, no date is.

    Raises:
        ValueError: the code is not one that the library `holidays` knows.
    """
    if not country:
        return lambda _: False
    import holidays

    try:
        known = holidays.country_holidays(country)
    except NotImplementedError as error:
        raise ValueError("is not an ISO 3166-1 code of a country; give one like PL, or nothing") from error
    return known.__contains__
