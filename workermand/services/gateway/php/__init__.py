"""PHP: GatewayWorker's programs and ours in one cluster. What they say is wire.py's, above.

door.py lets in, visitors.py does what GatewayClient and BusinessWorkers ask of a gateway of ours, register.py tells
them of it. registry.py finds gateways in PHP, link.py joins them: line.py, commands.py and events.py are its parts.
"""
