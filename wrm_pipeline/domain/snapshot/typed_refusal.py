"""How the typed path says no."""


class RefusedError(ValueError):
    """This path cannot vouch for these lines."""
