"""What the benchmarks of the stream agent share: a Kafka, a store, made-up behaviours and a worker, each a real one."""
