"""A chat with rooms on the gateway cluster: events.py is what it does, web/ the page. docs/chat.md tells about both."""
