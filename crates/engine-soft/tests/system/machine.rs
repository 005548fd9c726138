//! A small board: RAM, one or more processors, ports that remember, and an interrupt controller that the
//! test drives.

use crate::layout::*;
use donjon_engine::{
    Attention, Clock, CpuIo, Engine, Exit, Gp, LocalApic, Partition, PartitionConfig, Vcpu, VcpuConfig,
};
use donjon_engine_kvm::KvmEngine;
use donjon_engine_soft::SoftEngine;
use donjon_memory::Ram;
use donjon_x86::cpuid::CpuModel;
use donjon_x86::{Activity, CpuState, Seg, Segment, descriptor::Descriptor, exception};
use iced_x86::code_asm::CodeAssembler;
use iced_x86::{BlockEncoderOptions, IcedError};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::*};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// No test runs longer than this.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of guest RAM.
pub const RAM_SIZE: u64 = 32 << 20;

/// An interrupt controller that hands out what the test queued, above the task priority.
#[derive(Default)]
pub struct Apic {
    pub queue: Mutex<VecDeque<u8>>,
    pub cr8: AtomicU8,
    pub deadline: AtomicU64,
    pub inits: AtomicU32,
    /// Acknowledge answers with nothing, as after a spurious interrupt.
    pub silent: AtomicBool,
    attention: Arc<Attention>,
}

impl Apic {
    /// Queues an interrupt and tells the processor.
    pub fn inject(&self, vector: u8) {
        self.queue.lock().unwrap().push_back(vector);
        self.attention.raise(Attention::INTERRUPT);
    }

    fn ready(&self) -> Option<u8> {
        let first = *self.queue.lock().unwrap().front()?;
        (first >> 4 > self.cr8.load(SeqCst)).then_some(first)
    }
}

impl LocalApic for Apic {
    fn pending(&self) -> bool {
        self.ready().is_some()
    }
    fn acknowledge(&self) -> Option<u8> {
        if self.silent.load(SeqCst) {
            return None;
        }
        self.ready()?;
        let vector = self.queue.lock().unwrap().pop_front();
        if self.pending() {
            self.attention.raise(Attention::INTERRUPT);
        }
        vector
    }
    fn cr8(&self) -> u8 {
        self.cr8.load(SeqCst)
    }
    fn set_cr8(&self, value: u8) {
        self.cr8.store(value, SeqCst);
        if self.pending() {
            self.attention.raise(Attention::INTERRUPT);
        }
    }
    fn read_msr(&self, msr: u32) -> Result<u64, Gp> {
        match msr {
            donjon_x86::msr::IA32_TSC_DEADLINE => Ok(self.deadline.load(SeqCst)),
            _ => Err(Gp),
        }
    }
    fn write_msr(&self, msr: u32, value: u64) -> Result<(), Gp> {
        match msr {
            donjon_x86::msr::IA32_TSC_DEADLINE => self.deadline.store(value, SeqCst),
            // A self-IPI.
            0x83f => self.inject(value as u8),
            // The board's own: an NMI to this processor.
            0x840 => self.attention.raise(Attention::NMI),
            _ => return Err(Gp),
        }
        Ok(())
    }
    fn page(&self) -> Option<u64> {
        None
    }
    fn page_read(&self, _: u16) -> u32 {
        0
    }
    fn page_write(&self, _: u16, _: u32) {}
    fn init(&self) {
        self.inits.fetch_add(1, SeqCst);
    }
}

/// Ports that remember what was written and answer with their number.
#[derive(Default)]
pub struct Ports {
    pub written: Mutex<Vec<(u16, u8, u32)>>,
    pub read: Mutex<Vec<(u16, u8)>>,
    pub stores: Mutex<Vec<(u64, u8, u64)>>,
}

impl CpuIo for Ports {
    fn port_in(&self, port: u16, size: u8) -> u32 {
        self.read.lock().unwrap().push((port, size));
        0x1234_0000 | port as u32
    }
    fn port_out(&self, port: u16, size: u8, value: u32) {
        self.written.lock().unwrap().push((port, size, value));
    }
    fn mmio_read(&self, _: u64, _: u8) -> u64 {
        u64::MAX
    }
    fn mmio_write(&self, address: u64, size: u8, value: u64) {
        self.stores.lock().unwrap().push((address, size, value));
    }
}

