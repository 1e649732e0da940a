//! The Internet checksum (RFC 1071): the ones' complement sum of 16-bit words.
//!
//! Words are summed as they lie in memory: the ones' complement sum does not depend on byte order
//! (RFC 1071 §2 (B)), so the result is stored as it lies in memory, too. Eight bytes are added at a time;
//! 2³² ≡ 1 and 2¹⁶ ≡ 1 (mod 2¹⁶ − 1), so 32-bit halves may be summed and folded at the end.

/// Adds `data` to a running sum. All pieces but the last must have even length.
pub fn add(sum: u64, data: &[u8]) -> u64 {
    let mut words = data.chunks_exact(8);
    let mut low = 0_u64;
    let mut high = 0_u64;
    for word in &mut words {
        if let Ok(bytes) = <[u8; 8]>::try_from(word) {
            let value = u64::from_ne_bytes(bytes);
            low += value & 0xffff_ffff;
            high += value >> 32;
        }
    }
    let mut rest = [0_u8; 8];
    for (to, from) in rest.iter_mut().zip(words.remainder()) {
        *to = *from;
    }
    let value = u64::from_ne_bytes(rest);
    sum + low + high + (value & 0xffff_ffff) + (value >> 32)
}

/// Folds a running sum to the checksum, as the two bytes that go into the packet.
pub fn finish(mut sum: u64) -> [u8; 2] {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_ne_bytes()
}

/// The checksum of an IPv4 header whose checksum field is zero (or of one that is valid: then 0).
pub fn ipv4_header(header: &[u8]) -> [u8; 2] {
    finish(add(0, header))
}

/// The checksum of a TCP segment whose checksum field is zero (or of one that is valid: then 0).
/// `addresses` are source and destination as they lie in the IP header.
pub fn tcp(addresses: &[u8], segment: &[u8]) -> [u8; 2] {
    with_pseudo_header(addresses, 6, segment)
}

/// The same of another protocol above IP (RFC 8200 §8.1).
pub(crate) fn with_pseudo_header(addresses: &[u8], protocol: u8, message: &[u8]) -> [u8; 2] {
    let [a, b, c, d] = (message.len() as u32).to_be_bytes();
    let pseudo = [a, b, c, d, 0, 0, 0, protocol];
    finish(add(add(add(0, addresses), &pseudo), message))
}

/// What a TCP checksum field holds until a device fills it in (`CHECKSUM_PARTIAL` of `include/linux/skbuff.h`): the sum of the
/// pseudo-header, not complemented. `length`: of header and data.
pub(crate) fn pseudo_header(addresses: &[u8], length: u32) -> [u8; 2] {
    let [a, b, c, d] = length.to_be_bytes();
    finish(add(add(0, addresses), &[a, b, c, d, 0, 0, 0, 6])).map(|byte| !byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1071 §3's own example.
    #[test]
    fn rfc_1071_example() {
        let data = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(finish(add(0, &data)), (!0xddf2_u16).to_be_bytes());
    }

    #[test]
    fn a_valid_sum_gives_zero() {
        let mut data = [1, 2, 3, 4, 5, 6, 0, 0];
        let sum = finish(add(0, &data));
        data[6..].copy_from_slice(&sum);
        assert_eq!(finish(add(0, &data)), [0, 0]);
    }
}
