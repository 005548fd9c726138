//! Which flags the manual leaves undefined at each instruction of a program, and which instructions would
//! read them.
//!
//! A set holds bits of RFLAGS and, 32 places up, the condition codes of the x87 status word.

use super::{Layout, Program};
use crate::undefined;
use donjon_x86::bits::rflags::*;
use iced_x86::{
    CpuidFeature, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, RflagsBits,
};

/// The condition codes C0 to C3 of the x87 status word.
const CODES: u64 = 0x4700 << 32;
const C1: u64 = 0x200 << 32;

/// What is undefined in a program.
pub struct Taint {
    /// Before each instruction, in order; then at the end.
    pub before: Vec<u64>,
    /// Instructions that read something undefined.
    pub readers: Vec<usize>,
}

/// The RFLAGS part of a set.
pub fn flags(set: u64) -> u64 {
    set & 0xffff_ffff
}

/// The x87 status part.
pub fn status(set: u64) -> u16 {
    (set >> 32) as u16
}

/// Everything that can be undefined.
pub const ALL: u64 = STATUS | CODES;

fn bits(iced: u32) -> u64 {
    [
        (RflagsBits::OF, OF),
        (RflagsBits::SF, SF),
        (RflagsBits::ZF, ZF),
        (RflagsBits::AF, AF),
        (RflagsBits::CF, CF),
        (RflagsBits::PF, PF),
    ]
    .iter()
    .filter(|(i, _)| iced & i != 0)
    .fold(0, |set, (_, bit)| set | bit)
}

fn is_x87(i: &Instruction) -> bool {
    use CpuidFeature::*;
    i.cpuid_features()
        .iter()
        .any(|f| matches!(*f, FPU | FPU287 | FPU387))
}

/// What an instruction leaves undefined, and what it certainly defines.
fn effect(i: &Instruction) -> (u64, u64) {
    use Mnemonic::*;
    let counts = undefined::counts(i);
    let mut undefined = match counts.is_empty() {
        true => undefined::flags(i, 0),
        false => counts.iter().fold(0, |u, &n| u | undefined::flags(i, n)),
    };
    let repeats = i.has_rep_prefix() || i.has_repne_prefix();
    let may_leave = counts.contains(&0) || repeats;
    let mut defined = match may_leave {
        true => 0,
        false => bits(i.rflags_written() | i.rflags_cleared() | i.rflags_set()) & !undefined,
    };
    if is_x87(i) {
        let codes = (undefined::fpu::codes(i) as u64) << 32;
        undefined |= codes;
        defined |= match i.mnemonic() {
            Fcom | Fcomp | Fcompp | Ficom | Ficomp | Fucom | Fucomp | Fucompp | Ftst | Fxam | Fprem
            | Fprem1 | Fninit => CODES,
            _ => C1 & !codes,
        };
    }
    (undefined, defined)
}

/// Whether an instruction leaves flags undefined that engines need not agree on. That logic clears AF they
/// do.
pub fn undefines(i: &Instruction) -> bool {
    use Mnemonic::*;
    let logic = matches!(i.mnemonic(), And | Or | Xor | Test);
    !logic && effect(i).0 & STATUS != 0
}

/// What an instruction reads.
fn reads(i: &Instruction) -> u64 {
    let flags = match i.flow_control() {
        // Where these lead nothing is known of the flags.
        FlowControl::IndirectBranch
        | FlowControl::Return
        | FlowControl::Call
        | FlowControl::IndirectCall
        | FlowControl::Interrupt => STATUS,
        _ => bits(i.rflags_read()),
    };
    flags | if reads_codes(i) { CODES } else { 0 }
}

/// Whether an instruction reads the x87 condition codes.
pub fn reads_codes(i: &Instruction) -> bool {
    use Mnemonic::*;
    matches!(i.mnemonic(), Fnstsw | Fnstenv | Fnsave | Fxsave | Fxsave64)
}

/// Decodes the instructions of a program.
pub fn decode(program: &Program, layout: &Layout) -> Vec<Instruction> {
    (0..layout.places.len())
        .map(|n| {
            let bytes = layout.instruction(n);
            let at = layout.places[n].address;
            Decoder::with_ip(program.mode.bits(), bytes, at, DecoderOptions::NONE).decode()
        })
        .collect()
}

