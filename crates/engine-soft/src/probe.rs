//! Whether code is translated on this host, and how fast the interpreter is.

use crate::translate::obstacle;
use crate::{Settings, SoftEngine, Translation};
use donjon_engine::{Attention, Clock, Detached, Engine, Fitness, PartitionConfig, ProbeReport, VcpuConfig};
use donjon_memory::Ram;
use donjon_x86::CpuState;
use donjon_x86::cpuid::CpuModel;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A real-mode loop of loads, stores, arithmetic, a call and a return, for ever.
const LOOP: &[u8] = &[
    0x8b, 0x07, // mov ax, [bx]
    0x40, // inc ax
    0x89, 0x07, // mov [bx], ax
    0xe8, 0x02, 0x00, // call +2
    0xeb, 0xf6, // jmp to the start
    0x31, 0xd1, // xor cx, dx
    0xc3, // ret
];

const MEASURE: Duration = Duration::from_millis(20);

/// Runs [`LOOP`] for [`MEASURE`].
pub fn probe(settings: &Settings) -> ProbeReport {
    let engine = SoftEngine::new(Settings {
        translation: Translation::Never,
        ..*settings
    });
    let obstacle = match settings.translation {
        Translation::Never => Some("that was asked for".to_owned()),
        _ => obstacle(),
    };
    let report = |fitness, finding| ProbeReport {
        engine: engine.name(),
        fitness,
        finding,
        advice: vec![],
    };
    match measure(&engine) {
        Ok(mips) => report(Fitness::Measured { mips }, finding(obstacle.as_deref(), mips)),
        Err(what) => report(Fitness::Unusable, what),
    }
}

/// `obstacle` is what keeps code from being translated.
fn finding(obstacle: Option<&str>, mips: f64) -> String {
    let rate = format!("about {mips:.0} million guest instructions a second");
    match obstacle {
        None => format!("translates code that runs often, interprets the rest at {rate}"),
        Some(why) => format!("interprets only, at {rate}: {why}"),
    }
}

fn measure(engine: &SoftEngine) -> Result<f64, String> {
    let ram = Arc::new(Ram::new(0x10000).map_err(|e| e.to_string())?);
    ram.write(0x7c00, LOOP).map_err(|e| e.to_string())?;
    let attention = Arc::new(Attention::default());
    let config = PartitionConfig {
        ram,
        model: Arc::new(CpuModel::named("x86-64-v2").expect("a known name")),
        clock: Arc::new(Clock::new(Clock::DEFAULT_HZ)),
        io: Arc::new(Detached),
        apics: None,
        vcpus: vec![VcpuConfig {
            apic: Arc::new(Detached),
            attention: attention.clone(),
        }],
    };
    let partition = engine.create(config).map_err(|e| e.to_string())?;
    let mut vcpu = partition.take_vcpu(0).map_err(|e| e.to_string())?;
    let mut state = CpuState::reset();
    state.segments[1].base = 0;
    state.segments[1].selector = 0;
    state.rip = 0x7c00;
    state.gpr[3] = 0x4000;
    state.gpr[4] = 0x7000;
    vcpu.load(&state).map_err(|e| e.to_string())?;
    let start = Instant::now();
    std::thread::scope(|s| {
        s.spawn(|| {
            std::thread::sleep(MEASURE);
            attention.raise(Attention::KICK);
        });
        vcpu.run()
    });
    Ok(vcpu.instructions() as f64 / start.elapsed().as_secs_f64() / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_code_from_being_translated_is_told() {
        assert_eq!(
            finding(Some("the host lacks AVX2"), 99.7),
            "interprets only, at about 100 million guest instructions a second: the host lacks AVX2"
        );
        assert!(finding(None, 99.7).starts_with("translates code that runs often"));
    }

    #[test]
    fn an_interpreter_that_was_asked_for_says_so() {
        let settings = Settings {
            translation: Translation::Never,
            ..Settings::default()
        };
        let report = probe(&settings);
        assert!(report.finding.ends_with("that was asked for"), "{report:?}");
    }
}
