//! Loads, stores and locked operations on memory that other threads change at the same time.
//!
//! On x86-64 these are single machine instructions, which gives the guest exactly the ordering and
//! atomicity the architecture promises (Intel SDM vol. 3A §9.1-9.2), unaligned and split accesses
//! included. Elsewhere module `portable` builds them from the standard atomics.

/// A value the CPU loads or stores in one access: `u8`, `u16`, `u32`, `u64`.
pub trait Word: Copy + Eq + private::Sealed + Send + Sync + 'static {
    /// Size in bytes.
    const SIZE: usize;
    /// Zero-extends to 64 bits.
    fn to_u64(self) -> u64;
    /// Keeps the low bits.
    fn from_u64(v: u64) -> Self;
    /// Sign-extends to 64 bits.
    fn to_i64(self) -> i64;
}

pub(crate) mod private {
    /// The raw operations; only this crate can call them.
    pub trait Sealed: Sized {
        /// # Safety
        /// `p` is valid for reads of `Self`; it need not be aligned.
        unsafe fn load(p: *const u8) -> Self;
        /// # Safety
        /// `p` is valid for writes of `Self`; it need not be aligned.
        unsafe fn store(p: *mut u8, v: Self);
        /// # Safety
        /// `p` is valid for reads and writes of `Self`; it need not be aligned.
        unsafe fn compare_exchange(p: *mut u8, old: Self, new: Self) -> Result<Self, Self>;
        /// # Safety
        /// `p` is valid for reads and writes of `Self`; it need not be aligned.
        unsafe fn swap(p: *mut u8, new: Self) -> Self;
        /// # Safety
        /// `p` is valid for reads and writes of `Self`; it need not be aligned.
        unsafe fn fetch_add(p: *mut u8, v: Self) -> Self;
        /// # Safety
        /// `p` is valid for writes of `count` times `Self`; it need not be aligned.
        unsafe fn fill(p: *mut u8, v: Self, count: usize);
    }
}

macro_rules! word {
    ($t:ty, $i:ty) => {
        impl Word for $t {
            const SIZE: usize = size_of::<$t>();
            #[inline(always)]
            fn to_u64(self) -> u64 {
                self as u64
            }
            #[inline(always)]
            fn from_u64(v: u64) -> Self {
                v as $t
            }
            #[inline(always)]
            fn to_i64(self) -> i64 {
                self as $i as i64
            }
        }
    };
}
word!(u8, i8);
word!(u16, i16);
word!(u32, i32);
word!(u64, i64);

#[cfg(target_arch = "x86_64")]
mod native {
    use super::private::Sealed;
    use std::arch::asm;

