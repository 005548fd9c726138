//! Which registers, immediates and memory a case's instruction names.

use super::{Builder, Fixup};
use crate::case::Mode;
use crate::encode::{self, Rm};
use crate::layout::*;
use crate::regs::XSAVE_SIZE;
use crate::values;
use iced_x86::{Code, MemorySize, OpCodeOperandKind as Kind};

const RBX: u8 = 3;
const RSI: u8 = 6;
const RDI: u8 = 7;
const ES: usize = 0;
const DS: usize = 3;

/// Bits of a general-purpose register operand.
fn register_bits(kind: Kind) -> Option<u32> {
    Some(match kind {
        Kind::r8_reg | Kind::r8_opcode | Kind::r8_or_mem | Kind::al | Kind::cl => 8,
        Kind::r16_reg | Kind::r16_opcode | Kind::r16_or_mem | Kind::r16_rm | Kind::ax | Kind::dx => 16,
        Kind::r32_reg | Kind::r32_opcode | Kind::r32_or_mem | Kind::r32_rm | Kind::r32_vvvv | Kind::eax => 32,
        Kind::r64_reg | Kind::r64_opcode | Kind::r64_or_mem | Kind::r64_rm | Kind::r64_vvvv | Kind::rax => 64,
        _ => return None,
    })
}

impl Builder {
    /// Chooses every operand.
    pub(super) fn operands(&mut self) {
        let op = self.op;
        if self.mode == Mode::Long && self.rng.chance(1, 4) {
            // An empty REX turns AH … BH into SPL … DIL.
            self.choice.rex = 0x40;
        }
        for &kind in op.op_kinds() {
            self.operand(kind);
        }
        // The immediates come last and in order.
        for &kind in op.op_kinds() {
            self.immediate(kind);
        }
        self.implicit_addresses();
    }

    fn register(&mut self) -> u8 {
        self.rng.below(self.mode.registers() as u64) as u8
    }

    fn operand(&mut self, kind: Kind) {
        let register = self.register();
        if encode::is_vsib(kind) {
            self.gather(kind);
            return;
        }
        if encode::is_reg(kind) {
            self.choice.reg = match kind {
                Kind::seg_reg => self.segment_register(),
                Kind::cr_reg => self.rng.pick(&[0, 2, 3, 4]),
                Kind::mm_reg | Kind::dr_reg => register & 7,
                _ => register,
            };
            self.interesting(kind, self.choice.reg);
        } else if encode::is_vvvv(kind) {
            self.choice.vvvv = register;
            self.interesting(kind, register);
        } else if encode::is_opcode_register(kind) {
            self.choice.opcode_register = if kind == Kind::sti_opcode {
                register & 7
            } else {
                register
            };
            self.interesting(kind, self.choice.opcode_register);
        } else if encode::can_be_memory(kind)
            && (!encode::can_be_register(kind) || self.rng.chance(3, 5))
            // AMD reads 32 bits here, Intel 16.
            && self.code != Code::Movsxd_r16_rm16
        {
            let size = self.memory_size();
            self.choice.rm = self.memory_operand(size);
            self.fill_memory();
        } else if encode::can_be_register(kind) {
            let mm = matches!(kind, Kind::mm_or_mem | Kind::mm_rm);
            self.choice.rm = Rm::Register(if mm { register & 7 } else { register });
            self.interesting(kind, register);
        }
    }

    /// CS cannot be loaded, and numbers 6 and 7 are no register: rarely.
    fn segment_register(&mut self) -> u8 {
        if self.rng.chance(1, 30) {
            self.illegal = true;
            return self.rng.pick(&[1, 6, 7]);
        }
        self.rng.pick(&[0, 2, 3, 4, 5])
    }

    /// Often gives a register operand a value interesting at its size.
    fn interesting(&mut self, kind: Kind, register: u8) {
        let Some(bits) = register_bits(kind) else { return };
        if bits == 64 || self.rng.chance(1, 2) {
            return;
        }
        let (register, shift) = match register {
            // AH … BH.
            4..=7 if bits == 8 && self.choice.rex == 0 => (register - 4, 8),
            r => (r, 0),
        };
        if self.pinned(register) || (register == 4 && self.rng.chance(1, 2)) {
            return;
        }
        let mask = (u64::MAX >> (64 - bits)) << shift;
        let value = values::integer(&mut self.rng, bits) << shift;
        let r = &mut self.regs.gpr[register as usize];
        *r = *r & !mask | value;
    }

    /// Bytes of the memory operand.
    fn memory_size(&self) -> usize {
        match self.op.memory_size() {
            MemorySize::Xsave | MemorySize::Xsave64 => XSAVE_SIZE,
            // LEA, NOP and the like: any.
            m => m.size().max(1),
        }
    }

    /// Gives the memory operand an interesting value.
    fn fill_memory(&mut self) {
        let Some((address, size)) = self.memory else {
            return;
        };
        match self.op.memory_size() {
            MemorySize::Float80 => {
                let (s, e) = values::extended(&mut self.rng);
                self.patch_word(address, s, 8);
                self.patch_word(address.wrapping_add(8), e as u64, 2);
            }
            MemorySize::Float32 if !self.is_vector() => {
                let v = values::single(&mut self.rng) as u64;
                self.patch_word(address, v, 4);
            }
            MemorySize::Float64 if !self.is_vector() => {
                let v = values::double(&mut self.rng);
                self.patch_word(address, v, 8);
            }
            MemorySize::Bcd => {
                let mut digits: [u8; 10] =
                    std::array::from_fn(|_| (self.rng.below(10) << 4 | self.rng.below(10)) as u8);
                digits[9] = self.rng.pick(&[0, 0x80, 0x7f, 0xff]);
                self.patch(address, &digits);
            }
            _ if self.is_vector() && size <= 64 => {
                let mut bytes = Vec::with_capacity(size + 8);
                while bytes.len() < size {
                    bytes.extend(self.flavor.word(&mut self.rng).to_le_bytes());
                }
                self.patch(address, &bytes[..size]);
            }
            _ if size <= 8 => {
                let v = values::integer(&mut self.rng, size as u32 * 8);
                self.patch_word(address, v, size);
            }
            _ => {}
        }
    }

