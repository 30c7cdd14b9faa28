"""Agent runs as tools of another agent: a server of the Model Context Protocol on the gateway."""
