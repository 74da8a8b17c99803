"""The outside world: wire format, Kafka, the dashboard and the embedded broker."""
