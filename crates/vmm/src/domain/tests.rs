use super::*;
use donjon_engine::{Attention, CpuIo, Exit, Partition, PartitionConfig, ProbeReport, Vcpu};
use donjon_machine::boot::{Image, Role, sample};
use donjon_x86::cpuid::CpuModel;
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// What a vCPU does in one call of `run`: it is told its number, which boot of the domain this is (from 1),
/// and how it reaches the board.
type Script = dyn Fn(usize, usize, &dyn CpuIo) -> Exit + Send + Sync;

/// An engine whose vCPUs follow a script instead of the guest's instructions.
struct Scripted {
    script: Arc<Script>,
    boots: AtomicUsize,
}

impl Scripted {
    fn new(script: impl Fn(usize, usize, &dyn CpuIo) -> Exit + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            script: Arc::new(script),
            boots: AtomicUsize::new(0),
        })
    }
}

/// An engine that will have no domain.
struct Refusing;

impl Engine for Refusing {
    fn name(&self) -> &'static str {
        "refusing"
    }

    fn probe(&self) -> ProbeReport {
        unreachable!("nobody chooses this engine")
    }

    fn create(&self, _: PartitionConfig) -> Result<Box<dyn Partition>, EngineError> {
        Err(EngineError::InvalidState("not this one".into()))
    }
}

impl Engine for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn probe(&self) -> ProbeReport {
        unreachable!("nobody chooses this engine")
    }

    fn create(&self, config: PartitionConfig) -> Result<Box<dyn Partition>, EngineError> {
        let boot = self.boots.fetch_add(1, SeqCst) + 1;
        Ok(Box::new(ScriptedPartition {
            script: self.script.clone(),
            boot,
            config,
        }))
    }
}

struct ScriptedPartition {
    script: Arc<Script>,
    boot: usize,
    config: PartitionConfig,
}

impl Partition for ScriptedPartition {
    fn take_vcpu(&self, index: usize) -> Result<Box<dyn Vcpu>, EngineError> {
        Ok(Box::new(ScriptedVcpu {
            script: self.script.clone(),
            boot: self.boot,
            index,
            attention: self.config.vcpus[index].attention.clone(),
            io: self.config.io.clone(),
            state: CpuState::reset(),
            runs: 0,
        }))
    }
}

struct ScriptedVcpu {
    script: Arc<Script>,
    boot: usize,
    index: usize,
    attention: Arc<Attention>,
    io: Arc<dyn CpuIo>,
    state: CpuState,
    runs: u64,
}

impl Vcpu for ScriptedVcpu {
    fn run(&mut self) -> Exit {
        if self.attention.take(Attention::KICK) != 0 {
            return Exit::Kicked;
        }
        self.runs += 1;
        (self.script)(self.index, self.boot, &*self.io)
    }

    fn save(&self) -> Result<CpuState, EngineError> {
        Ok(self.state.clone())
    }

    fn load(&mut self, state: &CpuState) -> Result<(), EngineError> {
        self.state = state.clone();
        Ok(())
    }

    fn instructions(&self) -> u64 {
        self.runs
    }
}

const FOREVER: Exit = Exit::Halt {
    wake: Attention::INTERRUPT,
};

fn power_off(io: &dyn CpuIo) -> Exit {
    io.port_out(0x604, 2, 5 << 10 | 1 << 13);
    FOREVER
}

fn reset(io: &dyn CpuIo) -> Exit {
    io.port_out(0xcf9, 1, 6);
    FOREVER
}

fn print(io: &dyn CpuIo, text: &str) {
    text.bytes().for_each(|b| io.port_out(0x3f8, 1, b.into()));
}

#[derive(Clone, Default)]
struct Collected(Arc<Mutex<Vec<u8>>>);

