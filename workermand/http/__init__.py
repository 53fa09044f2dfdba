"""HTTP as data and rules: requests, answers, forms, ranges, and what is refused. No sockets, no clock, no loop."""
