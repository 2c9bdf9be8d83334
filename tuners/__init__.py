"""Changes by subsystem, as data. Empty until `hostcheck tune` is there."""
