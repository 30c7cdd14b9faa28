"""What tests of agents need: points at which to make a process die."""
