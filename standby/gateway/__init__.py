"""The gateway: the HTTP door for signals, webhooks and answers."""
