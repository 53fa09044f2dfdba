"""What the clients of services raise.

ServiceError        the root: refused by the server, in its words
├── Unreachable     there is no connection, or it broke: what was asked for may or may not have been done
├── Unauthorized    one of the two does not know the secret
├── TimedOut        no answer within the deadline
├── Dropped         there was no room for it
└── Unsupported     this engine cannot do it
"""

from __future__ import annotations

from workermand import WorkermandError


class ServiceError(WorkermandError):
    """A request to a service that failed; the text says what and why."""


class Unreachable(ServiceError, ConnectionError):
    """No connection, or it broke before the answer came."""


class Unauthorized(ServiceError):
    """The secret is wrong, or missing on one side."""


class TimedOut(ServiceError, TimeoutError):
    """No answer within the deadline."""


class Dropped(ServiceError):
    """A buffer or a limit was full: it has not been sent."""


class Unsupported(ServiceError):
    """The engine behind the URL cannot do this; the manual's table says which can."""
