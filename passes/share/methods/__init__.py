"""How layers are compared, aligned and grouped: functions on arrays."""
