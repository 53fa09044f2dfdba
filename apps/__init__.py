"""Examples: each module is a handler, teaches one thing and says how to try it. Copy one to begin with."""
