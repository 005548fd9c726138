//! What is translated at a time: a straight piece of guest code out of one page, which control enters at
//! the top only and may leave in several places.

use super::emit::{self, Family};
use super::encoding::Encoding;
use super::frame::Mode;
use crate::cpu::Cpu;
use crate::decode::{Op, features, status};
use donjon_x86::bits::rflags;
use iced_x86::{
    Code, Decoder, DecoderError, FlowControl, Instruction, InstructionInfoFactory, InstructionInfoOptions,
    Mnemonic, OpAccess, OpKind, Register, RflagsBits,
};

/// Instructions in a unit at most.
const MAX_INSNS: usize = 64;
/// Conditional branches a unit goes on behind at most.
const MAX_BRANCHES: usize = 6;

/// One guest instruction.
pub struct Insn {
    pub i: Instruction,
    pub bytes: [u8; 15],
    pub encoding: Encoding,
    pub family: Family,
    /// What the interpreter does, for families that call it.
    pub op: Option<Op>,
    /// Offset in its page.
    pub offset: i32,
    /// Status flags it reads, and those it surely writes: RFLAGS bits.
    pub reads: u64,
    pub writes: u64,
    /// Writes any status flag, defined or not.
    pub touches: bool,
    /// What it accesses in memory: the explicit operand, then the stack.
    pub accesses: Vec<Access>,
    /// General registers it writes, a bit each.
    pub written: u16,
    /// Status flags that somebody may still see behind it.
    pub seen_after: u64,
    /// Status flags that somebody may see before it.
    pub seen_before: u64,
    /// The unit may be left here, with the state before the instruction.
    pub may_exit: bool,
    /// It may be left here not only because of an access.
    pub leaves_otherwise: bool,
}

impl Insn {
    /// Offset of the next instruction.
    pub fn next(&self) -> i32 {
        self.offset + self.i.len() as i32
    }

    /// Offset a near branch goes to.
    pub fn target(&self) -> i64 {
        // Decoded as if at address zero.
        (self.offset as i64).wrapping_add(self.i.near_branch64() as i64)
    }
}

/// What an address is relative to, apart from a constant: equal keys lie at a fixed distance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    pub base: Base,
    /// Index register, its version and log2 of the scale.
    pub index: Option<(u8, u32, u8)>,
    pub segment: Segment,
    /// 32-bit address size.
    pub narrow: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Base {
    None,
    /// The page that the code is in.
    Page,
    /// A general register as of a certain change to it.
    Register(u8, u32),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Segment {
    Flat,
    Fs,
    Gs,
}

/// One memory access.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    pub key: Key,
    /// What is added to the registers' present values.
    pub disp: i64,
    /// Distance from the key.
    pub offset: i64,
    pub size: i64,
    pub write: bool,
    /// Index in [`Unit::groups`].
    pub group: usize,
}

/// Accesses in a row that one check of one page serves.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    pub lo: i64,
    pub hi: i64,
    pub write: bool,
}

/// How a unit ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Its last instruction leaves it.
    Branch,
    /// Control runs out of it to this page offset.
    Next(i32),
    /// An instruction at this offset is not translated.
    Interpret(i32),
}

pub struct Unit {
    /// RAM offset of its page.
    pub page: usize,
    pub generation: u32,
    pub insns: Vec<Insn>,
    pub groups: Vec<Group>,
    pub end: End,
    /// RAM offset and generation of the next page, if the last instruction runs into it.
    pub second: Option<(usize, u32)>,
}

/// A page's bytes that groups may span: longer ones would cross into the next page too often.
const MAX_SPAN: i64 = 512;

/// Decodes units and analyses them.
pub struct Reader {
    info: InstructionInfoFactory,
}

impl Reader {
    pub fn new() -> Self {
        Self {
            info: InstructionInfoFactory::new(),
        }
    }

