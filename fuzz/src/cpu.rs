//! The interpreter on any bytes as code, in every mode: it faults, halts or loops, and never panics, hangs or
//! leaves guest RAM.
//!
//! Input: mode, options, 16 bytes for the registers, then code.
#![no_main]

use donjon_engine::{
    Attention, Clock, CpuIo, Engine, Exit, Gp, LocalApic, Partition, PartitionConfig, Vcpu, VcpuConfig,
};
use donjon_engine_soft::SoftEngine;
use donjon_memory::Ram;
use donjon_x86::bits::{cr0, cr4, efer, rflags, xcr0};
use donjon_x86::cpuid::CpuModel;
use donjon_x86::{CpuState, DescriptorTable, Fpu, Seg, Segment, SegmentAttributes};
use libfuzzer_sys::fuzz_target;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

const RAM_SIZE: u64 = 256 << 10;
/// PML4, page-directory pointers, page directory: the first 2 MiB one to one, of which the RAM is the start.
const PAGE_TABLES: u64 = 0x1000;
/// What is at the interrupt table's address, if there is one, is part of the code.
const CODE: u64 = 0x8000;
const CODE_ROOM: usize = 0x4000;
const STACK: u64 = 0x2_0000;
/// Code that loops is stopped this often.
const KICK_EVERY: Duration = Duration::from_micros(500);

/// A board with nothing on it.
struct Nothing;

impl CpuIo for Nothing {
    fn port_in(&self, port: u16, _: u8) -> u32 {
        u32::from(port) * 0x0101
    }
    fn port_out(&self, _: u16, _: u8, _: u32) {}
    fn mmio_read(&self, address: u64, _: u8) -> u64 {
        address
    }
    fn mmio_write(&self, _: u64, _: u8, _: u64) {}
}

impl LocalApic for Nothing {
    fn pending(&self) -> bool {
        false
    }
    fn acknowledge(&self) -> Option<u8> {
        None
    }
    fn cr8(&self) -> u8 {
        0
    }
    fn set_cr8(&self, _: u8) {}
    fn read_msr(&self, _: u32) -> Result<u64, Gp> {
        Ok(0)
    }
    fn write_msr(&self, _: u32, _: u64) -> Result<(), Gp> {
        Err(Gp)
    }
    fn page(&self) -> Option<u64> {
        Some(0xfee0_0000)
    }
    fn page_read(&self, offset: u16) -> u32 {
        offset.into()
    }
    fn page_write(&self, _: u16, _: u32) {}
    fn init(&self) {}
}

struct Machine {
    ram: Arc<Ram>,
    vcpu: Mutex<Box<dyn Vcpu>>,
    _partition: Box<dyn Partition>,
}

impl Machine {
    fn new() -> Self {
        let ram = Arc::new(Ram::new(RAM_SIZE).expect("guest RAM"));
        let attention = Arc::new(Attention::default());
        let kicked = attention.clone();
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(KICK_EVERY);
                kicked.raise(Attention::KICK);
            }
        });
        let partition = SoftEngine::default()
            .create(PartitionConfig {
                ram: ram.clone(),
                model: Arc::new(CpuModel::named("x86-64-v3").expect("a model")),
                clock: Arc::new(Clock::new(Clock::DEFAULT_HZ)),
                io: Arc::new(Nothing),
                apics: None,
                vcpus: vec![VcpuConfig {
                    apic: Arc::new(Nothing),
                    attention,
                }],
            })
            .expect("a partition");
        let vcpu = Mutex::new(partition.take_vcpu(0).expect("a vCPU"));
        Self {
            ram,
            vcpu,
            _partition: partition,
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    static MACHINE: OnceLock<Machine> = OnceLock::new();
    let Some((&[mode, options], rest)) = bytes.split_first_chunk() else {
        return;
    };
    let Some((registers, code)) = rest.split_first_chunk() else {
        return;
    };
    let machine = MACHINE.get_or_init(Machine::new);
    let mut vcpu = machine.vcpu.lock().expect("no panic before");
    fill(&machine.ram, code);
    vcpu.load(&state(mode, options, registers))
        .expect("a state a processor can be in");
    // A kick may come at once, from the time before.
    for _ in 0..2 {
        match vcpu.run() {
            Exit::Kicked => {}
            Exit::Error(e) => panic!("{e}"),
            Exit::Halt { .. } | Exit::Shutdown => break,
        }
    }
});

/// Zeroes RAM and puts page tables and code into it.
fn fill(ram: &Ram, code: &[u8]) {
    ram.write_at(0, &[0; RAM_SIZE as usize]);
    let entry = |at: u64, value: u64| ram.store::<u64>(at as usize, value);
    entry(PAGE_TABLES, (PAGE_TABLES + 0x1000) | 7);
    entry(PAGE_TABLES + 0x1000, (PAGE_TABLES + 0x2000) | 7);
    entry(PAGE_TABLES + 0x2000, 0x87);
    ram.write_at(CODE as usize, &code[..code.len().min(CODE_ROOM)]);
}

fn state(mode: u8, options: u8, registers: &[u8; 16]) -> CpuState {
    let mut s = CpuState::reset();
    let ring: u8 = if options & 1 != 0 { 3 } else { 0 };
    let (code, long_mode, protected) = match mode & 3 {
        0 => (0xa09b, true, true),
        1 => (0xc09b, true, true),
        2 => (if options & 2 != 0 { 0x009b } else { 0xc09b }, false, true),
        _ => (0x009b, false, false),
    };
    s.cr0 = cr0::ET | cr0::NE;
    s.cr4 = cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE;
    s.xcr0 = xcr0::X87 | xcr0::SSE | xcr0::AVX;
    s.fpu = Fpu::default();
    s.rflags = rflags::ONE | if options & 4 != 0 { rflags::TF } else { 0 };
    s.rip = CODE;
    if protected {
        let ring = if long_mode || options & 2 == 0 { ring } else { 0 };
        let dpl = u32::from(ring) << 5;
        let limit = if code & 0x8000 != 0 { u32::MAX } else { 0xffff };
        let segment = |selector: u16, attributes| Segment {
            selector: selector | u16::from(ring),
            base: 0,
            limit,
            attributes: SegmentAttributes(attributes | dpl),
        };
        s.segments = [segment(0x18, (code & 0xd000) & !0x2000 | 0x93); 6];
        s.segments[Seg::Cs as usize] = segment(0x10, code);
        s.cr0 |= cr0::PE;
    } else {
        s.segments = s.segments.map(|d| Segment {
            selector: 0,
            base: 0,
            ..d
        });
    }
    if long_mode {
        s.cr0 |= cr0::PG | cr0::WP;
        s.cr3 = PAGE_TABLES;
        s.cr4 |= cr4::PAE;
        s.msrs.efer = efer::LME | efer::LMA | efer::SCE | efer::NXE;
        s.msrs.lstar = CODE + 0x100;
    }
    // With a table that is part of the code, exceptions lead somewhere.
    let table = DescriptorTable {
        base: CODE,
        limit: if options & 8 != 0 { 0xfff } else { 0 },
    };
    (s.gdtr, s.idtr) = (table, table);
    for (i, (register, &byte)) in s.gpr.iter_mut().zip(registers).enumerate() {
        // Small values, pointers into RAM, and the rest of the address space.
        *register = match byte & 3 {
            0 => u64::from(byte >> 2),
            1 => CODE + u64::from(byte) * 64,
            2 => (i64::from(byte as i8) << (i * 4)) as u64,
            _ => STACK - u64::from(byte >> 2) * 8,
        };
    }
    s.gpr[4] = STACK;
    s
}
