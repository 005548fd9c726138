//! From a unit to host code.
//!
//! Status flags: where they are is known at every point of the emitted code ([`Flags`]). What destroys
//! them (a check of a page, a table lookup) saves them first if anyone may still look; what needs them
//! brings them back. Since an exit can happen at every access, "anyone" includes exception handlers.
//!
//! A unit has three ways in: with the status flags in RFLAGS, with them in the frame, and from elsewhere
//! with its linear address in [`T`].

mod access;
mod control;
mod family;
mod integer;
mod vector;

pub use family::{Family, is_hint, stack_access};

use super::asm::{Asm, Label, Map, Mem, NARROW, Rm, WIDE, alu, cc, host};
use super::encoding::Encoding;
use super::frame::{LINKS, Mode, live, offset};
use super::registers::{T, W};
use super::trampolines::Trampolines;
use super::unit::{End, Insn, Unit};
use donjon_x86::bits::rflags;
use iced_x86::{FlowControl, Instruction};

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
    /// The instruction at this offset is the interpreter's.
    Interpret { offset: i32 },
    /// Somebody wants attention, before the instruction at this offset.
    Poll { offset: i32 },
}

/// A translated unit.
pub struct Code {
    pub bytes: Vec<u8>,
    /// Arena offsets of the ways in.
    pub host_flags: usize,
    pub saved_flags: usize,
    pub indirect: usize,
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
    Vectors { at: Label, back: Label, need: u8 },
    /// A jump to another page.
    Cross {
        at: Label,
        to: i64,
        backward: bool,
        save: bool,
    },
    /// Leaves for the target in [`T`].
    Indirect { at: Label, offset: i32, moved: i32 },
}

struct Emitter<'a> {
    a: Asm,
    unit: &'a Unit,
    mode: Mode,
    trampolines: Trampolines,
    exits: &'a mut Vec<Exit>,
    links: &'a mut usize,
    flags: Flags,
    /// The group whose page [`W`] is in.
    window: Option<usize>,
    stubs: Vec<Stub>,
    on_fault: Vec<(usize, Label)>,
    /// Labels where instructions are left to the interpreter, by instruction and whether flags are still
    /// to be saved.
    leave: Vec<[Option<Label>; 2]>,
    /// The instruction being translated.
    n: usize,
    /// Ask for attention before this instruction.
    poll_at: Option<usize>,
}

/// Whether an instruction is translated at all.
pub fn translates(i: &Instruction, e: &Encoding) -> bool {
    family::family(i, e).is_some()
}

/// What a translation may use up.
pub struct Pools<'a> {
    pub exits: &'a mut Vec<Exit>,
    /// Links handed out.
    pub links: &'a mut usize,
}

