//! Everything a local APIC remembers, as plain data, the same for every engine (Intel SDM vol. 3A ch. 11).

/// Entries of the local vector table, in the order of their offsets from 0x320, CMCI last.
pub const LVT_ENTRIES: usize = 7;

/// One local APIC. Registers that follow from others (PPR, APR, x2APIC's LDR) are left out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApicState {
    /// APIC ID.
    pub id: u32,
    /// IA32_APIC_BASE.
    pub base: u64,
    /// Task priority.
    pub tpr: u8,
    /// Logical destination of xAPIC mode.
    pub ldr: u32,
    /// Destination format of xAPIC mode.
    pub dfr: u32,
    /// Spurious-interrupt vector register.
    pub svr: u32,
    /// Interrupts in service, vector 0 in bit 0 of the first word.
    pub isr: [u64; 4],
    /// Vectors that came from a level-triggered source.
    pub tmr: [u64; 4],
    /// Interrupts requested.
    pub irr: [u64; 4],
    /// Error status as it reads.
    pub esr: u8,
    /// Errors since ESR was written last.
    pub errors: u8,
    /// Interrupt command; the destination in the upper half, where each mode has it.
    pub icr: u64,
    /// Local vector table.
    pub lvt: [u32; LVT_ENTRIES],
    /// Divide configuration.
    pub divide: u32,
    /// Initial count.
    pub initial_count: u32,
    /// What is left of it.
    pub current_count: u32,
    /// IA32_TSC_DEADLINE in ticks of the domain's clock (before IA32_TSC_ADJUST); 0 is disarmed.
    pub tsc_deadline: u64,
}
