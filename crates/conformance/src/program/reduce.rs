//! Makes what failed small.

use std::time::{Duration, Instant};

/// No reduction takes much longer: what hangs takes its time each time.
const PATIENCE: Duration = Duration::from_secs(15);

/// How many failures of a run are made small.
pub const MOST: usize = 8;

/// Takes items out of a list for as long as `fails` holds of the rest: halves first, single items last.
pub fn reduce<T: Clone>(items: Vec<T>, mut fails: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let mut items = items;
    let start = Instant::now();
    let mut size = items.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        let mut less = false;
        while at < items.len() {
            let end = (at + size).min(items.len());
            let mut rest = items[..at].to_vec();
            rest.extend_from_slice(&items[end..]);
            if start.elapsed() < PATIENCE && fails(&rest) {
                items = rest;
                less = true;
            } else {
                at = end;
            }
        }
        if size > 1 {
            size = size.div_ceil(2);
        } else if !less {
            return items;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matters_is_left() {
        let items: Vec<u32> = (0..100).collect();
        let left = reduce(items, |l| l.contains(&17) && l.contains(&80));
        assert_eq!(left, [17, 80]);
    }
}
