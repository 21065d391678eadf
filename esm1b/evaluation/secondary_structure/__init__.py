"""Secondary structure by probes on representations."""
