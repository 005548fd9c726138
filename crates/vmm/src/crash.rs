//! What is told of a guest that crashed its processor.

use donjon_x86::bits::{cr0, efer, rflags};
use donjon_x86::{CpuState, Seg, exception};
use std::fmt;

/// A vCPU at the point where it could not go on.
#[derive(Clone, Debug)]
pub struct Crash {
    /// Which one.
    pub vcpu: usize,
    /// Its state.
    pub state: Box<CpuState>,
}

impl Crash {
    /// The mode it ran in.
    fn mode(&self) -> &'static str {
        let (s, cs) = (&self.state, self.state.segments[Seg::Cs as usize].attributes);
        match () {
            () if s.cr0 & cr0::PE == 0 => "real mode",
            () if s.rflags & rflags::VM != 0 => "virtual-8086 mode",
            () if s.msrs.efer & efer::LMA != 0 && cs.long() => "64-bit mode",
            () if s.msrs.efer & efer::LMA != 0 => "compatibility mode",
            () if cs.big() => "32-bit protected mode",
            () => "16-bit protected mode",
        }
    }

    /// What probably led here, as far as the state shows it.
    fn reason(&self) -> String {
        let s = &self.state;
        if let Some(event) = s.pending {
            let code = event
                .error_code
                .map_or(String::new(), |c| format!(" with error code {c:#x}"));
            let why = if s.idtr.limit == 0 {
                ": there is no interrupt table (IDT limit 0)"
            } else {
                ""
            };
            return format!(
                "{} (vector {}){code} could not be delivered{why}",
                exception::name(event.vector),
                event.vector
            );
        }
        if s.idtr.limit == 0 {
            return "an exception or interrupt came while there was no interrupt table (IDT limit 0)".into();
        }
        format!(
            "an exception came, its handler could not be reached, and neither could that for #DF; CR2 is {:#x}",
            s.cr2
        )
    }

    /// What to do next.
    pub fn fix(&self) -> String {
        if self.state.idtr.limit == 0 {
            // Kernels do this early, or on purpose: it is the last resort of a reboot.
            return "if the kernel meant to reboot, leave out --no-reboot; else watch its first steps: --append \
                    'console=ttyS0 earlyprintk=serial,ttyS0,115200 nokaslr'"
                .into();
        }
        "see the guest's last messages: --append 'console=ttyS0 earlyprintk=serial,ttyS0,115200 nokaslr', and find \
         rip with: addr2line -fe vmlinux RIP; a newer instruction set may help: --cpu-model x86-64-v3"
            .into()
    }
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = &self.state;
        let cs = s.segments[Seg::Cs as usize];
        writeln!(
            f,
            "triple fault on vCPU {} at rip {:#x}: {}",
            self.vcpu,
            s.rip,
            self.reason()
        )?;
        writeln!(
            f,
            "  {}, ring {}, cs {:#06x} base {:#x}",
            self.mode(),
            cs.selector & 3,
            cs.selector,
            cs.base
        )?;
        const NAMES: [&str; 16] = [
            "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
            "r14", "r15",
        ];
        for (names, values) in NAMES.chunks(4).zip(s.gpr.chunks(4)) {
            let row: Vec<_> = names
                .iter()
                .zip(values)
                .map(|(n, v)| format!("{n:>3} {v:016x}"))
                .collect();
            writeln!(f, "  {}", row.join(" "))?;
        }
        writeln!(
            f,
            "  rflags {:#x}  cr0 {:#x}  cr2 {:#x}  cr3 {:#x}  cr4 {:#x}",
            s.rflags, s.cr0, s.cr2, s.cr3, s.cr4
        )?;
        let (gdt, idt) = (s.gdtr, s.idtr);
        write!(
            f,
            "  efer {:#x}  gdt {:#x}+{:#x}  idt {:#x}+{:#x}",
            s.msrs.efer, gdt.base, gdt.limit, idt.base, idt.limit
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_shows_where_and_why() {
        let mut state = CpuState::reset();
        state.rip = 0x1234;
        state.idtr.limit = 0;
        let crash = Crash {
            vcpu: 1,
            state: Box::new(state),
        };
        let text = crash.to_string();
        assert!(
            text.starts_with("triple fault on vCPU 1 at rip 0x1234: "),
            "{text}"
        );
        assert!(
            text.contains("no interrupt table") && text.contains("real mode") && text.contains("cr3 0x0")
        );
        assert!(crash.fix().contains("--no-reboot"));
    }
}