/// The frame an exception or interrupt left, and where its handler stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trap {
    pub vector: u8,
    pub code: Option<u64>,
    pub rip: u64,
    pub cs: u16,
    pub flags: u64,
    /// Zero if the frame has none.
    pub rsp: u64,
    pub ss: u16,
    /// Where the frame begins (at the error code, if there is one).
    pub at: u64,
}

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stopped {
    /// HLT outside the handlers.
    Halted,
    /// HLT of a handler.
    Trapped(Trap),
    Shutdown,
}

/// Addresses of the instructions that [`Machine::code`] assembled.
#[derive(Debug)]
pub struct Code {
    pub at: Vec<u64>,
    /// Just behind the last one.
    pub end: u64,
}

pub type Assembled = Result<(), IcedError>;

/// The engine that `DONJON_TEST_ENGINE` names: what is expected of one is expected of the other.
fn engine() -> Box<dyn Engine> {
    match std::env::var("DONJON_TEST_ENGINE").as_deref() {
        Ok("kvm") => Box::new(KvmEngine),
        Ok("soft") | Err(_) => Box::new(SoftEngine::default()),
        Ok(other) => panic!("DONJON_TEST_ENGINE is {other:?}, not kvm or soft"),
    }
}

pub struct Machine {
    pub ram: Arc<Ram>,
    pub ports: Arc<Ports>,
    pub apics: Vec<Arc<Apic>>,
    pub attention: Vec<Arc<Attention>>,
    pub vcpus: Vec<Box<dyn Vcpu>>,
    /// What [`Machine::run`] starts vCPU 0 with; after a run, what it ended with.
    pub state: CpuState,
    /// Width of the code that [`Machine::code`] assembles.
    pub bits: u32,
    /// The next free page for page tables.
    pub(crate) next_table: u64,
}

impl Machine {
    /// A board with `count` processors in their reset state.
    pub fn new(count: usize) -> Self {
        Self::with_model(count, "x86-64-v3")
    }

    pub fn with_model(count: usize, model: &str) -> Self {
        Self::with_ram(count, model, Ram::new(RAM_SIZE).unwrap())
    }

    pub fn with_ram(count: usize, model: &str, ram: Ram) -> Self {
        let ram = Arc::new(ram);
        let ports = Arc::new(Ports::default());
        let attention: Vec<_> = (0..count).map(|_| Arc::new(Attention::default())).collect();
        let apics: Vec<_> = attention
            .iter()
            .map(|a| {
                Arc::new(Apic {
                    attention: a.clone(),
                    ..Apic::default()
                })
            })
            .collect();
        let vcpus = attention.iter().zip(&apics);
        let vcpus = vcpus.map(|(t, a)| VcpuConfig {
            apic: a.clone(),
            attention: t.clone(),
        });
        let engine = engine();
        let limits = engine.limits().unwrap();
        let model = CpuModel::named(model).unwrap();
        let model = match &limits.features {
            Some(features) => model.within(features).unwrap(),
            None => model,
        };
        let config = PartitionConfig {
            ram: ram.clone(),
            model: Arc::new(model),
            clock: Arc::new(Clock::new(limits.tsc_hz.unwrap_or(Clock::DEFAULT_HZ))),
            io: ports.clone(),
            apics: None,
            vcpus: vcpus.collect(),
        };
        let partition: Box<dyn Partition> = engine.create(config).unwrap();
        let vcpus = (0..count).map(|n| partition.take_vcpu(n).unwrap()).collect();
        let state = CpuState::reset();
        Self {
            ram,
            ports,
            apics,
            attention,
            vcpus,
            state,
            bits: 16,
            next_table: TABLES,
        }
    }

    // Memory.

