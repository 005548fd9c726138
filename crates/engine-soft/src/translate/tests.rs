//! What translated code may touch, read off the code itself.

use super::emit::{self, Pools};
use super::frame::{Frame, Mode, TARGETS, TLB_ENTRIES, offset};
use super::trampolines;
use super::unit::Reader;
use crate::cpu::{Board, Cpu};
use donjon_engine::{Attention, Clock, Detached};
use donjon_memory::Ram;
use donjon_x86::CpuState;
use donjon_x86::cpuid::CpuModel;
use iced_x86::{
    Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};
use std::sync::Arc;

fn cpu() -> Cpu {
    let mut cpu = Cpu::new(Board {
        ram: Arc::new(Ram::new(0x10000).unwrap()),
        io: Arc::new(Detached),
        apic: Arc::new(Detached),
        attention: Arc::new(Attention::default()),
        clock: Arc::new(Clock::new(Clock::DEFAULT_HZ)),
        model: Arc::new(CpuModel::named("x86-64-v3").unwrap()),
        apic_id: 0,
        vcpus: 1,
        deck: None,
    });
    cpu.load(&CpuState::reset()).unwrap();
    cpu
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Bytes that are an instruction more often than not.
    fn code(&mut self, out: &mut [u8]) {
        const LIKELY: &[u8] = &[
            0x48, 0x4c, 0x41, 0x89, 0x8b, 0x01, 0x03, 0x0f, 0xc5, 0xc4, 0x66, 0xf3, 0xf2, 0x83, 0x50, 0x58,
            0xff, 0x64, 0x65, 0x67, 0xf0, 0xd9, 0xdd, 0xb6, 0x10, 0x6f, 0x7f, 0xe2, 0x70, 0x87, 0xb1, 0xc7,
            0xc1, 0xf7,
        ];
        for b in out {
            let r = self.next() >> 11;
            *b = if r & 3 != 0 {
                LIKELY[(r >> 8) as usize % LIKELY.len()]
            } else {
                (r >> 8) as u8
            };
        }
    }
}

/// Follows one unit's code and checks every access in it.
struct Checker {
    info: InstructionInfoFactory,
    /// Bytes from the address in R15 on that lie in a page that was compared.
    window: i64,
    /// R15 is an offset in a page that was compared, of a span of so many bytes.
    compared: Option<i64>,
    /// What RAX and R15 may point to apart from that.
    attention: [bool; 2],
    /// Mask that RAX or R15 was last reduced by: bytes that it can index.
    index: [i64; 2],
    accesses: usize,
}

fn which(r: Register) -> Option<usize> {
    match r.full_register() {
        Register::RAX => Some(0),
        Register::R15 => Some(1),
        _ => None,
    }
}

impl Checker {
    fn check(&mut self, i: &Instruction, text: &dyn Fn() -> String) {
        let info = self.info.info(i).clone();
        for m in info.used_memory() {
            if matches!(m.access(), OpAccess::NoMemAccess | OpAccess::None) {
                continue;
            }
            let (disp, size) = (m.displacement() as i64, m.memory_size().size() as i64);
            match (m.base(), m.index()) {
                (Register::RSP, Register::None) => {
                    let call = matches!(i.mnemonic(), Mnemonic::Call) && disp == -8;
                    let inside = disp >= 0 && disp + size <= size_of::<Frame>() as i64;
                    assert!(call || inside, "outside the frame: {}", text());
                }
                (Register::RSP, index) => {
                    let most = self.index[which(index).unwrap_or_else(|| panic!("index: {}", text()))];
                    let end = disp + most + size;
                    assert!(most >= 0 && m.scale() == 1, "not reduced: {}", text());
                    assert!(end <= size_of::<Frame>() as i64, "outside the frame: {}", text());
                }
                (Register::R15, Register::None) if !self.attention[1] => {
                    let inside = disp >= 0 && disp + size <= self.window;
                    assert!(inside, "outside what was checked ({}): {}", self.window, text());
                    self.accesses += 1;
                }
                (base, Register::None) => {
                    let attention = which(base).is_some_and(|r| self.attention[r]);
                    assert!(
                        attention && disp == 0 && size <= 4,
                        "a pointer of the guest's: {}",
                        text()
                    );
                }
                _ => panic!("an address of the guest's: {}", text()),
            }
        }
        self.follow(i, &info);
    }

