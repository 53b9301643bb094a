"""The lakehouse: the one JVM that serves the Delta tables, the way into it, and how tables are made, written and kept."""