    /// Reads the unit that starts at RAM offset `at`, which is where the instruction pointer leads. `hot` tells whether code at a RAM offset is worth
    /// going on with behind a branch; without `group` every access gets a check of its own.
    pub fn read(
        &mut self,
        cpu: &Cpu,
        at: usize,
        mode: Mode,
        group: bool,
        mut hot: impl FnMut(usize) -> bool,
    ) -> Option<Unit> {
        let (page, mut offset) = (at & !0xfff, (at & 0xfff) as i32);
        let options = features::options(&cpu.board.model);
        let ram = &cpu.board.ram;
        let mut generation = None;
        let mut insns: Vec<Insn> = vec![];
        let mut crosses = None;
        let mut branches = 0;
        let mut end = End::Branch;
        loop {
            if offset >= 0x1000 || insns.len() == MAX_INSNS {
                end = End::Next(offset);
                break;
            }
            let mut bytes = [0; 15];
            let n = (0x1000 - offset as usize).min(15);
            let at = page + offset as usize;
            let mark = ram.code().mark(at, n);
            if *generation.get_or_insert(mark) != mark {
                end = End::Next(offset);
                break;
            }
            ram.read_at(at, &mut bytes[..n]);
            let mut i = Instruction::default();
            let mut decoder = Decoder::with_ip(64, &bytes[..n], 0, options);
            decoder.decode_out(&mut i);
            if i.is_invalid()
                && n < 15
                && decoder.last_error() == DecoderError::NoMoreBytes
                && let next = (cpu.rip() & !0xfff).wrapping_add(0x1000)
                && let Some(second) = cpu.cached_fetch(next)
            {
                let generation = ram.code().mark(second, 15 - n);
                ram.read_at(second, &mut bytes[n..]);
                Decoder::with_ip(64, &bytes, 0, options).decode_out(&mut i);
                crosses = Some((second, generation));
            }
            if i.is_invalid() || !features::implemented(&i, &cpu.board.model) {
                end = End::Interpret(offset);
                break;
            }
            let Some(insn) = self.insn(cpu, i, bytes, offset, mode) else {
                end = End::Interpret(offset);
                break;
            };
            offset = insn.next();
            let flow = i.flow_control();
            let target = insn.target();
            insns.push(insn);
            match flow {
                _ if insns.last().is_some_and(|i| i.family == Family::StepBranch) => {
                    // A condition that does not hold.
                    end = End::Next(offset);
                    break;
                }
                FlowControl::Next => {
                    // What changes the mode ends a unit; so does STI once its shadow has passed.
                    if matches!(i.mnemonic(), Mnemonic::Stac | Mnemonic::Clac) {
                        end = End::Next(offset);
                        break;
                    }
                }
                FlowControl::ConditionalBranch => {
                    branches += 1;
                    let goes_on = branches <= MAX_BRANCHES
                        && target > offset as i64
                        && offset < 0x1000
                        && hot(page + offset as usize);
                    if !goes_on {
                        end = End::Next(offset);
                        break;
                    }
                }
                FlowControl::UnconditionalBranch => {
                    let inside = (0..0x1000).contains(&target)
                        && offset <= 0x1000
                        && branches < MAX_BRANCHES
                        && !insns.iter().any(|i| i.offset as i64 == target);
                    if !inside {
                        break;
                    }
                    branches += 1;
                    offset = target as i32;
                }
                _ => break,
            }
        }
        if insns.is_empty() {
            return None;
        }
        let generation = generation?;
        let last_crosses = insns.last().is_some_and(|i| i.next() > 0x1000);
        let mut unit = Unit {
            page,
            generation,
            insns,
            groups: vec![],
            end,
            second: crosses.filter(|_| last_crosses),
        };
        number(&mut unit.insns);
        group_accesses(&mut unit, group);
        see_flags(&mut unit.insns);
        Some(unit)
    }