    /// What the instruction makes of RAX and R15.
    fn follow(&mut self, i: &Instruction, info: &iced_x86::InstructionInfo) {
        let from_frame = i.op1_kind() == OpKind::Memory && i.memory_base() == Register::RSP;
        let constant = |n| i.immediate(n) as i64;
        let r15 = i.op0_kind() == OpKind::Register && i.op0_register() == Register::R15;
        if i.mnemonic() == Mnemonic::Cmp
            && r15
            && i.op1_kind() != OpKind::Register
            && i.op1_kind() != OpKind::Memory
        {
            self.compared = Some(0x1000 - constant(1));
            return;
        }
        if i.mnemonic() == Mnemonic::Add && r15 && from_frame {
            // The host address of the page whose linear address was just compared.
            self.window = self.compared.take().unwrap_or(0);
            return;
        }
        for r in info.used_registers() {
            let writes = matches!(
                r.access(),
                OpAccess::Write | OpAccess::ReadWrite | OpAccess::CondWrite | OpAccess::ReadCondWrite
            );
            let Some(n) = which(r.register()).filter(|_| writes) else {
                continue;
            };
            let narrowed = self.index[n];
            self.attention[n] = false;
            self.index[n] = -1;
            if n == 1 {
                self.window = 0;
                if i.mnemonic() != Mnemonic::Xor {
                    self.compared = None;
                }
            }
            match i.mnemonic() {
                Mnemonic::Mov if from_frame && i.memory_displacement64() as i32 == offset::ATTENTION => {
                    self.attention[n] = true;
                }
                Mnemonic::And if i.op1_kind() != OpKind::Register && i.op1_kind() != OpKind::Memory => {
                    self.index[n] = if constant(1) >= 0 { constant(1) } else { -1 };
                }
                Mnemonic::Shl if narrowed >= 0 => self.index[n] = narrowed << constant(1),
                _ => {}
            }
        }
    }
}

/// Guest code of every kind, good and bad: whatever it asks for, its translation reaches the frame, the
/// attention word, and pages right after they were compared, as far as they were compared.
#[test]
fn nothing_a_guest_computes_leads_outside_its_pages() {
    let cpu = cpu();
    let (_, trampolines) = trampolines::emit();
    let mut reader = Reader::new();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut units, mut accesses) = (0, 0);
    for round in 0..20_000u64 {
        let mut code = [0; 96];
        random.code(&mut code);
        let at = 0x1000 + (random.next() as usize & 0xfff);
        cpu.board.ram.write_at(at, &code);
        let mode = Mode::from_bits(round);
        let Some(unit) = reader.read(&cpu, at, mode, round & 4 == 0, |_| true) else {
            continue;
        };
        let (mut exits, mut done, mut links, mut steps) = (vec![], vec![], 0, vec![]);
        let pools = Pools {
            exits: &mut exits,
            done: &mut done,
            links: &mut links,
            counts: round & 8 == 0,
            apart: round & 16 == 0,
            steps: &mut steps,
        };
        let base = [0x10000, 0x80000];
        let made = emit::emit(&unit, 0, mode, base, trampolines, pools).unwrap();
        units += 1;
        for (bytes, base) in made.bytes.iter().zip(base) {
            let mut checker = Checker {
                info: InstructionInfoFactory::new(),
                window: 0,
                compared: None,
                attention: [false; 2],
                index: [-1; 2],
                accesses: 0,
            };
            let mut decoder = Decoder::with_ip(64, bytes, base as u64, DecoderOptions::NONE);
            while decoder.can_decode() {
                let i = decoder.decode();
                let text = || format!("{:x} {:?} of {:02x?}", i.ip(), i.code(), code);
                assert!(!i.is_invalid(), "{}", text());
                checker.check(&i, &text);
            }
            accesses += checker.accesses;
        }
    }
    assert!(
        units > 5_000 && accesses > 5_000,
        "{units} units, {accesses} accesses"
    );
}

/// The masks that the emitted code uses fit the tables.
#[test]
fn tables_are_as_large_as_their_masks() {
    assert!(TLB_ENTRIES.is_power_of_two() && TARGETS.is_power_of_two());
    for mode in [Mode::User, Mode::Supervisor, Mode::SupervisorAc] {
        let end = offset::tlb(mode, true) as usize + TLB_ENTRIES * 16;
        assert!(end <= size_of::<Frame>());
        assert!(offset::targets(mode) as usize + TARGETS * 16 <= size_of::<Frame>());
    }
}
