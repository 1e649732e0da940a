//! Sequence numbers (RFC 9293 §3.4): 32 bits, modular.

use std::ops::{Add, Sub};

use serde::{Deserialize, Serialize};

/// A TCP sequence number. It has no total order; compare with [`Seq::since`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Seq(pub u32);

impl Seq {
    /// Bytes from `earlier` to `self`, negative if `self` lies before it. Valid within 2³¹ of each other.
    pub fn since(self, earlier: Self) -> i32 {
        self.0.wrapping_sub(earlier.0) as i32
    }

    /// `self` lies before `other`.
    pub fn before(self, other: Self) -> bool {
        self.since(other) < 0
    }

    /// `self` lies before `other` or is equal to it.
    pub fn before_or_at(self, other: Self) -> bool {
        self.since(other) <= 0
    }

    /// The later of the two.
    pub fn max(self, other: Self) -> Self {
        if self.before(other) { other } else { self }
    }
}

impl Add<u32> for Seq {
    type Output = Self;
    fn add(self, bytes: u32) -> Self {
        Self(self.0.wrapping_add(bytes))
    }
}

impl Sub<u32> for Seq {
    type Output = Self;
    fn sub(self, bytes: u32) -> Self {
        Self(self.0.wrapping_sub(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_survives_the_wrap() {
        let high = Seq(u32::MAX - 1);
        let low = high + 3;
        assert_eq!(low, Seq(1));
        assert_eq!(low.since(high), 3);
        assert!(high.before(low) && !low.before(high) && high.before_or_at(high));
        assert_eq!(high.max(low), low);
    }
}
