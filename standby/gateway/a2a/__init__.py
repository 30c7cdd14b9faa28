"""Agent runs as tasks of the Agent2Agent protocol: its card and its JSON-RPC door, on the gateway."""
