"""The commands of `tersor`, one file each: parse, call, print. Heavy imports wait until a command runs."""
