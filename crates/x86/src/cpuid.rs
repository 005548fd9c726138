//! Named CPU models: what CPUID tells the guest, the same on every host (Intel SDM vol. 2A, CPUID).
//!
//! A model is a psABI micro-architecture level (x86-64 psABI §3.1.1) plus the extras every engine
//! implements. Family 6 model 0x20 belongs to no real processor, so no guest applies quirks of one.

use crate::bits::xcr0;
pub use crate::features::Features;

/// The CPU a guest sees.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CpuModel {
    name: &'static str,
    avx: bool,
    /// What it may show of what belongs to a model of that name.
    allowed: Features,
}

/// That a processor lacks what belongs to a micro-architecture level.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the CPU model {model} has {}, which this host's processor cannot give a guest", features.join(", "))]
pub struct Lacking {
    /// The model.
    pub model: &'static str,
    /// What is lacking.
    pub features: Vec<&'static str>,
}

/// What the answer depends on besides leaf and subleaf.
#[derive(Clone, Copy, Debug)]
pub struct CpuidContext {
    /// APIC ID of the asking vCPU.
    pub apic_id: u32,
    /// vCPUs of the domain.
    pub vcpus: u32,
    /// CR4.OSXSAVE.
    pub osxsave: bool,
    /// XCR0.
    pub xcr0: u64,
    /// Time-stamp counter frequency in Hz.
    pub tsc_hz: u64,
}

/// EAX, EBX, ECX, EDX.
pub type Leaf = [u32; 4];

const VENDOR: [u32; 3] = [word(b"Genu"), word(b"ntel"), word(b"ineI")];
const KVM_SIGNATURE: [u32; 3] = [word(b"KVMK"), word(b"VMKV"), word(b"M\0\0\0")];
const MAX_BASIC: u32 = 0x16;
const MAX_EXTENDED: u32 = 0x8000_0008;
const MAX_HYPERVISOR: u32 = 0x4000_0010;
/// Frequency of the core crystal clock, which also drives the local APIC timer, in Hz.
pub const CRYSTAL_HZ: u32 = 1_000_000_000;
/// Physical-address width in bits.
pub const PHYSICAL_BITS: u32 = 40;
/// Bits above [`PHYSICAL_BITS`] that must be zero in physical addresses.
pub const PHYSICAL_RESERVED: u64 = !((1 << PHYSICAL_BITS) - 1);

/// IA32_ARCH_CAPABILITIES: none of the speculation flaws with a known software workaround.
/// RDCL_NO, IBRS_ALL, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO, PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO,
/// FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO.
const ARCH_CAPABILITIES: u64 = 1 << 0
    | 1 << 1
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 8
    | 1 << 13
    | 1 << 14
    | 1 << 15
    | 1 << 20
    | 1 << 24
    | 1 << 26
    | 1 << 27;

const fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

const fn word(b: &[u8; 4]) -> u32 {
    u32::from_le_bytes(*b)
}

