"""Events through a stream of NATS JetStream, from collectors to writers."""
