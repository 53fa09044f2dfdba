"""Links: how the clients of Channel and GlobalData reach their servers, and what they say before they may speak.

A link is a connection with the frame protocol; each frame is one MessagePack message (wire.py). Who opens it proves
that it knows the secret, and so does the server (challenge.py, door.py). client.py is for asyncio, blocking.py for
everything else.
"""
