"""What published files say of the bike-share system as a whole."""

from dataclasses import dataclass

LICENCE = "licence.txt"
"""Beside the files, for systems without an address of their terms."""


@dataclass(frozen=True, slots=True)
class PublicSystem:
    """What the files say of the system as a whole.

    Attributes:
        url: The address of the folder that holds them, with a slash at its end.
        system_id: Never changes.
        name: The city.
        timezone: By its name.
        language: Of the names, as in BCP 47.
        contact: A mail address.
        opening_hours: In the syntax of OpenStreetMap.
        ebike_range_m: How far an e-bike goes with a full battery.
        operator: Empty if it is not said.
        licence_url: Empty: `licence.txt` beside the files, which grants nothing.
    """

    url: str
    system_id: str
    name: str
    timezone: str
    language: str
    contact: str
    opening_hours: str
    ebike_range_m: int
    operator: str = ""
    licence_url: str = ""

    def licence_text(self) -> str:
        """The content of `licence.txt`. Without a licence, GBFS takes what it describes for public domain."""
        return (
            f"These files describe the bike-share system of {self.name}. They are made from data that its operator, or "
            "somebody in between, publishes, and that remain theirs: whoever publishes these files grants no rights to "
            "them. Ask the operator before you use them for more than the operator allows.\n"
        )
