//! From a unit to host code.
//!
//! Status flags: where they are is known at every point of the emitted code ([`Flags`]). What destroys
//! them (a check of a page, a table lookup) saves them first if anyone may still look; what needs them
//! brings them back. Since an exit can happen at every access, "anyone" includes exception handlers.
//!
//! A unit has two ways in: with the status flags in RFLAGS, and with them in the frame. Who comes from
//! another page has put the new one into the frame.

mod access;
mod control;
mod family;
mod integer;
mod vector;
mod x87;

pub use family::{Family, family, is_hint, stack_access};

use super::asm::{Asm, Label, Map, Mem, NARROW, Rm, alu, cc, host};
use super::frame::{LINKS, Mode, live, offset};
use super::registers::T;
use super::step::Step;
use super::trampolines::Trampolines;
use super::unit::{End, Insn, Unit};
use donjon_x86::bits::rflags;
use iced_x86::FlowControl;

/// Why translated code hands over, and what that needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// To a place in the same page. The jump whose displacement is at `site` may lead there.
    Jump {
        site: usize,
        to: i32,
        mode: Mode,
        /// Whether the status flags are in RFLAGS at the jump.
        host_flags: bool,
        /// RAM offset of the page.
        page: usize,
    },
    /// To a place this far from the page's start.
    Cross {
        site: usize,
        slot: usize,
        to: i64,
        mode: Mode,
    },
    /// To [`super::frame::Frame::target`].
    Indirect {
        mode: Mode,
        /// The branch, and by how much it has moved RSP: it is undone if no code can be there.
        offset: i32,
        moved: i32,
    },
    /// The instruction at this offset runs into the next page, which was at RAM offset `second` and of
    /// this generation when it was translated. The link in `slot` tells for which page that holds.
    Guard {
        slot: usize,
        resume: usize,
        offset: i32,
        second: usize,
        generation: u32,
    },
    /// The instruction at this offset is the interpreter's, in this unit.
    Interpret { offset: i32, unit: u32 },
    /// Somebody wants attention, before the instruction at this offset.
    Poll { offset: i32 },
}

/// A translated unit.
pub struct Code {
    /// What is run usually, and the rest.
    pub bytes: [Vec<u8>; 2],
    /// Arena offsets of the ways in.
    pub host_flags: usize,
    pub saved_flags: usize,
    /// Instructions that may fault on the host, and where that leads.
    pub on_fault: Vec<(usize, usize)>,
}

/// Where the status flags are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flags {
    Host,
    Saved,
    Both,
}

/// Code out of the way of the usual course.
enum Stub {
    /// Leaves through this exit.
    Leave { at: Label, exit: usize, save: bool },
    /// Fills a translation table and tries again.
    Fill {
        at: Label,
        again: Label,
        insn: usize,
        access: usize,
    },
    /// Brings the vector registers in.
    Vectors {
        at: Label,
        back: Label,
        need: u8,
        insn: usize,
    },
    /// Brings the x87 state in.
    X87 { at: Label, back: Label, insn: usize },
    /// A jump to another page.
    Cross {
        at: Label,
        to: i64,
        backward: bool,
        save: bool,
        insn: usize,
    },
    /// Leaves for the target in [`T`].
    Indirect { at: Label, moved: i32, insn: usize },
}

struct Emitter<'a> {
    a: Asm,
    unit: &'a Unit,
    /// Its number, which exits carry.
    id: u32,
    mode: Mode,
    trampolines: Trampolines,
    exits: &'a mut Vec<Exit>,
    done: &'a mut Vec<u8>,
    links: &'a mut usize,
    counts: bool,
    steps: &'a mut Vec<Step>,
    flags: Flags,
    /// The group whose page [`super::registers::W`] is in.
    window: Option<usize>,
    stubs: Vec<Stub>,
    on_fault: Vec<(usize, Label)>,
    /// Labels where instructions are left to the interpreter, by instruction and whether flags are still
    /// to be saved.
    leave: Vec<[Option<Label>; 2]>,
    /// The instruction being translated.
    n: usize,
    /// The vector registers are in host registers.
    vectors_live: bool,
    /// Checks of pages emitted so far, and before each instruction.
    checks: u8,
    checks_before: Vec<u8>,
    /// The x87 state is in the host's.
    x87_live: bool,
    /// Ask for attention before this instruction.
    poll_at: Option<usize>,
    /// Where the unit's own loop goes back to.
    head: Option<Head>,
}

