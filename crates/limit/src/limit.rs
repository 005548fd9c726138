//! What a limit is, and how it is written.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

/// How much of one thing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bucket {
    /// In a second, in the long run.
    pub rate: NonZeroU64,
    /// At once, after a pause.
    pub burst: NonZeroU64,
}

impl Bucket {
    /// A rate with a burst of a tenth of a second, which bridges what a thread wakes up late on a busy host.
    pub fn per_second(rate: NonZeroU64) -> Self {
        let burst = NonZeroU64::new(rate.get() / 10).unwrap_or(NonZeroU64::MIN);
        Self { rate, burst }
    }
}

/// How much a device may do.
///
/// As text: `bps=100M,bps-burst=10M,iops=1000,iops-burst=2000`, each of them optional and in any order. Bytes
/// come in powers of 1024 (`K`, `M`, `G`, `T`), operations in powers of 1000, and a rate may end in `/s`. A
/// burst is a tenth of a second's worth unless it is given. Nothing is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limit {
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bucket>,
    /// Operations: requests of a disk, packets of a network interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operations: Option<Bucket>,
}

/// It does not say a limit.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LimitError {
    /// A word that means nothing here.
    #[error("{0:?} is no limit; a limit is such as bps=100M,bps-burst=10M,iops=1000,iops-burst=2000")]
    Word(String),
    /// Said twice.
    #[error("{0}= is given twice; leave one of them out")]
    Twice(&'static str),
    /// Not bytes.
    #[error("{key}={value} is no number of bytes; write {key}=100M, {key}=1G or a number above 0")]
    Bytes {
        /// Of what.
        key: &'static str,
        /// What it is.
        value: String,
    },
    /// Not operations.
    #[error("{key}={value} is no number of operations; write {key}=500, {key}=20k or another number above 0")]
    Operations {
        /// Of what.
        key: &'static str,
        /// What it is.
        value: String,
    },
    /// A burst of what?
    #[error("{0}-burst= needs a rate: add {0}=")]
    Burst(&'static str),
}

impl Limit {
    /// The keys of a limit in a list of `key=value`, with the order of [`Self::from_values`].
    pub const KEYS: [&'static str; 4] = ["bps", "bps-burst", "iops", "iops-burst"];

    /// Whether it is none.
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }

    /// From the values of [`Self::KEYS`], for lists in which there are other things too.
    pub fn from_values(values: [Option<&str>; 4]) -> Result<Self, LimitError> {
        let number = |at: usize| values[at].map(|v| number(at, v)).transpose();
        let bucket = |at: usize| match (number(at)?, number(at + 1)?) {
            (Some(rate), Some(burst)) => Ok(Some(Bucket { rate, burst })),
            (Some(rate), None) => Ok(Some(Bucket::per_second(rate))),
            (None, None) => Ok(None),
            (None, Some(_)) => Err(LimitError::Burst(Self::KEYS[at])),
        };
        Ok(Self {
            bandwidth: bucket(0)?,
            operations: bucket(2)?,
        })
    }
}

/// The number that belongs to a key.
fn number(at: usize, text: &str) -> Result<NonZeroU64, LimitError> {
    let (key, bytes, rate) = (Limit::KEYS[at], at < 2, at.is_multiple_of(2));
    let scaled = || {
        let text = if rate {
            text.strip_suffix("/s").unwrap_or(text)
        } else {
            text
        };
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit = unit.to_ascii_lowercase();
        let unit = match unit.strip_suffix("ib") {
            Some("") => return None,
            Some(prefix) if bytes => prefix,
            _ => &unit,
        };
        let power = ["", "k", "m", "g", "t"].iter().position(|u| *u == unit)? as u32;
        let scale = u64::pow(if bytes { 1024 } else { 1000 }, power);
        NonZeroU64::new(number.parse::<u64>().ok()?.checked_mul(scale)?)
    };
    let value = || text.to_owned();
    scaled().ok_or_else(|| match bytes {
        true => LimitError::Bytes { key, value: value() },
        false => LimitError::Operations { key, value: value() },
    })
}

impl FromStr for Limit {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let mut values = [None; 4];
        for item in text.split(',').filter(|_| !text.is_empty()) {
            let (key, value) = item.split_once('=').ok_or(LimitError::Word(item.into()))?;
            let at = Self::KEYS.iter().position(|k| *k == key);
            let at = at.ok_or(LimitError::Word(item.into()))?;
            if values[at].replace(value).is_some() {
                return Err(LimitError::Twice(Self::KEYS[at]));
            }
        }
        Self::from_values(values)
    }
}

