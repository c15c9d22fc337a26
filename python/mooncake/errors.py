"""What the calls of `mooncake.Engine` raise."""

from typing import Dict, Type

__all__ = [
    "Error", "InvalidArgument", "NotFound", "NoSpace", "TryAgain", "PeerGone", "Unavailable", "TimedOut", "Cancelled", "Denied",
    "Corrupt", "Unsupported",
]


class Error(Exception):
    """A failure with an identity: `id` ("E101") is a row of docs/errors.md, and `mooncake explain ID` prints it.

    `title` says what failed, `context` between whom and why, `remedy` one thing to do; `str(error)` has all of them.
    """

    id: str = ""
    title: str = ""
    context: str = ""
    remedy: str = ""


class InvalidArgument(Error, ValueError):
    """A bug or bad input: the same call never succeeds."""


class NotFound(Error, LookupError):
    """Nobody has that name."""


class NoSpace(Error, MemoryError):
    """Free something first."""


class TryAgain(Error):
    """Busy: the same call may succeed now."""


class PeerGone(Error, ConnectionError):
    """That peer is dead or cannot be reached; others are fine."""


class Unavailable(Error, ConnectionError):
    """A service that is depended on (the directory) does not answer."""


class TimedOut(Error, TimeoutError):
    """Out of time: bytes of a write may still arrive at the peer; local memory is no longer touched."""


class Cancelled(Error):
    """The engine was closed, or the transfer cancelled, meanwhile."""


class Denied(Error, PermissionError):
    """No right to do this."""


class Corrupt(Error):
    """What has arrived is not what was sent."""


class Unsupported(Error):
    """Not on this machine, or not with this peer."""


_CLASSES: Dict[str, Type[Error]] = {
    "invalid argument": InvalidArgument,
    "not found": NotFound,
    "no space": NoSpace,
    "try again": TryAgain,
    "peer gone": PeerGone,
    "unavailable": Unavailable,
    "unknown outcome": TimedOut,
    "cancelled": Cancelled,
    "denied": Denied,
    "corrupt": Corrupt,
    "unsupported": Unsupported,
}


def _make(code: str, error_id: str, title: str, context: str, remedy: str, text: str) -> Error:
    """For the extension module."""
    error = _CLASSES.get(code, Error)(text)
    error.id, error.title, error.context, error.remedy = error_id, title, context, remedy
    return error