    /// What there is to know about one instruction; `None` if it is left to the interpreter.
    fn insn(&mut self, cpu: &Cpu, i: Instruction, bytes: [u8; 15], offset: i32, mode: Mode) -> Option<Insn> {
        let encoding = Encoding::parse(&bytes[..i.len()])?;
        let family = emit::family(&i, &encoding, mode);
        let steps = matches!(family, Family::Step | Family::StepBranch);
        let op = if steps {
            let options = features::options(&cpu.board.model);
            Some(cpu.decode_one(&bytes[..i.len()], options).ok()?)
        } else {
            None
        };
        let info = self.info.info_options(&i, InstructionInfoOptions::NONE);
        let mut written = 0;
        for r in info.used_registers() {
            if writes(r.access()) && r.register().is_gpr() {
                written |= 1 << r.register().full_register().number();
            }
        }
        let explicit = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory);
        let touches_memory = i.mnemonic() != Mnemonic::Lea && !emit::is_hint(&encoding);
        let mut accesses = vec![];
        if explicit && touches_memory && !steps {
            // The explicit operand comes first.
            let memory = info.used_memory().first();
            let branches = matches!(i.mnemonic(), Mnemonic::Push | Mnemonic::Call | Mnemonic::Jmp);
            let write = !branches && memory.is_none_or(|m| writes(m.access()));
            let size = i.memory_size().size() as i64;
            if size == 0 || size > 64 {
                return None;
            }
            accesses.push(explicit_access(&i, offset, size, write)?);
        }
        if let Some((disp, write)) = emit::stack_access(&i).filter(|_| !steps) {
            let stack = if i.mnemonic() == Mnemonic::Leave { 5 } else { 4 };
            accesses.push(Access {
                key: Key {
                    base: Base::Register(stack, 0),
                    index: None,
                    segment: Segment::Flat,
                    narrow: false,
                },
                disp,
                offset: 0,
                size: 8,
                write,
                group: 0,
            });
        }
        let undefined = status(i.rflags_undefined());
        let variable_shift = matches!(encoding.opcode, 0xd2 | 0xd3) && encoding.is_legacy(1)
            || matches!(encoding.opcode, 0xa5 | 0xad) && encoding.is_legacy(2);
        let mut writes = status(i.rflags_written() | i.rflags_cleared() | i.rflags_set()) & !undefined;
        if variable_shift || shifts_by_zero(&i, &encoding) {
            // A count of zero leaves the flags alone.
            writes = 0;
        }
        if steps {
            writes = 0;
        }
        // A vector instruction may find that the registers cannot be had.
        let leaves_otherwise = steps
            || offset as usize + i.len() > 0x1000
            || i.flow_control() != FlowControl::Next
            || matches!(
                family,
                Family::Vector(_) | Family::X87 | Family::Sti | Family::Stac | Family::Clac
            )
            || matches!(
                i.mnemonic(),
                Mnemonic::Div | Mnemonic::Idiv | Mnemonic::Cmpxchg16b
            );
        let exits = leaves_otherwise || !accesses.is_empty();
        Some(Insn {
            i,
            bytes,
            encoding,
            family,
            op,
            offset,
            reads: status(i.rflags_read()) | if reads_all(&i) { rflags::STATUS } else { 0 },
            writes,
            touches: !steps && i.rflags_modified() != RflagsBits::NONE && status(i.rflags_modified()) != 0,
            accesses,
            written,
            seen_after: 0,
            seen_before: 0,
            may_exit: exits,
            leaves_otherwise,
        })
    }
}

fn writes(access: OpAccess) -> bool {
    matches!(
        access,
        OpAccess::Write | OpAccess::ReadWrite | OpAccess::CondWrite | OpAccess::ReadCondWrite
    )
}

/// A shift or rotation by a constant that its mask makes zero.
fn shifts_by_zero(i: &Instruction, e: &Encoding) -> bool {
    let shift = matches!(e.opcode, 0xc0 | 0xc1) && e.is_legacy(1)
        || matches!(e.opcode, 0xa4 | 0xac) && e.is_legacy(2);
    let mask = if e.prefix.wide { 63 } else { 31 };
    // Rotations of 8 and 16 bits, and double shifts of 16, have counts of their own; leave those be.
    shift && (i.immediate8() & mask == 0 || !e.prefix.wide && i.immediate8() & 31 >= 8)
}

fn reads_all(i: &Instruction) -> bool {
    matches!(i.mnemonic(), Mnemonic::Pushfq | Mnemonic::Lahf)
}

fn explicit_access(i: &Instruction, offset: i32, size: i64, write: bool) -> Option<Access> {
    let narrow = |r: Register| r.is_gpr32() || r == Register::EIP;
    let gpr = |r: Register| (r.is_gpr64() || r.is_gpr32()).then(|| r.full_register().number() as u8);
    let (base, index) = (i.memory_base(), i.memory_index());
    let mut disp = i.memory_displacement64() as i64;
    let mut key = Key {
        base: Base::None,
        index: None,
        segment: match i.memory_segment() {
            Register::FS => Segment::Fs,
            Register::GS => Segment::Gs,
            _ => Segment::Flat,
        },
        narrow: narrow(base) || narrow(index),
    };
    match base {
        Register::None => {}
        Register::RIP => {
            // The displacement counts from the instruction, as if it were at address zero.
            key.base = Base::Page;
            disp = disp.wrapping_add(offset as i64);
        }
        Register::EIP => return None,
        r => key.base = Base::Register(gpr(r)?, 0),
    }
    if index != Register::None {
        key.index = Some((gpr(index)?, 0, i.memory_index_scale().trailing_zeros() as u8));
    }
    // 64-bit absolute addresses, and 32-bit ones above 2 GiB, do not fit a displacement.
    i32::try_from(disp).ok()?;
    Some(Access {
        key,
        disp,
        offset: 0,
        size,
        write,
        group: 0,
    })
}