/// As [`FromStr`] reads it, and as short as possible.
impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        let parts = [(self.bandwidth, 1024, "KMGT"), (self.operations, 1000, "kMGT")];
        for (index, (bucket, base, units)) in parts.into_iter().enumerate() {
            let Some(bucket) = bucket else { continue };
            let scaled = |number: NonZeroU64| {
                let (mut number, mut unit) = (number.get(), None);
                for next in units.chars() {
                    if number % base != 0 {
                        break;
                    }
                    (number, unit) = (number / base, Some(next));
                }
                (number, unit.map(String::from).unwrap_or_default())
            };
            let (number, unit) = scaled(bucket.rate);
            write!(f, "{comma}{}={number}{unit}", Self::KEYS[2 * index])?;
            comma = ",";
            if bucket != Bucket::per_second(bucket.rate) {
                let (number, unit) = scaled(bucket.burst);
                write!(f, ",{}={number}{unit}", Self::KEYS[2 * index + 1])?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bucket(rate: u64, burst: u64) -> Option<Bucket> {
        let [rate, burst] = [rate, burst].map(|n| NonZeroU64::new(n).unwrap());
        Some(Bucket { rate, burst })
    }

    #[test]
    fn limits_are_written_as_people_do() {
        let limit = |text: &str| text.parse::<Limit>().unwrap();
        assert_eq!(limit(""), Limit::default());
        let both = limit("iops-burst=2000,bps=100M,iops=1k/s,bps-burst=10MiB");
        assert_eq!(both.bandwidth, bucket(100 << 20, 10 << 20));
        assert_eq!(both.operations, bucket(1000, 2000));
        assert_eq!(both.to_string(), "bps=100M,iops=1k,iops-burst=2k");
        assert_eq!(limit("bps=1/s").bandwidth, bucket(1, 1));
        assert_eq!(limit("bps=1000").bandwidth, bucket(1000, 100));
        let json = serde_json::to_string(&both).unwrap();
        assert_eq!(
            json,
            r#"{"bandwidth":{"rate":104857600,"burst":10485760},"operations":{"rate":1000,"burst":2000}}"#
        );
        assert_eq!(serde_json::from_str::<Limit>(&json).unwrap(), both);
        assert_eq!(serde_json::to_string(&Limit::default()).unwrap(), "{}");
        assert!(serde_json::from_str::<Limit>(r#"{"operations":{"rate":0,"burst":1}}"#).is_err());
        assert!(serde_json::from_str::<Limit>(r#"{"ops":{"rate":1,"burst":1}}"#).is_err());
    }

    #[test]
    fn nonsense_is_refused_with_what_is_right() {
        for (text, what) in [
            ("fast", "such as bps=100M"),
            ("bps=1M,", "such as bps=100M"),
            ("bw=1M", "such as bps=100M"),
            ("bps=1M,bps=2M", "bps= is given twice"),
            ("bps=0", "bps=100M"),
            ("bps=", "bps=100M"),
            ("bps=-1", "bps=100M"),
            ("bps=1.5M", "bps=100M"),
            ("bps=ib", "bps=100M"),
            ("bps=99999999999T", "bps=100M"),
            ("bps=1M,bps-burst=1M/s", "bps-burst=100M"),
            ("iops=many", "iops=500"),
            ("iops=1kib", "iops=500"),
            ("iops-burst=5", "add iops="),
        ] {
            let error = text.parse::<Limit>().unwrap_err().to_string();
            assert!(error.contains(what), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn text_and_json_say_all(numbers: [u64; 4], has: [bool; 2]) {
            let limit = Limit {
                bandwidth: has[0].then(|| bucket(numbers[0].max(1), numbers[1].max(1)).unwrap()),
                operations: has[1].then(|| bucket(numbers[2].max(1), numbers[3].max(1)).unwrap()),
            };
            prop_assert_eq!(limit.to_string().parse::<Limit>(), Ok(limit));
            let json = serde_json::to_string(&limit).unwrap();
            prop_assert_eq!(serde_json::from_str::<Limit>(&json).unwrap(), limit);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[bpsiour0-9KMGTk,=/-]{0,40}") {
            if let Ok(limit) = text.parse::<Limit>() {
                prop_assert_eq!(limit.to_string().parse::<Limit>(), Ok(limit));
            }
        }
    }
}
