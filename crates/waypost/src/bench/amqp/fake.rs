//! A broker just large enough to test the generator against.
