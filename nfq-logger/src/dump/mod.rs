//! What of a segment log is shown, and how.
//!
//! [`View`] takes a record apart; [`Transactions`] tells which requests its bytes belong to; [`Filter`] decides whether it is
//! shown; [`Printer`] makes lines of it, [`Capture`] a pcapng file, [`Stream`] the bytes of one side.

mod filter;
mod line;
mod pcapng;
mod stats;
mod stream;
mod transactions;
mod view;

pub use filter::{Filter, FilterError, GRAMMAR};
pub use line::Printer;
pub use pcapng::Capture;
pub use stats::stats_text;
pub use stream::{Piece, Side, Stream};
pub use transactions::Transactions;
pub use view::View;

/// How lines read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text {
        /// With colours.
        colour: bool,
    },
    /// For programs.
    Json,
}
