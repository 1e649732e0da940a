//! HTTP/1.1 framing: one parser for the proxy and the transactionalizer.
