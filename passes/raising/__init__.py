"""From an exporter's arithmetic to the ops that carry its meaning."""
