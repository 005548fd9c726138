//! Sequence numbers (RFC 9293 §3.4).

/// Whether `a` is before `b`.
pub fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// Whether `a` is `b` or before it.
pub fn until(a: u32, b: u32) -> bool {
    !before(b, a)
}

/// The later of two.
pub fn later(a: u32, b: u32) -> u32 {
    if before(a, b) { b } else { a }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_round() {
        assert!(before(1, 2) && !before(2, 2) && !before(3, 2));
        assert!(until(1, 2) && until(2, 2) && !until(3, 2));
        assert!(before(u32::MAX, 0) && before(0xffff_ff00, 0x100));
        assert_eq!(later(u32::MAX, 3), 3);
    }
}
