"""The bus: the inner links over nats, in place of Registers and a mesh of sockets: ``bus = "nats://..."``.

connection.py is one process's connection to nats, pipes.py a link over two subjects, roster.py who is there; mesh.py
and blocking.py are the side that asks, door.py is the gateway's. transport.py, above, chooses.
"""
