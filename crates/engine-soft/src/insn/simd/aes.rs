//! AES-NI and PCLMULQDQ (FIPS 197; SDM vol. 1 §12.13).
//!
//! The state is a lane whose byte `4 c + r` is row `r` of column `c`.

use super::lanes::{Element, V};
use super::shape::*;
use crate::decode::Handler;
use iced_x86::Mnemonic::*;

/// Multiplication by x in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1.
const fn double(a: u8) -> u8 {
    (a << 1) ^ ((a >> 7) * 0x1b)
}

/// The S-box: the inverse in GF(2^8), then an affine map (FIPS 197 §5.1.1).
const SBOX: [u8; 256] = {
    let mut table = [0; 256];
    // `p` runs through all non-zero elements as powers of 3, `q` through their inverses.
    let (mut p, mut q) = (1u8, 1u8);
    loop {
        p ^= double(p);
        q ^= q << 1;
        q ^= q << 2;
        q ^= q << 4;
        q ^= (q >> 7) * 0x09;
        table[p as usize] =
            q ^ q.rotate_left(1) ^ q.rotate_left(2) ^ q.rotate_left(3) ^ q.rotate_left(4) ^ 0x63;
        if p == 1 {
            break;
        }
    }
    table[0] = 0x63;
    table
};

const INVERSE_SBOX: [u8; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        table[SBOX[i] as usize] = i as u8;
        i += 1;
    }
    table
};

/// SubBytes and ShiftRows: row `r` moves `r` columns to the left.
fn substitute(v: V) -> V {
    let s = v.to_le_bytes();
    V::from_le_bytes(std::array::from_fn(|i| SBOX[s[(i + 4 * (i & 3)) & 15] as usize]))
}

/// InvShiftRows and InvSubBytes.
fn substitute_inverse(v: V) -> V {
    let s = v.to_le_bytes();
    V::from_le_bytes(std::array::from_fn(|i| {
        INVERSE_SBOX[s[i.wrapping_sub(4 * (i & 3)) & 15] as usize]
    }))
}

/// Multiplies the four bytes of each column by x.
#[inline(always)]
fn double_each(c: u32) -> u32 {
    ((c & 0x7f7f_7f7f) << 1) ^ ((c >> 7 & 0x0101_0101) * 0x1b)
}

/// MixColumns of one column: 2 a + 3 (next) + (next but one) + (next but two).
fn mix(c: u32) -> u32 {
    let d = double_each(c);
    d ^ (c ^ d).rotate_right(8) ^ c.rotate_right(16) ^ c.rotate_right(24)
}

/// InvMixColumns of one column: MixColumns after adding 4 (a + next but one).
fn mix_inverse(c: u32) -> u32 {
    let quadruple = double_each(double_each(c ^ c.rotate_right(16)));
    mix(c ^ quadruple)
}

fn encrypt(state: V, key: V) -> V {
    u32::map(substitute(state), mix) ^ key
}

fn encrypt_last(state: V, key: V) -> V {
    substitute(state) ^ key
}

fn decrypt(state: V, key: V) -> V {
    u32::map(substitute_inverse(state), mix_inverse) ^ key
}

fn decrypt_last(state: V, key: V) -> V {
    substitute_inverse(state) ^ key
}

/// AESKEYGENASSIST: SubWord of words 1 and 3, and RotWord of those plus the round constant.
fn key_assist(v: V, constant: u8) -> V {
    let word = |i| u32::from_le_bytes(u32::at(v, i).to_le_bytes().map(|b| SBOX[b as usize]));
    let (x1, x3) = (word(1), word(3));
    let turned = |x: u32| x.rotate_right(8) ^ constant as u32;
    u32::build(|i| [x1, turned(x1), x3, turned(x3)][i])
}

/// Carry-less product of two quadwords, four bits of `b` at a time.
fn carryless(a: u64, b: u64) -> V {
    let mut multiples = [0; 16];
    for i in 1..16 {
        multiples[i] = (multiples[i / 2] << 1) ^ if i & 1 != 0 { a as V } else { 0 };
    }
    (0..16)
        .rev()
        .fold(0, |sum, i| (sum << 4) ^ multiples[(b >> (4 * i)) as usize & 15])
}

/// The handler of an AES or PCLMULQDQ instruction.
pub(super) fn lower(l: &mut Low) -> Option<Handler> {
    Some(match l.i.mnemonic() {
        Aesenc | Vaesenc => binary!(l, |a, b| encrypt(a, b)),
        Aesenclast | Vaesenclast => binary!(l, |a, b| encrypt_last(a, b)),
        Aesdec | Vaesdec => binary!(l, |a, b| decrypt(a, b)),
        Aesdeclast | Vaesdeclast => binary!(l, |a, b| decrypt_last(a, b)),
        Aesimc | Vaesimc => unary!(l, |a| u32::map(a, mix_inverse)),
        Aeskeygenassist | Vaeskeygenassist => unary!(l, |a, imm| key_assist(a, imm)),
        Pclmulqdq | Vpclmulqdq => {
            binary!(l, |a, b, imm| carryless(
                u64::at(a, imm as usize & 1),
                u64::at(b, imm as usize >> 4 & 1)
            ))
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn block(b: [u8; 16]) -> V {
        V::from_le_bytes(b)
    }

    /// FIPS 197 appendix A.1 and B: AES-128 of one block, with the key expanded on the way.
    #[test]
    fn the_standards_example() {
        let key = [0x2b7e1516_28aed2a6_abf71588_09cf4f3cu128.to_be_bytes(), [0; 16]].map(block)[0];
        let mut keys = vec![key];
        let mut constant = 1;
        for _ in 0..10 {
            let k = *keys.last().unwrap();
            let spread = k ^ k << 32 ^ k << 64 ^ k << 96;
            keys.push(spread ^ u32::at(key_assist(k, constant), 3).splat());
            constant = double(constant);
        }
        assert_eq!(
            keys[10],
            block(0xd014f9a8_c9ee2589_e13f0cc8_b6630ca6u128.to_be_bytes())
        );
        let plain = block(0x3243f6a8_885a308d_313198a2_e0370734u128.to_be_bytes());
        let cipher = block(0x3925841d_02dc09fb_dc118597_196a0b32u128.to_be_bytes());
        let state = keys[1..10].iter().fold(plain ^ keys[0], |s, k| encrypt(s, *k));
        assert_eq!(encrypt_last(state, keys[10]), cipher);
        // The equivalent inverse cipher (FIPS 197 §5.3.5).
        let state = keys[1..10]
            .iter()
            .rev()
            .fold(cipher ^ keys[10], |s, k| decrypt(s, u32::map(*k, mix_inverse)));
        assert_eq!(decrypt_last(state, keys[0]), plain);
    }

    #[test]
    fn mixing_has_an_inverse() {
        for c in [0, 1, 0xdb135345, 0x01020304, u32::MAX] {
            assert_eq!(mix_inverse(mix(c)), c);
        }
        assert_eq!(mix(0x455313db), 0xbca14d8e);
    }

    #[test]
    fn products_without_carries() {
        assert_eq!(carryless(3, 3), 5);
        assert_eq!(carryless(u64::MAX, 2), (u64::MAX as V) << 1);
        // The square of a polynomial spreads its bits out.
        assert_eq!(
            carryless(u64::MAX, u64::MAX),
            0x55555555_55555555_55555555_55555555
        );
        assert_eq!(carryless(1 << 63, 1 << 63), 1 << 126);
    }
}