/// The place behind a unit's preparations, with the flags saved.
#[derive(Clone, Copy)]
struct Head {
    label: Label,
    mode: Mode,
    vectors: bool,
    x87: bool,
}

/// What a translation may use up.
pub struct Pools<'a> {
    pub exits: &'a mut Vec<Exit>,
    /// For each exit the instructions of its unit that have run when it is taken.
    pub done: &'a mut Vec<u8>,
    /// Links handed out.
    pub links: &'a mut usize,
    /// Every way to another unit counts the instructions that have run.
    pub counts: bool,
    /// Every run ends with its unit.
    pub apart: bool,
    pub steps: &'a mut Vec<Step>,
}

/// Translates a unit to code for arena offset `at`; `None` if the pools are empty.
pub fn emit(
    unit: &Unit,
    id: u32,
    mode: Mode,
    at: [usize; 2],
    trampolines: Trampolines,
    pools: Pools<'_>,
) -> Option<Code> {
    if *pools.links + 16 > LINKS {
        return None;
    }
    let mut e = Emitter {
        a: Asm::new(at[0], at[1]),
        unit,
        id,
        mode,
        trampolines,
        exits: pools.exits,
        done: pools.done,
        links: pools.links,
        counts: pools.counts,
        steps: pools.steps,
        flags: Flags::Saved,
        window: None,
        stubs: vec![],
        on_fault: vec![],
        leave: vec![[None; 2]; unit.insns.len() + 1],
        n: 0,
        vectors_live: false,
        checks: 0,
        checks_before: Vec::with_capacity(unit.insns.len() + 1),
        x87_live: false,
        poll_at: None,
        head: None,
    };
    let host_flags = e.a.here();
    let polls = e.loops();
    let seen = unit.insns.first().is_none_or(|i| i.seen_before != 0);
    if seen || polls {
        e.flags = Flags::Host;
        e.save_flags();
    }
    let saved_flags = e.a.here();
    e.flags = Flags::Saved;
    // Here the flags are saved for sure.
    let first = unit
        .insns
        .iter()
        .find(|i| matches!(i.family, Family::Vector(_) | Family::Step | Family::StepBranch));
    if first.is_some_and(|i| matches!(i.family, Family::Vector(_))) {
        e.vectors();
    }
    let first = unit
        .insns
        .iter()
        .find(|i| matches!(i.family, Family::X87 | Family::Step | Family::StepBranch));
    if first.is_some_and(|i| i.family == Family::X87) {
        e.want_x87();
    }
    if polls {
        let head = Head {
            label: e.a.bound(),
            mode,
            vectors: e.vectors_live,
            x87: e.x87_live,
        };
        e.head = (!pools.apart).then_some(head);
        e.poll(0);
    }
    for n in 0..unit.insns.len() {
        e.n = n;
        e.checks_before.push(e.checks);
        if e.poll_at == Some(n) {
            e.poll_at = None;
            e.clobber();
            e.poll(n);
        }
        e.insn(n);
    }
    e.n = unit.insns.len();
    e.checks_before.push(e.checks);
    e.end();
    e.a.go_cold();
    e.emit_stubs();
    let on_fault = std::mem::take(&mut e.on_fault);
    let on_fault = on_fault
        .into_iter()
        .map(|(at, to)| (at, e.a.position(to)))
        .collect();
    Some(Code {
        bytes: e.a.finish(),
        host_flags,
        saved_flags,
        on_fault,
    })
}

/// A place in the frame.
fn frame(disp: i32) -> Mem {
    Mem::at(host::RSP, disp)
}

