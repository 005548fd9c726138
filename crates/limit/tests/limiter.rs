//! What passes a limiter, on a clock of the test's own.

use donjon_limit::{Bucket, Limit, Limiter};
use proptest::prelude::*;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn bucket(rate: u64, burst: u64) -> Option<Bucket> {
    let [rate, burst] = [rate, burst].map(|n| NonZeroU64::new(n).unwrap());
    Some(Bucket { rate, burst })
}

fn bytes(rate: u64, burst: u64) -> Limit {
    Limit {
        bandwidth: bucket(rate, burst),
        operations: None,
    }
}

#[test]
fn what_is_larger_than_the_burst_passes_and_is_owed() {
    let start = Instant::now();
    let limiter = Limiter::new(start, bytes(1000, 100));
    assert_eq!(limiter.take(start, 5100), Ok(()));
    // 5000 are owed, and one billionth has to be there.
    let wait = Duration::from_secs(5) + Duration::from_nanos(1);
    assert_eq!(limiter.take(start, 1), Err(wait));
    assert_eq!(
        limiter.take(start + Duration::from_secs(4), 1),
        Err(wait - Duration::from_secs(4))
    );
    assert!(limiter.take(start + wait - Duration::from_nanos(1), 1).is_err());
    assert_eq!(limiter.take(start + wait, 1), Ok(()));
}

#[test]
fn both_buckets_count() {
    let start = Instant::now();
    let limit = Limit {
        bandwidth: bucket(1000, 1000),
        operations: bucket(10, 2),
    };
    let limiter = Limiter::new(start, limit);
    assert_eq!(limiter.limit(), limit);
    assert_eq!(limiter.take(start, 1), Ok(()));
    assert_eq!(limiter.take(start, 1), Ok(()));
    assert!(limiter.take(start, 1).is_err(), "no operations left");
    limiter.refund(1);
    assert_eq!(limiter.take(start, 1999), Ok(()));
    let second = Duration::from_secs(1);
    assert!(limiter.take(start + second, 1).is_err(), "no bytes left");
    assert_eq!(limiter.take(start + 2 * second, 1), Ok(()));
}

#[test]
fn a_refund_does_not_overflow_the_bucket() {
    let start = Instant::now();
    let limiter = Limiter::new(start, bytes(1, 10));
    limiter.refund(u64::MAX);
    assert_eq!(limiter.take(start, 10), Ok(()));
    assert!(limiter.take(start, 1).is_err());
}

#[test]
fn a_limit_changes_while_it_is_used() {
    let start = Instant::now();
    let limiter = Limiter::new(start, Limit::default());
    assert!(limiter.is_unlimited());
    for _ in 0..1000 {
        assert_eq!(limiter.take(start, u64::MAX), Ok(()));
    }
    limiter.set(start, bytes(1000, 1000));
    assert!(!limiter.is_unlimited());
    assert_eq!(limiter.take(start, 11_000), Ok(()));
    // Ten times faster: what is owed is paid ten times faster. What went by before counts as before.
    let second = Duration::from_secs(1);
    limiter.set(start + 5 * second, bytes(10_000, 10));
    let wait = limiter.take(start + 5 * second, 1).unwrap_err();
    assert_eq!(wait.as_millis(), 500);
    // No burst is saved up beyond what fits now.
    let later = start + 60 * second;
    assert_eq!(limiter.take(later, 10), Ok(()));
    assert!(limiter.take(later, 1).is_err());
    limiter.set(later, Limit::default());
    assert_eq!(limiter.take(later, 1 << 40), Ok(()));
}

#[test]
fn extremes_neither_overflow_nor_stall() {
    let start = Instant::now();
    let limiter = Limiter::new(start, bytes(u64::MAX, u64::MAX));
    for year in 0..200 {
        let now = start + Duration::from_secs(year * 31_536_000);
        assert_eq!(limiter.take(now, u64::MAX), Ok(()));
        assert_eq!(limiter.take(now, u64::MAX), Err(Duration::from_nanos(1)));
    }
    let slow = Limiter::new(start, bytes(1, 1));
    assert_eq!(slow.take(start, u64::MAX), Ok(()));
    assert_eq!(
        slow.take(start, 1),
        Err(Duration::new(u64::MAX - 1, 1)),
        "all but the one that was there"
    );
}

