//! Decoding one block: guest bytes, one after the other, until something ends it.

use super::{Op, features, lower, operand};
use crate::cpu::{Cpu, Place, R};
use donjon_memory::CodeMap;
use donjon_x86::Seg;
use iced_x86::{Decoder, DecoderError, DecoderOptions, FlowControl, Instruction};

/// Instructions in a block at most.
const MAX_OPS: usize = 64;
const MAX_LEN: usize = 15;

/// Decoded instructions and what they were decoded from.
pub(crate) struct Decoded {
    pub ops: Vec<Op>,
    /// Generation of the page it starts in, as of before the bytes were read.
    pub generation: u32,
    /// RAM offset and generation of a second page that the only instruction runs into.
    pub second: Option<(usize, u32)>,
    /// Bytes the instructions cover.
    pub len: u16,
}

impl Cpu {
    /// Linear address of the next instruction byte.
    #[inline(always)]
    pub fn fetch_linear(&self, rip: u64) -> u64 {
        if self.is64() {
            rip
        } else {
            self.seg[Seg::Cs as usize].base.wrapping_add(rip) & 0xffff_ffff
        }
    }

    /// Decodes from RAM offset `at`, where the instruction pointer points, to the end of the page or of the
    /// block. A first instruction that does not exist becomes an op that raises its exception.
    pub fn decode_block(&mut self, at: usize) -> R<Decoded> {
        let here = 0x1000 - (at & 0xfff);
        let options = features::options(&self.board.model);
        // Marks grow with what is read, so that data behind a block is not taken for code.
        let mut generation = None;
        let mut ops: Vec<Op> = Vec::with_capacity(8);
        let mut done = 0;
        while done < here && ops.len() < MAX_OPS {
            let mut bytes = [0; MAX_LEN];
            let n = (here - done).min(MAX_LEN);
            let mark = self.code_map().mark(at + done, n);
            let first = *generation.get_or_insert(mark);
            if first != mark {
                // Changed while we were at it: keep what was decoded before.
                break;
            }
            self.board.ram.read_at(at + done, &mut bytes[..n]);
            match self.decode_one(&bytes[..n], options) {
                Ok(op) => {
                    done += op.len as usize;
                    let ends = op.bits & Op::ENDS_BLOCK != 0;
                    ops.push(op);
                    if ends {
                        break;
                    }
                }
                Err(_) if !ops.is_empty() => break,
                Err(e) if n < MAX_LEN && (e == DecoderError::NoMoreBytes || self.is_cut_off(&bytes[..n])) => {
                    return self.decode_across(at, here, options);
                }
                Err(e) => {
                    ops.push(self.undecodable(&bytes[..n], e));
                    break;
                }
            }
        }
        let len = ops.iter().map(|op| op.len as u16).sum();
        Ok(Decoded {
            ops,
            generation: generation.unwrap_or(u32::MAX),
            second: None,
            len,
        })
    }

    /// An instruction that begins in one page, at RAM offset `at` with `here` bytes left, and ends in the next.
    fn decode_across(&mut self, at: usize, here: usize, options: u32) -> R<Decoded> {
        let next = self.fetch_linear(self.rip().wrapping_add(here as u64));
        let place = self.place_fetch(next)?;
        let generation = self.code_map().mark(at, here);
        let mut bytes = [0; MAX_LEN];
        self.board.ram.read_at(at, &mut bytes[..here]);
        let second = match place {
            Place::Ram(o) => {
                let g = self.code_map().mark(o, MAX_LEN - here);
                self.board.ram.read_at(o, &mut bytes[here..]);
                Some((o, g))
            }
            Place::Device(p) => {
                for (i, b) in bytes[here..].iter_mut().enumerate() {
                    *b = self.device_read(p + i as u64, 1) as u8;
                }
                // Never valid again: what a device returns is not cached.
                Some((usize::MAX, 0))
            }
        };
        let op = self
            .decode_one(&bytes, options)
            .unwrap_or_else(|e| self.undecodable(&bytes, e));
        Ok(Decoded {
            ops: vec![op],
            generation,
            second,
            len: op.len as u16,
        })
    }