impl Emitter<'_> {
    /// Whether the unit may jump backward within its page: every loop has such a jump, or leaves the page.
    fn loops(&self) -> bool {
        let insns = &self.unit.insns;
        insns.iter().any(|i| {
            let branch = matches!(
                i.i.flow_control(),
                FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch | FlowControl::Call
            );
            branch && (0..=i.offset as i64).contains(&i.target())
        })
    }

    fn current(&self) -> &Insn {
        &self.unit.insns[self.n]
    }

    /// Saves the status flags to the frame. Destroys [`T`].
    fn save_flags(&mut self) {
        if self.flags == Flags::Host {
            self.a.bytes(&[0x9f]); // LAHF
            self.a.bytes(&[0x0f, 0x90, 0xc0]); // SETO AL
            self.a.store32(frame(offset::FLAGS), T);
            self.flags = Flags::Both;
        }
    }

    /// The status flags are about to be destroyed.
    fn clobber(&mut self) {
        let seen = match self.unit.insns.get(self.n) {
            Some(i) => i.seen_before,
            None => rflags::STATUS,
        };
        if seen != 0 {
            self.save_flags();
        }
        self.flags = Flags::Saved;
    }

    /// Brings the status flags to RFLAGS. Destroys [`T`].
    fn load_flags(&mut self) {
        if self.flags == Flags::Saved {
            self.a.load32(T, frame(offset::FLAGS));
            self.a.bytes(&[0x04, 0x7f]); // ADD AL, 7F: OF becomes what bit 0 says
            self.a.bytes(&[0x9e]); // SAHF
            self.flags = Flags::Both;
        }
    }

    /// Brings the flags the instruction needs: those it reads, and those it leaves as they are.
    fn prepare_flags(&mut self) {
        let i = self.current();
        if i.reads != 0 || i.touches && i.seen_after & !i.writes != 0 {
            self.load_flags();
        }
    }

    /// After the instruction.
    fn flags_done(&mut self) {
        if self.current().touches {
            self.flags = Flags::Host;
        }
    }

    /// Where to go to have the current instruction interpreted.
    fn leave(&mut self) -> Label {
        let n = self.n;
        let save = self.flags == Flags::Host;
        if let Some(l) = self.leave[n][save as usize] {
            return l;
        }
        let offset = match self.unit.insns.get(n) {
            Some(i) => i.offset,
            None => match self.unit.end {
                End::Interpret(o) | End::Next(o) => o,
                End::Branch => unreachable!("nothing follows a branch"),
            },
        };
        let unit = self.id;
        let l = self.exit_stub(Exit::Interpret { offset, unit }, save);
        self.leave[n][save as usize] = Some(l);
        l
    }

    fn exit_stub(&mut self, exit: Exit, save: bool) -> Label {
        let at = self.a.label();
        let exit = self.exit(exit);
        self.stubs.push(Stub::Leave { at, exit, save });
        at
    }

    /// Enters an exit of the current instruction.
    fn exit(&mut self, exit: Exit) -> usize {
        // A branch has run when it leaves, everything else is left before it runs.
        let branch = matches!(
            exit,
            Exit::Jump { .. } | Exit::Cross { .. } | Exit::Indirect { .. }
        );
        let done = (self.n + branch as usize).min(self.unit.insns.len());
        self.exits.push(exit);
        self.done.push(done as u8);
        self.exits.len() - 1
    }

    /// Counts instructions and the lookups made for them. Destroys `scratch`, and no flags.
    fn count(&mut self, scratch: u8, n: u8) {
        if self.counts {
            self.a.load(scratch, frame(offset::INSTRUCTIONS));
            self.a.lea(scratch, Mem::at(scratch, n as i32));
            self.a.store(frame(offset::INSTRUCTIONS), scratch);
            let checks = self.checks_before.get(n as usize).copied().unwrap_or(self.checks);
            self.a.load(scratch, frame(offset::LOOKUPS));
            self.a.lea(scratch, Mem::at(scratch, checks as i32));
            self.a.store(frame(offset::LOOKUPS), scratch);
        }
    }

    /// The instructions that have run behind the current one.
    fn done(&self) -> u8 {
        (self.n + 1).min(self.unit.insns.len()) as u8
    }

    /// Leaves if anything wants attention, before instruction `n`. Destroys [`T`] and flags.
    fn poll(&mut self, n: usize) {
        let Some(i) = self.unit.insns.get(n) else { return };
        let offset = i.offset;
        let out = self.exit_stub(Exit::Poll { offset }, false);
        self.attention(T, out);
    }

    /// Goes to `out` if anything wants attention. Destroys `scratch` and flags.
    fn attention(&mut self, scratch: u8, out: Label) {
        self.a.load(scratch, frame(offset::ATTENTION));
        self.a.load32(scratch, Mem::at(scratch, 0));
        let interest = Rm::Mem(frame(offset::INTEREST));
        self.a.legacy(NARROW, Map::One, 0x85, scratch, interest);
        self.a.jcc(cc::NE, out);
    }

    /// Checks that what follows the page is what the current instruction was read from.
    fn guard(&mut self) {
        let (second, generation) = self.unit.second.expect("read with its unit");
        self.clobber();
        let slot = *self.links;
        *self.links += 1;
        let offset = self.current().offset;
        let out = self.exit_stub(
            Exit::Guard {
                slot,
                resume: 0,
                offset,
                second,
                generation,
            },
            false,
        );
        let exit = self.exits.len() - 1;
        self.a.load(T, frame(offset::PAGE));
        self.a
            .alu(super::asm::WIDE, alu::CMP, T, Rm::Mem(frame(offset::link(slot))));
        self.a.jcc(cc::NE, out);
        let here = self.a.here();
        if let Exit::Guard { resume, .. } = &mut self.exits[exit] {
            *resume = here;
        }
        // It may have been left and entered again.
        self.drop_window();
        self.vectors_live = false;
        self.x87_live = false;
    }

    /// Makes sure that the vector registers are in host registers if the unit uses any.
    fn vectors(&mut self) {
        let mut need = 0;
        for i in &self.unit.insns {
            if let Family::Vector(_) = i.family {
                need |= if family::needs_avx(&i.encoding) {
                    live::AVX
                } else {
                    live::SSE
                };
            }
        }
        // What allows AVX allows SSE.
        let need = if need & live::AVX != 0 {
            live::AVX
        } else {
            live::SSE
        };
        let (at, back) = (self.a.label(), self.a.label());
        self.a
            .legacy(NARROW, Map::One, 0xf6, 0, Rm::Mem(frame(offset::LIVE)));
        self.a.bytes(&[need]);
        self.a.jcc(cc::E, at);
        self.a.bind(back);
        self.drop_window();
        let insn = self.n;
        self.stubs.push(Stub::Vectors { at, back, need, insn });
        self.vectors_live = true;
    }

    fn insn(&mut self, n: usize) {
        let unit = self.unit;
        let insn = &unit.insns[n];
        if insn.next() > 0x1000 {
            self.guard();
        }
        match insn.family {
            Family::Plain(shape) => self.plain(shape),
            Family::Accumulator(op, byte) => self.accumulator(op, byte),
            Family::Multiply => self.multiply(),
            Family::CompareExchange => self.compare_exchange(),
            Family::CompareExchangeWide => self.compare_exchange_wide(),
            Family::Immediate => self.immediate(),
            Family::ExchangeAccumulator => self.exchange_accumulator(),
            Family::ByteSwap => self.byte_swap(),
            Family::ExtendAccumulator => self.extend_accumulator(),
            Family::SignOfAccumulator => self.sign_of_accumulator(),
            Family::Carry => {
                self.prepare_flags();
                self.a.bytes(&[insn.encoding.opcode]);
                self.flags_done();
            }
            Family::Lahf => self.lahf(),
            Family::Sahf => self.sahf(),
            Family::Lea => self.lea(),
            Family::Nop => {}
            Family::Verbatim => self.a.bytes(&insn.bytes[..insn.i.len()]),
            Family::Bmi => self.bmi(),
            Family::Vector(general) => self.vector(general),
            Family::X87 => self.x87(),
            Family::PushRegister => self.push_register(),
            Family::PushImmediate => self.push_immediate(),
            Family::PushMemory => self.push_memory(),
            Family::PopRegister => self.pop_register(),
            Family::PushFlags => self.push_flags(),
            Family::Leave => self.leave_frame(),
            Family::Jcc => self.jcc(),
            Family::Jmp => self.jmp(),
            Family::Call => self.call(),
            Family::JmpIndirect => self.jmp_indirect(),
            Family::CallIndirect => self.call_indirect(),
            Family::Ret => self.ret(),
            Family::Cli => self.change_rflags(alu::AND, !(rflags::IF as i32)),
            Family::Sti => self.change_rflags(alu::OR, rflags::IF as i32),
            Family::Stac => self.change_rflags(alu::OR, rflags::AC as i32),
            Family::Clac => self.change_rflags(alu::AND, !(rflags::AC as i32)),
            Family::Cld => self.change_rflags(alu::AND, !(rflags::DF as i32)),
            Family::Std => self.change_rflags(alu::OR, rflags::DF as i32),
            Family::Swapgs => self.swapgs(),
            Family::Step | Family::StepBranch => self.step(),
        }
    }

    fn emit_stubs(&mut self) {
        while let Some(stub) = self.stubs.pop() {
            match stub {
                Stub::Leave { at, exit, save } => {
                    self.a.bind(at);
                    if self.counts && matches!(self.exits[exit], Exit::Jump { .. }) {
                        // The jump that may be led elsewhere comes behind the counting.
                        self.count(T, self.done[exit]);
                        let out = self.a.label();
                        self.a.jmp_label(out);
                        self.set_site(exit);
                        self.a.bind(out);
                    }
                    if save {
                        self.flags = Flags::Host;
                        self.save_flags();
                    }
                    self.a.mov32_imm(T, exit as u32);
                    self.a.jmp(self.trampolines.exit);
                }
                Stub::Fill {
                    at,
                    again,
                    insn,
                    access,
                } => {
                    self.a.bind(at);
                    self.n = insn;
                    self.flags = Flags::Saved;
                    let request = self.linear(insn, access);
                    self.a.mov32_imm(T, request);
                    self.a.call(self.trampolines.fill);
                    self.a.jcc(cc::NE, again);
                    let l = self.leave();
                    self.a.jmp_label(l);
                }
                Stub::Vectors { at, back, need, insn } => {
                    self.a.bind(at);
                    self.n = insn;
                    self.flags = Flags::Saved;
                    self.a.mov32_imm(T, need as u32);
                    self.a.call(self.trampolines.load_vectors);
                    self.a.jcc(cc::NE, back);
                    let l = self.leave();
                    self.a.jmp_label(l);
                }
                Stub::X87 { at, back, insn } => {
                    self.a.bind(at);
                    self.n = insn;
                    self.flags = Flags::Saved;
                    self.load_x87(back);
                    let l = self.leave();
                    self.a.jmp_label(l);
                }
                Stub::Cross {
                    at,
                    to,
                    backward,
                    save,
                    insn,
                } => {
                    self.a.bind(at);
                    self.n = insn;
                    self.flags = if save { Flags::Host } else { Flags::Saved };
                    self.cross(to, backward);
                }
                Stub::Indirect { at, moved, insn } => {
                    self.a.bind(at);
                    self.n = insn;
                    self.a.store(frame(offset::TARGET), T);
                    let exit = self.exit(Exit::Indirect {
                        mode: self.mode,
                        offset: self.current().offset,
                        moved,
                    });
                    self.a.mov32_imm(T, exit as u32);
                    self.a.jmp(self.trampolines.exit);
                }
            }
        }
    }

    /// Puts the linear address of a group's start into [`super::registers::W`], as of the current instruction, and returns
    /// the request to fill its page. Destroys [`T`] and flags.
    fn linear(&mut self, insn: usize, access: usize) -> u32 {
        let a = self.unit.insns[insn].accesses[access];
        let group = self.unit.groups[a.group];
        self.address(&a, group.lo - a.offset);
        let i = &self.unit.insns[insn];
        let aligned = family::alignment(i).map(|to| (to, a.offset - group.lo));
        super::memory::request((group.hi - group.lo) as u32, group.write, self.mode, aligned)
    }
}