#[test]
fn threads_share_one_limit() {
    let start = Instant::now();
    let limiter = Limiter::new(start, bytes(1_000_000, 1000));
    let passed = AtomicU64::new(0);
    std::thread::scope(|s| {
        for thread in 0..4 {
            let (limiter, passed) = (&limiter, &passed);
            s.spawn(move || {
                // Their clocks do not agree.
                for step in 0..10_000 {
                    let now = start + Duration::from_micros(step * 100 + thread * 7);
                    if limiter.take(now, 100).is_ok() {
                        passed.fetch_add(100, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let passed = passed.load(Ordering::Relaxed);
    assert!(passed <= 1000 + 1_000_000 + 100, "{passed}");
    assert!(passed >= 100_000, "{passed}");
}

proptest! {
    /// In any stretch of time, not only from the start.
    #[test]
    fn never_more_than_burst_and_rate(
        rate in 1..10_000_000_000u64,
        burst in 1..1_000_000_000u64,
        steps in prop::collection::vec((0..2_000_000_000u64, 1..1_000_000u64), 1..60),
    ) {
        let start = Instant::now();
        let limiter = Limiter::new(start, bytes(rate, burst));
        let (mut now, mut passed) = (0u64, vec![]);
        for (pause, size) in steps {
            now += pause;
            if limiter.take(start + Duration::from_nanos(now), size).is_ok() {
                passed.push((now, size));
            }
        }
        for (first, &(from, _)) in passed.iter().enumerate() {
            let (mut sum, mut largest) = (0u128, 0);
            for &(until, size) in &passed[first..] {
                sum += u128::from(size);
                largest = largest.max(size);
                let room = (u128::from(burst) + u128::from(largest)) * 1_000_000_000;
                prop_assert!(sum * 1_000_000_000 <= room + u128::from(rate) * u128::from(until - from));
            }
        }
    }

    /// Who waits as long as told, and a little longer, gets what is due.
    #[test]
    fn who_always_wants_more_gets_the_rate(
        rate in 1_000..1_000_000_000u64,
        sizes in prop::collection::vec(1..100_000u64, 1..20),
        late in prop::collection::vec(0..1_000_000u64, 1..20),
    ) {
        let start = Instant::now();
        // The burst that comes with a rate.
        let limit = Limit { bandwidth: Some(Bucket::per_second(NonZeroU64::new(rate).unwrap())), operations: None };
        let limiter = Limiter::new(start, limit);
        let (mut now, mut passed, mut turn) = (Duration::ZERO, 0u128, 0);
        while turn < 2000 {
            let size = sizes[turn % sizes.len()];
            match limiter.take(start + now, size) {
                Ok(()) => passed += u128::from(size),
                Err(wait) => now += wait + Duration::from_nanos(late[turn % late.len()]),
            }
            turn += 1;
        }
        let due = now.as_nanos() * u128::from(rate) / 1_000_000_000;
        prop_assert!(passed * 100 >= due * 99, "{passed} of {due}");
    }

    #[test]
    fn operations_are_limited_alike(rate in 1..100_000u64, burst in 1..1000u64) {
        let start = Instant::now();
        let limiter = Limiter::new(start, Limit { bandwidth: None, operations: bucket(rate, burst) });
        let mut passed = 0;
        while limiter.take(start, 1 << 30).is_ok() {
            passed += 1;
        }
        prop_assert_eq!(passed, burst);
        // Whatever was waited for has come, and no more.
        let mut now = start;
        for _ in 0..50 {
            now += limiter.take(now, 0).unwrap_err();
            prop_assert_eq!(limiter.take(now, 0), Ok(()));
        }
    }
}
