//! Whether the host's KVM can run domains, and how fast: opened, examined and measured.

use crate::guest::{Guest, GuestError, Loop, WORK_INSTRUCTIONS};
use donjon_engine::{Fitness, ProbeReport};
use kvm_bindings::*;
use kvm_ioctls::Kvm;
use rustix::io::Errno;
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Ring-0 speed below which the software engine is the better one, million instructions a second. Every
/// processor that really virtualizes is above 1,000; hosts that emulate ring 0 are below 10.
pub const MIN_RING0_MIPS: f64 = 100.0;

const DEVICE: &str = "/dev/kvm";
/// The only version there has been since Linux 2.6.22 (Documentation/virt/kvm/api.rst, 4.1).
const API_VERSION: i32 = 12;
/// The work loop is run again and again for this long, and the best run counts: what else happens on the host
/// only ever makes one slower.
const MEASURE_FOR: Duration = Duration::from_millis(8);
/// How long one run should take. With [`FIRST_ROUNDS`] a host that emulates ring 0 needs about 3 ms for one.
const AIM: Duration = Duration::from_millis(3);
const FIRST_ROUNDS: u64 = 200;
/// Rounds before the measurement, which pay for page faults.
const WARM_UP: u64 = 20;
/// Rounds of the exit loop: before the measurement, and in it.
const EXIT_ROUNDS: (u64, u64) = (10, 50);