/// Translates a unit to code for arena offset `at`; `None` if the pools are empty.
pub fn emit(unit: &Unit, mode: Mode, at: usize, trampolines: Trampolines, pools: Pools<'_>) -> Option<Code> {
    if *pools.links + 16 > LINKS {
        return None;
    }
    let mut e = Emitter {
        a: Asm::new(at),
        unit,
        mode,
        trampolines,
        exits: pools.exits,
        links: pools.links,
        flags: Flags::Saved,
        window: None,
        stubs: vec![],
        on_fault: vec![],
        leave: vec![[None; 2]; unit.insns.len() + 1],
        n: 0,
        poll_at: None,
    };
    let (start, indirect) = (e.a.label(), e.a.here());
    let first = unit.insns.first().map_or(0, |i| i.offset);
    e.a.lea(T, Mem::at(T, -first));
    e.a.store(frame(offset::PAGE), T);
    e.a.jmp_label(start);
    let host_flags = e.a.here();
    let polls = e.loops();
    let seen = unit.insns.first().is_none_or(|i| i.seen_before != 0);
    if seen || polls {
        e.flags = Flags::Host;
        e.save_flags();
    }
    let saved_flags = e.a.here();
    e.a.bind(start);
    e.flags = Flags::Saved;
    if polls {
        e.poll(0);
    }
    e.vectors();
    for n in 0..unit.insns.len() {
        e.n = n;
        if e.poll_at == Some(n) {
            e.poll_at = None;
            e.clobber();
            e.poll(n);
        }
        e.insn(n);
    }
    e.n = unit.insns.len();
    e.end();
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
        indirect,
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
        self.leave_at(self.n)
    }

    fn leave_at(&mut self, n: usize) -> Label {
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
        let l = self.exit_stub(Exit::Interpret { offset }, save);
        self.leave[n][save as usize] = Some(l);
        l
    }

    fn exit_stub(&mut self, exit: Exit, save: bool) -> Label {
        let at = self.a.label();
        self.exits.push(exit);
        self.stubs.push(Stub::Leave {
            at,
            exit: self.exits.len() - 1,
            save,
        });
        at
    }

    /// Leaves if anything wants attention, before instruction `n`. Destroys [`T`] and flags.
    fn poll(&mut self, n: usize) {
        let Some(i) = self.unit.insns.get(n) else { return };
        let offset = i.offset;
        let out = self.exit_stub(Exit::Poll { offset }, false);
        self.a.load(T, frame(offset::ATTENTION));
        self.a.load32(T, Mem::at(T, 0));
        self.a
            .legacy(NARROW, Map::One, 0x85, T, Rm::Mem(frame(offset::INTEREST)));
        self.a.jcc(cc::NE, out);
    }

    /// Makes sure that the vector registers are in host registers if the unit uses any.
    fn vectors(&mut self) {
        let mut need = 0;
        for i in &self.unit.insns {
            if let Some(Family::Vector(_)) = family::family(&i.i, &i.encoding) {
                need |= if family::needs_avx(&i.encoding) {
                    live::AVX
                } else {
                    live::SSE
                };
            }
        }
        if need == 0 {
            return;
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
        self.stubs.push(Stub::Vectors { at, back, need });
    }

    fn insn(&mut self, n: usize) {
        let unit = self.unit;
        let insn = &unit.insns[n];
        let family = family::family(&insn.i, &insn.encoding).expect("checked when it was read");
        if self.mode == Mode::User
            && matches!(
                family,
                Family::Cli | Family::Sti | Family::Stac | Family::Clac | Family::Swapgs
            )
        {
            // Privileged: the interpreter raises the fault. What follows is not reached by falling through.
            let l = self.leave();
            self.a.jmp_label(l);
            return;
        }
        match family {
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
        }
    }

    fn emit_stubs(&mut self) {
        while let Some(stub) = self.stubs.pop() {
            match stub {
                Stub::Leave { at, exit, save } => {
                    self.a.bind(at);
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
                Stub::Vectors { at, back, need } => {
                    self.a.bind(at);
                    self.n = 0;
                    self.flags = Flags::Saved;
                    self.a.mov32_imm(T, need as u32);
                    self.a.call(self.trampolines.load_vectors);
                    self.a.jcc(cc::NE, back);
                    let l = self.leave_at(0);
                    self.a.jmp_label(l);
                }
                Stub::Cross {
                    at,
                    to,
                    backward,
                    save,
                } => {
                    self.a.bind(at);
                    self.flags = if save { Flags::Host } else { Flags::Saved };
                    self.cross(to, backward);
                }
                Stub::Indirect { at, offset, moved } => {
                    self.a.bind(at);
                    self.a.store(frame(offset::TARGET), T);
                    self.exits.push(Exit::Indirect {
                        mode: self.mode,
                        offset,
                        moved,
                    });
                    self.a.mov32_imm(T, self.exits.len() as u32 - 1);
                    self.a.jmp(self.trampolines.exit);
                }
            }
        }
    }

    /// Puts the linear address of a group's start into [`W`], as of the current instruction, and returns
    /// the request to fill its page. Destroys [`T`] and flags.
    fn linear(&mut self, insn: usize, access: usize) -> u32 {
        let a = self.unit.insns[insn].accesses[access];
        let group = self.unit.groups[a.group];
        self.address(&a, group.lo - a.offset);
        super::memory::request((group.hi - group.lo) as u32, group.write, self.mode)
    }
}

const _: () = assert!(WIDE.wide);
