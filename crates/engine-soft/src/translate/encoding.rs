//! The parts of an encoded instruction (Intel SDM vol. 2A ch. 2), so that it can be put together again
//! with other operands.

use super::asm::{Map, Prefix};

/// A VEX prefix's own fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vex {
    pub pp: u8,
    pub long: bool,
    /// The register in vvvv, not inverted.
    pub v: u8,
}

/// An instruction in pieces. 64-bit code only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Encoding {
    /// `wide` is REX.W or VEX.W; `rex` tells whether there was a REX prefix at all.
    pub prefix: Prefix,
    pub vex: Option<Vex>,
    pub map: Map,
    pub opcode: u8,
    /// ModRM.reg with REX.R.
    pub reg: u8,
    /// ModRM.rm with REX.B; if there is no ModRM byte the opcode's low bits.
    pub rm: u8,
    /// ModRM.mod is 3.
    pub direct: bool,
    pub has_modrm: bool,
    /// Where the immediate begins, and its length.
    pub immediate: (u8, u8),
}

impl Encoding {
    /// Takes a valid instruction apart; `None` for EVEX and XOP, and what is longer than it looks.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut p = Prefix::default();
        let mut rex = 0;
        let mut n = 0;
        loop {
            let b = *bytes.get(n)?;
            match b {
                0x66 => p.data16 = true,
                0xf0 => p.lock = true,
                0xf2 | 0xf3 => p.rep = b,
                0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x67 => {}
                0x40..=0x4f => {
                    rex = b;
                    n += 1;
                    continue;
                }
                _ => break,
            }
            // A REX prefix counts only right before the opcode.
            rex = 0;
            n += 1;
        }
        let mut e = Self {
            prefix: p,
            vex: None,
            map: Map::One,
            opcode: 0,
            reg: 0,
            rm: 0,
            direct: false,
            has_modrm: false,
            immediate: (0, 0),
        };
        match bytes[n] {
            0x62 => return None,
            first @ (0xc4 | 0xc5) => {
                let (high, last) = if first == 0xc5 {
                    (bytes.get(n + 1)? & 0x80 | 0x61, *bytes.get(n + 1)? & 0x7f)
                } else {
                    (*bytes.get(n + 1)?, *bytes.get(n + 2)?)
                };
                n += if first == 0xc5 { 2 } else { 3 };
                rex = 0x40 | (!high >> 5 & 7);
                e.prefix.wide = last & 0x80 != 0;
                e.map = match high & 31 {
                    1 => Map::Two,
                    2 => Map::T38,
                    3 => Map::T3A,
                    _ => return None,
                };
                e.vex = Some(Vex {
                    pp: last & 3,
                    long: last & 4 != 0,
                    v: !last >> 3 & 15,
                });
                e.opcode = *bytes.get(n)?;
            }
            0x0f => {
                n += 1;
                match *bytes.get(n)? {
                    0x38 => {
                        e.map = Map::T38;
                        n += 1;
                    }
                    0x3a => {
                        e.map = Map::T3A;
                        n += 1;
                    }
                    _ => e.map = Map::Two,
                }
                e.opcode = *bytes.get(n)?;
            }
            b => e.opcode = b,
        }
        if e.vex.is_none() {
            e.prefix.wide = rex & 8 != 0;
            e.prefix.rex = rex != 0;
        }
        n += 1;
        e.has_modrm = has_modrm(e.map, e.opcode) && !(e.vex.is_some() && e.opcode == 0x77);
        if !e.has_modrm {
            e.rm = e.opcode & 7 | (rex & 1) << 3;
            e.immediate = (n as u8, (bytes.len() - n) as u8);
            return Some(e);
        }
        let m = *bytes.get(n)?;
        n += 1;
        e.reg = m >> 3 & 7 | (rex & 4) << 1;
        e.rm = m & 7 | (rex & 1) << 3;
        e.direct = m >> 6 == 3;
        if !e.direct {
            let sib = m & 7 == 4;
            let base = if sib { *bytes.get(n)? & 7 } else { m & 7 };
            n += sib as usize
                + match m >> 6 {
                    0 if base == 5 => 4,
                    0 => 0,
                    1 => 1,
                    _ => 4,
                };
        }
        if n > bytes.len() {
            return None;
        }
        e.immediate = (n as u8, (bytes.len() - n) as u8);
        Some(e)
    }

    /// The immediate's bytes.
    pub fn immediate<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.immediate.0 as usize..][..self.immediate.1 as usize]
    }

    /// Whether it is of legacy opcode map 1 (one byte) or 2 (0F).
    pub fn is_legacy(&self, map: u8) -> bool {
        self.vex.is_none() && self.map == if map == 1 { Map::One } else { Map::Two }
    }
}

/// Whether an opcode is followed by a ModRM byte, in 64-bit mode.
fn has_modrm(map: Map, opcode: u8) -> bool {
    match map {
        Map::T38 | Map::T3A => true,
        Map::One => match opcode {
            0x00..=0x3f => opcode & 7 < 4,
            0x62 | 0x63 | 0x69 | 0x6b | 0x80..=0x8f => true,
            0xc0 | 0xc1 | 0xc6 | 0xc7 | 0xd0..=0xd3 | 0xd8..=0xdf | 0xf6 | 0xf7 | 0xfe | 0xff => true,
            _ => false,
        },
        Map::Two => !matches!(
            opcode,
            0x05..=0x0c | 0x0e | 0x30..=0x37 | 0x77 | 0x80..=0x8f | 0xa0..=0xa2 | 0xa8..=0xaa | 0xc8..=0xcf
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_some_instructions() {
        // lock xadd [rax+r9*8+0x12345678], r10d
        let e = Encoding::parse(&[0xf0, 0x46, 0x0f, 0xc1, 0x94, 0xc8, 0x78, 0x56, 0x34, 0x12]).unwrap();
        assert!(e.prefix.lock && !e.prefix.wide && e.map == Map::Two && e.opcode == 0xc1);
        assert_eq!((e.reg, e.direct, e.immediate.1), (10, false, 0));
        // vpinsrd xmm9, xmm8, r15d, 3
        let e = Encoding::parse(&[0xc4, 0x43, 0x39, 0x22, 0xcf, 0x03]).unwrap();
        let vex = e.vex.unwrap();
        assert_eq!((vex.pp, vex.long, vex.v), (1, false, 8));
        assert_eq!((e.map, e.opcode, e.reg, e.rm), (Map::T3A, 0x22, 9, 15));
        assert_eq!(e.immediate, (5, 1));
        // vaddps ymm1, ymm2, [rip+4]
        let e = Encoding::parse(&[0xc5, 0xec, 0x58, 0x0d, 4, 0, 0, 0]).unwrap();
        assert_eq!(
            (e.vex.unwrap().v, e.vex.unwrap().long, e.reg, e.direct),
            (2, true, 1, false)
        );
        // add qword [rbp], 0x7f, with a redundant prefix before REX
        let e = Encoding::parse(&[0x3e, 0x48, 0x83, 0x45, 0x00, 0x7f]).unwrap();
        assert_eq!(
            (e.prefix.wide, e.opcode, e.reg, e.immediate),
            (true, 0x83, 0, (5, 1))
        );
    }
}
