"""The outbox: what send_to_uid() could deliver to nobody waits in a Register until the uid is bound.

posting.py is the side that sends, catchup.py the gateway's; server.py and store.py keep the letters.
"""
