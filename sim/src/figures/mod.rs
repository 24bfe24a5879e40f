//! Figures 6 and 7 of the paper: what RAPs hear from the JAPs of one group while a crowd joins it in
//! a flash, by how far counts may move unreported (the band) and how many proxies there are.
//!
//! ```text
//!  Crowd ──joins, leaves──► Catchment ──► 10,000 JAPs ──reports──► 4 RAPs      [flash::run]
//!  one per seed             which proxy       ▲                      │
//!                           one joins at      └──── band in acks ────┘
//!
//!  20 seeds × numbers of proxies × bands ──► Cell: mean and deviation ──► table, CSV, SVG
//! ```
//!
//! JAPs and RAPs are the overlay's own code: [`pias_overlay::Reporter`] and
//! [`pias_overlay::Listener`]. What is assumed of the crowd, whose trace the paper does not
//! publish, is said in [`Crowd`].

mod catchment;
mod crowd;
mod fig6;
mod fig7;
mod flash;
mod plot;
mod study;

pub use catchment::{Catchment, Clients};
pub use crowd::Crowd;
pub use fig6::Fig6;
pub use fig7::Fig7;
pub use flash::{Flash, Heard, run};
pub use study::{BANDS, Cell, Mean, Refreshed, Study};
