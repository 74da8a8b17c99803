"""Client libraries for Kafka behind one seam: kafka-python always, confluent-kafka where it is installed."""
