//! KVM's paravirtual clock: the two records a guest asks for through KVM_SYSTEM_TIME_NEW and
//! KVM_WALL_CLOCK_NEW (Linux, virt/kvm/x86/msr, `struct pvclock_vcpu_time_info`).

/// Flag: the time-stamp counter runs at one constant rate and agrees between vCPUs.
pub const TSC_STABLE: u8 = 1;

/// How a time-stamp counter of a given frequency becomes nanoseconds: shift left, multiply, drop 32 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scale {
    /// `tsc_to_system_mul`.
    pub multiplier: u32,
    /// `tsc_shift`: left if positive, right if negative.
    pub shift: i8,
}

impl Scale {
    /// The scale for a counter of `hz` (at least 1 kHz).
    pub fn from_hz(hz: u64) -> Self {
        let (mut shift, mut rate) = (0i8, hz as u128);
        let second = 1_000_000_000u128;
        while rate > 2 * second {
            rate >>= 1;
            shift -= 1;
        }
        while rate <= second {
            rate <<= 1;
            shift += 1;
        }
        Self {
            multiplier: ((second << 32) / rate) as u32,
            shift,
        }
    }

    /// Nanoseconds in `ticks`.
    pub fn nanoseconds(self, ticks: u64) -> u64 {
        let t = if self.shift < 0 {
            ticks >> -self.shift
        } else {
            ticks << self.shift
        };
        ((t as u128 * self.multiplier as u128) >> 32) as u64
    }
}

/// The 32-byte per-vCPU record: at counter value `tsc` the system time was `nanoseconds`.
pub fn system_time(version: u32, tsc: u64, nanoseconds: u64, scale: Scale) -> [u8; 32] {
    let mut r = [0; 32];
    r[0..4].copy_from_slice(&version.to_le_bytes());
    r[8..16].copy_from_slice(&tsc.to_le_bytes());
    r[16..24].copy_from_slice(&nanoseconds.to_le_bytes());
    r[24..28].copy_from_slice(&scale.multiplier.to_le_bytes());
    r[28] = scale.shift as u8;
    r[29] = TSC_STABLE;
    r
}

/// The 12-byte wall-clock record: the time of day when system time was zero.
pub fn wall_clock(version: u32, seconds: u32, nanoseconds: u32) -> [u8; 12] {
    let mut r = [0; 12];
    for (i, v) in [version, seconds, nanoseconds].into_iter().enumerate() {
        r[i * 4..i * 4 + 4].copy_from_slice(&v.to_le_bytes());
    }
    r
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_exact_to_a_millionth() {
        for hz in [
            1_000_000,
            999_999_999,
            1_000_000_000,
            2_000_000_000,
            2_000_000_001,
            5_123_456_789,
        ] {
            let got = Scale::from_hz(hz).nanoseconds(hz * 10) as i128;
            assert!((got - 10_000_000_000).abs() < 10_000, "{hz} Hz: {got}");
        }
    }
}
