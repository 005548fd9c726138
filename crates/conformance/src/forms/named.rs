//! The forms that random cases do not compare, or not in full, each with the reason.

use crate::case::Mode;
use iced_x86::{Code, Mnemonic};

/// Why a form is not compared in full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Named {
    /// No case is made.
    NotRun(&'static str),
    /// Cases run and compare what there is to compare; the reason says what is not.
    Partly(&'static str),
}

impl Named {
    /// The reason.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotRun(r) | Self::Partly(r) => r,
        }
    }
}

/// The entry of `code`, if it has one.
pub fn named(code: Code, mode: Mode) -> Option<Named> {
    use Mnemonic::*;
    use Named::*;
    let op = code.op_code();
    Some(match code.mnemonic() {
        Syscall | Sysenter => NotRun("enters the host's kernel; guest-level tests cover it"),
        // A processor with UMIP faults; Linux then emulates all but SLDT and STR with made-up values.
        Sgdt | Sidt | Smsw | Sldt | Str => {
            NotRun("UMIP: the host's kernel answers in the processor's stead (Linux, umip.rst)")
        }
        _ if matches!(
            code,
            Code::Call_m1664
                | Code::Jmp_m1664
                | Code::Lss_r64_m1664
                | Code::Lfs_r64_m1664
                | Code::Lgs_r64_m1664
        ) =>
        {
            NotRun("AMD reads a 32-bit offset here (AMD APM vol. 3, JMP Far, LSS)")
        }
        _ if matches!(
            code,
            Code::Reservednop_rm16_r16_0F0D
                | Code::Reservednop_rm32_r32_0F0D
                | Code::Reservednop_rm64_r64_0F0D
        ) =>
        {
            NotRun("with a register operand AMD raises #UD (AMD APM vol. 3, PREFETCHlevel)")
        }
        Sysret if mode != Mode::Long => {
            NotRun("outside 64-bit mode Intel raises #UD, AMD #GP at CPL 3 (AMD APM vol. 3, SYSRET)")
        }
        _ if code == Code::Movsxd_r16_rm16 => {
            Partly("AMD reads 32 bits of memory (AMD APM vol. 3, MOVSXD), Intel 16: only with a register")
        }
        Int1 => Partly("a hypervisor below the host may deliver it as a fault: RIP is not compared"),
        Ud0 => NotRun("whether a ModRM byte belongs to it depends on the vendor (AMD APM vol. 3, UD0)"),
        Rdtsc => Partly("the time differs: only that it is written as two 32-bit halves"),
        Rdtscp => Partly("time and processor number differ: only that they are 32-bit"),
        Rdpid => Partly("the processor number differs: only faults and the other registers"),
        Cpuid => Partly("the model differs from the host's: only that the four registers are 32-bit"),
        Rdrand | Rdseed => Partly("the number is random: its value and the success flag are not compared"),
        Xgetbv => Partly("XCR0 differs from the host's: only faults and the other registers"),
        Xsave | Xsave64 | Xsaveopt | Xsaveopt64 | Xsavec | Xsavec64 => {
            Partly("which components are in their initial state is up to the processor (SDM vol. 1 §13.6)")
        }
        Int => Partly("only vectors without a gate at CPL 3; the others enter the host's kernel"),
        Monitor | Mwait => NotRun("the guest model does not have it, and the host may have it at CPL 3"),
        _ if op.is_privileged() || op.must_be_cpl0() || !op.cpl3() => {
            Partly("privileged: only its fault at CPL 3; guest-level tests cover the rest")
        }
        _ if mode == Mode::Long && matches!(code, Code::Iretw | Code::Retfw | Code::Retfw_imm16) => {
            Partly("leads to 16-bit addresses, where nothing is mapped: only its faults")
        }
        _ => return None,
    })
}
