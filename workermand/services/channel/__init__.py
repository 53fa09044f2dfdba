"""Channel: events and queues between processes, and between machines. docs/channel.md.

from workermand.services.channel import Channel
"""

from __future__ import annotations

from workermand.services.channel.blocking import BlockingChannel
from workermand.services.channel.client import Channel
from workermand.services.channel.engine import ChannelError, Promise

__all__ = ["BlockingChannel", "Channel", "ChannelError", "Promise"]
