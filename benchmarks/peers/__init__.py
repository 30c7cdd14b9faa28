"""Other engines measure themselves here, each in a process of its own: nothing imports Standby or Prefect."""
