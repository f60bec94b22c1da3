//! Integration tests, one binary: each theme is a file, what they share is in `support`.

mod support;
mod upstream_faults;