impl Taint {
    /// Works it out: the union over all ways that lead to an instruction.
    pub fn of(program: &Program, layout: &Layout) -> Self {
        let code = decode(program, layout);
        let n = code.len();
        let mut before = vec![0; n + 1];
        // Whoever jumps here through a register or from a return has defined flags.
        for (at, i) in code.iter().enumerate() {
            if matches!(i.flow_control(), FlowControl::Call | FlowControl::IndirectCall) {
                before[at + 1] |= CODES;
            }
            let named = match (i.flow_control(), program.items[layout.places[at].item]) {
                (FlowControl::Call, _) => Some(i.near_branch_target()),
                (_, super::Item::Address { at: field, .. }) => {
                    let bytes = &layout.instruction(at)[field..field + 4];
                    Some(u32::from_le_bytes(bytes.try_into().expect("four bytes")) as u64)
                }
                _ => None,
            };
            if let Some(to) = named.and_then(|a| layout.at(a)) {
                before[to] |= CODES;
            }
        }
        let mut changed = true;
        while changed {
            changed = false;
            for (at, i) in code.iter().enumerate() {
                let (undefined, defined) = effect(i);
                let after = before[at] & !defined | undefined;
                let mut flow = |to: usize| {
                    changed |= after & !before[to] != 0;
                    before[to] |= after;
                };
                let branch = || match i.op0_kind() {
                    OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                        layout.at(i.near_branch_target()).unwrap_or(n)
                    }
                    _ => n,
                };
                match i.flow_control() {
                    FlowControl::UnconditionalBranch => flow(branch()),
                    FlowControl::ConditionalBranch => {
                        flow(branch());
                        flow(at + 1);
                    }
                    FlowControl::IndirectBranch | FlowControl::Return => {}
                    FlowControl::Call | FlowControl::IndirectCall => {}
                    _ => flow(at + 1),
                }
            }
        }
        let readers = (0..n).filter(|&at| reads(&code[at]) & before[at] != 0).collect();
        Self { before, readers }
    }

    /// What is undefined in the state in which `rip` is next.
    pub fn at(&self, layout: &Layout, rip: u64) -> u64 {
        match layout.at(rip) {
            Some(n) => self.before[n],
            // Behind the last instruction, or somewhere a wild branch led.
            None => self.before.iter().fold(0, |all, b| all | b),
        }
    }

    /// Whether the x87 condition codes are what a reader lacks.
    pub fn lacks_codes(&self, at: usize) -> bool {
        self.before[at] & CODES != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Mode;
    use crate::encode::Bytes;
    use crate::program::{Branch, Item};
    use crate::regs::Regs;

    fn taint(items: Vec<Item>) -> Taint {
        let p = Program {
            index: 0,
            mode: Mode::Long,
            start: 0x1000,
            items,
            before: Regs::default(),
            patches: vec![],
        };
        Taint::of(&p, &Layout::of(&p))
    }

    fn plain(bytes: &[u8]) -> Item {
        let mut b = Bytes::default();
        b.extend(bytes);
        Item::Plain(b)
    }

    const AND: &[u8] = &[0x21, 0xc8];
    const ADD: &[u8] = &[0x01, 0xc8];
    const LAHF: &[u8] = &[0x9f];
    const SHL_CL: &[u8] = &[0xd3, 0xe0];

    #[test]
    fn what_is_undefined_stays_so_until_it_is_written() {
        let t = taint(vec![plain(AND), plain(LAHF), plain(ADD), plain(LAHF)]);
        assert_eq!(t.before, [0, AF, AF, 0, 0]);
        assert_eq!(t.readers, [1]);
        // A count of zero would leave what AND left.
        let t = taint(vec![plain(AND), plain(SHL_CL)]);
        assert_eq!(t.before[2], AF | OF);
    }

    #[test]
    fn all_ways_count() {
        let skip = Item::Branch {
            branch: Branch::If(4),
            label: 0,
            short: true,
        };
        let t = taint(vec![plain(AND), skip, plain(ADD), Item::Label(0), plain(LAHF)]);
        assert_eq!(t.before, [0, AF, AF, AF, AF]);
        assert_eq!(t.readers, [3]);
    }
}
