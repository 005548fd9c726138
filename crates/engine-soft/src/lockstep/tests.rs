use super::*;
use crate::{Settings, SoftEngine};
use donjon_engine::{Clock, Detached, Engine, PartitionConfig, VcpuConfig};
use donjon_x86::cpuid::CpuModel;

/// `inc word [0x500]` and `in al, 0x60` for ever, in real mode.
const CODE: &[u8] = &[0xff, 0x06, 0x00, 0x05, 0xe4, 0x60, 0xeb, 0xf8];

struct Guest {
    vcpu: Box<dyn Vcpu>,
    ram: Arc<Ram>,
    attention: Arc<Attention>,
}

/// One that runs [`CODE`]. `None` on a host without a translator, which has nothing to prove.
fn guest() -> Option<Guest> {
    let ram = Arc::new(Ram::new(0x1_0000).unwrap());
    ram.write(0x7c00, CODE).unwrap();
    let attention = Arc::new(Attention::default());
    let config = PartitionConfig {
        ram: ram.clone(),
        model: Arc::new(CpuModel::named("x86-64-v3").unwrap()),
        clock: Arc::new(Clock::new(Clock::DEFAULT_HZ)),
        io: Arc::new(Detached),
        apics: None,
        vcpus: vec![VcpuConfig {
            apic: Arc::new(Detached),
            attention: attention.clone(),
        }],
    };
    let engine = SoftEngine::new(Settings {
        lockstep: crate::Lockstep::Units,
        ..Settings::default()
    });
    let mut vcpu = engine.create(config).unwrap().take_vcpu(0).ok()?;
    let mut state = CpuState::reset();
    (state.segments[1].base, state.segments[1].selector) = (0, 0);
    state.rip = 0x7c00;
    vcpu.load(&state).unwrap();
    Some(Guest { vcpu, ram, attention })
}

/// Runs for a while.
fn run(vcpu: &mut dyn Vcpu, attention: &Attention) -> Exit {
    std::thread::scope(|s| {
        s.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            attention.raise(Attention::KICK);
        });
        vcpu.run()
    })
}

#[test]
fn what_is_stored_behind_its_back_ends_it_for_good() {
    let Some(guest) = guest() else { return };
    let Guest {
        mut vcpu,
        ram,
        attention,
    } = guest;
    assert!(matches!(run(&mut *vcpu, &attention), Exit::Kicked));
    let agreed = vcpu.instructions();
    assert!(agreed > 0);
    let count: u16 = ram.load(0x500);
    ram.store(0x500, count ^ 0x100);
    let told = |exit| match exit {
        Exit::Error(e) => e.to_string(),
        other => panic!("{other:?}"),
    };
    let what = told(run(&mut *vcpu, &attention));
    assert!(what.contains("RAM 0x500"), "{what}");
    // Whichever of the three it had come to.
    let code = ["Inc_rm16", "In_AL_imm8", "Jmp_rel8_16"];
    assert!(code.iter().any(|c| what.contains(c)), "{what}");
    assert!(vcpu.instructions() <= agreed + 3);
    assert_eq!(told(run(&mut *vcpu, &attention)), what);
}
