//! The guest code of a round, for reports and for what it leaves undefined.

use crate::cpu::Cpu;
use crate::decode::{features, status};
use donjon_x86::bits::rflags;
use iced_x86::{Decoder, FlowControl, Instruction, InstructionInfoFactory, OpKind, Register};
use std::fmt::Write;

/// Instructions in the order in which a unit has them.
#[derive(Default)]
pub(super) struct Code(Vec<(u64, Instruction, [u8; 15])>);

impl Code {
    /// `count` instructions from `rip` on, with direct jumps followed and conditional ones not taken, to an
    /// indirect one.
    pub fn read(cpu: &mut Cpu, rip: u64, count: usize) -> Self {
        let options = features::options(&cpu.board.model);
        let (mut at, mut list) = (rip, vec![]);
        while list.len() < count {
            let mut bytes = [0; 15];
            for (n, byte) in bytes.iter_mut().enumerate() {
                let linear = cpu.fetch_linear(at.wrapping_add(n as u64));
                if let Some((offset, _)) = cpu.direct_fetch(linear) {
                    *byte = cpu.board.ram.load(offset);
                }
            }
            let i = Decoder::with_ip(cpu.code.bits(), &bytes, at, options).decode();
            if i.is_invalid() {
                break;
            }
            at = match i.flow_control() {
                FlowControl::UnconditionalBranch => i.near_branch_target(),
                _ => i.next_ip(),
            };
            list.push((i.ip(), i, bytes));
            if matches!(
                i.flow_control(),
                FlowControl::Return | FlowControl::IndirectBranch
            ) {
                break;
            }
        }
        Self(list)
    }

    /// Adds more code behind it.
    pub fn append(&mut self, mut more: Self) {
        self.0.append(&mut more.0);
    }

    /// Status flags that the code leaves undefined; whether any may have been before.
    pub fn undefined_flags(&self, before: bool) -> u64 {
        let mut undefined = if before { rflags::STATUS } else { 0 };
        for (_, i, _) in &self.0 {
            // A shift by a count in a register may do nothing.
            let maybe = i.op_count() > 1 && i.op_register(i.op_count() - 1) == Register::CL;
            if !maybe {
                undefined &= !status(i.rflags_written() | i.rflags_cleared() | i.rflags_set());
            }
            undefined |= status(i.rflags_undefined());
        }
        undefined
    }

    fn uses(&self, of: impl Fn(Register) -> bool) -> bool {
        let mut info = InstructionInfoFactory::new();
        self.0
            .iter()
            .any(|(_, i, _)| info.info(i).used_registers().iter().any(|r| of(r.register())))
    }

    pub fn has_vectors(&self) -> bool {
        self.uses(|r| r.is_vector_register())
    }

    pub fn has_x87(&self) -> bool {
        self.uses(|r| r.is_st() || r.is_mm()) || self.0.iter().any(|(_, _, b)| (0xd8..=0xdf).contains(&b[0]))
    }

    /// The instructions, a line each.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (at, i, bytes) in &self.0 {
            let bytes: String = bytes[..i.len()].iter().map(|b| format!("{b:02x}")).collect();
            let _ = write!(text, "  {at:x}  {bytes:<30}  {:?}", i.code());
            for n in 0..i.op_count() {
                let _ = match i.op_kind(n) {
                    OpKind::Register => write!(text, " {:?}", i.op_register(n)),
                    OpKind::Memory => {
                        let (base, index) = (i.memory_base(), i.memory_index());
                        let (scale, disp) = (i.memory_index_scale(), i.memory_displacement64());
                        write!(
                            text,
                            " [{:?}:{base:?}+{index:?}*{scale}+{disp:#x}]",
                            i.memory_segment()
                        )
                    }
                    OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                        write!(text, " {:#x}", i.near_branch_target())
                    }
                    OpKind::FarBranch16 | OpKind::FarBranch32 => write!(text, " far"),
                    k if (k as u32) >= OpKind::Immediate8 as u32
                        && (k as u32) <= OpKind::Immediate32to64 as u32 =>
                    {
                        write!(text, " {:#x}", i.immediate(n))
                    }
                    _ => write!(text, " string"),
                };
            }
            text.push('\n');
        }
        text
    }
}
