"""What may be spoken over a connection: bytes to messages and back, without sockets, clock or loop.

base.py is the contract and the two bases for protocols of one's own; raw, text and frame are built in; custom.py
adapts Workerman's three functions; registry.py goes from a name to a class.
"""