    fn is_vector(&self) -> bool {
        use Kind::*;
        (self.op.op_kinds().iter()).any(|k| {
            matches!(
                k,
                xmm_reg | xmm_or_mem | xmm_vvvv | ymm_reg | ymm_or_mem | ymm_vvvv | mm_reg
            )
        })
    }

    fn immediate(&mut self, kind: Kind) {
        let size = encode::immediate_size(kind, self.address_bits as usize / 8);
        let value = match kind {
            Kind::br16_1 | Kind::br32_1 | Kind::br64_1 | Kind::br16_2 | Kind::br32_4 | Kind::br64_4 => {
                self.fixup = Fixup::Branch(size);
                0
            }
            Kind::xmm_is4 | Kind::ymm_is4 => {
                // The low bits are ignored; so is the top bit outside 64-bit mode.
                self.rng.draw() & if self.mode == Mode::Long { 0xff } else { 0x7f }
            }
            Kind::mem_offs => {
                self.address_size_prefix();
                return self.absolute_offset();
            }
            Kind::farbr2_2 | Kind::farbr4_2 => {
                let (offset, selector) = self.far_target(size - 2);
                self.choice.immediate.extend(&offset.to_le_bytes()[..size - 2]);
                self.choice.immediate.extend(&selector.to_le_bytes());
                return;
            }
            _ if size == 0 => return,
            _ => values::integer(&mut self.rng, size as u32 * 8),
        };
        self.choice.immediate.extend(&value.to_le_bytes()[..size]);
    }

    /// MOV with an absolute address.
    fn absolute_offset(&mut self) {
        let bytes = self.address_bits as usize / 8;
        let segment = self.segment(DS);
        let size = self.memory_size();
        let linear = self.place(size);
        let offset = linear.wrapping_sub(self.segment_base(segment));
        self.choice.immediate.extend(&offset.to_le_bytes()[..bytes]);
        self.memory = Some((linear, size));
        self.fill_memory();
    }

    /// Addresses in RSI, RDI and RBX that the encoding does not name.
    fn implicit_addresses(&mut self) {
        let kinds = self.op.op_kinds();
        let implicit =
            |k: &Kind| matches!(k, Kind::seg_rSI | Kind::es_rDI | Kind::seg_rDI | Kind::seg_rBX_al);
        if !kinds.iter().any(implicit) {
            return;
        }
        self.address_size_prefix();
        let size = self.memory_size();
        for &kind in kinds {
            let (register, segment) = match kind {
                Kind::seg_rSI => (RSI, self.segment(DS)),
                Kind::es_rDI => (RDI, ES),
                Kind::seg_rDI => (RDI, self.segment(DS)),
                Kind::seg_rBX_al => (RBX, self.segment(DS)),
                _ => continue,
            };
            let mut linear = self.place(size);
            if kind == Kind::seg_rBX_al {
                linear = linear.wrapping_sub(self.regs.gpr[0] & 0xff);
            }
            self.point(register, segment, linear);
        }
    }

    /// Gathers: the mask register is VEX.vvvv, and the three registers must differ.
    fn gather(&mut self, kind: Kind) {
        let destination = self.register();
        let (mut index, mut mask) = (destination, destination);
        while index == destination || mask == destination || mask == index {
            (index, mask) = (self.register(), self.register());
        }
        if self.rng.chance(1, 40) {
            // #UD.
            mask = self.rng.pick(&[index, destination]);
            self.illegal = true;
        }
        for q in &mut self.regs.ymm[mask as usize] {
            *q = match self.rng.below(4) {
                0 => u64::MAX,
                1 => 0,
                _ => self.rng.draw(),
            };
        }
        self.choice.reg = destination;
        self.choice.vvvv = mask;
        let wide = matches!(kind, Kind::mem_vsib64x | Kind::mem_vsib64y);
        let bytes = if matches!(kind, Kind::mem_vsib32y | Kind::mem_vsib64y) {
            32
        } else {
            16
        };
        let count = bytes / if wide { 8 } else { 4 };
        let size = self.op.memory_size().element_type().size().clamp(4, 8);
        self.choice.rm = self.vector_addresses(index, wide, count, size);
    }

    /// An address for a branch to lead to, with a way out behind it in the code of `mode`. Sometimes an
    /// address where nothing is.
    pub(super) fn target(&mut self, mode: Mode) -> u64 {
        loop {
            let address = CODE + 16 + self.rng.below(CODE_SIZE - 64);
            if address.abs_diff(self.start) < 64 {
                continue;
            }
            self.way_out(address, STUB_TAKEN, mode);
            return match self.rng.below(24) {
                0 => SCRATCH_END + self.rng.below(64),
                1 => CODE - 1 - self.rng.below(16),
                _ => address,
            };
        }
    }
}
