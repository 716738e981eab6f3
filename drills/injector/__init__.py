"""A fault injector that answers the HTTP API of a Toxiproxy server.

It stands in where no real `toxiproxy-server` is at hand. A proxy listens at a port and carries
each connection to an upstream; toxics on either stream of it delay, cut, throttle or drop what
passes. `python -m drills.injector --port 8474` runs it.

Behaviour follows Toxiproxy 2.4.0 as its users see it, with these differences: a connection that is
half closed stays open in the other direction; `reset_peer` counts from the moment that it meets a
connection, whether data passes or not, and loses nothing where it is removed before; which
connections a toxicity below 1 meets is decided once for each.
"""