    /// Code outside RAM (a ROM, a device): one instruction, not cached.
    pub fn decode_device(&mut self, physical: u64) -> Decoded {
        let mut bytes = [0; MAX_LEN];
        for (i, b) in bytes.iter_mut().enumerate() {
            *b = self.device_read(physical + i as u64, 1) as u8;
        }
        let options = features::options(&self.board.model);
        let op = self
            .decode_one(&bytes, options)
            .unwrap_or_else(|e| self.undecodable(&bytes, e));
        Decoded {
            ops: vec![op],
            generation: 0,
            second: None,
            len: op.len as u16,
        }
    }

    fn code_map(&self) -> &CodeMap {
        self.board.ram.code()
    }

    /// Decodes one instruction.
    pub fn decode_one(&self, bytes: &[u8], options: u32) -> Result<Op, DecoderError> {
        let mut i = Instruction::default();
        // Decoded as if at address zero: displacements then count from the instruction.
        let mut decoder = Decoder::with_ip(self.code.bits(), bytes, 0, options);
        decoder.decode_out(&mut i);
        if i.is_invalid() {
            return Err(decoder.last_error());
        }
        let mut op = lower::undefined_op();
        operand::fill(&i, &mut op);
        let known = features::implemented(&i, &self.board.model);
        match known.then(|| lower::lower(&i, &mut op)).flatten() {
            Some(run) => op.run = run,
            None => op.bits |= Op::ENDS_BLOCK,
        }
        if i.flow_control() != FlowControl::Next {
            op.bits |= Op::ENDS_BLOCK;
        }
        Ok(op)
    }

    /// #UD, or #GP for an instruction longer than 15 bytes.
    fn undecodable(&self, bytes: &[u8], error: DecoderError) -> Op {
        let mut op = lower::undefined_op();
        op.len = 1;
        op.bits = Op::ENDS_BLOCK;
        if bytes.len() == MAX_LEN && (error == DecoderError::NoMoreBytes || self.is_cut_off(bytes)) {
            op.run = lower::too_long;
        }
        op
    }

    /// Whether an instruction that cannot be decoded runs over the end of `bytes`: how long it is comes
    /// before what is wrong with it. The opcode alone decides the length, so prefixes that make it invalid,
    /// or that fill the limit, are left out to find it.
    fn is_cut_off(&self, bytes: &[u8]) -> bool {
        let legacy = |b: u8| matches!(b, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3);
        let rex = |b: u8| self.is64() && (0x40..=0x4f).contains(&b);
        let prefixes = bytes.iter().take_while(|b| legacy(**b) || rex(**b)).count();
        if prefixes == bytes.len() {
            return true;
        }
        let sizes = |b: u8| b == 0x66 || b == 0x67;
        let with = |keep: &dyn Fn(u8) -> bool| {
            let mut short: Vec<u8> = vec![];
            for (n, &b) in bytes[..prefixes].iter().enumerate() {
                // A REX prefix counts only right before the opcode.
                if rex(b) && n + 1 == prefixes || legacy(b) && keep(b) && !short.contains(&b) {
                    short.push(b);
                }
            }
            let dropped = prefixes - short.len();
            short.extend(&bytes[prefixes..]);
            let mut decoder = Decoder::with_ip(self.code.bits(), &short, 0, DecoderOptions::NO_INVALID_CHECK);
            let len = decoder.decode().len();
            match decoder.last_error() {
                DecoderError::NoMoreBytes => Some(true),
                DecoderError::None => Some(dropped + len > bytes.len()),
                _ => None,
            }
        };
        let attempts: [&dyn Fn(u8) -> bool; 3] = [&|_| true, &sizes, &|b| b == 0x67];
        attempts.into_iter().find_map(with).unwrap_or(false)
    }
}
