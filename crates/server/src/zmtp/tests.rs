//! Devices over real sockets, spoken to by engines of our own.
