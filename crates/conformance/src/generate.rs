//! Makes cases: for a form, an encoding of it and a machine state it is interesting in.
//!
//! A case depends on the seed and its number only. The form is given by the number too, so every form gets
//! its share however many cases are run.

mod address;
mod finish;
mod operands;
mod special;
mod state;

pub use address::{base_of as segment_base, encode_sib, limit_of as segment_limit};
pub use finish::jump;

use crate::case::{Case, CodeBytes, Mode, Patch};
use crate::encode::{Bytes, Choice, Rm};
use crate::forms::Form;
use crate::layout::*;
use crate::regs::Regs;
use crate::rng::Rng;
use crate::values::Flavor;
use iced_x86::{Code, OpCodeInfo};

/// How many cases share one background of the scratch and read-only areas.
pub const EPOCH: u64 = 1 << 14;

/// Makes cases.
pub struct Generator {
    seed: u64,
    forms: Vec<Form>,
}

/// What the scratch and the read-only area hold where no case patches them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Background {
    /// The scratch area, in 64-bit words.
    pub scratch: Vec<u64>,
    /// The read-only area.
    pub read_only: Vec<u64>,
}

impl Background {
    /// Background number `epoch` under a seed.
    pub fn new(seed: u64, epoch: u64) -> Self {
        let mut rng = Rng::new(seed, !epoch);
        let mut area = |bytes: u64| -> Vec<u64> {
            let words = bytes / 8;
            (0..words)
                .map(|i| {
                    if i % 8 == 0 {
                        rng.draw()
                    } else {
                        Flavor::any(&mut rng).word(&mut rng)
                    }
                })
                .collect()
        };
        Self {
            scratch: area(SCRATCH_SIZE),
            read_only: area(PAGE),
        }
    }
}

impl Generator {
    /// A generator over those of `forms` that run.
    pub fn new(seed: u64, forms: &[Form]) -> Self {
        Self {
            seed,
            forms: forms.iter().filter(|f| f.runs()).copied().collect(),
        }
    }

    /// The forms, in the order cases go round them.
    pub fn forms(&self) -> &[Form] {
        &self.forms
    }

    /// The form of case `index`.
    pub fn form(&self, index: u64) -> Form {
        self.forms[(index % self.forms.len() as u64) as usize]
    }

    /// The background of all cases from `epoch * EPOCH` to the next epoch.
    pub fn background(&self, epoch: u64) -> Background {
        Background::new(self.seed, epoch)
    }

    /// Case `index`.
    pub fn case(&self, index: u64) -> Case {
        let form = self.form(index);
        let mut rng = Rng::new(self.seed, index);
        loop {
            let mut b = Builder::new(rng.clone(), form);
            b.state();
            b.operands();
            b.special();
            let case = b.finish(index);
            if !meets_worker(&case) {
                return case;
            }
            rng.draw();
        }
    }
}

/// Whether the memory operand lies in the worker's own register block, which a guest does not have. Only
/// addresses made from a 16-bit stack's ESP come near it.
fn meets_worker(case: &Case) -> bool {
    const NEAR: u64 = 0x1000;
    case.mode != Mode::Long
        && crate::undefined::memory_address(case, &crate::undefined::decode(case))
            .is_some_and(|at| (STATE - NEAR..STATE + PAGE + NEAR).contains(&at))
}

/// A value in the code that is only known once the instruction's length is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fixup {
    None,
    /// The displacement is relative to the next instruction; this is the effective address.
    RipRelative(u64),
    /// The last bytes are a branch displacement of this size.
    Branch(usize),
}

/// A case in the making.
struct Builder {
    rng: Rng,
    code: Code,
    op: &'static OpCodeInfo,
    mode: Mode,
    regs: Regs,
    /// Where the tested instruction starts, as a linear address.
    start: u64,
    choice: Choice,
    /// A segment override, address-size and other prefixes are collected here, then shuffled.
    prefixes: Bytes,
    /// General-purpose registers whose value is settled.
    pinned: u16,
    /// What vector registers and memory operands hold.
    flavor: Flavor,
    /// The memory operand: linear address and bytes.
    memory: Option<(u64, usize)>,
    address_bits: u32,
    fixup: Fixup,
    patches: Vec<Patch>,
    targets: Vec<CodeBytes>,
    /// The decoder need not recognise the result.
    illegal: bool,
}