    pub fn write(&self, at: u64, bytes: &[u8]) {
        self.ram.write(at, bytes).unwrap();
    }
    pub fn write16(&self, at: u64, v: u16) {
        self.write(at, &v.to_le_bytes());
    }
    pub fn write32(&self, at: u64, v: u32) {
        self.write(at, &v.to_le_bytes());
    }
    pub fn write64(&self, at: u64, v: u64) {
        self.write(at, &v.to_le_bytes());
    }
    pub fn read(&self, at: u64, size: usize) -> u64 {
        let mut b = [0; 8];
        self.ram.read(at, &mut b[..size]).unwrap();
        u64::from_le_bytes(b)
    }
    pub fn read16(&self, at: u64) -> u16 {
        self.read(at, 2) as u16
    }
    pub fn read32(&self, at: u64) -> u32 {
        self.read(at, 4) as u32
    }
    pub fn read64(&self, at: u64) -> u64 {
        self.read(at, 8)
    }

    /// Assembles code of the machine's width for an address and puts it there.
    pub fn code(&mut self, at: u64, f: impl FnOnce(&mut CodeAssembler) -> Assembled) -> Code {
        let bits = self.bits;
        self.code_at(bits, at, at, f)
    }

    /// Assembles code of any width for address `ip` and puts it at guest-physical `at`.
    pub fn code_at(
        &mut self,
        bits: u32,
        ip: u64,
        at: u64,
        f: impl FnOnce(&mut CodeAssembler) -> Assembled,
    ) -> Code {
        let mut a = CodeAssembler::new(bits).unwrap();
        f(&mut a).unwrap();
        let options = BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS;
        let done = a.assemble_options(ip, options).unwrap().inner;
        self.write(at, &done.code_buffer);
        Code {
            at: done
                .new_instruction_offsets
                .iter()
                .map(|o| ip + *o as u64)
                .collect(),
            end: ip + done.code_buffer.len() as u64,
        }
    }

    // Registers.

    pub fn reg(&self, n: donjon_x86::Gpr) -> u64 {
        self.state.gpr[n as usize]
    }
    pub fn set(&mut self, n: donjon_x86::Gpr, v: u64) {
        self.state.gpr[n as usize] = v;
    }
    pub fn seg(&self, n: Seg) -> Segment {
        self.state.segments[n as usize]
    }

    /// The descriptor at a selector of the global descriptor table.
    pub fn descriptor(&self, selector: u16) -> Descriptor {
        Descriptor(self.read64(GDT + (selector & !7) as u64))
    }

    /// Puts a descriptor into the global descriptor table.
    pub fn set_descriptor(&self, selector: u16, d: u64) {
        self.write64(GDT + (selector & !7) as u64, d);
    }

    /// Loads a segment register of the state from the global descriptor table.
    pub fn load(&mut self, n: Seg, selector: u16) {
        self.state.segments[n as usize] = self.descriptor(selector).segment(selector);
    }

    // Running.

    /// Runs vCPU 0 from [`Machine::state`] to a HLT or a shutdown.
    pub fn run(&mut self) -> Stopped {
        self.state.activity = Activity::Active;
        self.vcpus[0].load(&self.state).unwrap();
        self.resume()
    }

    /// Goes on without touching the processor, its translations included.
    pub fn resume(&mut self) -> Stopped {
        let exit = run(&mut *self.vcpus[0], &self.attention[0]);
        self.state = self.vcpus[0].save().unwrap();
        match exit {
            Exit::Shutdown => Stopped::Shutdown,
            Exit::Halt { .. } => self.stopped(),
            other => panic!("{other:?} after too long\n{}", dump(&self.state)),
        }
    }

    fn stopped(&self) -> Stopped {
        let cs = self.seg(Seg::Cs);
        let offset = self.state.rip.wrapping_sub(1).wrapping_sub(HANDLERS);
        if offset >= 0x1000 || offset & 15 != 0 || cs.base != 0 {
            return Stopped::Halted;
        }
        Stopped::Trapped(self.frame((offset / 16) as u8))
    }

