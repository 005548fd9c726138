//! A whole guest in lockstep: every unit of translated code of a booting Linux is interpreted as well, and
//! the first difference ends the run.

use anyhow::{Context, Result, anyhow};
use donjon_devices::PowerSink;
use donjon_engine::{Attention, Engine, Exit, Statistics};
use donjon_engine_soft::{Lockstep, Settings, SoftEngine, Translation};
use donjon_machine::boot::{BootSource, Image, Role};
use donjon_machine::{Machine, MachineSpec, Outside};
use donjon_x86::cpuid::CpuModel;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What to run.
pub struct Options {
    /// Instructions to compare at least, if the guest has as many to run.
    pub instructions: u64,
    /// How far apart comparisons are.
    pub lockstep: Lockstep,
    /// When code is translated.
    pub translation: Translation,
    /// Kernel.
    pub kernel: PathBuf,
    /// Initial file system.
    pub initrd: Option<PathBuf>,
    /// Kernel command line.
    pub append: String,
    /// Bytes of RAM.
    pub memory: u64,
    /// The CPU the guest sees.
    pub model: String,
    /// What is typed on its console.
    pub input: Vec<u8>,
    /// Show the console.
    pub show: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// Instructions that both halves agreed on.
    pub instructions: u64,
    /// What the translating half did.
    pub statistics: Statistics,
    /// Time the vCPU ran.
    pub busy: Duration,
    /// How it ended.
    pub end: String,
    /// What differed.
    pub mismatch: Option<String>,
    /// What the guest wrote.
    pub console: String,
}

impl Outcome {
    /// Million instructions a second.
    pub fn mips(&self) -> f64 {
        self.instructions as f64 / self.busy.as_secs_f64().max(1e-9) / 1e6
    }
}

/// A shell's work without end: for the built-in image, whose user space has little to do by itself.
pub const WORK: &str = "while true; do sha256sum /bin/busybox; gzip -c /bin/busybox | gunzip | md5sum; \
    seq 20000 | awk '{ s += $1 * 1.5 } END { print s }'; find / -xdev | sort | tail -n 1; \
    dd if=/dev/urandom bs=64k count=4 2>/dev/null | sha512sum; done\n";

/// Ends the run when the guest turns itself off.
struct Power {
    attention: Arc<Attention>,
    off: AtomicBool,
}

impl Power {
    fn end(&self) {
        self.off.store(true, SeqCst);
        self.attention.raise(Attention::KICK);
    }
}

impl PowerSink for Power {
    fn power_off(&self) {
        self.end();
    }

    fn reset(&self) {
        self.end();
    }
}

/// Keeps what the guest writes.
struct Console {
    kept: Arc<Mutex<Vec<u8>>>,
    show: bool,
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.show {
            std::io::stdout().write_all(bytes)?;
            std::io::stdout().flush()?;
        }
        self.kept.lock().unwrap_or_else(|e| e.into_inner()).extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Time between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(100);

/// Runs the guest until it ends, enough is compared, or something differs.
pub fn run(options: &Options) -> Result<Outcome> {
    let model = CpuModel::named(&options.model).with_context(|| format!("no CPU model {}", options.model))?;
    let spec = MachineSpec {
        cpus: 1,
        memory: options.memory,
        backing: Default::default(),
        tsc_hz: donjon_engine::Clock::DEFAULT_HZ,
        model: Arc::new(model),
    };
    let open = |role, path: &PathBuf| Image::open(role, path);
    let boot = BootSource {
        kernel: open(Role::Kernel, &options.kernel)?,
        initrd: options
            .initrd
            .as_ref()
            .map(|p| open(Role::Initrd, p))
            .transpose()?,
        command_line: options.append.clone(),
    };
    let attention = Arc::new(Attention::default());
    let power = Arc::new(Power {
        attention: attention.clone(),
        off: AtomicBool::new(false),
    });
    let kept = Arc::new(Mutex::new(vec![]));
    let machine = Machine::new(
        &spec,
        spec.ram(&[])?,
        Outside {
            attentions: vec![attention.clone()],
            power: power.clone(),
            console: Box::new(Console {
                kept: kept.clone(),
                show: options.show,
            }),
            devices: vec![],
        },
    )?;
    let states = machine.load(&boot)?;
    let engine = SoftEngine::new(Settings {
        translation: options.translation,
        lockstep: options.lockstep,
        ..Settings::default()
    });
    let partition = engine.create(machine.partition_config())?;
    let mut vcpu = partition.take_vcpu(0)?;
    vcpu.load(&states[0])?;
    machine.com1().push(&options.input);

    let ended = AtomicBool::new(false);
    let mut busy = Duration::ZERO;
    let (end, mismatch) = std::thread::scope(|s| {
        s.spawn(|| {
            while !ended.load(SeqCst) {
                std::thread::sleep(LOOK);
                attention.raise(Attention::KICK);
            }
        });
        let end = loop {
            let start = Instant::now();
            let exit = vcpu.run();
            busy += start.elapsed();
            match exit {
                Exit::Halt { wake } => drop(attention.wait(wake | Attention::KICK, None)),
                Exit::Kicked => {}
                Exit::Shutdown => break ("the guest crashed its processor", None),
                Exit::Error(e) => break ("the halves disagree", Some(e.to_string())),
            }
            if power.off.load(SeqCst) {
                break ("the guest ended", None);
            }
            if vcpu.instructions() >= options.instructions {
                break ("enough", None);
            }
        };
        ended.store(true, SeqCst);
        end
    });
    machine.com1().flush(Duration::from_secs(1));
    let console = kept.lock().map_err(|_| anyhow!("the console panicked"))?;
    Ok(Outcome {
        instructions: vcpu.instructions(),
        statistics: vcpu.statistics(),
        busy,
        end: end.into(),
        mismatch,
        console: String::from_utf8_lossy(&console).replace('\r', ""),
    })
}
