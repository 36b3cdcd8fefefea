//! Vhosts, exchanges, bindings, queues by name, users, permissions, policies; and the router over them.