    macro_rules! sealed {
        ($t:ty, $kind:ident, $m:literal, $acc:tt, $stos:literal) => {
            impl Sealed for $t {
                #[inline(always)]
                unsafe fn load(p: *const u8) -> Self {
                    let v: $t;
                    // SAFETY: the caller vouches for `p`; one load of `Self`'s size, no other effect.
                    unsafe {
                        asm!(concat!("mov {v", $m, "}, [{p}]"), v = out($kind) v, p = in(reg) p,
                             options(nostack, preserves_flags, readonly))
                    };
                    v
                }
                #[inline(always)]
                unsafe fn store(p: *mut u8, v: Self) {
                    // SAFETY: the caller vouches for `p`; one store of `Self`'s size, no other effect.
                    unsafe {
                        asm!(concat!("mov [{p}], {v", $m, "}"), v = in($kind) v, p = in(reg) p,
                             options(nostack, preserves_flags))
                    };
                }
                #[inline(always)]
                unsafe fn compare_exchange(p: *mut u8, old: Self, new: Self) -> Result<Self, Self> {
                    let seen: $t;
                    // SAFETY: the caller vouches for `p`; the locked operation touches only `Self`'s bytes.
                    unsafe {
                        asm!(concat!("lock cmpxchg [{p}], {n", $m, "}"), n = in($kind) new, p = in(reg) p,
                             inout($acc) old => seen, options(nostack))
                    };
                    if seen == old { Ok(seen) } else { Err(seen) }
                }
                #[inline(always)]
                unsafe fn swap(p: *mut u8, new: Self) -> Self {
                    let v: $t;
                    // SAFETY: the caller vouches for `p`; the locked operation touches only `Self`'s bytes.
                    unsafe {
                        asm!(concat!("xchg [{p}], {v", $m, "}"), v = inout($kind) new => v, p = in(reg) p,
                             options(nostack, preserves_flags))
                    };
                    v
                }
                #[inline(always)]
                unsafe fn fetch_add(p: *mut u8, add: Self) -> Self {
                    let v: $t;
                    // SAFETY: the caller vouches for `p`; the locked operation touches only `Self`'s bytes.
                    unsafe {
                        asm!(concat!("lock xadd [{p}], {v", $m, "}"), v = inout($kind) add => v, p = in(reg) p,
                             options(nostack))
                    };
                    v
                }
                #[inline]
                unsafe fn fill(p: *mut u8, v: Self, count: usize) {
                    // SAFETY: the caller vouches for the range; the ABI keeps DF clear.
                    unsafe {
                        asm!(concat!("rep ", $stos), in($acc) v, inout("rcx") count => _, inout("rdi") p => _,
                             options(nostack, preserves_flags))
                    };
                }
            }
        };
    }
    sealed!(u8, reg_byte, "", "al", "stosb");
    sealed!(u16, reg, ":x", "ax", "stosw");
    sealed!(u32, reg, ":e", "eax", "stosd");
    sealed!(u64, reg, ":r", "rax", "stosq");