impl Write for Collected {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs a domain with two vCPUs; the report and what was on its console.
fn domain(
    no_reboot: bool,
    script: impl Fn(usize, usize, &dyn CpuIo) -> Exit + Send + Sync + 'static,
) -> (Report, String) {
    let engine = Scripted::new(script);
    domain_on(engine, no_reboot, Arc::default())
}

/// The same on an engine, and reached through a handle.
fn domain_on(engine: Arc<dyn Engine>, no_reboot: bool, handle: Arc<Handle>) -> (Report, String) {
    let kernel = Image::from_bytes(Role::Kernel, "kernel", sample::pvh_elf(b"\xf4")).unwrap();
    let spec = DomainSpec {
        machine: MachineSpec {
            cpus: 2,
            memory: 16 << 20,
            model: Arc::new(CpuModel::named("x86-64-v2").unwrap()),
            backing: Default::default(),
            tsc_hz: donjon_engine::Clock::DEFAULT_HZ,
        },
        boot: BootSource {
            kernel,
            initrd: None,
            command_line: String::new(),
        },
        no_reboot,
        boot_again: None,
        devices: Devices::new(),
        console: None,
        handle,
    };
    let output = Collected::default();
    let console = ConsoleConfig {
        input: None,
        output: Box::new(output.clone()),
    };
    let report = run(&spec, engine, console, &Arc::new(Meter::new(2))).unwrap();
    let text = String::from_utf8(output.0.lock().unwrap().clone()).unwrap();
    (report, text)
}

#[test]
fn power_off_on_a_vcpus_own_thread_ends_the_domain_with_its_last_words() {
    let (report, text) = domain(false, |vcpu, _, io| {
        if vcpu == 1 {
            return FOREVER;
        }
        print(io, &"x".repeat(10_000));
        print(io, "last words");
        power_off(io)
    });
    assert!(
        matches!(report.outcome, Outcome::PoweredOff),
        "{:?}",
        report.outcome
    );
    assert_eq!(text.len(), 10_010);
    assert!(text.ends_with("last words"));
    assert_eq!(report.vcpus[0].engine.interpreted, 1);
}

#[test]
fn a_reset_boots_anew_while_other_vcpus_are_busy() {
    let (report, text) = domain(false, |vcpu, boot, io| match (vcpu, boot) {
        (0, _) => Exit::Kicked,
        (_, 1..5) => {
            print(io, &boot.to_string());
            reset(io)
        }
        _ => power_off(io),
    });
    assert!(
        matches!(report.outcome, Outcome::PoweredOff),
        "{:?}",
        report.outcome
    );
    assert_eq!(text, "1234");
    assert_eq!(report.vcpus[1].engine.interpreted, 5);
}

#[test]
fn a_reset_ends_the_domain_if_it_must_not_reboot() {
    let (report, _) = domain(
        true,
        |vcpu, _, io| if vcpu == 0 { reset(io) } else { Exit::Kicked },
    );
    assert!(matches!(report.outcome, Outcome::Reset), "{:?}", report.outcome);
}

#[test]
fn of_several_reasons_the_first_counts() {
    let (report, _) = domain(true, |vcpu, _, io| {
        if vcpu == 1 {
            return Exit::Kicked;
        }
        power_off(io);
        reset(io);
        Exit::Shutdown
    });
    assert!(
        matches!(report.outcome, Outcome::PoweredOff),
        "{:?}",
        report.outcome
    );
}

#[test]
fn a_triple_fault_is_reported_with_the_state() {
    let (report, _) = domain(
        false,
        |vcpu, _, _| if vcpu == 0 { Exit::Shutdown } else { FOREVER },
    );
    let Outcome::TripleFault(crash) = report.outcome else {
        panic!("{:?}", report.outcome)
    };
    assert_eq!((crash.vcpu, crash.state.rip), (0, sample::LOAD_ADDRESS));
}

#[test]
fn an_engines_error_is_reported_with_the_place() {
    let (report, _) = domain(false, |vcpu, _, _| match vcpu {
        0 => Exit::Error(EngineError::Failed {
            engine: "scripted",
            what: "no idea".into(),
        }),
        _ => FOREVER,
    });
    let Outcome::Failed(failure) = report.outcome else {
        panic!("{:?}", report.outcome)
    };
    assert_eq!(
        failure.to_string(),
        "vCPU 0 at rip 0x100000: engine scripted failed: no idea"
    );
}

#[test]
fn a_panic_on_a_vcpus_thread_is_reported() {
    let (report, _) = domain(
        false,
        |vcpu, _, _| if vcpu == 1 { panic!("out of luck") } else { FOREVER },
    );
    let Outcome::Failed(failure) = report.outcome else {
        panic!("{:?}", report.outcome)
    };
    assert_eq!(failure.to_string(), "vCPU 1: internal error: out of luck");
}

#[test]
fn a_domain_goes_on_with_another_engine_or_with_the_one_it_has() {
    let handle = Arc::new(Handle::default());
    assert_eq!(handle.move_to(Arc::new(Refusing)), Err(MoveError::NotRunning));
    let mover = std::thread::spawn({
        let handle = handle.clone();
        move || {
            let refused = loop {
                match handle.move_to(Arc::new(Refusing)) {
                    Err(MoveError::NotRunning) => std::thread::yield_now(),
                    other => break other,
                }
            };
            let second = Scripted::new(|vcpu, _, io| match vcpu {
                0 => {
                    print(io, "second");
                    power_off(io)
                }
                _ => FOREVER,
            });
            (refused, handle.move_to(second))
        }
    });
    let first = Scripted::new(|vcpu, _, _| match vcpu {
        0 => Exit::Kicked,
        _ => FOREVER,
    });
    let (report, text) = domain_on(first.clone(), true, handle.clone());
    let (refused, moved) = mover.join().unwrap();
    assert!(
        matches!(report.outcome, Outcome::PoweredOff),
        "{:?}",
        report.outcome
    );
    assert_eq!(text, "second");
    let MoveError::Engine(why) = refused.unwrap_err() else {
        panic!("it runs");
    };
    assert!(why.contains("not this one"), "{why}");
    assert!(moved.is_ok(), "{moved:?}");
    assert_eq!(first.boots.load(SeqCst), 2, "it took the domain back once");
    assert_eq!(handle.move_to(first), Err(MoveError::NotRunning));
}
