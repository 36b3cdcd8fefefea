//! Shards: queues, their messages and their consumers.
