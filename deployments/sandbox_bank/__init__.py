"""The sandbox bank: a small payment provider with its own database, for the demo and for tests of faults.

It imports nothing of Standby: to an agent it is an outside system, met over HTTP alone. `wire` is what
callers see, `store` what is kept, `settlement` what happens by itself, `app` the routes, `__main__` the
command.
"""
