//! How other threads get a vCPU's attention: a word the vCPU looks at between instructions, and a place to
//! sleep while there is nothing to do.

use std::sync::atomic::{AtomicU32, Ordering::*};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

/// Interrupts a vCPU that does not look at the word by itself, because the processor runs the guest's own code.
pub trait Kick: Send {
    /// Makes it look, from any thread.
    fn kick(&self);
}

/// One vCPU's attention word.
#[derive(Default)]
pub struct Attention {
    bits: AtomicU32,
    kick: Mutex<Option<Box<dyn Kick>>>,
    wake: Condvar,
}

impl Attention {
    /// The local APIC may have an interrupt to deliver.
    pub const INTERRUPT: u32 = 1 << 0;
    /// A non-maskable interrupt.
    pub const NMI: u32 = 1 << 1;
    /// INIT.
    pub const INIT: u32 = 1 << 2;
    /// A start-up IPI; its vector is in bits 8-15.
    pub const SIPI: u32 = 1 << 3;
    /// The vCPU's owner wants [`crate::Vcpu::run`] to return.
    pub const KICK: u32 = 1 << 4;
    /// Guest code that some vCPU may have translated has changed.
    pub const CODE: u32 = 1 << 5;
    const SIPI_VECTOR: u32 = 0xff << 8;

    /// The word.
    #[inline(always)]
    pub fn bits(&self) -> u32 {
        self.bits.load(Relaxed)
    }

    /// The word's address, for code that looks at it by itself.
    pub fn address(&self) -> usize {
        &raw const self.bits as usize
    }

    /// Sets bits and wakes the vCPU.
    pub fn raise(&self, bits: u32) {
        if self.bits.fetch_or(bits, SeqCst) & bits != bits {
            self.notify();
        }
    }

    fn notify(&self) {
        let kick = self.kick.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(kick) = &*kick {
            kick.kick();
        }
        self.wake.notify_all();
    }

    /// Has every raise of a bit that was not set call `kick`, until this is called with `None`. Then no call is
    /// under way any more.
    pub fn set_kick(&self, kick: Option<Box<dyn Kick>>) {
        *self.kick.lock().unwrap_or_else(|e| e.into_inner()) = kick;
    }

    /// Raises [`Attention::SIPI`]. A second one before the first is taken is lost, as on hardware.
    pub fn raise_sipi(&self, vector: u8) {
        let set =
            |b| (b & Self::SIPI == 0).then_some(b & !Self::SIPI_VECTOR | Self::SIPI | (vector as u32) << 8);
        if self.bits.fetch_update(SeqCst, SeqCst, set).is_ok() {
            self.notify();
        }
    }

    /// Clears bits; returns those of them that were set.
    pub fn take(&self, bits: u32) -> u32 {
        self.bits.fetch_and(!bits, SeqCst) & bits
    }

    /// Takes a start-up IPI's vector.
    pub fn take_sipi(&self) -> Option<u8> {
        let was = self.bits.fetch_and(!(Self::SIPI | Self::SIPI_VECTOR), SeqCst);
        (was & Self::SIPI != 0).then_some((was >> 8) as u8)
    }

    /// Sleeps until one of `bits` is set, or `timeout` has passed. Returns the word.
    pub fn wait(&self, bits: u32, timeout: Option<Duration>) -> u32 {
        let held = self.kick.lock().unwrap_or_else(|e| e.into_inner());
        let asleep = |_: &mut Option<Box<dyn Kick>>| self.bits.load(SeqCst) & bits == 0;
        match timeout {
            Some(t) => drop(self.wake.wait_timeout_while(held, t, asleep)),
            None => drop(self.wake.wait_while(held, asleep)),
        }
        self.bits.load(SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn the_first_sipi_wins() {
        let a = Attention::default();
        a.raise_sipi(0x12);
        a.raise_sipi(0x34);
        assert_eq!(a.take_sipi(), Some(0x12));
        assert_eq!(a.take_sipi(), None);
    }

    #[test]
    fn a_raise_kicks_once_until_it_is_taken() {
        struct Count(Arc<AtomicU32>);
        impl Kick for Count {
            fn kick(&self) {
                self.0.fetch_add(1, SeqCst);
            }
        }
        let (a, kicks) = (Attention::default(), Arc::new(AtomicU32::new(0)));
        a.set_kick(Some(Box::new(Count(kicks.clone()))));
        a.raise(Attention::KICK);
        a.raise(Attention::KICK);
        assert_eq!(kicks.load(SeqCst), 1);
        a.take(Attention::KICK);
        a.raise(Attention::KICK | Attention::NMI);
        a.raise_sipi(1);
        assert_eq!(kicks.load(SeqCst), 3);
        a.set_kick(None);
        a.raise(Attention::INTERRUPT);
        assert_eq!((kicks.load(SeqCst), Arc::strong_count(&kicks)), (3, 1));
    }

    #[test]
    fn a_raise_wakes_a_sleeper() {
        let a = Attention::default();
        std::thread::scope(|s| {
            s.spawn(|| a.raise(Attention::NMI));
            assert_eq!(a.wait(Attention::NMI, None), Attention::NMI);
        });
        assert_eq!(
            a.wait(Attention::KICK, Some(Duration::from_millis(1))) & Attention::KICK,
            0
        );
    }
}
