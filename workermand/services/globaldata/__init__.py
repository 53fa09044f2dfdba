"""GlobalData: variables that processes share, on one machine or many (Workerman's GlobalData).

client.py and blocking.py are what programs call; engine.py says what carries their values, embedded.py speaks to our
own server, server.py; table.py is the variables themselves.
"""