    /// Decodes the frame at the stack pointer.
    fn frame(&self, vector: u8) -> Trap {
        let long = self.state.msrs.efer & donjon_x86::bits::efer::LMA != 0;
        let protected = self.state.cr0 & donjon_x86::bits::cr0::PE != 0;
        let size = if long { 8 } else { 2 + 2 * protected as u64 };
        let ss = self.seg(Seg::Ss);
        let mut at = self.state.gpr[4];
        if !long {
            at &= if ss.attributes.big() { 0xffff_ffff } else { 0xffff };
            at += ss.base;
        }
        let begin = at;
        let mut pop = || {
            at += size;
            self.read(at - size, size as usize)
        };
        let code = (protected && exception::has_error_code(vector)).then(&mut pop);
        let (rip, cs, flags) = (pop(), pop() as u16, pop());
        let deeper = cs & 3 > self.seg(Seg::Cs).selector & 3;
        let (rsp, ss) = if long || protected && deeper {
            (pop(), pop() as u16)
        } else {
            (0, 0)
        };
        Trap {
            vector,
            code,
            rip,
            cs,
            flags,
            rsp,
            ss,
            at: begin,
        }
    }

    /// Runs; the run must end with HLT outside the handlers.
    #[track_caller]
    pub fn halts(&mut self) {
        let stopped = self.run();
        assert_eq!(stopped, Stopped::Halted, "{}", dump(&self.state));
    }

    /// Runs; the run must end in a handler.
    #[track_caller]
    pub fn traps(&mut self) -> Trap {
        let stopped = self.run();
        self.trapped(stopped)
    }

    /// What a run that must have ended in a handler left.
    #[track_caller]
    pub fn trapped(&self, stopped: Stopped) -> Trap {
        match stopped {
            Stopped::Trapped(t) => t,
            other => panic!("{other:?}\n{}", dump(&self.state)),
        }
    }

    /// Runs; the run must end in the handler of `vector`, entered with error code `code`.
    #[track_caller]
    pub fn faults(&mut self, vector: u8, code: u64) -> Trap {
        let t = self.traps();
        let code = exception::has_error_code(vector).then_some(code);
        let code = if self.state.cr0 & 1 == 0 { None } else { code };
        assert_eq!(
            (t.vector, t.code),
            (vector, code),
            "{t:x?}\n{}",
            dump(&self.state)
        );
        t
    }

    /// Runs every vCPU on a thread of its own from a state each; returns their final states.
    pub fn run_all(&mut self, states: &[CpuState]) -> Vec<CpuState> {
        for (v, s) in self.vcpus.iter_mut().zip(states) {
            v.load(s).unwrap();
        }
        let attention = &self.attention;
        std::thread::scope(|scope| {
            let threads = self.vcpus.iter_mut().zip(attention).map(|(v, a)| {
                scope.spawn(move || {
                    let exit = run(&mut **v, a);
                    let state = v.save().unwrap();
                    assert!(matches!(exit, Exit::Halt { .. }), "{exit:?}\n{}", dump(&state));
                    state
                })
            });
            let threads: Vec<_> = threads.collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        })
    }
}

/// Runs a vCPU; one that never stops is kicked out.
fn run(vcpu: &mut dyn Vcpu, attention: &Attention) -> Exit {
    std::thread::scope(|s| {
        let (done, wait) = channel::<()>();
        s.spawn(move || {
            if wait.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                attention.raise(Attention::KICK);
            }
        });
        let exit = vcpu.run();
        drop(done);
        exit
    })
}

/// The state, for messages.
pub fn dump(s: &CpuState) -> String {
    let names = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"];
    let mut out = format!("rip {:x} rflags {:x} ", s.rip, s.rflags);
    for (name, v) in names.iter().zip(s.gpr) {
        out += &format!("{name} {v:x} ");
    }
    for (name, v) in ["es", "cs", "ss", "ds", "fs", "gs"].iter().zip(s.segments) {
        out += &format!(
            "\n{name} {:x} base {:x} limit {:x} {:x}",
            v.selector, v.base, v.limit, v.attributes.0
        );
    }
    out += &format!("\ntr {:x?}", s.tr);
    out += &format!(
        "\ncr0 {:x} cr2 {:x} cr3 {:x} cr4 {:x} efer {:x}",
        s.cr0, s.cr2, s.cr3, s.cr4, s.msrs.efer
    );
    out + &format!(
        "\ndr6 {:x} dr7 {:x} {:?} shadow {}",
        s.dr6, s.dr7, s.activity, s.interrupt_shadow
    )
}
