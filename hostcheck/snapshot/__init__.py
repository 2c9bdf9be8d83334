"""Reading a host: probes as data, two producers of one archive, and its hardened reader."""