/// The address that LEA computes: its keys have no versions.
pub fn effective_address(i: &Instruction, offset: i32) -> Option<Access> {
    let mut a = explicit_access(i, offset, 1, false)?;
    a.key.segment = Segment::Flat;
    Some(a)
}

/// Gives every register value in the unit a number and a distance from it, and accesses their keys.
fn number(insns: &mut [Insn]) {
    let mut version = [0u32; 16];
    let mut delta = [0i64; 16];
    let mut next = 1;
    for insn in insns {
        for a in &mut insn.accesses {
            a.offset = a.disp;
            if let Base::Register(r, v) = &mut a.key.base {
                *v = version[*r as usize];
                // With 32-bit addresses sums wrap elsewhere.
                if !a.key.narrow {
                    a.offset += delta[*r as usize];
                } else {
                    *v = next;
                    next += 1;
                }
            }
            if let Some((r, v, _)) = &mut a.key.index {
                // An index counts as changed when its distance does.
                *v = version[*r as usize] << 8 | (delta[*r as usize] as u32) << 24 >> 24;
                let exact = i8::try_from(delta[*r as usize]).is_ok();
                if !exact {
                    *v = u32::MAX - next;
                    next += 1;
                }
            }
        }
        let steps = matches!(insn.family, Family::Step | Family::StepBranch);
        let moved = if steps { None } else { constant_move(insn) };
        for r in 0..16u8 {
            if insn.written >> r & 1 == 0 {
                continue;
            }
            match moved {
                Some((m, by)) if m == r => delta[r as usize] += by,
                _ => {
                    version[r as usize] = next;
                    next += 1;
                    delta[r as usize] = 0;
                }
            }
        }
    }
}

/// The register that an instruction moves by a constant, and by how much.
fn constant_move(insn: &Insn) -> Option<(u8, i64)> {
    let i = &insn.i;
    let reg = i.op0_register();
    let immediate = || {
        let kinds = [OpKind::Immediate8to64, OpKind::Immediate32to64];
        (reg.is_gpr64() && kinds.contains(&i.op1_kind())).then(|| i.immediate(1) as i64)
    };
    let n = || reg.number() as u8;
    match i.mnemonic() {
        Mnemonic::Push | Mnemonic::Pushfq | Mnemonic::Call => Some((4, -8)),
        Mnemonic::Pop if i.op0_register() != Register::RSP => Some((4, 8)),
        Mnemonic::Add if i.op0_kind() == OpKind::Register => immediate().map(|v| (n(), v)),
        Mnemonic::Sub if i.op0_kind() == OpKind::Register => immediate().map(|v| (n(), -v)),
        Mnemonic::Inc if reg.is_gpr64() => Some((n(), 1)),
        Mnemonic::Dec if reg.is_gpr64() => Some((n(), -1)),
        Mnemonic::Lea
            if i.code() == Code::Lea_r64_m
                && i.memory_base() == reg
                && i.memory_index() == Register::None =>
        {
            Some((n(), i.memory_displacement64() as i64))
        }
        _ => None,
    }
}

/// Puts accesses in a row into one group where they are sure to be near each other.
fn group_accesses(unit: &mut Unit, join: bool) {
    let mut last: Option<(Key, usize)> = None;
    // A store must not be checked ahead of a place where control may leave before it.
    let mut left_since = false;
    for insn in &mut unit.insns {
        for a in &mut insn.accesses {
            let (lo, hi) = (a.offset, a.offset + a.size);
            if let Some((key, g)) = last
                && key == a.key
                && join
                && a.disp.unsigned_abs() < 1 << 30
                && !key.narrow
                && let group = &mut unit.groups[g]
                && hi.max(group.hi) - lo.min(group.lo) <= MAX_SPAN
                && !(left_since && a.write && !group.write)
            {
                group.lo = group.lo.min(lo);
                group.hi = group.hi.max(hi);
                group.write |= a.write;
                a.group = g;
                continue;
            }
            unit.groups.push(Group {
                lo,
                hi,
                write: a.write,
            });
            a.group = unit.groups.len() - 1;
            // Sums with a far displacement might not fit one.
            last = (a.disp.unsigned_abs() < 1 << 30).then_some((a.key, a.group));
            left_since = false;
        }
        left_since |= insn.leaves_otherwise;
    }
}

/// Finds out, from the end, which flags somebody may look at.
fn see_flags(insns: &mut [Insn]) {
    let mut seen = rflags::STATUS;
    for insn in insns.iter_mut().rev() {
        insn.seen_after = seen;
        seen = seen & !insn.writes | insn.reads;
        if insn.may_exit {
            seen = rflags::STATUS;
        }
        insn.seen_before = seen;
    }
}
