"""What can go wrong with Vault, by what the reader can do about it."""

from wrm_pipeline.clients.errors import ExternalError, PermanentError, TransientError


class VaultError(ExternalError):
    """Vault returned no secret; the message names the path and the remedy, never a value."""


class VaultUnreachableError(VaultError, TransientError):
    """No answer, or one that says that Vault has a problem."""


class VaultSealedError(VaultError, TransientError):
    """Vault is up, but sealed: somebody must unseal it."""


class VaultLoginError(VaultError, PermanentError):
    """Vault does not accept the AppRole or the token."""


class VaultDeniedError(VaultError, PermanentError):
    """The policy does not permit it, even with a fresh token."""


class VaultPathMissingError(VaultError, PermanentError):
    """Nothing was ever written at the path, or everything was removed."""


class VaultVersionDeletedError(VaultError, PermanentError):
    """The newest version at the path is deleted or destroyed.

    Attributes:
        version: Its number.
    """

    version: int = 0


class VaultKeyMissingError(VaultError, PermanentError):
    """The path exists, but lacks this key."""


class VaultValueError(VaultError, PermanentError):
    """A value is invalid, or contradicts the variables."""


class VaultMountError(VaultError, PermanentError):
    """The mount point has no secrets engine."""


class VaultMisdirectedError(VaultError, PermanentError):
    """The answer is a redirect, which is not followed: token and secrets would go to its target."""


class VaultRefusedError(VaultError, PermanentError):
    """Vault refused for a reason that the other classes do not cover, or answered too much."""
