//! The figures of the overlay.

pub mod report;
