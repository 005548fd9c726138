//! Sets of processor features, as CPUID and IA32_ARCH_CAPABILITIES show them.

use crate::cpuid::Leaf;

/// The CPUID registers that consist of feature bits: leaf, subleaf, and EAX to EDX as 0 to 3.
const REGISTERS: [(u32, u32, usize); 9] = [
    (1, 0, 2),
    (1, 0, 3),
    (7, 0, 1),
    (7, 0, 2),
    (7, 0, 3),
    (0xd, 1, 0),
    (0x8000_0001, 0, 2),
    (0x8000_0001, 0, 3),
    (0x8000_0007, 0, 3),
];

/// Leaf, subleaf, register and bit.
type Bit = (u32, u32, usize, u32);

/// Names of those that a CPU model may have, in the Intel SDM's words.
const NAMES: [(Bit, &str); 46] = [
    ((1, 0, 2, 0), "SSE3"),
    ((1, 0, 2, 1), "PCLMULQDQ"),
    ((1, 0, 2, 9), "SSSE3"),
    ((1, 0, 2, 12), "FMA"),
    ((1, 0, 2, 13), "CMPXCHG16B"),
    ((1, 0, 2, 17), "PCID"),
    ((1, 0, 2, 19), "SSE4.1"),
    ((1, 0, 2, 20), "SSE4.2"),
    ((1, 0, 2, 21), "x2APIC"),
    ((1, 0, 2, 22), "MOVBE"),
    ((1, 0, 2, 23), "POPCNT"),
    ((1, 0, 2, 24), "TSC-Deadline"),
    ((1, 0, 2, 25), "AES"),
    ((1, 0, 2, 26), "XSAVE"),
    ((1, 0, 2, 28), "AVX"),
    ((1, 0, 2, 29), "F16C"),
    ((1, 0, 2, 30), "RDRAND"),
    ((7, 0, 1, 0), "FSGSBASE"),
    ((7, 0, 1, 1), "IA32_TSC_ADJUST"),
    ((7, 0, 1, 3), "BMI1"),
    ((7, 0, 1, 5), "AVX2"),
    ((7, 0, 1, 7), "SMEP"),
    ((7, 0, 1, 8), "BMI2"),
    ((7, 0, 1, 9), "ERMS"),
    ((7, 0, 1, 10), "INVPCID"),
    ((7, 0, 1, 18), "RDSEED"),
    ((7, 0, 1, 19), "ADX"),
    ((7, 0, 1, 20), "SMAP"),
    ((7, 0, 1, 23), "CLFLUSHOPT"),
    ((7, 0, 2, 2), "UMIP"),
    ((7, 0, 2, 22), "RDPID"),
    ((7, 0, 3, 4), "FSRM"),
    ((7, 0, 3, 26), "IBRS"),
    ((7, 0, 3, 29), "IA32_ARCH_CAPABILITIES"),
    ((7, 0, 3, 31), "SSBD"),
    ((0xd, 1, 0, 0), "XSAVEOPT"),
    ((0xd, 1, 0, 1), "XSAVEC"),
    ((0xd, 1, 0, 2), "XGETBV1"),
    ((0x8000_0001, 0, 2, 0), "LAHF64"),
    ((0x8000_0001, 0, 2, 5), "LZCNT"),
    ((0x8000_0001, 0, 2, 8), "PREFETCHW"),
    ((0x8000_0001, 0, 3, 11), "SYSCALL"),
    ((0x8000_0001, 0, 3, 20), "NX"),
    ((0x8000_0001, 0, 3, 26), "1 GiB pages"),
    ((0x8000_0001, 0, 3, 27), "RDTSCP"),
    ((0x8000_0007, 0, 3, 8), "invariant TSC"),
];

/// A set of features.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features {
    registers: [u32; REGISTERS.len()],
    /// IA32_ARCH_CAPABILITIES.
    pub arch_capabilities: u64,
}

impl Features {
    /// Every feature.
    pub const ALL: Self = Self {
        registers: [u32::MAX; REGISTERS.len()],
        arch_capabilities: u64::MAX,
    };

    /// Those in the answers of a CPUID, with an IA32_ARCH_CAPABILITIES.
    pub fn of(cpuid: impl Fn(u32, u32) -> Leaf, arch_capabilities: u64) -> Self {
        Self {
            registers: REGISTERS.map(|(leaf, subleaf, register)| cpuid(leaf, subleaf)[register]),
            arch_capabilities,
        }
    }

    /// These and one more: a bit of a CPUID register that consists of features.
    pub fn with(mut self, leaf: u32, subleaf: u32, register: usize, bit: u32) -> Self {
        for (word, at) in self.registers.iter_mut().zip(REGISTERS) {
            if at == (leaf, subleaf, register) {
                *word |= 1 << bit;
            }
        }
        self
    }

    /// What is in both.
    pub fn and(mut self, other: &Self) -> Self {
        for (word, others) in self.registers.iter_mut().zip(other.registers) {
            *word &= others;
        }
        self.arch_capabilities &= other.arch_capabilities;
        self
    }

    /// What is here and not there.
    pub fn without(mut self, other: &Self) -> Self {
        for (word, others) in self.registers.iter_mut().zip(other.registers) {
            *word &= !others;
        }
        self.arch_capabilities &= !other.arch_capabilities;
        self
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// A leaf of CPUID without the features that are not here.
    pub(crate) fn limit(&self, leaf: u32, subleaf: u32, answer: Leaf) -> Leaf {
        let mut answer = answer;
        for (word, at) in self.registers.iter().zip(REGISTERS) {
            if (at.0, at.1) == (leaf, subleaf) {
                answer[at.2] &= word;
            }
        }
        answer
    }

    /// Their names, of those that have one.
    pub fn names(&self) -> Vec<&'static str> {
        let has = |&(leaf, subleaf, register, bit): &Bit| {
            !self
                .and(&Self::default().with(leaf, subleaf, register, bit))
                .is_empty()
        };
        let mut names: Vec<_> = NAMES
            .iter()
            .filter(|(at, _)| has(at))
            .map(|(_, name)| *name)
            .collect();
        if self.arch_capabilities != 0 {
            names.push("processor without known flaws (IA32_ARCH_CAPABILITIES)");
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_cut_and_named() {
        let host = Features::ALL.without(&Features::default().with(1, 0, 2, 17).with(7, 0, 1, 5));
        let missing = Features::ALL.without(&host);
        assert_eq!(missing.names(), ["PCID", "AVX2"]);
        assert_eq!(host.limit(7, 0, [u32::MAX; 4])[1], !(1 << 5));
        assert_eq!(host.limit(7, 1, [5; 4]), [5; 4]);
        assert!(host.and(&missing).is_empty());
    }

    #[test]
    fn every_name_is_of_a_bit_that_is_looked_at() {
        for ((leaf, subleaf, register, bit), name) in NAMES {
            let one = Features::default().with(leaf, subleaf, register, bit);
            assert_eq!(one.names(), [name]);
        }
    }
}