    /// Copies upwards, byte by byte as far as anyone can tell.
    ///
    /// # Safety
    /// `from` is valid for reads and `to` for writes of `len` bytes.
    #[inline]
    pub unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
        // SAFETY: the caller vouches for both ranges; the ABI keeps DF clear.
        unsafe {
            asm!("rep movsb", inout("rcx") len => _, inout("rsi") from => _, inout("rdi") to => _,
                 options(nostack, preserves_flags))
        };
    }

    /// CMPXCHG16B.
    ///
    /// # Safety
    /// `p` is valid for reads and writes of 16 bytes and 16-byte aligned.
    #[inline]
    pub unsafe fn compare_exchange_128(p: *mut u8, old: u128, new: u128) -> Result<u128, u128> {
        let (mut lo, mut hi) = (old as u64, (old >> 64) as u64);
        // SAFETY: the caller vouches for `p`. RBX belongs to the compiler, so it is swapped in and back out
        // around the one instruction that needs it; no operand may be allocated to it.
        unsafe {
            asm!("xchg rsi, rbx", "lock cmpxchg16b [rdi]", "mov rbx, rsi",
                 inout("rsi") new as u64 => _, in("rdi") p, in("rcx") (new >> 64) as u64,
                 inout("rax") lo, inout("rdx") hi, options(nostack))
        };
        let seen = (hi as u128) << 64 | lo as u128;
        if seen == old { Ok(seen) } else { Err(seen) }
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use native::{compare_exchange_128, copy};
#[cfg(not(target_arch = "x86_64"))]
pub(crate) use portable::{compare_exchange_128, copy};

/// The same operations from standard atomics, for hosts that are not x86-64.
///
/// Aligned accesses keep x86's ordering (acquire loads, release stores). A locked operation that is not
/// naturally aligned is atomic only against other such operations.
#[cfg(any(not(target_arch = "x86_64"), test))]
mod portable {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::*};

    static SPLIT_LOCK: Mutex<()> = Mutex::new(());

    /// # Safety
    /// `p` is valid for reads of `N` bytes.
    unsafe fn bytes<const N: usize>(p: *const u8) -> [u8; N] {
        // SAFETY: every index is inside the `N` bytes the caller vouches for; a byte is always aligned.
        std::array::from_fn(|i| unsafe { AtomicU8::from_ptr(p.add(i).cast_mut()) }.load(Acquire))
    }

    /// # Safety
    /// `p` is valid for writes of `N` bytes.
    unsafe fn set_bytes<const N: usize>(p: *mut u8, v: [u8; N]) {
        for (i, b) in v.into_iter().enumerate() {
            // SAFETY: as in `bytes`.
            unsafe { AtomicU8::from_ptr(p.add(i)) }.store(b, Release);
        }
    }

    macro_rules! portable {
        ($t:ident, $a:ty) => {
            pub mod $t {
                use super::*;
                pub unsafe fn load(p: *const u8) -> $t {
                    if p.cast::<$a>().is_aligned() {
                        // SAFETY: the caller vouches for `p`, and it is aligned.
                        unsafe { <$a>::from_ptr(p.cast_mut().cast()) }.load(Acquire)
                    } else {
                        // SAFETY: the caller vouches for `p`.
                        $t::from_le_bytes(unsafe { bytes(p) })
                    }
                }
                pub unsafe fn store(p: *mut u8, v: $t) {
                    if p.cast::<$a>().is_aligned() {
                        // SAFETY: the caller vouches for `p`, and it is aligned.
                        unsafe { <$a>::from_ptr(p.cast()) }.store(v, Release)
                    } else {
                        // SAFETY: the caller vouches for `p`.
                        unsafe { set_bytes(p, v.to_le_bytes()) }
                    }
                }
                /// # Safety
                /// `p` is valid for reads and writes of the word.
                unsafe fn update(p: *mut u8, f: impl Fn($t) -> Option<$t>) -> Result<$t, $t> {
                    if p.cast::<$a>().is_aligned() {
                        // SAFETY: the caller vouches for `p`, and it is aligned.
                        return unsafe { <$a>::from_ptr(p.cast()) }.fetch_update(SeqCst, SeqCst, f);
                    }
                    let _one = SPLIT_LOCK.lock().unwrap_or_else(|e| e.into_inner());
                    // SAFETY: the caller vouches for `p`.
                    let old = unsafe { load(p) };
                    let new = f(old).ok_or(old)?;
                    // SAFETY: the caller vouches for `p`.
                    unsafe { store(p, new) };
                    Ok(old)
                }
                pub unsafe fn compare_exchange(p: *mut u8, old: $t, new: $t) -> Result<$t, $t> {
                    // SAFETY: the caller vouches for `p`.
                    unsafe { update(p, |v| (v == old).then_some(new)) }
                }
                pub unsafe fn swap(p: *mut u8, new: $t) -> $t {
                    // SAFETY: the caller vouches for `p`.
                    unsafe { update(p, |_| Some(new)) }.unwrap_or_else(|v| v)
                }
                pub unsafe fn fetch_add(p: *mut u8, add: $t) -> $t {
                    // SAFETY: the caller vouches for `p`.
                    unsafe { update(p, |v| Some(v.wrapping_add(add))) }.unwrap_or_else(|v| v)
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            impl super::private::Sealed for $t {
                unsafe fn load(p: *const u8) -> Self {
                    // SAFETY: the caller's promise is passed on.
                    unsafe { $t::load(p) }
                }
                unsafe fn store(p: *mut u8, v: Self) {
                    // SAFETY: the caller's promise is passed on.
                    unsafe { $t::store(p, v) }
                }
                unsafe fn compare_exchange(p: *mut u8, old: Self, new: Self) -> Result<Self, Self> {
                    // SAFETY: the caller's promise is passed on.
                    unsafe { $t::compare_exchange(p, old, new) }
                }
                unsafe fn swap(p: *mut u8, new: Self) -> Self {
                    // SAFETY: the caller's promise is passed on.
                    unsafe { $t::swap(p, new) }
                }
                unsafe fn fetch_add(p: *mut u8, add: Self) -> Self {
                    // SAFETY: the caller's promise is passed on.
                    unsafe { $t::fetch_add(p, add) }
                }
                unsafe fn fill(p: *mut u8, v: Self, count: usize) {
                    for n in 0..count {
                        // SAFETY: inside the range that the caller vouches for.
                        unsafe { $t::store(p.add(n * size_of::<Self>()), v) }
                    }
                }
            }
        };
    }
    portable!(u8, AtomicU8);
    portable!(u16, AtomicU16);
    portable!(u32, AtomicU32);
    portable!(u64, AtomicU64);

    /// # Safety
    /// `from` is valid for reads and `to` for writes of `len` bytes.
    pub unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
        for n in 0..len {
            // SAFETY: both are inside the ranges the caller vouches for; a byte is always aligned.
            unsafe {
                AtomicU8::from_ptr(to.add(n))
                    .store(AtomicU8::from_ptr(from.add(n).cast_mut()).load(Acquire), Release)
            };
        }
    }

    /// # Safety
    /// `p` is valid for reads and writes of 16 bytes.
    pub unsafe fn compare_exchange_128(p: *mut u8, old: u128, new: u128) -> Result<u128, u128> {
        let _one = SPLIT_LOCK.lock().unwrap_or_else(|e| e.into_inner());
        // SAFETY: the caller vouches for `p`.
        let seen = u128::from_le_bytes(unsafe { bytes(p) });
        if seen != old {
            return Err(seen);
        }
        // SAFETY: the caller vouches for `p`.
        unsafe { set_bytes(p, new.to_le_bytes()) };
        Ok(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::portable;
    use super::private::Sealed;

    macro_rules! agree {
        ($t:ident) => {
            // Every operation, aligned and not: the portable form must agree with the machine's.
            for at in 0..8 {
                let (mut a, mut b) = ([0x5au8; 24], [0x5au8; 24]);
                let (pa, pb) = (a[at..].as_mut_ptr(), b[at..].as_mut_ptr());
                // SAFETY: 16 bytes remain after any `at`, more than any word needs.
                unsafe {
                    <$t as Sealed>::store(pa, 0xfe as $t);
                    portable::$t::store(pb, 0xfe as $t);
                    assert_eq!(<$t as Sealed>::load(pa), portable::$t::load(pb));
                    assert_eq!(
                        <$t as Sealed>::fetch_add(pa, 7),
                        portable::$t::fetch_add(pb, 7)
                    );
                    assert_eq!(<$t as Sealed>::swap(pa, 9), portable::$t::swap(pb, 9));
                    for (old, new) in [(9, 3), (9, 4), (3, 5)] {
                        assert_eq!(
                            <$t as Sealed>::compare_exchange(pa, old, new),
                            portable::$t::compare_exchange(pb, old, new)
                        );
                    }
                }
                assert_eq!(a, b);
            }
        };
    }

    #[test]
    fn portable_agrees_with_native() {
        agree!(u8);
        agree!(u16);
        agree!(u32);
        agree!(u64);
        let text: Vec<u8> = (0..99).collect();
        let mut out = ([0u8; 99], [0u8; 99]);
        // SAFETY: all three hold 99 bytes.
        unsafe {
            super::copy(text.as_ptr(), out.0.as_mut_ptr(), 99);
            portable::copy(text.as_ptr(), out.1.as_mut_ptr(), 99);
        }
        assert_eq!((&out.0[..], &out.1[..]), (&text[..], &text[..]));
        #[repr(align(16))]
        struct A([u8; 16]);
        let (mut a, mut b) = (A([1; 16]), A([1; 16]));
        let one = u128::from_le_bytes([1; 16]);
        for (old, new) in [(5, 6), (one, 7), (7, u128::MAX - 3)] {
            // SAFETY: both are 16 aligned bytes.
            unsafe {
                assert_eq!(
                    super::compare_exchange_128(a.0.as_mut_ptr(), old, new),
                    portable::compare_exchange_128(b.0.as_mut_ptr(), old, new)
                );
            }
        }
        assert_eq!(a.0, b.0);
    }
}