impl CpuModel {
    /// The names [`CpuModel::named`] knows, the most capable first.
    pub const NAMES: [&'static str; 2] = ["x86-64-v3", "x86-64-v2"];

    /// The model of that name.
    pub fn named(name: &str) -> Option<Self> {
        let name = *Self::NAMES.iter().find(|n| **n == name)?;
        Some(Self {
            name,
            avx: name == "x86-64-v3",
            allowed: Features::ALL,
        })
    }

    /// All it shows.
    pub fn features(&self) -> Features {
        // Those that depend on the domain or on its software are there, or not, whatever the model is.
        let cx = CpuidContext {
            apic_id: 0,
            vcpus: 1,
            osxsave: false,
            xcr0: 1,
            tsc_hz: 1_000_000_000,
        };
        Features::of(
            |leaf, subleaf| self.cpuid(leaf, subleaf, &cx),
            self.arch_capabilities(),
        )
    }

    /// This model without what `host` lacks, for domains that are to run there. What belongs to its level must be
    /// there; what every engine adds to that (see [`CpuModel::named`]) need not.
    pub fn within(&self, host: &Features) -> Result<Self, Lacking> {
        let features = self.level().without(host).names();
        if !features.is_empty() {
            return Err(Lacking {
                model: self.name,
                features,
            });
        }
        Ok(Self {
            allowed: self.allowed.and(host),
            ..self.clone()
        })
    }

    /// What makes the level (x86-64 psABI table 3.1), and what no kernel does without.
    fn level(&self) -> Features {
        let bits = |all: &[(u32, u32, usize, u32)]| {
            let add = |f: Features, &(leaf, subleaf, register, bit): &_| f.with(leaf, subleaf, register, bit);
            all.iter().fold(Features::default(), add)
        };
        let mut all = vec![
            (1, 0, 2, 0),
            (1, 0, 2, 9),
            (1, 0, 2, 13),
            (1, 0, 2, 19),
            (1, 0, 2, 20),
            (1, 0, 2, 23),
            (0x8000_0001, 0, 2, 0),
            (0x8000_0001, 0, 3, 11),
            (0x8000_0001, 0, 3, 20),
        ];
        if self.avx {
            all.extend([
                (1, 0, 2, 12),
                (1, 0, 2, 22),
                (1, 0, 2, 26),
                (1, 0, 2, 28),
                (1, 0, 2, 29),
                (7, 0, 1, 3),
                (7, 0, 1, 5),
                (7, 0, 1, 8),
                (0x8000_0001, 0, 2, 5),
            ]);
        }
        bits(&all)
    }

    /// IA32_ARCH_CAPABILITIES.
    pub fn arch_capabilities(&self) -> u64 {
        ARCH_CAPABILITIES & self.allowed.arch_capabilities
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether it has AVX, AVX2, FMA, F16C, BMI1/2, LZCNT, MOVBE (level v3).
    pub fn v3(&self) -> bool {
        self.avx
    }

    /// The XCR0 bits it allows.
    pub fn xcr0_mask(&self) -> u64 {
        xcr0::X87 | xcr0::SSE | if self.avx { xcr0::AVX } else { 0 }
    }

    /// Bytes of a standard-format XSAVE area for the components of `xcr0`.
    pub fn xsave_size(xcr0: u64) -> u32 {
        if xcr0 & xcr0::AVX != 0 { 576 + 256 } else { 576 }
    }

    /// CPUID. Leaves above the highest basic one answer as the highest basic leaf does.
    pub fn cpuid(&self, leaf: u32, subleaf: u32, cx: &CpuidContext) -> Leaf {
        // Subleaf numbers that a leaf does not look at are not looked at here either.
        let at = if leaf == 0xd { subleaf } else { 0 };
        self.allowed.limit(leaf, at, self.full(leaf, subleaf, cx))
    }

    /// CPUID of the whole model.
    fn full(&self, leaf: u32, subleaf: u32, cx: &CpuidContext) -> Leaf {
        let v3 = |bits: u32| if self.avx { bits } else { 0 };
        match leaf {
            0 => [MAX_BASIC, VENDOR[0], VENDOR[1], VENDOR[2]],
            1 => {
                // SDM vol. 2A tables 3-10 (ECX) and 3-11 (EDX).
                let ecx = 1 << 0 // SSE3
                    | 1 << 1 // PCLMULQDQ
                    | 1 << 9 // SSSE3
                    | v3(1 << 12) // FMA
                    | 1 << 13 // CMPXCHG16B
                    | 1 << 17 // PCID
                    | 1 << 19 // SSE4.1
                    | 1 << 20 // SSE4.2
                    | 1 << 21 // x2APIC
                    | v3(1 << 22) // MOVBE
                    | 1 << 23 // POPCNT
                    | 1 << 24 // TSC deadline
                    | 1 << 25 // AES
                    | 1 << 26 // XSAVE
                    | (cx.osxsave as u32) << 27
                    | v3(1 << 28) // AVX
                    | v3(1 << 29) // F16C
                    | 1 << 30 // RDRAND
                    | 1 << 31; // hypervisor present
                let edx = 1 << 0 // FPU
                    | 1 << 2 // DE
                    | 1 << 3 // PSE
                    | 1 << 4 // TSC
                    | 1 << 5 // MSR
                    | 1 << 6 // PAE
                    | 1 << 7 // MCE
                    | 1 << 8 // CMPXCHG8B
                    | 1 << 9 // APIC
                    | 1 << 11 // SYSENTER
                    | 1 << 12 // MTRR
                    | 1 << 13 // PGE
                    | 1 << 14 // MCA
                    | 1 << 15 // CMOV
                    | 1 << 16 // PAT
                    | 1 << 17 // PSE-36
                    | 1 << 19 // CLFLUSH
                    | 1 << 23 // MMX
                    | 1 << 24 // FXSR
                    | 1 << 25 // SSE
                    | 1 << 26 // SSE2
                    | ((cx.vcpus > 1) as u32) << 28; // several logical processors
                let count = cx.vcpus.next_power_of_two().min(255);
                let ebx = (cx.apic_id & 0xff) << 24 | count << 16 | 8 << 8; // CLFLUSH line 64 bytes
                [0x0002_0600, ebx, ecx, edx]
            }
            // Cache descriptors: all in leaf 4.
            2 => [0x00ff_0001, 0, 0, 0],
            4 => self.cache(subleaf, cx),
            7 if subleaf == 0 => {
                let ebx = 1 << 0 // FSGSBASE
                    | 1 << 1 // IA32_TSC_ADJUST
                    | v3(1 << 3) // BMI1
                    | v3(1 << 5) // AVX2
                    | 1 << 7 // SMEP
                    | v3(1 << 8) // BMI2
                    | 1 << 9 // enhanced REP MOVSB/STOSB
                    | 1 << 10 // INVPCID
                    | 1 << 18 // RDSEED
                    | 1 << 19 // ADX
                    | 1 << 20 // SMAP
                    | 1 << 23; // CLFLUSHOPT
                let ecx = 1 << 2 // UMIP
                    | 1 << 22; // RDPID
                let edx = 1 << 4 // fast short REP MOVSB
                    | 1 << 26 // IBRS and IBPB
                    | 1 << 29 // IA32_ARCH_CAPABILITIES
                    | 1 << 31; // SSBD
                [0, ebx, ecx, edx]
            }
            0xb => {
                let bits = 32 - (cx.vcpus.max(1) - 1).leading_zeros();
                match subleaf {
                    0 => [0, 1, 1 << 8, cx.apic_id],
                    1 => [bits, cx.vcpus, 2 << 8 | 1, cx.apic_id],
                    n => [0, 0, n & 0xff, cx.apic_id],
                }
            }
            0xd => match subleaf {
                0 => {
                    let mask = self.xcr0_mask();
                    [mask as u32, Self::xsave_size(cx.xcr0), Self::xsave_size(mask), 0]
                }
                // XSAVEOPT, XSAVEC, XGETBV with ECX = 1.
                1 => [0b111, Self::xsave_size(cx.xcr0), 0, 0],
                2 if self.avx => [256, 576, 0, 0],
                _ => [0; 4],
            },
            0x15 => {
                // The counter's frequency as a fraction of the crystal's, in lowest terms.
                let common = gcd(cx.tsc_hz, CRYSTAL_HZ as u64);
                let (of, to) = (CRYSTAL_HZ as u64 / common, cx.tsc_hz / common);
                [of as u32, to as u32, CRYSTAL_HZ, 0]
            }
            0x16 => {
                let mhz = (cx.tsc_hz / 1_000_000) as u32 & 0xffff;
                [mhz, mhz, 100, 0]
            }
            // KVM's paravirtual leaves (Linux, virt/kvm/x86/cpuid).
            0x4000_0000 => [
                MAX_HYPERVISOR,
                KVM_SIGNATURE[0],
                KVM_SIGNATURE[1],
                KVM_SIGNATURE[2],
            ],
            // CLOCKSOURCE2, NOP_IO_DELAY, CLOCKSOURCE_STABLE.
            0x4000_0001 => [1 << 3 | 1 << 1 | 1 << 24, 0, 0, 0],
            0x4000_0002..=0x4000_000f => [0; 4],
            // Frequencies in kHz of the time-stamp counter and of the APIC bus.
            0x4000_0010 => [(cx.tsc_hz / 1000) as u32, CRYSTAL_HZ / 1000, 0, 0],
            0x8000_0000 => [MAX_EXTENDED, 0, 0, 0],
            0x8000_0001 => {
                let ecx = 1 << 0 // LAHF in 64-bit mode
                    | v3(1 << 5) // LZCNT
                    | 1 << 8; // PREFETCHW
                let edx = 1 << 11 // SYSCALL
                    | 1 << 20 // NX
                    | 1 << 26 // 1 GiB pages
                    | 1 << 27 // RDTSCP
                    | 1 << 29; // long mode
                [0, 0, ecx, edx]
            }
            0x8000_0002..=0x8000_0004 => {
                let mut brand = [0u8; 48];
                let text = format!("donjon {}", self.name);
                brand[..text.len()].copy_from_slice(text.as_bytes());
                let at = (leaf - 0x8000_0002) as usize * 16;
                std::array::from_fn(|i| {
                    u32::from_le_bytes(brand[at + i * 4..at + i * 4 + 4].try_into().unwrap())
                })
            }
            0x8000_0006 => [0, 0, 512 << 16 | 8 << 12 | 64, 0],
            // Invariant time-stamp counter.
            0x8000_0007 => [0, 0, 0, 1 << 8],
            0x8000_0008 => [48 << 8 | PHYSICAL_BITS, 0, 0, 0],
            n if n <= MAX_BASIC => [0; 4],
            n if (0x4000_0000..0x4001_0000).contains(&n) => [0; 4],
            0x8000_0005 => [0; 4],
            _ => self.full(MAX_BASIC, subleaf, cx),
        }
    }

    /// Deterministic cache parameters: 32 KiB L1s, 512 KiB L2, 8 MiB shared L3.
    fn cache(&self, subleaf: u32, cx: &CpuidContext) -> Leaf {
        let (kind, level, ways, sets, shared) = match subleaf {
            0 => (1, 1, 8, 64, 1),
            1 => (2, 1, 8, 64, 1),
            2 => (3, 2, 8, 1024, 1),
            3 => (3, 3, 16, 8192, cx.vcpus.next_power_of_two()),
            _ => return [0; 4],
        };
        let cores = cx.vcpus.next_power_of_two().min(64);
        let eax = kind | level << 5 | 1 << 8 | (shared.min(4096) - 1) << 14 | (cores - 1) << 26;
        [eax, (ways - 1) << 22 | 63, sets - 1, 0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cx() -> CpuidContext {
        CpuidContext {
            apic_id: 3,
            vcpus: 4,
            osxsave: true,
            xcr0: 7,
            tsc_hz: 1_000_000_000,
        }
    }

    #[test]
    fn levels_carry_their_psabi_features() {
        let v2 = CpuModel::named("x86-64-v2").unwrap();
        let v3 = CpuModel::named("x86-64-v3").unwrap();
        let [_, _, ecx2, _] = v2.cpuid(1, 0, &cx());
        let [_, _, ecx3, _] = v3.cpuid(1, 0, &cx());
        let level2 = 1 << 0 | 1 << 9 | 1 << 13 | 1 << 19 | 1 << 20 | 1 << 23;
        assert_eq!(ecx2 & level2, level2);
        let level3 = 1 << 12 | 1 << 22 | 1 << 27 | 1 << 28 | 1 << 29;
        assert_eq!(ecx3 & level3, level3);
        assert_eq!(ecx2 & (1 << 28 | 1 << 12), 0, "no AVX below v3");
        assert_eq!(
            v3.cpuid(7, 0, &cx())[1] & (1 << 3 | 1 << 5 | 1 << 8),
            1 << 3 | 1 << 5 | 1 << 8
        );
        assert!(CpuModel::named("host").is_none());
    }

    #[test]
    fn a_model_leaves_out_what_a_host_lacks_but_not_its_level() {
        let v3 = CpuModel::named("x86-64-v3").unwrap();
        let lack = |leaf, subleaf, register, bit| {
            Features::ALL.without(&Features::default().with(leaf, subleaf, register, bit))
        };
        let without_pcid = v3.within(&lack(1, 0, 2, 17)).unwrap();
        let [_, _, all, _] = v3.cpuid(1, 0, &cx());
        let [_, _, some, _] = without_pcid.cpuid(1, 0, &cx());
        assert_eq!(all & !some, 1 << 17);
        assert_eq!(v3.features().without(&without_pcid.features()).names(), ["PCID"]);
        let error = v3.within(&lack(7, 0, 1, 5)).unwrap_err().to_string();
        assert!(error.contains("x86-64-v3") && error.contains("AVX2"), "{error}");
        let v2 = CpuModel::named("x86-64-v2").unwrap();
        assert_eq!(
            v2.within(&lack(7, 0, 1, 5)),
            Ok(CpuModel {
                allowed: lack(7, 0, 1, 5),
                ..v2
            })
        );
        let mut flawed = Features::ALL;
        flawed.arch_capabilities = 1;
        assert_eq!(v3.within(&flawed).unwrap().arch_capabilities(), 1);
    }

    #[test]
    fn any_counter_frequency_can_be_told() {
        let m = CpuModel::named("x86-64-v3").unwrap();
        for tsc_hz in [1_000_000_000, 2_500_000_000, 2_899_123_000, 1] {
            let [of, to, crystal, _] = m.cpuid(0x15, 0, &CpuidContext { tsc_hz, ..cx() });
            assert_eq!(crystal as u64 * to as u64 / of as u64, tsc_hz);
        }
    }

    #[test]
    fn every_leaf_answers() {
        let m = CpuModel::named("x86-64-v3").unwrap();
        for base in [0u32, 0x4000_0000, 0x8000_0000, 0xffff_ff00] {
            for leaf in base..=base.saturating_add(0x100) {
                for sub in 0..5 {
                    m.cpuid(leaf, sub, &cx());
                }
            }
        }
        for vcpus in [1, 2, 3, 64, 255] {
            m.cpuid(0xb, 1, &CpuidContext { vcpus, ..cx() });
            m.cpuid(4, 3, &CpuidContext { vcpus, ..cx() });
        }
    }
}
