//! The configuration center.