/// What is needed to run a domain, to save it and to move it.
const NEEDED: &[(u32, &str)] = &[
    (KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"),
    (KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"),
    (KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE"),
    (KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS"),
    (KVM_CAP_XSAVE, "KVM_CAP_XSAVE"),
    (KVM_CAP_XCRS, "KVM_CAP_XCRS"),
    (KVM_CAP_ADJUST_CLOCK, "KVM_CAP_ADJUST_CLOCK"),
    (KVM_CAP_IRQFD, "KVM_CAP_IRQFD"),
    (KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD"),
    (KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI"),
    (KVM_CAP_TSC_DEADLINE_TIMER, "KVM_CAP_TSC_DEADLINE_TIMER"),
    (KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"),
    (KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR"),
    (KVM_CAP_SET_IDENTITY_MAP_ADDR, "KVM_CAP_SET_IDENTITY_MAP_ADDR"),
    (KVM_CAP_SPLIT_IRQCHIP, "KVM_CAP_SPLIT_IRQCHIP"),
    (KVM_CAP_X2APIC_API, "KVM_CAP_X2APIC_API"),
    (KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING"),
    (KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS"),
    (KVM_CAP_SREGS2, "KVM_CAP_SREGS2"),
    (KVM_CAP_GET_TSC_KHZ, "KVM_CAP_GET_TSC_KHZ"),
    (KVM_CAP_VCPU_ATTRIBUTES, "KVM_CAP_VCPU_ATTRIBUTES"),
    (KVM_CAP_READONLY_MEM, "KVM_CAP_READONLY_MEM"),
    (KVM_CAP_X86_USER_SPACE_MSR, "KVM_CAP_X86_USER_SPACE_MSR"),
    (KVM_CAP_X86_MSR_FILTER, "KVM_CAP_X86_MSR_FILTER"),
];

/// How KVM is on this host.
#[derive(Clone, PartialEq, Debug)]
pub enum KvmStatus {
    /// There is no device.
    Missing,
    /// This user may not open it.
    NoPermission {
        /// Its group, by name if that is known.
        group: String,
        /// Whether that group may read and write it.
        group_may: bool,
    },
    /// It is there and does not work.
    Unusable {
        /// Why.
        reason: String,
    },
    /// It works, this well.
    Measured {
        /// Million instructions a second of ordinary code in ring 0.
        ring0_mips: f64,
        /// Time of one exit to user space and back, microseconds.
        exit_us: f64,
    },
}

/// What [`probe`] found.
#[derive(Clone, PartialEq, Debug)]
pub struct KvmReport {
    /// How KVM is.
    pub status: KvmStatus,
    /// What to do to make it work or work faster.
    pub advice: Vec<String>,
}

/// Examines `/dev/kvm`, for at most about 20 ms.
pub fn probe() -> KvmReport {
    let status = examine(Path::new(DEVICE));
    let advice = advice(&status, &HostFacts::read());
    KvmReport { status, advice }
}

impl KvmReport {
    /// Whether it is fast enough to be preferred to the software engine.
    pub fn is_fast(&self) -> bool {
        matches!(self.status, KvmStatus::Measured { ring0_mips, .. } if ring0_mips >= MIN_RING0_MIPS)
    }

    /// What was found, in one line.
    pub fn finding(&self) -> String {
        match &self.status {
            KvmStatus::Missing => format!("there is no {DEVICE} on this host"),
            KvmStatus::NoPermission { group, .. } => {
                format!("this user may not open {DEVICE}, which belongs to the group {group}")
            }
            KvmStatus::Unusable { reason } => format!("{DEVICE} does not work: {reason}"),
            KvmStatus::Measured { ring0_mips, exit_us } if self.is_fast() => format!(
                "{DEVICE} runs ring 0 at {ring0_mips:.0} million instructions a second, one exit takes {exit_us:.1} µs"
            ),
            KvmStatus::Measured { ring0_mips, exit_us } => format!(
                "{DEVICE} runs ring 0 at only {ring0_mips:.1} million instructions a second, where {MIN_RING0_MIPS:.0} \
                 are the least that makes it worth using, and one exit takes {exit_us:.1} µs"
            ),
        }
    }
}

impl From<KvmReport> for ProbeReport {
    fn from(report: KvmReport) -> Self {
        let fitness = match report.status {
            KvmStatus::Measured { ring0_mips, .. } => Fitness::Measured { mips: ring0_mips },
            _ => Fitness::Unusable,
        };
        Self {
            engine: crate::NAME,
            fitness,
            finding: report.finding(),
            advice: report.advice,
        }
    }
}

fn examine(device: &Path) -> KvmStatus {
    let unusable = |reason: String| KvmStatus::Unusable { reason };
    let Ok(path) = CString::new(device.as_os_str().as_encoded_bytes()) else {
        return unusable("its path has a zero byte in it".into());
    };
    let kvm = match Kvm::new_with_path(&path) {
        Ok(kvm) => kvm,
        Err(e) => return not_opened(device, Errno::from_raw_os_error(e.errno())),
    };
    match kvm.get_api_version() {
        API_VERSION => {}
        -1 => return unusable("it is not KVM's device".into()),
        other => {
            return unusable(format!(
                "it has API version {other}, where {API_VERSION} is known"
            ));
        }
    }
    let lacks: Vec<&str> = NEEDED
        .iter()
        .filter(|(number, _)| kvm.check_extension_raw((*number).into()) <= 0)
        .map(|(_, name)| *name)
        .collect();
    if !lacks.is_empty() {
        return unusable(format!("it lacks {}", lacks.join(", ")));
    }
    match measure(&kvm) {
        Ok((ring0_mips, exit_us)) => KvmStatus::Measured { ring0_mips, exit_us },
        Err(e) => unusable(e.to_string()),
    }
}

fn not_opened(device: &Path, errno: Errno) -> KvmStatus {
    match errno {
        // Without a module behind it, the node that udev makes at boot gives ENODEV or ENXIO.
        Errno::NOENT | Errno::NODEV | Errno::NXIO => KvmStatus::Missing,
        Errno::ACCESS | Errno::PERM => {
            let meta = fs::metadata(device);
            let (gid, mode) = meta.map_or((0, 0), |m| (m.gid(), m.mode()));
            let groups = fs::read_to_string("/etc/group").unwrap_or_default();
            KvmStatus::NoPermission {
                group: group_name(&groups, gid),
                group_may: mode & 0o060 == 0o060,
            }
        }
        other => KvmStatus::Unusable {
            reason: format!("it cannot be opened: {other}"),
        },
    }
}

/// Ring-0 speed in million instructions a second, and the time of one exit in microseconds.
fn measure(kvm: &Kvm) -> Result<(f64, f64), GuestError> {
    let mut guest = Guest::new(kvm)?;
    guest.run(Loop::Work, WARM_UP)?;
    let (start, mut rounds, mut mips) = (Instant::now(), FIRST_ROUNDS, 0f64);
    while start.elapsed() < MEASURE_FOR {
        let time = guest.run(Loop::Work, rounds)?.as_secs_f64().max(1e-7);
        mips = mips.max((rounds * WORK_INSTRUCTIONS) as f64 / time / 1e6);
        // Never fewer rounds than before: a run that was disturbed is no reason to believe less of the host.
        rounds = (rounds as f64 * (AIM.as_secs_f64() / time).clamp(1.0, 200.0)) as u64;
    }
    guest.run(Loop::Exits, EXIT_ROUNDS.0)?;
    let exits = guest.run(Loop::Exits, EXIT_ROUNDS.1)?;
    Ok((mips, exits.as_secs_f64() * 1e6 / EXIT_ROUNDS.1 as f64))
}

/// What the advice depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct HostFacts {
    /// The processor shows virtualization: the module that uses it.
    module: Option<&'static str>,
    /// That module is loaded.
    loaded: bool,
    /// This is a virtual machine itself.
    virtual_machine: bool,
    /// An Intel processor.
    intel: bool,
}

impl HostFacts {
    fn read() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let facts = Self::of(&cpuinfo);
        Self {
            loaded: facts
                .module
                .is_some_and(|m| Path::new("/sys/module").join(m).exists()),
            ..facts
        }
    }

    /// From `/proc/cpuinfo`, of which the first processor is looked at.
    fn of(cpuinfo: &str) -> Self {
        let value = |key: &str| {
            let line = cpuinfo
                .lines()
                .find(|l| l.split(':').next().is_some_and(|k| k.trim() == key));
            line.and_then(|l| l.split_once(':')).map_or("", |(_, v)| v.trim())
        };
        let has = |flag: &str| value("flags").split_ascii_whitespace().any(|f| f == flag);
        let module = if has("vmx") {
            Some("kvm_intel")
        } else if has("svm") {
            Some("kvm_amd")
        } else {
            None
        };
        let intel = value("vendor_id") == "GenuineIntel";
        Self {
            module,
            loaded: false,
            virtual_machine: has("hypervisor"),
            intel,
        }
    }
}

fn advice(status: &KvmStatus, host: &HostFacts) -> Vec<String> {
    let outer = if host.intel { "kvm_intel" } else { "kvm_amd" };
    let nested = format!(
        "this host is a virtual machine: allow nested virtualization on the host outside (`modprobe -r {outer}; \
         modprobe {outer} nested=1` there, and CPU mode host-passthrough for this machine), or in a cloud take an \
         instance type with nested virtualization or bare metal"
    );
    let advice = match (status, host) {
        (KvmStatus::Missing, HostFacts { module: None, virtual_machine: true, .. }) => nested,
        (KvmStatus::Missing, HostFacts { module: None, intel, .. }) => format!(
            "turn on {} in the firmware setup, then `sudo modprobe {outer}`",
            if *intel { "Intel VT-x" } else { "AMD-V (SVM)" }
        ),
        (KvmStatus::Missing, HostFacts { module: Some(module), loaded: false, .. }) => {
            format!("`sudo modprobe {module}`; if it says that it is not supported, turn on virtualization in the firmware setup")
        }
        (KvmStatus::Missing, HostFacts { module: Some(_), loaded: true, .. }) => format!(
            "KVM is loaded but this environment has no device for it: in a container, start it with \
             `--device {DEVICE}`; elsewhere, `sudo mknod -m 660 {DEVICE} c 10 232 && sudo chgrp kvm {DEVICE}`"
        ),
        (KvmStatus::NoPermission { group, group_may: true }, _) => {
            format!("`sudo usermod -aG {group} $USER`, then log in again (or `newgrp {group}` in this shell)")
        }
        (KvmStatus::NoPermission { .. }, _) => format!(
            "`sudo groupadd -f kvm && sudo chgrp kvm {DEVICE} && sudo chmod 660 {DEVICE} && sudo usermod -aG kvm $USER`, \
             then log in again"
        ),
        (KvmStatus::Unusable { reason }, _) if reason.contains("lacks") => {
            "start a newer host kernel: Debian's stable one has all that is needed (`sudo apt-get install \
             linux-image-amd64`, then reboot)"
                .into()
        }
        (KvmStatus::Unusable { .. }, _) => {
            "see what the kernel says about it: `sudo dmesg | grep -i kvm`; another hypervisor that is running \
             (VirtualBox, VMware) must be stopped first"
                .into()
        }
        (KvmStatus::Measured { ring0_mips, .. }, _) if *ring0_mips >= MIN_RING0_MIPS => return vec![],
        (KvmStatus::Measured { .. }, HostFacts { virtual_machine: true, .. }) => nested,
        (KvmStatus::Measured { .. }, _) => {
            "ring 0 is emulated here instead of being run by the processor: use a host with hardware \
             virtualization (bare metal, or a virtual machine with nested virtualization)"
                .into()
        }
    };
    vec![advice]
}

fn group_name(groups: &str, gid: u32) -> String {
    let name = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| gid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(status: KvmStatus, host: HostFacts) -> (String, String) {
        let advice = advice(&status, &host).join("; ");
        (
            KvmReport {
                status,
                advice: vec![],
            }
            .finding(),
            advice,
        )
    }

    #[test]
    fn cpuinfo_tells_what_the_processor_can() {
        let intel = "processor : 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu vmx sse\n";
        let facts = HostFacts {
            module: Some("kvm_intel"),
            intel: true,
            ..Default::default()
        };
        assert_eq!(HostFacts::of(intel), facts);
        let amd_guest = "vendor_id\t: AuthenticAMD\nflags\t\t: fpu hypervisor svm_lock\n";
        assert_eq!(
            HostFacts::of(amd_guest),
            HostFacts {
                virtual_machine: true,
                ..Default::default()
            }
        );
        assert_eq!(HostFacts::of(""), HostFacts::default());
    }

    #[test]
    fn every_reason_for_a_missing_device_has_its_own_fix() {
        let advice = |host| report(KvmStatus::Missing, host).1;
        let amd = HostFacts {
            module: Some("kvm_amd"),
            ..Default::default()
        };
        assert!(advice(amd).contains("sudo modprobe kvm_amd"));
        assert!(advice(HostFacts { loaded: true, ..amd }).contains("--device /dev/kvm"));
        assert!(
            advice(HostFacts {
                intel: true,
                ..Default::default()
            })
            .contains("Intel VT-x")
        );
        assert!(
            advice(HostFacts {
                virtual_machine: true,
                ..Default::default()
            })
            .contains("kvm_amd nested=1")
        );
    }

    #[test]
    fn a_missing_right_names_the_group() {
        assert_eq!(group_name("root:x:0:\nkvm:x:106:alice\n", 106), "kvm");
        assert_eq!(group_name("", 106), "106");
        let status = KvmStatus::NoPermission {
            group: "kvm".into(),
            group_may: true,
        };
        let (finding, advice) = report(status, HostFacts::default());
        assert!(finding.contains("the group kvm") && advice.contains("sudo usermod -aG kvm $USER"));
        let status = KvmStatus::NoPermission {
            group: "root".into(),
            group_may: false,
        };
        assert!(
            report(status, HostFacts::default())
                .1
                .contains("sudo chmod 660 /dev/kvm")
        );
    }

    #[test]
    fn a_slow_kvm_is_called_slow_with_its_figure() {
        let slow = KvmStatus::Measured {
            ring0_mips: 1.84,
            exit_us: 25.0,
        };
        let (finding, advice) = report(slow.clone(), HostFacts::default());
        assert!(
            finding.contains("only 1.8 million") && finding.contains("25.0 µs"),
            "{finding}"
        );
        assert!(!advice.is_empty());
        let fast = KvmStatus::Measured {
            ring0_mips: 2900.0,
            exit_us: 1.1,
        };
        assert_eq!(report(fast.clone(), HostFacts::default()).1, "");
        let fast = KvmReport {
            status: fast,
            advice: vec![],
        };
        assert!(
            fast.is_fast()
                && !KvmReport {
                    status: slow,
                    advice: vec![]
                }
                .is_fast()
        );
        assert_eq!(
            ProbeReport::from(fast).fitness,
            Fitness::Measured { mips: 2900.0 }
        );
    }

    #[test]
    fn files_that_are_not_the_device() {
        let dir = std::env::temp_dir();
        assert_eq!(examine(&dir.join("donjon-no-such-device")), KvmStatus::Missing);
        assert!(matches!(
            examine(Path::new("/dev/null")),
            KvmStatus::Unusable { .. }
        ));
    }

    /// On whatever host this runs, the probe ends soon and says something.
    #[test]
    fn the_real_device_is_examined_in_bounded_time() {
        let start = Instant::now();
        let report = probe();
        println!(
            "{} ({:?})\n{:?}",
            report.finding(),
            start.elapsed(),
            report.advice
        );
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        if let KvmStatus::Measured { ring0_mips, exit_us } = report.status {
            assert!(ring0_mips > 0.01 && ring0_mips < 100_000.0, "{ring0_mips}");
            assert!(exit_us > 0.01 && exit_us < 10_000.0, "{exit_us}");
        }
        assert!(report.is_fast() || !report.advice.is_empty());
    }
}