impl Builder {
    fn new(rng: Rng, form: Form) -> Self {
        let op = form.info();
        Self {
            rng,
            code: form.code,
            op,
            mode: form.mode,
            regs: Regs::default(),
            start: 0,
            choice: Choice {
                rm: Rm::Register(0),
                ..Choice::default()
            },
            prefixes: Bytes::default(),
            pinned: 0,
            flavor: Flavor::Integer(64),
            memory: None,
            address_bits: crate::encode::address_size(op, form.mode),
            fixup: Fixup::None,
            patches: Vec::new(),
            targets: Vec::new(),
            illegal: false,
        }
    }

    /// The mask of an address.
    fn address_mask(&self) -> u64 {
        u64::MAX >> (64 - self.address_bits)
    }

    fn pin(&mut self, register: u8) {
        self.pinned |= 1 << (register & 15);
    }

    fn pinned(&self, register: u8) -> bool {
        self.pinned >> register & 1 != 0
    }

    /// Puts bytes at a linear address, as far as it is in the scratch area.
    fn patch(&mut self, address: u64, bytes: &[u8]) {
        let start = address.max(SCRATCH);
        let end = address.saturating_add(bytes.len() as u64).min(SCRATCH_END);
        let room = crate::native::PATCH_BYTES - self.patches.iter().map(|p| p.bytes.len()).sum::<usize>();
        if start < end && (end - start) as usize <= room && self.patches.len() < crate::native::PATCHES {
            let from = (start - address) as usize;
            let bytes = bytes[from..from + (end - start) as usize].to_vec();
            self.patches.push(Patch {
                offset: (start - SCRATCH) as usize,
                bytes,
            });
        }
    }

    /// Puts a word there.
    fn patch_word(&mut self, address: u64, value: u64, bytes: usize) {
        self.patch(address, &value.to_le_bytes()[..bytes]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forms;

    fn generator(seed: u64) -> Generator {
        let all: Vec<Form> = Mode::ALL.iter().flat_map(|&m| forms::all(m)).collect();
        Generator::new(seed, &all)
    }

    #[test]
    fn a_case_depends_on_seed_and_number_only() {
        let (a, b, other) = (generator(1), generator(1), generator(2));
        for i in (0..20_000).step_by(37) {
            assert_eq!(a.case(i), b.case(i));
        }
        assert!((0..100).any(|i| a.case(i) != other.case(i)));
        assert_eq!(a.background(3), b.background(3));
        assert_ne!(a.background(3), a.background(4));
    }

    /// What the decoder sees is the form the case is meant for, apart from deliberately illegal prefixes.
    #[test]
    fn cases_are_of_their_form() {
        let g = generator(5);
        let (mut strays, n) = (0, 60_000);
        for i in 0..n {
            let c = g.case(i);
            let bits = c.mode.bits();
            let d = iced_x86::Decoder::new(bits, c.instruction(), iced_x86::DecoderOptions::NONE).decode();
            strays += (d.code() != c.code) as u64;
        }
        assert!(strays * 20 < n, "{strays} of {n} cases are of another form");
    }

    /// Every addressing shape and prefix turns up.
    #[test]
    fn addresses_are_of_every_shape() {
        let g = generator(9);
        let mut seen = std::collections::BTreeSet::new();
        for i in 0..40_000 {
            let c = g.case(i);
            if c.mode != Mode::Long {
                continue;
            }
            let d = iced_x86::Decoder::new(64, c.instruction(), iced_x86::DecoderOptions::NONE).decode();
            if d.op_kinds().any(|k| k == iced_x86::OpKind::Memory) {
                use iced_x86::Register::*;
                let base = match d.memory_base() {
                    None => "none",
                    RIP | EIP => "rip",
                    _ => "register",
                };
                seen.insert(format!("base {base} index {}", d.memory_index() != None));
                seen.insert(format!("segment {:?}", d.segment_prefix()));
                seen.insert(format!("scale {}", d.memory_index_scale()));
                seen.insert(format!("displacement {}", d.memory_displ_size()));
            }
            if d.has_lock_prefix() {
                seen.insert("lock".into());
            }
            if d.has_rep_prefix() {
                seen.insert("rep".into());
            }
        }
        for shape in [
            "base none index false",
            "base none index true",
            "base rip index false",
            "base register index false",
            "base register index true",
            "segment FS",
            "segment GS",
            "segment CS",
            "scale 1",
            "scale 2",
            "scale 4",
            "scale 8",
            "displacement 0",
            "displacement 1",
            "displacement 4",
            "displacement 8",
            "lock",
            "rep",
        ] {
            assert!(seen.contains(shape), "no case has {shape}: {seen:?}");
        }
    }
}
