//! The floating-point environment of one instruction.

/// Invalid operation (SDM vol. 1 4.9.1.1); bit 0 of MXCSR and of the x87 status word.
pub const IE: u8 = 0x01;
/// Denormal operand (SDM vol. 1 4.9.1.2).
pub const DE: u8 = 0x02;
/// Division by zero (SDM vol. 1 4.9.1.3).
pub const ZE: u8 = 0x04;
/// Numeric overflow (SDM vol. 1 4.9.1.4).
pub const OE: u8 = 0x08;
/// Numeric underflow (SDM vol. 1 4.9.1.5).
pub const UE: u8 = 0x10;
/// Inexact result, "precision" (SDM vol. 1 4.9.1.6).
pub const PE: u8 = 0x20;
/// All six exceptions; as a mask value, everything masked.
pub const ALL: u8 = 0x3f;
/// The exceptions detected on the operands, before anything is computed (SDM vol. 1 4.9).
pub const PRE: u8 = IE | DE | ZE;

/// Rounding modes in their RC encoding (SDM vol. 1 table 4-8).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Rounding {
    /// To nearest, ties to even.
    #[default]
    Nearest,
    /// Toward minus infinity.
    Down,
    /// Toward plus infinity.
    Up,
    /// Toward zero.
    Zero,
}

impl Rounding {
    /// Decodes a two-bit RC field; higher bits are ignored.
    #[inline]
    pub const fn from_bits(rc: u32) -> Self {
        match rc & 3 {
            0 => Rounding::Nearest,
            1 => Rounding::Down,
            2 => Rounding::Up,
            _ => Rounding::Zero,
        }
    }
}

/// Control inputs and collected exceptions of one instruction.
///
/// A handler builds it from MXCSR or the x87 control word, runs every lane of the instruction with it
/// and then looks at the flags. `flags` starts empty: it holds the exceptions of this instruction only,
/// not the sticky ones already present in the register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Env {
    /// Rounding mode.
    pub rounding: Rounding,
    /// Denormals-are-zeros (SSE only, SDM vol. 1 10.2.3.4).
    pub daz: bool,
    /// Flush-to-zero (SSE only, SDM vol. 1 10.2.3.3); without effect while underflow is unmasked.
    pub ftz: bool,
    /// Masked exceptions: a set bit is a masked one, bit order of the flags.
    pub masks: u8,
    /// Exceptions raised so far.
    pub flags: u8,
    /// Whether `flags` have already been reduced to what is reported; set by operations of several
    /// steps, whose later steps must not hide the exceptions of earlier ones.
    pub settled: bool,
    /// Significand bits of x87 results (24, 53 or 64; SDM vol. 1 8.1.5.2). Ignored by SSE.
    pub precision: u32,
    /// Whether the last inexact x87 result was rounded away from zero, the C1 of SDM vol. 1 8.1.3.2.
    pub rounded_up: bool,
}

impl Default for Env {
    fn default() -> Self {
        Env::from_mxcsr(0x1f80)
    }
}

impl Env {
    /// The environment described by MXCSR (SDM vol. 1 10.2.3); its sticky flags are not taken over.
    #[inline]
    pub const fn from_mxcsr(mxcsr: u32) -> Self {
        Env {
            rounding: Rounding::from_bits(mxcsr >> 13),
            daz: mxcsr & (1 << 6) != 0,
            ftz: mxcsr & (1 << 15) != 0,
            masks: (mxcsr >> 7) as u8 & ALL,
            flags: 0,
            settled: false,
            precision: 64,
            rounded_up: false,
        }
    }

    /// The environment described by the x87 control word (SDM vol. 1 8.1.5).
    #[inline]
    pub const fn from_fcw(fcw: u16) -> Self {
        Env {
            rounding: Rounding::from_bits((fcw >> 10) as u32),
            daz: false,
            ftz: false,
            masks: fcw as u8 & ALL,
            flags: 0,
            settled: false,
            precision: match (fcw >> 8) & 3 {
                0 => 24,
                2 => 53,
                _ => 64,
            },
            rounded_up: false,
        }
    }

    /// Whether an exception raised so far is unmasked.
    #[inline]
    pub const fn unmasked(&self, of: u8) -> bool {
        self.flags & !self.masks & of != 0
    }

    /// The flags a SIMD instruction sets in MXCSR once all its lanes have run.
    ///
    /// An unmasked pre-computation exception in any lane stops the instruction before the computation,
    /// so the post-computation exceptions other lanes would have had are not seen (SDM vol. 1 11.5.2
    /// and 11.5.3).
    #[inline]
    pub const fn sse_flags(&self) -> u8 {
        if self.unmasked(PRE) && !self.settled {
            self.flags & PRE
        } else {
            self.flags
        }
    }

    /// Runs one step of an instruction that evaluates exceptions step by step and takes over the flags
    /// the step reports. Returns the step's result, or `None` if it ends the instruction with #XM.
    #[inline]
    pub fn step<T>(&mut self, run: impl FnOnce(&mut Env) -> T) -> Option<T> {
        let mut step = Env {
            flags: 0,
            settled: false,
            ..*self
        };
        let result = run(&mut step);
        self.flags |= step.sse_flags();
        self.settled = true;
        if step.sse_fault() { None } else { Some(result) }
    }

    /// Whether a SIMD instruction delivers #XM and leaves its destination alone (SDM vol. 1 11.5.3).
    #[inline]
    pub const fn sse_fault(&self) -> bool {
        self.unmasked(ALL)
    }

    /// Whether an x87 instruction still writes its register destination (and pops): not after an
    /// unmasked pre-computation exception (SDM vol. 1 8.5).
    #[inline]
    pub const fn x87_writes_register(&self) -> bool {
        !self.unmasked(PRE)
    }

    /// Whether FLD of a 32-bit or 64-bit operand pushes the value. Unlike everywhere else an unmasked
    /// denormal exception does not prevent that: the value in the register is already a normal one.
    #[inline]
    pub const fn x87_writes_load(&self) -> bool {
        !self.unmasked(IE)
    }

    /// Whether an x87 store still writes memory (and pops): an unmasked overflow or underflow also
    /// prevents it, only an unmasked precision exception does not (SDM vol. 1 8.5.4 to 8.5.6).
    #[inline]
    pub const fn x87_writes_memory(&self) -> bool {
        !self.unmasked(PRE | OE | UE)
    }
}
