"""The contract: bytes to messages and back. No sockets, no clock, no loop.

A Protocol object belongs to one connection. ``feed`` takes bytes as the network cut them and returns the complete
messages; how they were cut must not matter. ``encode`` makes the bytes of one outgoing message. A protocol never
touches a socket: what is wrong is a ProtocolError, whose ``messages`` are the good ones before it; what the protocol
itself must answer waits in ``take_replies``.
"""
